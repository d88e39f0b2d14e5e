"""The public name of a function that an fx graph calls, by identity: torch, its namespaces, math, builtins."""

from __future__ import annotations

import builtins
import functools
import inspect
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F

from pagcp_ir.emit.literals import Unprintable

__all__ = ["BINARY", "BUILTINS", "IN_PLACE", "UNARY", "defaults", "function_name"]

# the operator's text and how tightly it binds (the order of Python's own grammar)
BINARY: dict[Callable[..., Any], tuple[str, int]] = {
    operator.or_: ("|", 5),
    operator.xor: ("^", 6),
    operator.and_: ("&", 7),
    operator.lshift: ("<<", 8),
    operator.rshift: (">>", 8),
    operator.add: ("+", 9),
    operator.sub: ("-", 9),
    operator.mul: ("*", 10),
    operator.truediv: ("/", 10),
    operator.floordiv: ("//", 10),
    operator.mod: ("%", 10),
    operator.matmul: ("@", 10),
    operator.lt: ("<", 4),
    operator.le: ("<=", 4),
    operator.gt: (">", 4),
    operator.ge: (">=", 4),
    operator.eq: ("==", 4),
    operator.ne: ("!=", 4),
    operator.is_: ("is", 4),
    operator.is_not: ("is not", 4),
    operator.pow: ("**", 12),
}
UNARY: dict[Callable[..., Any], tuple[str, int]] = {
    operator.not_: ("not ", 3),
    operator.neg: ("-", 11),
    operator.pos: ("+", 11),
    operator.invert: ("~", 11),
}
# augmented assignment: on tensors it writes into its first operand, on sizes it is the plain operator
IN_PLACE: dict[Callable[..., Any], tuple[str, Callable[..., Any]]] = {
    operator.iadd: ("add_", operator.add),
    operator.isub: ("sub_", operator.sub),
    operator.imul: ("mul_", operator.mul),
    operator.itruediv: ("div_", operator.truediv),
    operator.ifloordiv: ("floor_divide_", operator.floordiv),
    operator.imod: ("remainder_", operator.mod),
    operator.ipow: ("pow_", operator.pow),
    operator.iand: ("bitwise_and_", operator.and_),
    operator.ior: ("bitwise_or_", operator.or_),
}

BUILTINS: tuple[Callable[..., Any], ...] = (
    abs,
    bool,
    dict,
    divmod,
    float,
    int,
    isinstance,
    len,
    list,
    max,
    min,
    range,
    round,
    slice,
    sum,
    tuple,
)


def function_name(function: Callable[..., Any]) -> str:
    """`torch.cat`, `F.relu`, `min`, `torch.ops.aten.relu.default`. Raises Unprintable when not public."""
    if isinstance(function, torch._ops.OpOverload):
        if function.namespace in ("aten", "prims"):
            return f"torch.ops.{function}"
        raise Unprintable(f"operator {function} does not come with torch")
    if isinstance(function, torch._ops.OpOverloadPacket):
        return f"torch.ops.{function}" if str(function).startswith("aten.") else _refuse(function)
    try:
        return _names().get(function) or _refuse(function)
    except TypeError:  # not hashable: surely not one of theirs
        return _refuse(function)


def defaults(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The default of every keyword argument, as far as the function tells."""
    # F.max_pool2d and its like dispatch on return_indices and hide their signature
    plain = getattr(F, f"_{function.__name__}", function) if function_name(function).startswith("F.") else function
    try:
        parameters = inspect.signature(plain).parameters.values()
    except (TypeError, ValueError):
        return {}
    found = {p.name: p.default for p in parameters if p.default is not p.empty}
    return found if plain is function else {**found, "return_indices": False}


def _refuse(function: Callable[..., Any]) -> str:
    place = getattr(function, "__module__", None) or type(function).__name__
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    raise Unprintable(f"function {place}.{name} is not part of torch, math or operator")


@functools.cache
def _names() -> dict[Any, str]:
    places: tuple[tuple[ModuleType, str], ...] = (
        (math, "math"),
        (operator, "operator"),
        (F, "F"),
        (torch, "torch"),
        (torch.linalg, "torch.linalg"),
        (torch.fft, "torch.fft"),
        (torch.special, "torch.special"),
    )
    names: dict[Any, str] = {function: function.__name__ for function in BUILTINS}
    for module, prefix in places:
        for name, value in _public(module):
            names.setdefault(value, f"{prefix}.{name}")
    for name in dir(torch.Tensor):
        value = getattr(torch.Tensor, name)
        if callable(value) and not name.startswith("_") and getattr(value, "__hash__", None):
            names.setdefault(value, f"torch.Tensor.{name}")
    return names


def _public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Functions only: not what a module imported from elsewhere (typing names, submodules, classes)."""
    for name in sorted(dir(module)):
        value = getattr(module, name)
        if name.startswith("_") or isinstance(value, (type, ModuleType)) or not callable(value):
            continue
        if getattr(builtins, name, None) is value or not getattr(value, "__hash__", None):
            continue
        origin = getattr(value, "__module__", None) or ""
        if origin.partition(".")[0] in ("", "torch", "math", "operator", "_operator"):
            yield name, value
