"""The constructor call of a torch.nn module, read back from its attributes.

A module built from the printed call must have the same attributes and tensor shapes as the original; otherwise
(hooks, parametrizations, changed attributes) it is refused: a wrong constructor is never printed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from pagcp_ir.emit.layout import Doc, call, flat
from pagcp_ir.emit.literals import Unprintable, literal

__all__ = ["constructor"]

_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d)

# arguments that the module keeps under another name, or not at all
_READ: dict[tuple[type[nn.Module], str], Callable[[Any], Any]] = {
    (nn.MultiheadAttention, "bias"): lambda m: m.in_proj_bias is not None,
    (nn.MultiheadAttention, "add_bias_kv"): lambda m: m.bias_k is not None,
    (nn.MultiheadAttention, "kdim"): lambda m: None if m.kdim == m.embed_dim else m.kdim,
    (nn.MultiheadAttention, "vdim"): lambda m: None if m.vdim == m.embed_dim else m.vdim,
    **{(pool, "stride"): lambda m: None if m.stride == m.kernel_size else m.stride for pool in _POOLS},
}

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def constructor(module: nn.Module) -> Doc:
    """`nn.Conv2d(3, 16, 3, padding=1)`. Raises Unprintable, saying why the module cannot be rebuilt so."""
    kind = type(module)
    if getattr(nn, kind.__name__, None) is not kind:
        raise Unprintable(f"{kind.__module__}.{kind.__qualname__} is not a module of torch.nn")
    if any(getattr(module, hooks) for hooks in _HOOKS):
        raise Unprintable(f"{kind.__name__} has hooks")
    if "forward" in vars(module):
        raise Unprintable(f"{kind.__name__} has its own forward")
    text = call(f"nn.{kind.__name__}", list(_arguments(module)))
    _check(module, flat(text))
    return text


def _arguments(module: nn.Module) -> Iterator[Doc]:
    positional = True  # the first argument, and those after it that have no default
    for index, parameter in enumerate(_signature(type(module))):
        value = _value(module, parameter)
        if value is inspect.Parameter.empty or _equal(value, parameter.default):
            positional = False
            continue
        required = parameter.default is inspect.Parameter.empty
        positional = positional and (required or (index == 0 and not isinstance(value, bool)))
        yield literal(value) if positional else (f"{parameter.name}=", literal(value))


def _signature(kind: type[nn.Module]) -> list[inspect.Parameter]:
    """The named parameters of the first constructor in the class's line that does not just pass them on."""
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        named = [p for p in parameters if p.kind not in variadic]
        if named or issubclass(kind, nn.Identity):
            # nn.LSTM and its like pass their own name on as the first argument, "mode"
            return [p for p in named if not (issubclass(kind, nn.RNNBase) and p.name == "mode")]
    return []


def _value(module: nn.Module, parameter: inspect.Parameter) -> Any:
    """The argument that was given, or `empty` for one that is left at its default."""
    name, default = parameter.name, parameter.default
    read = _READ.get((type(module), name))
    if read is not None:
        return read(module)
    if name == "device" or name.startswith("_"):
        return inspect.Parameter.empty
    if name == "dtype":
        return _dtype(module)
    if not hasattr(module, name):
        if default is inspect.Parameter.empty:
            raise Unprintable(f"{type(module).__name__} does not keep its argument {name}")
        return inspect.Parameter.empty
    value = getattr(module, name)
    if name == "bias" and not isinstance(value, bool):
        affine = getattr(module, "affine", getattr(module, "elementwise_affine", True))
        return value is not None if affine else inspect.Parameter.empty
    if isinstance(module, _ConvNd) and isinstance(value, tuple) and len(set(value)) == 1:
        return value[0]
    return value


def _dtype(module: nn.Module) -> Any:
    kinds = {p.dtype for p in module.parameters()}
    if len(kinds) > 1:
        raise Unprintable(f"{type(module).__name__} mixes parameters of several types")
    return kinds.pop() if kinds and kinds != {torch.float32} else inspect.Parameter.empty


def _equal(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def _check(module: nn.Module, text: str) -> None:
    with torch.device("meta"):
        twin = eval(text, {"nn": nn, "torch": torch, "float": float})
    name = type(module).__name__
    for attribute, value in vars(twin).items():
        if attribute.startswith("_") or attribute in ("training", "init"):
            continue
        if vars(module).get(attribute) != value:
            raise Unprintable(
                f"{name} does not follow from its arguments: {attribute} is {vars(module).get(attribute)!r}, "
                f"{text} gives {value!r}"
            )
    for (key, left), right in zip(_tensors(module), [t for _, t in _tensors(twin)], strict=False):
        if left.shape != right.shape or left.dtype != right.dtype:
            raise Unprintable(f"{name}.{key} is {_kind(left)}, {text} gives {_kind(right)}")
    if [k for k, _ in _tensors(module)] != [k for k, _ in _tensors(twin)]:
        raise Unprintable(f"{name} has other parameters than {text}")


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return sorted([*module.named_parameters(), *module.named_buffers()])


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
