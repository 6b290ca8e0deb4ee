"""``sparseflow-convert``: a checkpoint to SparseFlow's own, to a dense one, or to a compiled ``.sf``.

Weights pass one at a time, so memory is bounded by the largest layer (a ``.sf`` holds all compressed ones while it is made).
The output appears when it is complete, and an interrupted conversion goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoints import open_checkpoint
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.compiled import compile_layers
from ..checkpoints.conversion import (
    METHODS,
    TARGET_SCHEMES,
    Options,
    Pruner,
    Row,
    Step,
    companions,
    config_of,
    convert,
    plan,
)
from ..checkpoints.writer import ResumableWriter
from ..targets import targets
from . import cli

NAME = "sparseflow-convert"
_SHARD_BYTES = 4 << 30
_EXPERT = re.compile(r"(^|\.)experts\.\d+\.")


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|KiB|MiB|GiB)?", text)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"expected a size such as 4GiB, got {text}")
    factors = {None: 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    return max(1, int(float(match[1]) * factors[match[2]]))


def parser() -> argparse.ArgumentParser:
    made = cli.parser(NAME, "Converts a checkpoint to 2:4 weights, tensor by tensor.")
    made.add_argument("--input", required=True, type=cli.path, help="a folder, a .safetensors, a *.index.json or a .pt")
    made.add_argument("--output", required=True, type=cli.path, help="a .sf (compiled), a .safetensors, or a folder")
    made.add_argument(
        "--scheme", choices=TARGET_SCHEMES, default="keep", help="what weights are stored as (default keep)"
    )
    made.add_argument(
        "--method",
        choices=METHODS,
        default="none",
        help="prune weights that are not 2:4 (default none: they stay dense)",
    )
    made.add_argument("--calibration", type=cli.path, help="JSON lines with text or input_ids, for wanda and sparsegpt")
    made.add_argument(
        "--skip", action="append", default=[], metavar="NAME", help="leave layers whose name has this; may repeat"
    )
    made.add_argument(
        "--format", choices=("sparseflow", "dense"), default="sparseflow", help="of a folder or .safetensors"
    )
    made.add_argument(
        "--targets",
        type=cli.names(list(targets())),
        default=[],
        metavar="SM",
        help="chips of a .sf, such as sm_80,sm_90a (default: that of the GPU here)",
    )
    made.add_argument("--max-shard-size", type=_bytes, metavar="SIZE", help="of a folder's files (default 4GiB)")
    made.add_argument("--force", action="store_true", help="replace an output that exists")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit code."""
    options = parser().parse_args(arguments)
    return cli.run(NAME, lambda: _command(options))


def _command(options: argparse.Namespace) -> int:
    is_program = options.output.suffix == ".sf"
    if is_program and options.format == "dense":
        raise cli.WrongArguments("expected --format sparseflow for a .sf, got dense; write a folder instead")
    if options.targets and not is_program:
        raise cli.WrongArguments(
            f"expected a .sf for --targets, got {options.output}; checkpoints are the same for every chip"
        )
    is_file = is_program or options.output.suffix == ".safetensors"
    if options.max_shard_size and is_file:
        raise cli.WrongArguments(f"expected a folder for --max-shard-size, got {options.output}, which is one file")
    if options.format == "dense" and options.scheme in ("int8", "fp8"):
        raise cli.WrongArguments(f"expected --scheme f16, bf16 or keep for --format dense, got {options.scheme}")
    if options.format == "dense" and options.method != "none":
        raise cli.WrongArguments(
            f"expected no --method for --format dense, which prunes nothing, got {options.method}; convert twice"
        )
    given, output = Path(os.path.realpath(options.input)), Path(os.path.realpath(options.output))
    if output in given.parents:
        raise cli.WrongArguments(f"expected an output that does not hold the input, got {options.output}")
    calibrated = options.method in ("wanda", "sparsegpt")
    if calibrated != (options.calibration is not None):
        got = f"--method {options.method} without it" if calibrated else f"it with --method {options.method}"
        raise cli.WrongArguments(f"expected --calibration for wanda and sparsegpt, and for no other method, got {got}")
    wanted = Options(options.scheme, options.method, tuple(options.skip), options.format == "dense")
    with open_checkpoint(options.input) as checkpoint:
        for names in checkpoint.tied:
            cli.note(f"{NAME}: {' and '.join(names)} share their memory in {options.input}; each is written")
        for part in options.skip:
            if not any(part in entry.name for entry in checkpoint.entries):
                raise cli.Failure(f"expected --skip to be part of a layer's name, got {part}, which no name has")
        scanning = cli.Progress(len(checkpoint.entries), "entries looked at")
        steps = plan(checkpoint, wanted, scanning.show)
        scanning.clear()
        if not any(step.action != "copy" for step in steps):
            raise cli.Failure(_nothing_to_do(options.input, steps))
        pruner = None
        if calibrated:
            from .calibrated import calibrated_pruner

            pruner = calibrated_pruner(options.input, options.calibration, options.method, options.scheme, steps)
        if is_program:
            rows = _write_program(checkpoint, steps, options, pruner)
        else:
            rows = _write_checkpoint(checkpoint, steps, wanted, options, pruner)
    if not is_program and checkpoint.config is not None and not wanted.dense:
        _note_experts(steps)
    _report(rows, options)
    return cli.OK


def _note_experts(steps: list[Step]) -> None:
    """Says that Transformers, for which the config.json is, merges experts as it loads them, and can do so with dense ones only."""
    experts = [step.entry.name for step in steps if step.action != "copy" and _EXPERT.search(step.entry.name)]
    if experts:
        cli.note(
            f"{NAME}: Transformers 5 holds all experts of a layer in one tensor and loads no 2:4 ones, of which this has "
            f"{len(experts)} ('{experts[0]}'); --skip .experts. leaves them dense"
        )


def _nothing_to_do(path: Path, steps: list[Step]) -> str:
    matrices = [step for step in steps if len(step.entry.shape) == 2]
    reasons = sorted({step.reason for step in matrices}) or ["it has no matrix"]
    shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} other reasons" if len(reasons) > 3 else "")
    return f"expected a layer of {path} that is 2:4 or may be pruned, got none of {len(matrices)}: {shown}"


def _write_checkpoint(
    checkpoint: Checkpoint, steps: list[Step], wanted: Options, options: argparse.Namespace, pruner: Pruner | None
) -> list[Row]:
    progress = cli.Progress(len(steps), "entries")
    # The files' identity as well as the options: a conversion never goes on with another's output.
    identity: dict[str, Any] = {
        "options": dataclasses.asdict(wanted),
        "input": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in checkpoint.paths],
    }
    if options.calibration:  # its tokens are made by the tokenizer beside the model
        read = [options.calibration, *companions(checkpoint)]
        identity["calibration"] = [[path.name, _digest(path)] for path in read]
    with ResumableWriter(
        options.output,
        {step.entry.name: step.specs for step in steps},
        identity=identity,
        single_file=options.output.suffix == ".safetensors",
        max_shard_bytes=options.max_shard_size or _SHARD_BYTES,
        force=options.force,
    ) as writer:
        if writer.done:
            cli.note(f"{NAME}: going on with {writer.partial}: {len(writer.done)} of {len(steps)} entries are there")
        try:
            for done, step in enumerate(steps):
                progress.show(done, step.entry.name)
                if step.entry.name in writer.done:
                    continue
                tensors, row = convert(checkpoint, step, pruner)
                writer.write(step.entry.name, tensors, dataclasses.asdict(row))
            others: dict[str, bytes | Path] = {path.name: path for path in companions(checkpoint)}
            config = config_of(checkpoint, steps, wanted)
            if config is not None:
                others["config.json"] = config
            writer.finish(others)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted after {len(writer.done)} of {len(steps)} entries; the same command goes on with {writer.partial}"
            ) from None
        finally:
            progress.clear()
        return [Row(**writer.done[step.entry.name]) for step in steps]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_program(
    checkpoint: Checkpoint, steps: list[Step], options: argparse.Namespace, pruner: Pruner | None
) -> list[Row]:
    if options.output.exists() and not options.force:
        raise cli.Failure(f"expected a new path, got {options.output}, which exists; remove it, or use --force")
    if not options.output.absolute().parent.is_dir():
        raise cli.Failure(f"expected a folder {options.output.parent}, got none; make it first")
    for name in options.targets:
        plain, known = targets().get(name), targets().get(f"{name}a")
        if plain and known and known.warpgroup_row_bytes and not plain.warpgroup_row_bytes:
            cli.note(f"{NAME}: {name} has no warpgroup instructions; kernels for {name}a are faster where they run")
    compiled = [step for step in steps if step.action != "copy"]
    progress = cli.Progress(len(compiled), "layers")
    try:
        program, rows = compile_layers(
            checkpoint, compiled, targets=options.targets or None, pruner=pruner, progress=progress.show
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted while compiling; nothing was written") from None
    progress.clear()
    program.save(options.output)
    left_out = [
        Row(step.entry.name, step.entry.shape, f"{step.entry.format} {step.entry.dtype}", "left out", None, None,
            step.entry.nbytes, 0, step.reason)
        for step in steps
        if step.action == "copy"
    ]  # fmt: skip
    return rows + left_out


def _report(rows: list[Row], options: argparse.Namespace) -> None:
    converted = [row for row in rows if not row.reason]
    before, after = (sum(getattr(row, f"bytes_{side}") for row in converted) for side in ("before", "after"))
    totals = {
        "layers": len(converted),
        "layers_bytes_before": before,
        "layers_bytes_after": after,
        "bytes_before": sum(row.bytes_before for row in rows),
        "bytes_after": sum(row.bytes_after for row in rows),
    }
    if options.json:
        document = {
            "output": str(options.output),
            "totals": totals,
            "layers": [dataclasses.asdict(row) for row in rows],
        }
        cli.print_json(document)
        return
    was = {True: "yes", False: "pruned", None: ""}
    lines = [
        [
            row.layer,
            "x".join(map(str, row.shape)),
            row.before,
            row.after,
            was[row.was_sparse],
            "" if row.error is None else f"{row.error:.2e}",
            cli.size(row.bytes_before),
            cli.size(row.bytes_after),
            row.reason,
        ]
        for row in rows
        if len(row.shape) == 2 or not row.reason
    ]
    header = ("layer", "shape", "from", "to", "2:4 before", "error", "before", "after", "why not")
    print(cli.table(header, lines, "lllllrrrl"))
    print(
        f"\n{options.output}: {totals['layers']} layers are 2:4, {cli.size(before)} -> {cli.size(after)}; "
        f"all tensors {cli.size(totals['bytes_before'])} -> {cli.size(totals['bytes_after'])}"
    )


if __name__ == "__main__":
    sys.exit(main())
