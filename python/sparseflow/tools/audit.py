"""``sparseflow-audit``: what serving a model takes, dense and 2:4, and whether 2:4 is worth it.

It is made to talk somebody out of 2:4 where that is right: what fits comes first, what 2:4 does not speed up is counted in
full, each number is a range that says whether it was measured or projected, and the assumptions are printed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError
from ..files import replacing
from . import cli, hardware, models, serving
from .hardware import Chip, Estimate, KernelTable
from .serving import Assumptions, Plan, Planner

NAME = "sparseflow-audit"
_HOURS = 8760  # of a year
# Less than this is lost in what the model of serving leaves out.
_WORTH = 1.05
# What --calibrate measures: the layers of an 8B model, few tokens to many.
_CALIBRATED_SIZES = ((4096, 4096), (14336, 4096), (4096, 14336))
_CALIBRATED_TOKENS = (1, 16, 64, 256, 1024, 4096)


def parser() -> argparse.ArgumentParser:
    made = cli.parser(
        NAME, "GPUs, cost and energy to serve a model: dense against 2:4, as ranges, with every assumption."
    )
    made.add_argument("--model", help="a built-in name such as llama-3.1-8b, or a config.json")
    made.add_argument("--qps", type=float, help="requests a second")
    made.add_argument("--input-tokens", type=int, help="of a request's prompt (of an image: its patches)")
    made.add_argument("--output-tokens", type=int, help="that a request generates; not for encoders")
    made.add_argument("--gpu", help="a100, a100-40gb, a10, l40s, rtx4090, h100, h200")
    made.add_argument("--gpus-per-replica", type=int, choices=(1, 2, 4, 8), help="default: what serves most a GPU")
    made.add_argument("--price", type=float, help="of a GPU for an hour, in any currency; without it no cost is given")
    made.add_argument("--pue", type=float, help=f"of the data centre (default {Assumptions.pue})")
    made.add_argument("--kg-co2-per-kwh", type=float, help=f"of the grid (default {Assumptions.kg_co2_per_kwh})")
    made.add_argument(
        "--kernels", type=cli.path, action="append", default=[], help="measurements of --calibrate to use; may repeat"
    )
    made.add_argument(
        "--calibrate", action="store_true", help="measure this machine's GPU for later audits; needs PyTorch"
    )
    made.add_argument("--output", type=cli.path, help="where --calibrate writes (default: where every audit looks)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit code."""
    options = parser().parse_args(arguments)
    return cli.run(NAME, lambda: _calibrate(options) if options.calibrate else _command(options))


# ---- The audit


def _command(options: argparse.Namespace) -> int:
    for name in ("model", "qps", "gpu"):
        if getattr(options, name) is None:
            raise cli.WrongArguments(f"expected --{name}, got none")
    if options.output:
        raise cli.WrongArguments("expected --output with --calibrate, which writes a table, got it without")
    model = models.model_named(options.model)
    _check_numbers(options, model)
    output_tokens = options.output_tokens or 0
    table = load_table(options.kernels)
    try:
        chip = table.chip(options.gpu)
    except InvalidArgumentError as error:
        raise cli.WrongArguments(f"--gpu: {error}") from None
    given = {name: getattr(options, name) for name in ("pue", "kg_co2_per_kwh")}
    assumed = Assumptions(**{name: value for name, value in given.items() if value is not None})
    planner = Planner(table, chip, model, assumed)
    plans: dict[str, Plan] = {}
    left_out: dict[str, str] = {}
    for scheme in hardware.SCHEMES:
        if scheme not in chip.teraflops:
            left_out[scheme] = f"{chip.name} has no tensor cores for it"
            continue
        try:
            plans[scheme] = planner.plan(scheme, options.input_tokens, output_tokens, options.gpus_per_replica)
        except InvalidArgumentError as error:
            left_out[scheme] = str(error)
    if not plans:
        raise cli.Failure(next(iter(left_out.values())))
    document = _document(options, model, chip, table, assumed, plans, left_out)
    if options.json:
        cli.print_json(document)
    else:
        print(_text(document))
    return cli.OK


def _check_numbers(options: argparse.Namespace, model: models.Model) -> None:
    needed = ["input_tokens"] + (["output_tokens"] if model.decoder else [])
    missing = [f"--{name.replace('_', '-')}" for name in needed if getattr(options, name) is None]
    if missing:
        raise cli.WrongArguments(
            f"expected {' and '.join(missing)}, got none: prefill and decode are bound by different things, and no answer holds "
            "for every length"
        )
    if options.output_tokens and not model.decoder:
        raise cli.WrongArguments(
            f"expected no --output-tokens for {model.name}, which generates none, got {options.output_tokens}"
        )
    for name, least in (
        ("input_tokens", 1),
        ("output_tokens", 1),
        ("qps", 1e-9),
        ("price", 0),
        ("pue", 1),
        ("kg_co2_per_kwh", 0),
    ):
        value = getattr(options, name)
        if value is not None and not (least <= value < 1e12):
            bound = "below 1e+12" if value >= 1e12 else f"of at least {least:g}"
            raise cli.WrongArguments(f"expected --{name.replace('_', '-')} {bound}, got {value}")
    tokens = options.input_tokens + (options.output_tokens or 0)
    if model.positions and tokens > model.positions:
        raise cli.WrongArguments(
            f"expected at most {model.positions} tokens of a request, the positions that {model.name} knows, got {tokens}"
        )


def load_table(kernels: Sequence[Path]) -> KernelTable:
    """The built-in measurements, this machine's own where it was calibrated, and those of these files."""
    for path in kernels:
        if not path.exists():
            raise cli.Failure(f"expected a table of --calibrate, got {path}, which does not exist")
    own = hardware.calibration_file()
    return hardware.load([*([own] if own and own.exists() else []), *kernels])


def _range(estimate: Estimate, factor: float = 1.0) -> dict[str, Any]:
    return {
        "low": estimate.low * factor, "mid": estimate.mid * factor, "high": estimate.high * factor, "kind": estimate.kind,
        "basis": estimate.basis,
    }  # fmt: skip


def _document(
    options: argparse.Namespace,
    model: models.Model,
    chip: Chip,
    table: KernelTable,
    assumed: Assumptions,
    plans: dict[str, Plan],
    left_out: dict[str, str],
) -> dict[str, Any]:
    rows = {}
    for scheme, plan in plans.items():
        gpus = plan.gpus(options.qps, assumed)
        hours = [count * _HOURS for count in gpus]
        draw = [chip.watts / 1e6 * share * assumed.pue for share in assumed.power_share]  # MW a GPU
        energy = [hours[0] * draw[0], hours[1] * sum(draw) / 2, hours[2] * draw[1]]
        rows[scheme] = {
            "fit": {
                "gpus_per_replica": plan.fit.gpus,
                "weights_gib": plan.fit.weights / 2**30,
                "usable_gib": plan.fit.usable / 2**30,
                "kv_mib_per_sequence": plan.fit.kv_of_sequence / 2**20,
                "sequences": plan.fit.sequences,
            },
            "prefill": _phase(plan.prefill) | {"prompts": plan.prompts},
            "decode": _phase(plan.decode) | {"sequences": plan.batch} if plan.decode else None,
            "requests_per_second_per_gpu": _range(plan.rate),
            "gpus": gpus,
            "cost_per_year": None if options.price is None else [round(each * options.price) for each in hours],
            "mwh_per_year": [round(each, 1) for each in energy],
            "tonnes_co2_per_year": [round(each * assumed.kg_co2_per_kwh, 1) for each in energy],
            "speedup": _speedup(plans, scheme),
        }
    return {
        "model": model.name,
        "gpu": {"name": chip.name, "target": chip.target, "memory_gib": chip.memory_gib},
        "requests_per_second": options.qps,
        "input_tokens": options.input_tokens,
        "output_tokens": options.output_tokens or 0,
        "schemes": rows,
        "left_out": left_out,
        "verdict": verdict(plans, options.qps, assumed),
        "assumptions": assumed.lines(),
        "measurements": table.sources,
    }


def _phase(phase: serving.Phase) -> dict[str, Any]:
    return {
        "tokens": phase.tokens,
        "linears_ms": _range(phase.linears, 1e-3),
        "rest_ms": _range(phase.rest, 1e-3),
        "total_ms": _range(phase.total, 1e-3),
        "linear_share": phase.linear_share,
    }


def _speedup(plans: dict[str, Plan], scheme: str) -> dict[str, Any] | None:
    """Of a sparse scheme, requests a second of a GPU against the dense scheme of the same precision."""
    dense = plans.get(scheme.replace("sparse", "dense"))
    if dense is None or not scheme.startswith("sparse"):
        return None
    found = compare(plans[scheme], dense)
    return {"against": dense.scheme, "low": found.low, "mid": found.mid, "high": found.high}


def compare(sparse: Plan, dense: Plan) -> Estimate:
    """How many times the requests of `dense` `sparse` serves on as many GPUs.

    The rest (attention, launches) is the same in both, so it is at the same end of its range in both: only the linear layers
    vary against each other.
    """
    mid = sparse.rate.mid / dense.rate.mid
    spread = math.hypot(
        math.log(sparse.request_us.high / sparse.request_us.low) / 2 * _linear_share(sparse),
        math.log(dense.request_us.high / dense.request_us.low) / 2 * _linear_share(dense),
    )
    return Estimate(mid / math.exp(spread), mid, mid * math.exp(spread), False)


def _linear_share(plan: Plan) -> float:
    """Of a request's time, that of linear layers."""
    prefill = plan.prefill.total.mid / plan.prompts
    decode = plan.request_us.mid - prefill
    share = plan.prefill.linear_share * prefill + (plan.decode.linear_share * decode if plan.decode else 0)
    return share / plan.request_us.mid


def verdict(plans: dict[str, Plan], qps: float, assumed: Assumptions) -> list[str]:
    """A sentence for each sparse scheme, and one for the whole."""
    sentences, helps = [], False
    for scheme, plan in plans.items():
        if scheme.startswith("sparse"):
            sentence, certain = _verdict_of(plan, plans.get(scheme.replace("sparse", "dense")), qps, assumed)
            sentences.append(sentence)
            helps |= certain
    best = {
        form: max((p for s, p in plans.items() if s.startswith(form)), key=lambda p: p.rate.mid, default=None)
        for form in ("dense", "sparse")
    }
    if best["dense"] and best["sparse"]:
        sentences.append(_verdict_of_all(best["sparse"], best["dense"], helps, qps, assumed))
    return sentences


def _verdict_of(plan: Plan, dense: Plan | None, qps: float, assumed: Assumptions) -> tuple[str, bool]:
    """The sentence about a sparse scheme beside the dense one of its precision, and whether it helps for certain."""
    if dense is None:
        return f"{plan.scheme} fits where {plan.scheme.replace('sparse', 'dense')} does not: it helps.", True
    found = compare(plan, dense)
    shown = f"{found.mid:.2f} times the requests of {dense.scheme} ({found.low:.2f} to {found.high:.2f})"
    if found.mid >= _WORTH and plan.decode and plan.batch / plan.fit.gpus > 1.3 * dense.batch / dense.fit.gpus:
        shown += (
            f", for its smaller weights leave room for {plan.batch} sequences on {plan.fit.gpus} GPUs instead of {dense.batch} "
            f"on {dense.fit.gpus}"
        )
    ours, theirs = plan.gpus(qps, assumed)[1], dense.gpus(qps, assumed)[1]
    if found.mid < _WORTH:
        return f"{plan.scheme}: 2:4 does not help here: {shown}.", False
    if ours >= theirs:
        return f"{plan.scheme}: 2:4 does not help here: {shown}, and {_no_fewer(ours, theirs)}.", False
    shown += f", {_gpus(ours)} instead of {theirs}"
    if _from_elsewhere(plan, dense):
        return f"{plan.scheme}: 2:4 may help: {shown}; projected from another GPU, so run --calibrate on one.", False
    if found.low < 1:
        return f"{plan.scheme}: 2:4 may help: {shown}; the range includes no gain. Measure it.", False
    return f"{plan.scheme}: 2:4 helps: {shown}.", True


def _verdict_of_all(sparse: Plan, dense: Plan, helps: bool, qps: float, assumed: Assumptions) -> str:
    """The sentence about the best of each; `helps`: whether any scheme does for certain."""
    found = compare(sparse, dense)
    ours, theirs = sparse.gpus(qps, assumed)[1], dense.gpus(qps, assumed)[1]
    shown = (
        f"{sparse.scheme} serves {found.mid:.2f} times ({found.low:.2f} to {found.high:.2f}) what {dense.scheme} does"
    )
    if found.mid >= _WORTH and ours < theirs:
        certainty = "helps" if helps and found.low >= 1 else "may help"
        return f"All in all: 2:4 {certainty}: the best of each, {shown}."
    if found.mid >= _WORTH:
        shown += f", and {_no_fewer(ours, theirs)}"
    return f"All in all: 2:4 does not help here: the best of each, {shown}. Take {dense.scheme}."


def _gpus(count: int) -> str:
    return f"{count} GPU" if count == 1 else f"{count} GPUs"


def _no_fewer(ours: int, theirs: int) -> str:
    """Where 2:4 is faster and saves no GPU."""
    if ours > theirs:
        return f"2:4 needs {_gpus(ours)} instead of {theirs}"
    return f"{theirs} GPUs are needed either way" if theirs != 1 else "1 GPU is needed either way"


def _from_elsewhere(*plans: Plan) -> bool:
    """Whether linear layers go by what was measured on another chip."""
    return any(" on " in phase.linears.basis for plan in plans for phase in (plan.prefill, plan.decode) if phase)


# ---- For people


def _spread(low: float, mid: float, high: float) -> str:
    return f"{_short(mid)} ({_short(low)} to {_short(high)})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _of(value: dict[str, Any]) -> str:
    return f"{_spread(value['low'], value['mid'], value['high'])} {value['kind']}"


def _text(document: dict[str, Any]) -> str:
    rows = document["schemes"]
    tokens = f"{document['input_tokens']} tokens in"
    if document["output_tokens"]:
        tokens += f", {document['output_tokens']} out"
    head = f"{document['model']} on {document['gpu']['name']}: {document['requests_per_second']:g} requests a second, {tokens}"
    lines = [head, "", "Fit", _fit_table(rows)]
    lines += [f"{scheme}: left out, {reason}" for scheme, reason in document["left_out"].items()]
    lines += _phase_lines(rows)
    lines += ["", "Capacity, projected", _capacity_table(rows)]
    lines += ["", "Verdict", *document["verdict"]]
    lines += ["", "Assumptions", *(f"- {line}" for line in document["assumptions"])]
    lines.append(
        f"- kernels as measured: {', '.join(document['measurements'])}; elsewhere by the nearest that was, wider the farther"
    )
    return "\n".join(lines)


def _fit_table(rows: dict[str, Any]) -> str:
    header = ("scheme", "GPUs a replica", "weights GiB", "usable GiB", "KV MiB a sequence", "sequences that fit")
    table = [
        [scheme, fit["gpus_per_replica"], f"{fit['weights_gib']:.1f}", f"{fit['usable_gib']:.1f}",
         f"{fit['kv_mib_per_sequence']:.1f}", fit["sequences"]]
        for scheme, fit in ((scheme, row["fit"]) for scheme, row in rows.items())
    ]  # fmt: skip
    return cli.table(header, table, "lrrrrr")


def _phase_lines(rows: dict[str, Any]) -> list[str]:
    """A table each of prefill and of decode, as far as there are any, and what their linear layers go by."""
    lines, bases = [], set()
    header = ("scheme", "tokens", "linear layers", "everything else", "together", "linear share")
    for name, title in (("prefill", "Prefill"), ("decode", "Decode, a step")):
        phases = {scheme: row[name] for scheme, row in rows.items() if row[name]}
        if not phases:
            continue
        table = [
            [scheme, phase["tokens"], _of(phase["linears_ms"]), _of(phase["rest_ms"]), _of(phase["total_ms"]),
             f"{phase['linear_share']:.0%}"]
            for scheme, phase in phases.items()
        ]  # fmt: skip
        lines += ["", f"{title}, milliseconds", cli.table(header, table, "lrlllr")]
        bases |= {phase["linears_ms"]["basis"] for phase in phases.values()}
    return [*lines, f"Linear layers go by {'; '.join(sorted(bases))}."]


def _capacity_table(rows: dict[str, Any]) -> str:
    header = ("scheme", "requests/s a GPU", "GPUs", "of dense", "cost a year", "MWh a year", "t CO2 a year")
    table = []
    for scheme, row in rows.items():
        rate, speedup = row["requests_per_second_per_gpu"], row["speedup"]
        table.append(
            [
                scheme,
                _spread(rate["low"], rate["mid"], rate["high"]),
                _spread(*row["gpus"]),
                "" if speedup is None else f"{speedup['mid']:.2f} ({speedup['low']:.2f} to {speedup['high']:.2f})",
                "give --price" if row["cost_per_year"] is None else _spread(*row["cost_per_year"]),
                _spread(*row["mwh_per_year"]),
                _spread(*row["tonnes_co2_per_year"]),
            ]
        )
    return cli.table(header, table)


# ---- Calibration


def _calibrate(options: argparse.Namespace) -> int:
    from . import benchmark
    from .contenders import Case

    for name, value in vars(options).items():
        if name not in ("calibrate", "output", "json") and value not in (None, []):
            option = f"--{name.replace('_', '-')}"
            raise cli.WrongArguments(f"expected --calibrate without what an audit takes, got it with {option}")
    path = options.output or hardware.calibration_file()
    if path is None:
        raise cli.WrongArguments("expected --output, for there is no cache folder to write to, got none")
    if options.output and options.output.exists():
        hardware.load([options.output])  # an older table is replaced, and no other file
    if not benchmark.find_gpu("auto"):
        raise cli.Failure("expected a GPU to calibrate, got none")
    about = benchmark.environment(on_gpu=True)
    chip = hardware.load().chip(about.get("gpu", ""))
    precisions = [p for p in ("f16", "int8", "fp8") if f"dense-{p}" in chip.teraflops]
    cases = [Case(p, m, n, k) for p in precisions for n, k in _CALIBRATED_SIZES for m in _CALIBRATED_TOKENS]
    run = benchmark.run_cases(cases, ["cublas"], on_gpu=True)
    groups: dict[tuple[str, str], list[list[float]]] = {}
    for case in run["cases"]:
        for contender, library in (("sparseflow", "SparseFlow"), ("cublas", "cuBLAS by PyTorch")):
            result = case["results"].get(contender, {})
            if "median_us" in result and not result.get("wrong"):
                scheme = f"{'sparse' if contender == 'sparseflow' else 'dense'}-{case['scheme']}"
                groups.setdefault((scheme, library), []).append([case["m"], case["n"], case["k"], result["median_us"]])
    if not groups:
        raise cli.Failure(f"expected products to be measured on {chip.name}, got none; sparseflow-benchmark says why")
    how = f"{run['protocol']}; {', '.join(f'{key} {value}' for key, value in about.items())}"
    document = {
        "format": hardware.FORMAT,
        "measurements": [
            {"gpu": chip.key, "scheme": scheme, "library": library, "how": how, "points": points}
            for (scheme, library), points in groups.items()
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n")
    count = sum(len(points) for points in groups.values())
    if options.json:
        cli.print_json(document)
    else:
        print(f"{path}: {count} products measured on {chip.name}")
    return cli.OK


if __name__ == "__main__":
    sys.exit(main())
