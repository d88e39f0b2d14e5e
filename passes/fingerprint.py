"""Fingerprints of prefixes: two networks with the same one compute the same values, bit by bit, up to that node.

h_i = H(h_(i-1), op, arguments by name, and of a module its attributes, of every tensor its bytes, shape and strides).
What is not known to be a function of that alone, such as code of the user's, ends the chain: nothing after it has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = ["Digests", "fingerprints"]

_LIBRARIES = frozenset({"torch", "_operator", "operator", "math", "builtins", "torchvision"})
_NAMESPACES = frozenset({"aten", "prims", "torchvision"})
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_TENSORS = frozenset({"_parameters", "_buffers", "_modules"})
_PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.memory_format)


class Digests:
    """Digests of tensors, remembered for those given, which nobody may change."""

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        self._known: dict[int, tuple[Tensor, bytes | None]] = {id(t): (t, None) for t in tensors}

    def of(self, tensor: Tensor) -> bytes:
        """Of dtype, shape, strides and bytes. TypeError for what is not plain memory."""
        known = self._known.get(id(tensor))
        if known is None:
            return _digest(tensor)
        if known[1] is None:
            known = self._known[id(tensor)] = tensor, _digest(tensor)
        return known[1] or b""


def _digest(tensor: Tensor) -> bytes:
    if tensor.layout is not torch.strided or tensor.is_complex() or tensor.is_quantized:
        raise TypeError("not plain memory")
    found = blake2b(repr((tensor.dtype, tuple(tensor.shape), tensor.stride())).encode(), digest_size=16)
    found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.digest()


def fingerprints(module: fx.GraphModule, digests: Digests) -> list[bytes]:
    """The fingerprint of everything before node i at place i, for as many nodes as have one."""
    modules = dict(module.named_modules(remove_duplicate=False))
    constants: dict[fx.Node, Any] = {}
    chain = [b""]
    for node in module.graph.nodes:
        if node.op == "get_attr":  # wherever it stands: it counts where it is read
            constants[node] = _attribute(module, str(node.target))
            chain.append(chain[-1])
            continue
        said = _said(node, modules, constants, digests)
        if said is None:
            break
        chain.append(blake2b(chain[-1] + said, digest_size=16).digest())
    return chain


def _said(
    node: fx.Node, modules: Mapping[str, nn.Module], constants: Mapping[fx.Node, Any], digests: Digests
) -> bytes | None:
    """All that a call depends on besides the values before it; None where that is not known."""
    if node.op == "call_function" and not _pure(node.target):
        return None
    said: list[Any] = [node.op, node.name, node.args, node.kwargs]
    try:
        said += [digests.of(constants[n]) for n in node.all_input_nodes if n in constants]
        if node.op == "call_module":
            said += _module(modules[str(node.target)], digests)
        elif node.op == "call_function":
            said += [str(node.target), id(node.target)]
        else:
            said.append(str(node.target))
    except (TypeError, AttributeError):  # a constant that is no tensor, an attribute that is not plain
        return None
    return repr(said).encode()


def _attribute(module: nn.Module, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _pure(target: Any) -> bool:
    """Whether this is a function of a library that we know."""
    if isinstance(target, torch._ops.OpOverload):
        return target.namespace in _NAMESPACES
    root = (getattr(target, "__module__", None) or "").split(".")[0]
    return isinstance(target, (FunctionType, BuiltinFunctionType)) and root in _LIBRARIES


def _module(module: nn.Module, digests: Digests) -> list[Any]:
    """What a module of torch's depends on. TypeError where that is not known."""
    said: list[Any] = []
    for name, part in module.named_modules(remove_duplicate=False):
        if not type(part).__module__.startswith("torch.nn.modules.") or isinstance(part, nn.RNNBase):
            raise TypeError("a module of the user's")
        if any(getattr(part, hooks) for hooks in _HOOKS):
            raise TypeError("a hook may do anything")
        own = {k: v for k, v in vars(part).items() if k not in _TENSORS and not k.endswith("_hooks")}
        said += [name, type(part).__qualname__, sorted((k, _plain(v)) for k, v in own.items())]
        tensors = {**part._parameters, **part._buffers}
        said += [(key, digests.of(tensor)) for key, tensor in tensors.items() if tensor is not None]
    return said


def _plain(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return repr([_plain(item) for item in value])
    if isinstance(value, Mapping):
        return repr([(_plain(k), _plain(v)) for k, v in value.items()])
    if isinstance(value, (set, frozenset)):
        return repr(sorted(map(_plain, value)))
    if isinstance(value, _PLAIN):
        return repr(value)
    if _pure(value):
        return str(value)
    raise TypeError(f"a {type(value).__name__}")
