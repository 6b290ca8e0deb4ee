"""What Inductor makes of the operators: calls of their functions in `sparseflow.torch.ops`, past PyTorch's dispatcher.

A compiled graph has settled what the dispatcher decides at every call (autograd, autocast, the device), and going through it to a
function in Python takes longer on the host than all the rest of a call. The code that Inductor generates finds the functions
in ``torch.ops.sparseflow``, where `publish` puts them beside the operators.

Inductor's classes are not a stable interface: where they are not as expected, Inductor calls the operators themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._pytree import tree_map

_registered = False


def publish(functions: dict[str, Any]) -> None:
    """Puts the functions of operators, by their names, where generated code looks for them, which may be code from a cache."""
    for name, function in functions.items():
        setattr(torch.ops.sparseflow, f"direct_{name}", function)


def register(names: Iterable[str]) -> None:
    """Tells Inductor, once it has been imported, to call the functions of these operators.

    The fakes call it: they run before Inductor lowers a graph, and `import sparseflow.torch` must not import Inductor, which
    takes seconds.
    """
    global _registered
    inductor = sys.modules.get("torch._inductor.lowering")
    if _registered or inductor is None or not hasattr(inductor, "lowerings"):
        return
    _registered = True
    try:
        from torch._inductor import ir

        lowerings = {getattr(torch.ops.sparseflow, name).default: _lowering(ir, name) for name in names}
    except (ImportError, AttributeError):
        return
    inductor.lowerings.update(lowerings)


def _lowering(ir: Any, name: str) -> Any:
    """Makes the node of a call. x is computed row by row, as kernels read it."""
    operator = getattr(torch.ops.sparseflow, name).default

    class Call(ir.FallbackKernel):  # type: ignore[misc] # which is Any here
        """A call of the operator, by another name."""

        def get_kernel_name(self) -> str:
            if torch._inductor.virtualized.V.graph.cpp_wrapper:  # which cannot call Python
                usual: str = super().get_kernel_name()
                return usual
            return f"torch.ops.sparseflow.direct_{name}"

    contiguous, box = ir.ExternKernel.require_contiguous, ir.TensorBox.create

    def lower(x: Any, *arguments: Any, **named: Any) -> Any:
        results = Call.create(operator, contiguous(x), *arguments, **named)
        return tree_map(lambda each: box(each) if isinstance(each, ir.IRNode) else each, results)

    return lower
