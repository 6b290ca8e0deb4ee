"""Machine code of the kernels with wgmma: nothing touches a register that a product in flight still uses.

A product is asynchronous: until the wait for its group its accumulators, its metadata and values in registers belong to the
tensor core. ptxas schedules by what it knows of that, which is not all (docs/Hopper.md), and the emulator executes PTX, where
the order is still right. So this reads SASS.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import sparseflow as sf
from sparseflow.tools import cli, inspect

NUMPY = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "i8": np.int8, "e4m3": ml_dtypes.float8_e4m3fn}
INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+) )?(.*?) ?;")
LABEL = re.compile(r"^\s*(\.L_x_\d+):")
PRODUCT = re.compile(r"[HIQ]GMMA\S*\.64x(\d+)x\S+ R(\d+), (.*)")


class Group(NamedTuple):
    """What the products up to one commit write, and what they read, in registers."""

    accumulators: frozenset[int]
    operands: frozenset[int]
    committed: bool


def touched(sass: str) -> dict[str, str]:
    """Instructions, by address, that read or write an accumulator in flight, or write what a product in flight reads."""
    code: list[tuple[str, str | None, str]] = []
    labels: dict[str, int] = {}
    for line in sass.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(code)
        elif instruction := INSTRUCTION.search(line):
            code.append((instruction[1], instruction[2], instruction[3]))
    found: dict[str, str] = {}
    seen: set[tuple[int, tuple[Group, ...]]] = set()
    work: list[tuple[int, tuple[Group, ...]]] = [(0, ())]
    while work:
        at, flying = work.pop()
        while at < len(code) and (at, flying) not in seen:
            seen.add((at, flying))
            address, predicate, text = code[at]
            if product := PRODUCT.match(text):
                flying = _issue(flying, product)
            elif wait := re.match(r"WARPGROUP\.DEPBAR\.LE gsb0, (0x\d+)", text):
                left = int(wait[1], 16)
                flying = flying[max(0, len(flying) - left) :]
            elif flying and _touches(text, flying):
                found[address] = text
            if text.startswith("BRA"):
                if target := re.search(r"\.L_x_\d+", text):
                    work.append((labels[target[0]], flying))
                if predicate is None and not re.match(r"BRA\S* !?U?P\d", text):
                    break
            if text.startswith("EXIT") and predicate is None:
                break
            at += 1
    return found


def _issue(flying: tuple[Group, ...], product: re.Match[str]) -> tuple[Group, ...]:
    first = int(product[2])
    accumulators = frozenset(range(first, first + int(product[1]) // 2))
    # What it reads in registers are bare operands: metadata, one register, and values, four, which come first.
    operands = [operand.strip() for operand in product[3].split(",")]
    bare = {at: int(operand[1:]) for at, operand in enumerate(operands) if re.fullmatch(r"R\d+", operand)}
    read = frozenset(bare.values()) | frozenset(range(bare.get(0, 0), bare.get(0, -4) + 4))
    read -= accumulators
    if flying and not flying[-1].committed:
        *before, last = flying
        accumulators, read, flying = accumulators | last.accumulators, read | last.operands, tuple(before)
    return (*flying, Group(accumulators, read, committed="gsb0" in product[3]))


def _touches(text: str, flying: tuple[Group, ...]) -> bool:
    name, _, operands = text.partition(" ")
    registers = {int(register) for register in re.findall(r"\bR(\d+)", operands)}
    if any(registers & group.accumulators for group in flying):
        return True
    written = re.match(r"R(\d+)\b", operands)
    if not written or name.startswith(("ST", "RED", "SYNCS")):
        return False
    width = next((size // 32 for size in (128, 64) if f".{size}" in name), 1)
    target = set(range(int(written[1]), int(written[1]) + width))
    return any(target & group.operands for group in flying)


LOOP = """
.L_x_1:
        /*0010*/  LDSM.16.M88 R{metadata}, [R2] ;
        /*0020*/  HGMMA.SP.64x8x32.F32 R24, gdesc[UR8], R24, R{metadata}, 0x0, gsb0 ;
        /*0030*/  WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
        /*0040*/  @P0 BRA `(.L_x_1) ;
        /*0050*/  {early} ;
        /*0060*/  WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0070*/  F2FP.F16.F32.PACK_AB R5, R25, R24 ;
        /*0080*/  EXIT ;
"""


def test_reader_finds_what_is_touched() -> None:
    assert touched(LOOP.format(metadata=36, early="MOV R6, R7")) == {"0010": "LDSM.16.M88 R36, [R2]"}
    found = touched(LOOP.format(metadata=36, early="F2FP.F16.F32.PACK_AB R4, R27, R26"))
    assert found["0050"].startswith("F2FP")
    alternating = LOOP.format(metadata=36, early="MOV R6, R7").replace("BRA `(.L_x_1)", "EXIT")
    assert touched(alternating) == {}


@pytest.fixture(scope="module")
def disassembler() -> Path:
    try:
        return inspect.find_disassembler()
    except cli.Failure as error:
        pytest.skip(str(error))


def compiled(path: Path, dtype: str, n: int, k: int, sparse: bool, config: str | None, epilogue: str) -> None:
    """A product with this epilogue, in the file `path`."""
    rng = np.random.default_rng(n + k)
    weight = (rng.standard_normal((n, k)) * 16).round().astype(NUMPY[dtype])
    weight = sf.prune_24(weight) if sparse else weight
    graph = sf.Graph()
    x = graph.input("x", (None, k), dtype)
    arguments: dict[str, Any] = {
        "none": {},
        "relu": {"activation": "relu"},
        "gate": {"activation": "silu", "gate": weight},
        "row_scale": {"row_scale": 0.5},
    }.get(epilogue, {})
    if epilogue == "both_scales":
        scale = graph.input("scale", (None, 1), "f32")
        arguments = {"row_scale": scale, "feature_scale": np.ones(n, np.float32)}
    if epilogue == "residual":
        arguments = {"residual": graph.input("residual", (None, n), "bf16" if dtype == "bf16" else "f16")}
    graph.output(graph.matmul(x, weight, sparse=sparse, **arguments))
    sf.compile(graph, target="sm_90a", device="emulator", config=config).save(path)


# What the compiler chooses for few and many tokens, and tiles that it may choose elsewhere. 535 features cannot be stored as
# vectors: there the conversions stand alone, before the branch between whole tiles and others.
@pytest.mark.parametrize("epilogue", ["none", "relu", "row_scale", "both_scales", "residual", "gate"])
@pytest.mark.parametrize(("dtype", "n"), [("f16", 535), ("i8", 512), ("e4m3", 535)])
def test_chosen_kernels(dtype: str, n: int, epilogue: str, tmp_path: Path, disassembler: Path, capsys: Any) -> None:
    compiled(tmp_path / "chosen.sf", dtype, n, 992, True, None, epilogue)
    check(tmp_path / "chosen.sf", capsys)


@pytest.mark.parametrize("atom", ["wgmma_sp", "wgmma_sp_rs", "wgmma"])
@pytest.mark.parametrize("tile", ["64x24", "64x64, split_k = 2, cluster = 2", "128x128"])
@pytest.mark.parametrize(("dtype", "steps"), [("bf16", 8), ("i8", 3)])
def test_forced_kernels(
    dtype: str, steps: int, tile: str, atom: str, tmp_path: Path, disassembler: Path, capsys: Any
) -> None:
    size, comma, rest = tile.partition(",")
    inner = 64 if dtype == "bf16" else 128
    warps = int(size.split("x")[0]) // 16
    config = f"tile = {size}x{inner}, warps = {warps}x1, atom = {atom}{comma}{rest}"
    compiled(tmp_path / "forced.sf", dtype, 535, steps * inner, atom != "wgmma", config, "none")
    check(tmp_path / "forced.sf", capsys)


def check(path: Path, capsys: Any) -> None:
    """Every kernel with wgmma of the file."""
    assert inspect.main([str(path), "--sass", "--json"]) == 0
    kernels = [kernel for each in json.loads(capsys.readouterr().out)["programs"] for kernel in each["kernels"]]
    texts = {kernel["name"]: kernel["sass_text"] for kernel in kernels if "GMMA" in kernel["sass_text"]}
    assert texts, "expected kernels with wgmma"
    for name, text in texts.items():
        assert touched(text) == {}, name
