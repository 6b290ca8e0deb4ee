"""``sparseflow-inspect``: what a compiled ``.sf`` file holds, from its kernels' instructions to the layout of its weights.

Nothing of the file is executed. The numbers are ptxas's own, the instructions are counted in the PTX, and occupancy follows
from both by the chip's limits.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import _sparseflow, dtypes
from ..checkpoints import open_checkpoint
from ..checkpoints.compiled import summary
from ..errors import Error
from . import chips, cli

NAME = "sparseflow-inspect"

# What is counted in PTX, by the start of the instruction's name.
_INSTRUCTIONS = {
    "wgmma.sp": r"wgmma\.mma_async\.sp",
    "wgmma": r"wgmma\.mma_async\.(?!sp)",
    "mma.sp": r"mma\.sp",
    "mma": r"mma\.sync",
    "ldmatrix": r"ldmatrix",
    "cp.async.bulk": r"cp\.async\.bulk\.(?!commit|wait)",
    "cp.async": r"cp\.async\.c",
    "mbarrier": r"mbarrier",
}
_OPCODE = re.compile(r"^\s+(?:@!?%?\w+\s+)?([a-z][\w.:]*)\s", re.MULTILINE)


def parser() -> argparse.ArgumentParser:
    made = cli.parser(NAME, "Shows what a compiled file holds: programs, kernels, instructions, weights.")
    made.add_argument("file", type=cli.path, help="a .sf file")
    made.add_argument("kernel", nargs="?", help="only kernels whose name has this")
    made.add_argument("--target", metavar="SM", help="only programs for this chip, such as sm_90a")
    made.add_argument("--ptx", action="store_true", help="print the PTX of the kernels")
    made.add_argument("--sass", action="store_true", help="print their SASS; needs nvdisasm or cuobjdump")
    made.add_argument("--layout", action="store_true", help="draw the layout of packed weights")
    made.add_argument("--verify", action="store_true", help="read every tensor and compare its checksum")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit code."""
    options = parser().parse_args(arguments)
    return cli.run(NAME, lambda: _command(options))


def _as_checkpoint(path: Path) -> str:
    """What to do with a file that is no program but a checkpoint; empty for anything else."""
    try:
        with open_checkpoint(path) as checkpoint:
            count = sum(entry.format != "dense" for entry in checkpoint.entries)
    except (Error, OSError):
        return ""
    return (
        f"expected a compiled .sf file, got {path}, a checkpoint with {count} compressed layers; "
        f"sparseflow-convert --input {path} --output model.sf compiles them"
    )


def _command(options: argparse.Namespace) -> int:
    if not options.file.exists():
        raise cli.Failure(f"expected a .sf file, got {options.file}, which does not exist")
    try:
        program = _sparseflow.open_file(os.fsencode(options.file), options.verify)
    except Error as error:
        raise cli.Failure(_as_checkpoint(options.file) or str(error)) from None
    described = describe(program, options.kernel, options.target)
    kernels = [kernel for each in described["programs"] for kernel in each["kernels"]]
    if (options.kernel or options.target) and not kernels:
        raise cli.Failure(_no_such_kernel(program, options))
    if options.ptx:
        for kernel in kernels:
            kernel["ptx_text"] = _text(program, kernel["ptx"])
    if options.sass:
        disassembler = find_disassembler()
        for kernel in kernels:
            kernel["sass_text"] = disassemble(disassembler, program, kernel["cubin"])
    if options.layout:
        described["layouts"] = layouts(described["weights"])
    described["file"] = {"path": str(options.file), "bytes": options.file.stat().st_size, "verified": options.verify}
    if options.json:
        cli.print_json(described)
        return cli.OK
    print(_page(described))
    return cli.OK


def _no_such_kernel(program: Any, options: argparse.Namespace) -> str:
    everything = describe(program)["programs"]
    wanted = " for ".join(filter(None, (options.kernel and f"a kernel '{options.kernel}'", options.target)))
    names = sorted({kernel["name"] for each in everything for kernel in each["kernels"]})
    targets = sorted({each["target"] for each in everything})
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"expected {wanted}, got none; the file holds {shown} for {', '.join(targets)}"


def describe(program: Any, kernel: str | None = None, target: str | None = None) -> dict[str, Any]:
    """Everything that the command shows, as JSON; `kernel` and `target` leave out the rest."""
    manifest = json.loads(program.describe())
    programs = []
    for function in manifest["functions"]:
        for each in function["programs"]:
            if target and each["target"] != target:
                continue
            kernels = [
                _kernel(program, each["target"], k) for k in each["kernels"] if not kernel or kernel in k["name"]
            ]
            programs.append(
                {
                    "function": function["name"],
                    "target": each["target"],
                    "steps": [_step(step, kernel) for step in each["steps"]],
                    "kernels": kernels,
                    "workspace_bytes_per_token": sum(
                        max((size["bytes_per"] for size in slot["sizes"]), default=0) for slot in each["slots"]
                    ),
                }
            )
    return {
        "producer": manifest["producer"],
        "functions": [summary(function) for function in manifest["functions"]],
        "programs": programs,
        "weights": _weights(manifest),
    }


def _kernel(program: Any, target: str, kernel: dict[str, Any]) -> dict[str, Any]:
    threads = kernel["block"][0] * kernel["block"][1] * kernel["block"][2]
    runs = chips.occupancy(target, threads, kernel["registers"], kernel["shared"])
    return {
        "name": kernel["name"],
        "config": kernel["config"],
        "threads": threads,
        "registers": kernel["registers"],
        "spill_bytes": kernel["spill_bytes"],
        "shared_bytes": kernel["shared"],
        "instructions": count_instructions(_text(program, kernel["ptx"])),
        "mma_sp": kernel["mma_sp"],
        "occupancy": None if runs is None else vars(runs),
        "ptxas": kernel["ptxas"],
        "ptx": kernel["ptx"],
        "cubin": kernel["cubin"],
    }


def _step(step: dict[str, Any], kernel: str | None) -> dict[str, Any]:
    variants, least = [], 0
    for variant in step["variants"]:
        names = [launch.get("kernel") or launch["library"] for launch in variant["launches"]]
        if not kernel or any(kernel in name for name in names):
            variants.append(
                {
                    "min": least,
                    "max": variant["max"],
                    "path": variant.get("path", ""),
                    "reason": variant.get("reason", ""),
                    "time_us": variant.get("time_us"),
                    "kernels": names,
                }
            )
        least = (variant["max"] or 0) + 1
    return {"label": step["label"], "op": step["op"], "variants": variants}


def _weights(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """2:4 weights of the file: the canonical form, and the packed copies that kernels read."""
    tensors = {tensor["name"]: tensor for tensor in manifest["tensors"]}
    weights = []
    for name, tensor in tensors.items():
        stem = name.removesuffix(".values")
        if stem == name or f"{stem}.bitmask" not in tensors or len(tensor["shape"]) != 2:
            continue
        features, kept = tensor["shape"]
        itemsize = dtypes._BY_NAME[tensor["dtype"]].itemsize
        packed = {n.removeprefix(f"{stem}."): t["bytes"] for n, t in tensors.items() if n.startswith(f"{stem}.")}
        canonical = packed.pop("values") + packed.pop("bitmask")
        weights.append(
            {
                "name": stem,
                "shape": [features, 2 * kept],
                "dtype": tensor["dtype"],
                "itemsize": itemsize,
                "dense_bytes": features * 2 * kept * itemsize,
                "canonical_bytes": canonical,
                "packed_bytes": packed,
            }
        )
    return weights


def count_instructions(ptx: str) -> dict[str, int]:
    """How often the instructions that matter stand in a kernel's PTX: once a place in the code, not once a run."""
    opcodes = Counter(_OPCODE.findall(ptx))
    counts = {}
    for name, pattern in _INSTRUCTIONS.items():
        found = sum(count for opcode, count in opcodes.items() if re.match(pattern, opcode))
        if found:
            counts[name] = found
    return counts


def _text(program: Any, tensor: str | None) -> str:
    """A text of the file, whatever its bytes; "" where a kernel has none."""
    if tensor is None:
        return ""
    data, _, _ = program.tensor(tensor)
    return bytes(data).decode(errors="replace")


def find_disassembler() -> Path:
    """nvdisasm or cuobjdump: on PATH, in $CUDA_HOME, or in NVIDIA's Python packages. Raises Failure where there is none."""
    folders = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin")]
    folders += [
        Path(folder or ".", "nvidia", package, "bin") for folder in sys.path for package in ("cu13", "cuda_nvcc")
    ]
    for name in ("nvdisasm", "cuobjdump"):
        found = shutil.which(name) or next((str(f / name) for f in folders if (f / name).exists()), None)
        if found:
            return Path(found)
    raise cli.Failure("expected nvdisasm or cuobjdump for --sass, got neither; install the CUDA toolkit, or use --ptx")


def disassemble(disassembler: Path, program: Any, tensor: str | None) -> str:
    """The SASS of a cubin of the file."""
    if tensor is None:
        raise cli.Failure("expected a cubin for --sass, got a kernel that is PTX alone; use --ptx")
    data, _, _ = program.tensor(tensor)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(bytes(data))
        file.flush()
        flags = ["-c"] if disassembler.name == "nvdisasm" else ["-sass"]
        result = subprocess.run([disassembler, *flags, file.name], capture_output=True, text=True, check=False)
    if result.returncode:
        said = (result.stderr or result.stdout).strip().splitlines() or ["nothing"]
        raise cli.Failure(f"expected SASS of {tensor}, got: {said[-1]}")
    return result.stdout


def _page(described: dict[str, Any]) -> str:
    file = described["file"]
    state = ", checksums verified" if file["verified"] else ""
    lines = [f"{file['path']}: {cli.size(file['bytes'])}, {described['producer']}{state}"]
    lines += described["functions"]
    for program in described["programs"]:
        if not program["kernels"]:
            continue
        lines += ["", f"{program['function']} for {program['target']}"]
        lines += _step_lines(program["steps"])
        lines += ["", _kernel_table(program["kernels"])]
        for kernel in program["kernels"]:
            lines += [f"  {kernel['name']}: {kernel['config']}"] if kernel["config"] else []
    if described["weights"]:
        lines += ["", _weight_table(described["weights"])]
    if "layouts" in described:
        drawn = [each for title, picture in described["layouts"].items() for each in ("", title, picture)]
        lines += drawn or ["", "No 2:4 weight of the file is packed: there is no layout to draw."]
    for program in described["programs"]:
        for kernel in program["kernels"]:
            for kind in ("ptx", "sass"):
                if f"{kind}_text" in kernel:
                    lines += [
                        "",
                        f"// {kernel['name']} for {program['target']}, {kind.upper()}",
                        kernel[f"{kind}_text"],
                    ]
    return "\n".join(lines)


_READ_BY = {"mma": "mma.sp", "wgmma": "wgmma.sp"}


def layouts(weights: list[dict[str, Any]]) -> dict[str, str]:
    """The pictures of the layouts that occur, by their titles; a weight of 8-bit floats may be packed as f16."""
    from .layout_picture import picture

    found: dict[tuple[str, int], str] = {}
    for weight in weights:
        for name in weight["packed_bytes"]:
            widened, _, order = name.rpartition(".")
            dtype = widened or weight["dtype"]
            found[order, dtypes._BY_NAME[dtype].itemsize] = dtype
    return {
        f"Packed for {_READ_BY[order]}, {8 * itemsize}-bit elements ({dtype})": picture(itemsize, order)
        for (order, itemsize), dtype in sorted(found.items())
    }


def _step_lines(steps: list[dict[str, Any]]) -> list[str]:
    lines = []
    for step in steps:
        for variant in step["variants"]:
            last = variant["max"]
            if variant["min"] == 0 and last is None:
                tokens = "any tokens"
            else:
                tokens = (
                    f"{variant['min']} to {last} tokens" if last is not None else f"{variant['min']} tokens and more"
                )
            times = [f"{path} {time:g} µs" for path, time in (variant["time_us"] or {}).items()]
            why = ", ".join(filter(None, [variant["reason"], *times]))
            reason = f" ({why})" if why else ""
            lines.append(f"  {step['label']}, {tokens}: {variant['path']}{reason}: {', '.join(variant['kernels'])}")
    return lines


def _kernel_table(kernels: list[dict[str, Any]]) -> str:
    rows = []
    for kernel in kernels:
        runs = kernel["occupancy"]
        occupancy = f"{runs['blocks']} blocks, {runs['share']:.0%} ({runs['limit']})" if runs else "unknown chip"
        instructions = ", ".join(f"{count} {name}" for name, count in kernel["instructions"].items())
        rows.append(
            [kernel["name"], kernel["threads"], kernel["registers"], kernel["spill_bytes"], cli.size(kernel["shared_bytes"]),
             occupancy, instructions]
        )  # fmt: skip
    header = ("kernel", "threads", "registers", "spills", "shared", "on a multiprocessor", "instructions in the code")
    return cli.table(header, rows, "lrrrrll")


def _weight_table(weights: list[dict[str, Any]]) -> str:
    rows = []
    for weight in weights:
        packed = ", ".join(f"{name} {cli.size(count)}" for name, count in weight["packed_bytes"].items()) or "no"
        rows.append(
            [weight["name"], "x".join(map(str, weight["shape"])), weight["dtype"], cli.size(weight["dense_bytes"]),
             cli.size(weight["canonical_bytes"]), packed]
        )  # fmt: skip
    return cli.table(("2:4 weight", "shape", "dtype", "if dense", "canonical", "packed"), rows, "lllrrl")


if __name__ == "__main__":
    sys.exit(main())
