"""A PyTorch MLP through SparseFlow: exported to safetensors, read back, pruned, compiled, run, compared in float64.

    python examples/pytorch_mlp.py [--width 256] [--tokens 48] [--device auto] [--dtype f16]

The result comes back as a torch tensor; on a GPU nothing is copied and the kernels run on PyTorch's stream.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import sparseflow as sf


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="f16", choices=["f16", "bf16"])
    options = parser.parse_args()
    torch.manual_seed(0)
    dtype = torch.float16 if options.dtype == "f16" else torch.bfloat16
    width, hidden = options.width, 2 * options.width

    model = torch.nn.Sequential(torch.nn.Linear(width, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, width)).to(
        dtype
    )
    with tempfile.TemporaryDirectory() as folder:
        # Out to safetensors and in again, as a checkpoint would come.
        path = Path(folder, "mlp.safetensors")
        save_file(model.state_dict(), path)
        tensors = load_file(path)

        print(f"as trained: {sf.validate_24(tensors)}")
        pruned = {name: sf.prune_24(t) if t.ndim == 2 else t for name, t in tensors.items()}
        print(f"pruned:     {sf.validate_24(pruned)}")

        g = sf.Graph()
        x = g.input("x", (None, width), dtype)
        h = g.matmul(x, pruned["0.weight"], bias=pruned["0.bias"], activation="gelu", name="fc1")
        g.output(g.matmul(h, pruned["2.weight"], bias=pruned["2.bias"], name="fc2"))
        compiled = Path(folder, "mlp.sf")
        sf.compile(g, device=options.device).save(compiled)
        exe = sf.load(compiled, device=options.device)

        tokens = torch.randn(options.tokens, width, dtype=dtype)
        if exe.device.startswith("cuda"):
            tokens = tokens.to(exe.device)
        y = exe(tokens)
        print(exe.report())
        save_file({"x": tokens.cpu(), "y": y.cpu()}, Path(folder, "result.safetensors"))

    model.load_state_dict(pruned)
    with torch.no_grad():
        reference = model.double()(tokens.cpu().double())
        eager = model.to(dtype)(tokens.cpu())  # PyTorch's own kernels in the same precision, as a yardstick
    error = (y.cpu().double() - reference).abs().max().item()
    torch_error = (eager.double() - reference).abs().max().item()
    print(
        f"on {exe.device}, {type(y).__name__} {tuple(y.shape)}: max error {error:.2e} (PyTorch in {options.dtype}: {torch_error:.2e})"
    )
    return 0 if error <= 4 * torch_error else 1


if __name__ == "__main__":
    sys.exit(main())
