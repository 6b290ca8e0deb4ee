"""Shapes of transformer models: what their layers multiply, from a config.json of Hugging Face or from the built-in table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError


@dataclass(frozen=True)
class Linear:
    """A linear layer [N, K] that each transformer layer has."""

    name: str
    features: int
    inner: int


@dataclass(frozen=True)
class Model:
    """A stack of like layers. A decoder also generates: it has a KV cache and an output head."""

    name: str
    decoder: bool
    layers: int
    linears: tuple[Linear, ...]
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied_head: bool
    positions: int  #: learned position embeddings
    gated: bool  #: whether the feed-forward part multiplies two products

    @property
    def products(self) -> list[tuple[int, int, str]]:
        """(N, K, epilogue) of what runs, as fused layers, as the separate ones of a checkpoint, and gated in one kernel."""
        width, of_keys = self.heads * self.head_size, self.kv_heads * self.head_size
        found = [(linear.features, linear.inner, "plain") for linear in self.linears]
        found += [(width, self.hidden, "plain"), (of_keys, self.hidden, "plain")]
        if self.gated:
            inner = self.linears[-1].inner
            found += [(inner, self.hidden, "plain"), (inner, self.hidden, "gated")]
        return list(dict.fromkeys(found))

    @property
    def other_weights(self) -> int:
        """Embeddings and the output head, which stay dense; norms and biases are too few to count."""
        tables = self.vocabulary * self.hidden * (1 if self.tied_head or not self.decoder else 2)
        return tables + self.positions * self.hidden

    def kv_bytes(self, tokens: int) -> int:
        """Of one sequence in f16."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_size * tokens if self.decoder else 0


def _llama(hidden: int, inner: int, layers: int, heads: int, kv_heads: int = 0, vocab: int = 32000, **more: Any) -> Any:
    return {
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads or heads, "vocab_size": vocab, **more,
    }  # fmt: skip


def _gpt2(hidden: int, layers: int, heads: int) -> Any:
    return {
        "model_type": "gpt2",
        "n_embd": hidden,
        "n_layer": layers,
        "n_head": heads,
        "vocab_size": 50257,
        "n_positions": 1024,
    }


def _vision(kind: str, hidden: int, layers: int, heads: int, inner: int = 0, **more: Any) -> Any:
    return {
        "model_type": kind, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": inner or 4 * hidden, **more,
    }  # fmt: skip


def _qwen(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, tied: bool = False) -> Any:
    return _llama(hidden, inner, layers, heads, kv_heads, 151936 if tied else 152064, tie_word_embeddings=tied)


#: Models by name, as their published config.json describes them.
BUILT_IN: dict[str, Any] = {
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
    "llama-7b": _llama(4096, 11008, 32, 32),
    "llama-13b": _llama(5120, 13824, 40, 40),
    "llama-30b": _llama(6656, 17920, 60, 52),
    "llama-65b": _llama(8192, 22016, 80, 64),
    "llama-70b": _llama(8192, 28672, 80, 64, 8),
    "llama-3.1-8b": _llama(4096, 14336, 32, 32, 8, 128256),
    "llama-3.1-70b": _llama(8192, 28672, 80, 64, 8, 128256),
    "mistral-7b": _llama(4096, 14336, 32, 32, 8),
    "qwen2.5-0.5b": _qwen(896, 4864, 24, 14, 2, True),
    "qwen2.5-1.5b": _qwen(1536, 8960, 28, 12, 2, True),
    "qwen2.5-3b": _qwen(2048, 11008, 36, 16, 2, True),
    "qwen2.5-7b": _qwen(3584, 18944, 28, 28, 4),
    "qwen2.5-14b": _qwen(5120, 13824, 48, 40, 8),
    "qwen2.5-32b": _qwen(5120, 27648, 64, 40, 8),
    "qwen2.5-72b": _qwen(8192, 29568, 80, 64, 8),
    "vit-base": _vision("vit", 768, 12, 12),
    "vit-large": _vision("vit", 1024, 24, 16),
    "vit-huge": _vision("vit", 1280, 32, 16),
    "dinov2-small": _vision("dinov2", 384, 12, 6),
    "dinov2-base": _vision("dinov2", 768, 12, 12),
    "dinov2-large": _vision("dinov2", 1024, 24, 16),
    "dinov2-giant": _vision("dinov2", 1536, 40, 24, use_swiglu_ffn=True),
}

_GATED = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3")
_ENCODERS = ("vit", "dinov2", "bert", "roberta", "deit")


def model_named(name: str) -> Model:
    """The model of a built-in name, of a config.json, or of the folder that has one.

    Raises InvalidArgumentError for a name that nobody knows and for a config of another architecture.
    """
    if name.lower() in BUILT_IN:
        return from_config(name.lower(), BUILT_IN[name.lower()])
    path = Path(name)
    file = path / "config.json" if path.is_dir() else path
    if not file.exists():
        raise InvalidArgumentError(f"expected a config.json or one of {', '.join(BUILT_IN)}, got {name!r}")
    try:
        config = json.loads(file.read_text())
        return from_config(file.parent.resolve().name if file.name == "config.json" else path.stem, config)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, InvalidArgumentError):
            raise
        raise InvalidArgumentError(f"{file}: expected the config.json of a transformer, got something else") from None


def from_config(name: str, config: Mapping[str, Any]) -> Model:
    """A model from the fields of its config.json."""
    kind = config.get("model_type", "")

    def get(*names: str, default: int | None = None) -> int:
        for each in names:
            value = config.get(each)
            if type(value) is int and value > 0:
                return value
            if value is not None:
                raise InvalidArgumentError(f"{name}: expected {each} of at least 1 in the config, got {value!r}")
        if default is None:
            raise InvalidArgumentError(f"{name}: expected {names[0]} in the config, got none")
        return default

    if kind != "gpt2" and kind not in _GATED + _ENCODERS:
        known = ", ".join(("gpt2", *_GATED, *_ENCODERS))
        raise InvalidArgumentError(f"{name}: expected a model_type of {known}, got {kind!r}")
    hidden = get("hidden_size", "n_embd")
    layers = get("num_hidden_layers", "n_layer")
    heads = get("num_attention_heads", "n_head")
    kv_heads = get("num_key_value_heads", default=heads)
    if config.get("head_dim") is None and hidden % heads:
        raise InvalidArgumentError(f"{name}: expected heads that divide the hidden size {hidden}, got {heads}")
    if heads % kv_heads:
        raise InvalidArgumentError(f"{name}: expected key-value heads that divide the {heads} heads, got {kv_heads}")
    head_size = get("head_dim", default=hidden // heads)
    inner = get("intermediate_size", "n_inner", default=4 * hidden)
    width, kv_width = heads * head_size, kv_heads * head_size
    attention = (
        Linear("qkv", width + 2 * kv_width, hidden),
        Linear("attention output", hidden, width),
    )
    gated = kind in _GATED or bool(config.get("use_swiglu_ffn"))
    if kind in _GATED:
        feed_forward = (Linear("gate and up", 2 * inner, hidden), Linear("down", hidden, inner))
    elif config.get("use_swiglu_ffn"):
        # DINOv2's gated layers are two thirds as wide, rounded up to 8.
        inner = (int(inner * 2 / 3) + 7) // 8 * 8
        feed_forward = (Linear("gate and up", 2 * inner, hidden), Linear("down", hidden, inner))
    else:
        feed_forward = (Linear("up", inner, hidden), Linear("down", hidden, inner))
    decoder = kind not in _ENCODERS
    return Model(
        name, decoder, layers, attention + feed_forward, hidden, heads, kv_heads, head_size,
        get("vocab_size", default=0), bool(config.get("tie_word_embeddings", kind == "gpt2")),
        get("n_positions", default=0) if kind == "gpt2" else 0, gated,
    )  # fmt: skip
