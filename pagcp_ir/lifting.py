"""Functional calls become modules again where one module held all their tensors: `F.conv2d(x, w, b)` -> `self.conv(x)`.

The module is built anew from the call's arguments and gets the very same tensors under the same names. Train mode then
means something: batch statistics are taken and dropout drops.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["dropout_to_modules", "lift"]

Arguments = Mapping[str, Any]
Build = Callable[[Arguments, Mapping[str, Tensor], int], nn.Module | None]
"""From a call's arguments, its tensors by their own names, and the dims of its input, to a module like it."""


@dataclass(frozen=True)
class _Kind:
    """How a function's arguments are called, in order, and what module it is the forward of."""

    arguments: str
    build: Build


def _size(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _conv(kinds: Sequence[type[nn.Module]], transposed: bool) -> Build:
    def build(a: Arguments, own: Mapping[str, Tensor], ndim: int) -> nn.Module | None:
        weight, groups = own["weight"], a.get("groups", 1)
        inside, outside = weight.shape[1] * groups, weight.shape[0]
        if transposed:
            inside, outside = weight.shape[0], weight.shape[1] * groups
        names = ("stride", "padding", "output_padding", "dilation") if transposed else ("stride", "padding", "dilation")
        given = {n: _size(a[n]) for n in names if n in a}
        kernel = tuple(weight.shape[2:])
        kind: Any = kinds[len(kernel) - 1]
        return kind(inside, outside, kernel, groups=groups, bias="bias" in own, **given)  # type: ignore[no-any-return]

    return build


def _linear(a: Arguments, own: Mapping[str, Tensor], ndim: int) -> nn.Module | None:
    outside, inside = own["weight"].shape
    return nn.Linear(inside, outside, bias="bias" in own)


def _batch_norm(a: Arguments, own: Mapping[str, Tensor], ndim: int) -> nn.Module | None:
    kinds: dict[int, type[_BatchNorm]] = {
        2: nn.BatchNorm1d,
        3: nn.BatchNorm1d,
        4: nn.BatchNorm2d,
        5: nn.BatchNorm3d,
    }
    if ndim not in kinds or a.get("training", False) or not {"running_mean", "running_var"} <= set(own):
        return None
    momentum = a.get("momentum", 0.1) or None  # in eval mode a cumulative average, None, is passed on as 0
    affine = "weight" in own
    if affine != ("bias" in own):
        return None
    return kinds[ndim](own["running_mean"].shape[0], a.get("eps", 1e-5), momentum, affine=affine)


def _instance_norm(a: Arguments, own: Mapping[str, Tensor], ndim: int) -> nn.Module | None:
    kinds: dict[int, Any] = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
    if ndim not in kinds or set(own) != {"weight", "bias"} or not a.get("use_input_stats", True):
        return None
    made: nn.Module = kinds[ndim](own["weight"].shape[0], a.get("eps", 1e-5), a.get("momentum", 0.1), affine=True)
    return made


def _layer_norm(a: Arguments, own: Mapping[str, Tensor], ndim: int) -> nn.Module | None:
    if "weight" not in own or tuple(own["weight"].shape) != tuple(a["normalized_shape"]):
        return None
    return nn.LayerNorm(tuple(own["weight"].shape), a.get("eps", 1e-5), bias="bias" in own)


def _group_norm(a: Arguments, own: Mapping[str, Tensor], ndim: int) -> nn.Module | None:
    if set(own) != {"weight", "bias"}:
        return None
    return nn.GroupNorm(a["num_groups"], own["weight"].shape[0], a.get("eps", 1e-5))


def _prelu(a: Arguments, own: Mapping[str, Tensor], ndim: int) -> nn.Module | None:
    return nn.PReLU(own["weight"].numel()) if own["weight"].ndim == 1 else None


_CONV = "input weight bias stride padding dilation groups"
_TRANSPOSED = "input weight bias stride padding output_padding groups dilation"
_PLAIN = _Kind(_CONV, _conv((nn.Conv1d, nn.Conv2d, nn.Conv3d), False))
_BACK = _Kind(_TRANSPOSED, _conv((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), True))

_KINDS: Mapping[Any, _Kind] = {
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d), _PLAIN),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), _BACK),
    F.linear: _Kind("input weight bias", _linear),
    F.batch_norm: _Kind("input running_mean running_var weight bias training momentum eps", _batch_norm),
    F.instance_norm: _Kind("input running_mean running_var weight bias use_input_stats momentum eps", _instance_norm),
    F.layer_norm: _Kind("input normalized_shape weight bias eps", _layer_norm),
    F.group_norm: _Kind("input num_groups weight bias eps", _group_norm),
    F.prelu: _Kind("input weight", _prelu),
}
_TENSORS = ("weight", "bias", "running_mean", "running_var")
_DROPOUTS: Mapping[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
}


def lift(
    module: fx.GraphModule,
    original: nn.Module | None,
    only: Collection[Any] = tuple(_KINDS),
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Turn calls of the functions in `only` into module calls, in place; the nodes must have `meta["value"]`.

    `original`: the user's model, which says whether a module trains its statistics; without it, its counter does.
    `tensors`: all tensors there are by all their names, where the graph does not have them all.
    """
    tensors = tensors or {}
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    calls: dict[str, list[fx.Node]] = {}
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in only and node.target in _KINDS:
            path = _owner(module, node, names)
            if path:
                calls.setdefault(path, []).append(node)
    for path, nodes in calls.items():
        made = [_module_like(module, path, node, original, tensors) for node in nodes]
        if made[0] is not None and all(repr(m) == repr(made[0]) for m in made) and _alone(module, path, made[0]):
            _put(module, path, nodes, made[0])
    module.graph.eliminate_dead_code(lambda node: node.op != "get_attr")


def _arguments(node: fx.Node) -> dict[str, Any]:
    names = _KINDS[node.target].arguments.split()
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _owner(module: fx.GraphModule, node: fx.Node, names: Mapping[int, Sequence[str]]) -> str:
    """The path of the module that all tensors of the call belong to under their own names, "" when none does."""
    owners: list[set[str]] = []
    for key, value in _arguments(node).items():
        if key not in _TENSORS:
            if key != "input" and _holds_node(value):
                return ""
        elif isinstance(value, fx.Node) and value.op == "get_attr":
            known = names.get(id(_tensor(module, value)), [str(value.target)])
            owners.append({n.rpartition(".")[0] for n in known if n.rpartition(".")[2] == key})
        elif value is not None:
            return ""
    return min(set.intersection(*owners), default="") if owners else ""


def _holds_node(value: Any) -> bool:
    return any(isinstance(v, fx.Node) for v in (value if isinstance(value, (list, tuple)) else (value,)))


def _tensor(module: nn.Module, node: fx.Node) -> Tensor:
    path, _, name = str(node.target).rpartition(".")
    value = getattr(module.get_submodule(path), name)
    assert isinstance(value, Tensor)
    return value


def _module_like(
    module: fx.GraphModule, path: str, node: fx.Node, original: nn.Module | None, tensors: Mapping[str, Tensor]
) -> nn.Module | None:
    given = _arguments(node)
    own = {n: _tensor(module, given[n]) for n in _TENSORS if given.get(n) is not None}
    trained = all(isinstance(own[n], nn.Parameter) for n in ("weight", "bias") if n in own)
    if not trained or not isinstance(given["input"], fx.Node):
        return None
    plain = {k: v for k, v in given.items() if k not in _TENSORS and k != "input" and v is not None}
    with torch.device("meta"):
        made = _KINDS[node.target].build(plain, own, given["input"].meta["value"].ndim)
    if isinstance(made, _BatchNorm) and not _counts(made, path, original, tensors):
        return None
    if made is not None:
        for name, tensor in own.items():
            setattr(made, name, tensor)
    return made.eval() if made is not None else None


def _counts(made: _BatchNorm, path: str, original: nn.Module | None, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the statistics are trained, as those of torch's own BatchNorm and of what is derived from it are."""
    counter: Any = tensors.get(f"{path}.num_batches_tracked")
    if original is not None:
        owner = original.get_submodule(path)
        if not isinstance(owner, _BatchNorm):
            return False
        made.momentum, counter = owner.momentum, owner.num_batches_tracked
    if isinstance(counter, Tensor):
        made.num_batches_tracked = counter.detach().clone()
    return isinstance(counter, Tensor)


def _alone(module: fx.GraphModule, path: str, made: nn.Module) -> bool:
    """Whether nothing else that holds tensors lives at that path."""
    prefix, known = f"{path}.", made.state_dict()
    for node in module.graph.nodes:
        target = str(node.target)
        if target.startswith(prefix):
            if node.op == "get_attr" and target.removeprefix(prefix) not in known:
                return False
            if node.op == "call_module" and module.get_submodule(target).state_dict():
                return False
    return True


def _put(module: fx.GraphModule, path: str, nodes: Sequence[fx.Node], made: nn.Module) -> None:
    _move_out(module, f"{path}.")
    parent: nn.Module = module
    *above, name = path.split(".")
    for step in above:
        if not hasattr(parent, step):
            parent.add_module(step, nn.Module())
        parent = getattr(parent, step)
    setattr(parent, name, made)
    for node in nodes:
        source = _arguments(node)["input"]
        node.op, node.target, node.args, node.kwargs = "call_module", path, (source,), {}


def _move_out(module: fx.GraphModule, prefix: str) -> None:
    """Modules without tensors that live inside, such as the activation of a fused layer, become its neighbours."""
    for node in module.graph.nodes:
        target = str(node.target)
        if node.op == "call_module" and target.startswith(prefix):
            parent, _, name = prefix[:-1].rpartition(".")
            moved = f"{name}_{target.removeprefix(prefix).replace('.', '_')}"
            module.get_submodule(parent).add_module(moved, module.get_submodule(target))
            node.target = f"{parent}.{moved}" if parent else moved


def dropout_to_modules(module: fx.GraphModule) -> None:
    """Turn functional dropout (off while tracing) into modules, so that train mode means something."""
    for node in list(module.graph.nodes):
        kind: Any = _DROPOUTS.get(node.target) if node.op == "call_function" else None
        if kind is None:
            continue
        rate = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
        training = node.args[2] if len(node.args) > 2 else node.kwargs.get("training", True)
        if training:  # always on, also in eval: not ours to change
            continue
        name = f"{node.name}_module"
        module.add_submodule(name, kind(rate).eval())
        node.op, node.target, node.args, node.kwargs = (
            "call_module",
            name,
            (node.args[0] if node.args else node.kwargs["input"],),
            {},
        )
