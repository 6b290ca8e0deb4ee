"""``sparseflow-tune``: measures the fastest kernels for products on this machine's GPU and records them for later compiles."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import _sparseflow, tuning
from ..errors import InvalidArgumentError
from . import cli, models

NAME = "sparseflow-tune"
_DTYPES = ("f16", "i8", "e4m3")
_EPILOGUES = ("plain", "gated")
_APPLICATION_ID = b"SFT\1"  # in the header of SQLite's file


def parser() -> argparse.ArgumentParser:
    made = cli.parser(NAME, "Times candidate kernels on this machine's GPU and records the fastest for later compiles.")
    what = made.add_mutually_exclusive_group()
    what.add_argument(
        "--shape",
        type=cli.sizes,
        action="extend",
        metavar="NxK",
        help="a weight, features x inner: 4096x4096; repeatable, or several by comma",
    )
    what.add_argument(
        "--model",
        action="append",
        help="the weights of a model: a built-in name or a config.json; repeatable, or several by comma",
    )
    what.add_argument("--program", type=cli.path, metavar="FILE", help="the products of a .mlir file")
    made.add_argument(
        "--tokens", type=cli.counts, help=f"token counts (default {','.join(map(str, tuning.buckets()))})"
    )
    made.add_argument(
        "--dtype",
        type=cli.names(_DTYPES),
        help="f16 (default; bf16 runs alike), i8, e4m3; several by comma; a program brings its own",
    )
    made.add_argument(
        "--epilogue",
        type=cli.names(_EPILOGUES),
        help="of the shapes: plain (default: scales, bias, activation), gated (two weights); several by comma; a model and a "
        "program bring their own",
    )
    made.add_argument(
        "--candidates", type=cli.positive, help=f"compiled for each product and count (default {tuning.CANDIDATES})"
    )
    made.add_argument("--seconds", type=cli.positive, help="leave out the products that are not begun by then")
    made.add_argument("--database", type=cli.path, metavar="FILE", help="default: tuning.sqlite in the cache folder")
    made.add_argument(
        "--export",
        type=cli.path,
        metavar="FILE",
        help="write the whole database to one file, to be shipped; alone, tunes nothing; replaces a tuning database alone",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit code."""
    options = parser().parse_args(arguments)
    return cli.run(NAME, lambda: _command(options))


def _command(options: argparse.Namespace) -> int:
    if not (options.shape or options.model or options.program):
        if not options.export:
            raise cli.WrongArguments("expected --shape, --model or --program to tune, or --export, got none")
        for name in ("tokens", "dtype", "epilogue", "candidates", "seconds"):
            if getattr(options, name) is not None:
                raise cli.WrongArguments(
                    f"expected --{name} with --shape, --model or --program, got it with --export alone"
                )
        return _export_alone(options)
    if options.dtype and options.program:
        raise cli.WrongArguments("expected --dtype for --shape or --model, got it with --program, which brings its own")
    if options.epilogue and not options.shape:
        raise cli.WrongArguments(
            "expected --epilogue for --shape, got it with a model or a program, which bring their own"
        )
    return _tune(options)


def _export_alone(options: argparse.Namespace) -> int:
    """Writes what was tuned before, which takes no GPU."""
    if options.database and not options.database.exists():
        raise InvalidArgumentError(f"expected a tuning database, got {options.database}, which does not exist")
    _check_export(options.export)
    _export(options)
    if options.json:
        cli.print_json({"export": str(options.export)})
    return cli.OK


def _check_export(path: Path) -> None:
    """Raises InvalidArgumentError where nothing can be written, and where something else would be replaced."""
    if not path.absolute().parent.is_dir():
        raise InvalidArgumentError(f"expected a folder for {path}, got none; make it first")
    if not path.exists():
        return
    begin = b""
    if path.is_file():
        with open(path, "rb") as file:
            begin = file.read(72)
    if begin[:16] != b"SQLite format 3\0" or begin[68:] != _APPLICATION_ID:
        raise InvalidArgumentError(
            f"expected a new path or a tuning database to replace, got {path}, which is something else"
        )


def _export(options: argparse.Namespace) -> None:
    database = None if options.database is None else os.fsencode(options.database)
    _sparseflow.TuningDatabase(database).export(os.fsencode(options.export))
    cli.note(f"{NAME}: wrote {options.export}")


def _tune(options: argparse.Namespace) -> int:
    if options.export:
        _check_export(options.export)
    progress: cli.Progress | None = None

    def show(done: int, total: int, what: str) -> None:
        nonlocal progress
        progress = progress or cli.Progress(total, "products")
        progress.show(done, what)

    report = tuning.tune(
        options.program or _products(options),
        tokens=options.tokens,
        database=options.database,
        candidates=options.candidates or tuning.CANDIDATES,
        seconds=options.seconds,
        progress=show,
    )
    if progress:
        progress.clear()
    if options.json:
        cli.print_json(report.data)
    else:
        print(report)
    if options.export:
        _export(options)
    wrong = sorted({config for row in report.rows for config in row["wrong"]})
    if wrong:
        raise cli.Failure(f"expected candidates to agree, got other results from {'; '.join(wrong)}")
    if not report.rows:
        raise cli.Failure("expected a product with candidates that compile, got none")
    return cli.OK


def _products(options: argparse.Namespace) -> list[tuning.Product]:
    """What was asked for by shape or model, each once, for whatever GPU there is."""
    if options.shape:
        epilogues = options.epilogue or ["plain"]
        weights = [(features, inner, epilogue) for features, inner in options.shape for epilogue in epilogues]
    else:
        named = [models.model_named(name) for text in options.model for name in text.split(",")]
        weights = [weight for model in named for weight in model.products]
    if not weights:
        raise InvalidArgumentError("expected at least one weight, got none")
    return [
        tuning.Product("", dtype, features, inner, epilogue)
        for features, inner, epilogue in dict.fromkeys(weights)
        for dtype in options.dtype or ["f16"]
    ]


if __name__ == "__main__":
    sys.exit(main())
