"""How many requests a GPU serves: what fits, prefill and decode apart, and everything that 2:4 does not make faster.

The model of one replica (a GPU, or several that share a model's layers) is plain: prompts are prefilled a few at a time, and
between them all running sequences advance by a token. With P the prefill of a request and D(B) a step of B sequences,

    requests a second = 1 / (P + output_tokens · D(B) / B)

Each time is a range. What is not a linear layer (attention, the output head, norms, quantizing activations, launches,
communication) takes the same time with sparse weights as with dense ones, which is Amdahl's law and most of the story.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import InvalidArgumentError
from .hardware import ZERO, Chip, Estimate, KernelTable, total, weight_bytes
from .models import Linear, Model


@dataclass(frozen=True)
class Assumptions:
    """What is neither measured nor given; every audit prints them."""

    memory_share: float = 0.9  #: of the GPU's memory that weights, KV cache and workspace may take
    utilization: float = 0.7  #: of the capacity that is planned for: requests do not come evenly
    prefill_tokens: int = 2048  #: prompts are batched up to so many tokens
    largest_batch: int = 256  #: sequences that decode together at most
    passes: int = 12  #: times that norms, residuals, rotary embeddings read or write the hidden state, a layer
    kernels: int = 6  #: kernels a layer beside the linear layers'
    launch_us: tuple[float, float, float] = (1.0, 2.0, 5.0)  #: a kernel, in a CUDA graph at best
    attention_share: tuple[float, float] = (1.0, 0.5)  #: of the attention figure that is reached, at best and at worst
    link_gb_per_second: tuple[float, float, float] = (400.0, 200.0, 100.0)  #: between GPUs that share a layer
    pue: float = 1.3  #: of the data centre: energy drawn for each unit that the GPUs draw
    power_share: tuple[float, float] = (0.6, 1.0)  #: of the GPU's power limit that it draws under load
    kg_co2_per_kwh: float = 0.4  #: of the grid, about the world's mean

    def lines(self) -> list[str]:
        """One a line, for people."""
        best, worst = self.attention_share
        return [
            f"{self.memory_share:.0%} of a GPU's memory is usable; capacity is planned at {self.utilization:.0%} utilization",
            f"prompts are prefilled up to {self.prefill_tokens} tokens at a time; at most {self.largest_batch} sequences decode together",
            f"norms, residuals and the like pass {self.passes} times over the hidden state of a layer at the memory's speed, "
            f"in {self.kernels} kernels of {self.launch_us[0]:g} to {self.launch_us[2]:g} µs of launch",
            f"attention reaches {worst:.0%} to {best:.0%} of the speed it was measured at; KV cache in f16; the output head stays dense f16",
            f"GPUs that share a layer exchange results at {self.link_gb_per_second[2]:g} to {self.link_gb_per_second[0]:g} GB/s",
            "int8 and fp8 quantize activations in a kernel of their own, one a linear layer",
            f"power: {self.power_share[0]:.0%} to {self.power_share[1]:.0%} of the limit, PUE {self.pue:g}, {self.kg_co2_per_kwh:g} kg CO2 a kWh",
            "2:4 may cost accuracy, which no figure here counts",
        ]


@dataclass(frozen=True)
class Phase:
    """Microseconds of one forward pass: linear layers, and the rest."""

    tokens: int
    linears: Estimate
    rest: Estimate

    @property
    def total(self) -> Estimate:
        return self.linears + self.rest

    @property
    def linear_share(self) -> float:
        return self.linears.mid / self.total.mid


@dataclass(frozen=True)
class Fit:
    """What a replica of so many GPUs holds."""

    gpus: int
    weights: float  #: bytes, all GPUs together
    usable: float  #: bytes, all GPUs together
    kv_of_sequence: float  #: bytes
    sequences: int  #: that fit beside the weights at their full length


@dataclass(frozen=True)
class Plan:
    """One scheme, planned."""

    scheme: str
    fit: Fit
    batch: int
    prefill: Phase  #: of `prompts` prompts
    prompts: int
    decode: Phase | None  #: of `batch` sequences, at their mean length
    request_us: Estimate  #: of a replica, for each request

    @property
    def rate(self) -> Estimate:
        """Requests a second of one GPU."""
        time = self.request_us
        return Estimate(
            1e6 / time.high / self.fit.gpus,
            1e6 / time.mid / self.fit.gpus,
            1e6 / time.low / self.fit.gpus,
            time.measured,
            time.basis,
        )

    def gpus(self, qps: float, assumptions: Assumptions) -> tuple[int, int, int]:
        """GPUs for so many requests a second, at best, probably and at worst; whole replicas."""

        def count(rate: float) -> int:
            return math.ceil(qps / (rate * self.fit.gpus * assumptions.utilization)) * self.fit.gpus

        return count(self.rate.high), count(self.rate.mid), count(self.rate.low)


class Planner:
    """Plans a model on a chip."""

    def __init__(self, table: KernelTable, chip: Chip, model: Model, assumptions: Assumptions):
        self._table, self._chip, self._model, self._assumed = table, chip, model, assumptions

    def plan(self, scheme: str, input_tokens: int, output_tokens: int, gpus: int | None = None) -> Plan:
        """The plan with the most requests a second of a GPU, on replicas of 1 to 8 GPUs or of `gpus`.

        Raises InvalidArgumentError where the model does not fit.
        """
        plans = [
            self._plan(scheme, fit, input_tokens, output_tokens)
            for fit in self.fits(scheme, input_tokens + output_tokens, gpus)
        ]
        return max(plans, key=lambda plan: plan.rate.mid)

    def _plan(self, scheme: str, fit: Fit, input_tokens: int, output_tokens: int) -> Plan:
        prompts = min(max(1, self._assumed.prefill_tokens // input_tokens), fit.sequences)
        prefill = self._prefill(scheme, prompts, input_tokens, fit.gpus)
        of_request = prefill.total.scaled(1 / prompts)
        if not self._model.decoder or not output_tokens:
            return Plan(scheme, fit, prompts, prefill, prompts, None, of_request)
        plans = []
        largest = min(fit.sequences, self._assumed.largest_batch)
        for batch in {*(1 << bits for bits in range(largest.bit_length())), largest}:
            decode = self._decode(scheme, batch, input_tokens + output_tokens // 2, fit.gpus)
            request = of_request + decode.total.scaled(output_tokens / batch)
            plans.append(Plan(scheme, fit, batch, prefill, prompts, decode, request))
        return min(plans, key=lambda plan: plan.request_us.mid)

    def fits(self, scheme: str, tokens: int, gpus: int | None = None) -> list[Fit]:
        """The numbers of GPUs (1, 2, 4, 8, or the one asked for) that hold the model and a sequence of so many tokens.

        Raises InvalidArgumentError where none does.
        """
        model = self._model
        weights = model.other_weights * 2.0
        weights += model.layers * sum(weight_bytes(scheme, linear.features, linear.inner) for linear in model.linears)
        widest = max(linear.features for linear in model.linears)
        workspace = self._assumed.prefill_tokens * (4 * model.hidden + 2 * widest) * 2.0
        kv = float(model.kv_bytes(tokens))
        found = []
        for count in [gpus] if gpus else [1, 2, 4, 8]:
            if model.heads % count or (count > model.kv_heads and model.kv_heads % count):
                continue
            usable = count * self._chip.memory_bytes * self._assumed.memory_share
            room = usable - weights - count * workspace
            sequences = math.floor(room / kv) if kv else (self._assumed.largest_batch if room > 0 else 0)
            if sequences >= 1:
                found.append(Fit(count, weights, usable, kv, sequences))
        if not found:
            raise InvalidArgumentError(
                f"expected {model.name} in {scheme} to fit on {gpus or 'at most 8'} {self._chip.name}, got {weights / 2**30:.0f} GiB "
                f"of weights and {kv / 2**30:.2f} GiB of KV cache for a sequence of {tokens} tokens"
            )
        return found

    def _prefill(self, scheme: str, prompts: int, tokens: int, gpus: int) -> Phase:
        model, m = self._model, prompts * tokens
        # Q·Kᵀ and P·V; a decoder's tokens see only those before them.
        operations = 4.0 * prompts * tokens**2 * model.heads * model.head_size * model.layers / gpus
        rate, measured = self._table.attention(self._chip)
        time = operations * (0.5 if model.decoder else 1.0) / rate * 1e-6
        best, worst = self._assumed.attention_share
        attention = Estimate(
            time / best, time / math.sqrt(best * worst), time / worst, False, "attention" if measured else ""
        )
        return Phase(
            m,
            self._linears(scheme, m, gpus),
            total([attention, self._other(scheme, m, gpus), self._head(prompts, gpus)]),
        )

    def _decode(self, scheme: str, batch: int, length: int, gpus: int) -> Phase:
        rate, _ = self._table.bandwidth(self._chip)
        time = batch * self._model.kv_bytes(length) / gpus / rate * 1e-6
        attention = Estimate(time, 1.2 * time, 1.6 * time, False, "KV cache")
        return Phase(
            batch,
            self._linears(scheme, batch, gpus),
            total([attention, self._other(scheme, batch, gpus), self._head(batch, gpus)]),
        )

    def _linears(self, scheme: str, m: int, gpus: int) -> Estimate:
        parts = [self._table.predict(self._chip, scheme, m, *_share(linear, gpus)) for linear in self._model.linears]
        return total(parts).scaled(self._model.layers)

    def _head(self, m: int, gpus: int) -> Estimate:
        if not self._model.decoder or not self._model.vocabulary:
            return ZERO
        return self._table.predict(
            self._chip, "dense-f16", m, math.ceil(self._model.vocabulary / gpus), self._model.hidden
        )

    def _other(self, scheme: str, m: int, gpus: int) -> Estimate:
        """Norms and the like, quantizing activations, launches, exchanging partial results."""
        model, assumed = self._model, self._assumed
        rate, _ = self._table.bandwidth(self._chip)
        moved = assumed.passes * m * model.hidden * 2.0
        kernels = assumed.kernels + len(model.linears)
        if not scheme.endswith("f16"):
            moved += sum(3.0 * m * _share(linear, gpus)[1] for linear in model.linears)
            kernels += len(model.linears)
        memory = moved / rate * 1e-6
        low, mid, high = (memory + kernels * launch for launch in assumed.launch_us)
        time = Estimate(low, mid, high, False, "memory and launches")
        if gpus > 1:
            exchanged = 2 * 2.0 * m * model.hidden * 2 * (gpus - 1) / gpus
            fast, usual, slow = (exchanged / link * 1e-3 for link in assumed.link_gb_per_second)
            time = time + Estimate(fast + 10, usual + 20, slow + 40, False, "exchange")
        return time.scaled(model.layers)


def _share(linear: Linear, gpus: int) -> tuple[int, int]:
    """What one of several GPUs multiplies: the features are cut where the input is whole, and K where the result is summed."""
    if linear.name in ("attention output", "down"):
        return linear.features, max(4, linear.inner // gpus // 4 * 4)
    return max(1, linear.features // gpus), linear.inner
