"""Weights that forward computes from parameters alone become parameters: weight_norm, spectral_norm, standardisation.

The network computes the same, and channels can be cut; what the weight was computed from is gone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from pagcp_ir.effects import effects, writes_in_place
from pagcp_ir.source import innermost

__all__ = ["fold"]

_CONVS = (F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_WEIGHTED = frozenset((*_CONVS, F.linear))


@dataclass(frozen=True)
class _Computed:
    """A weight or bias of a call that is computed by `parts`; `path`: the name that it should have."""

    call: fx.Node
    source: fx.Node
    parts: frozenset[fx.Node]
    path: str


def fold(module: fx.GraphModule) -> list[str]:
    """Fold in place, on a module that owns its tensors, in eval mode. Returns the layers that changed."""
    folded = _unparametrised(module)
    found: dict[str, list[_Computed]] = {}
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in _WEIGHTED:
            for computed in _candidates(node):
                found.setdefault(computed.path, []).append(computed)
    made: dict[str, list[fx.Node]] = {}
    for path, uses in found.items():
        value = _value(module, uses)
        if value is not None:
            made[path] = _replaced(module, f"_folded_{len(made)}", value, uses)
    if made:
        module.graph.eliminate_dead_code(effects(module))
        for path, nodes in made.items():
            _rename(module, path, nodes)
        module.recompile()
    return [*folded, *dict.fromkeys(path.rpartition(".")[0] for path in made)]


def _unparametrised(module: fx.GraphModule) -> list[str]:
    """Fold torch's own ways to compute a module's weight. The modules that had one."""
    paths: dict[nn.Module, list[str]] = {}
    for path, child in module.named_modules(remove_duplicate=False):
        if parametrize.is_parametrized(child):
            paths.setdefault(child, []).append(path)
    for child, places in paths.items():
        plain = _plain(child)
        for path in places:
            module.set_submodule(path, plain)
    hooked = []
    for path, child in module.named_modules():
        for hook in list(child._forward_pre_hooks.values()):
            if isinstance(hook, (WeightNorm, SpectralNorm)):
                (remove_weight_norm if isinstance(hook, WeightNorm) else remove_spectral_norm)(child, hook.name)
                hooked.append(path)
    return [*(places[0] for places in paths.values()), *hooked]


def _plain(module: nn.Module) -> nn.Module:
    """The module as its class was before torch parametrised it. That class is shared with the user's module."""
    kind: Any = type(module).__bases__[0]
    known: Any = module.parametrizations
    made: nn.Module = kind.__new__(kind)
    vars(made).update({k: copy.copy(v) if isinstance(v, dict) else v for k, v in vars(module).items()})
    del made._modules["parametrizations"]
    with torch.no_grad():
        for name in known:
            made.register_parameter(name, nn.Parameter(getattr(module, name).detach().clone()))
    return made


def _candidates(call: fx.Node) -> Iterator[_Computed]:
    for place, name in ((1, "weight"), (2, "bias")):
        source = call.args[place] if place < len(call.args) else call.kwargs.get(name)
        parts = _parts(source) if isinstance(source, fx.Node) and source.op.startswith("call_") else None
        if isinstance(source, fx.Node) and parts and any(n.op == "get_attr" for n in parts):
            owner = innermost(call) or call.name
            yield _Computed(call, source, parts, f"{owner}.{name}")


def _value(module: fx.GraphModule, uses: Sequence[_Computed]) -> Tensor | None:
    """What all these calls compute alike, None where it has to stay: folding would untie or enlarge it."""
    parts = frozenset[fx.Node]().union(*(use.parts for use in uses))
    if _read_elsewhere(module, parts, {use.call for use in uses}):
        return None
    with torch.no_grad():
        values = [_computed(module, use.source) for use in uses]
    first, sources = values[0], _tensors(module, parts)
    if not isinstance(first, Tensor) or first.numel() > sum(t.numel() for t in sources):
        return None  # copies of one kernel stay copies
    if not all(isinstance(v, Tensor) and torch.equal(first, v) for v in values):
        return None
    trained = any(isinstance(t, nn.Parameter) for t in sources)
    return nn.Parameter(first.detach().clone()) if trained else first.detach().clone()


def _replaced(module: fx.GraphModule, name: str, value: Tensor, uses: Iterable[_Computed]) -> list[fx.Node]:
    nodes = []
    _register(module, name, value)
    for use in uses:
        with module.graph.inserting_before(use.call):
            node = module.graph.get_attr(name)
        node.meta = {"value": value, "where": use.call.meta.get("where", "")}
        use.call.replace_input_with(use.source, node)
        nodes.append(node)
    return nodes


def _register(module: nn.Module, name: str, value: Tensor) -> None:
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
    else:
        module.register_buffer(name, value)


def _parts(source: fx.Node) -> frozenset[fx.Node] | None:
    """The nodes that a value is computed from, None when it depends on an input, on chance, or on what is written."""
    pending, found = [source], set[fx.Node]()
    while pending:
        node = pending.pop()
        name = str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", ""))
        if node.op == "placeholder" or writes_in_place(node) or name.startswith(("rand", "bernoulli", "dropout")):
            return None
        if node not in found:
            found.add(node)
            pending.extend(node.all_input_nodes)
    return frozenset(found)


def _read_elsewhere(module: fx.GraphModule, parts: frozenset[fx.Node], calls: set[fx.Node]) -> bool:
    """Whether something else reads these parameters or what is made of them."""
    names = {str(n.target) for n in parts if n.op == "get_attr"}
    owners = {name.rpartition(".")[0] for name in names}
    for node in module.graph.nodes:
        if node in parts:
            if not set(node.users) <= parts | calls:
                return True
        elif (node.op == "get_attr" and str(node.target) in names) or (
            node.op == "call_module" and str(node.target) in owners
        ):
            return True
    return False


def _tensors(module: fx.GraphModule, parts: Iterable[fx.Node]) -> list[Tensor]:
    return list({str(n.target): _attribute(module, str(n.target)) for n in parts if n.op == "get_attr"}.values())


def _attribute(module: nn.Module, target: str) -> Any:
    path, _, name = target.rpartition(".")
    return getattr(module.get_submodule(path), name)


def _computed(module: fx.GraphModule, node: fx.Node) -> Any:
    known: dict[fx.Node, Any] = {}

    def value(n: fx.Node) -> Any:
        if n not in known:
            known[n] = _called(module, n, *fx.node.map_arg((n.args, n.kwargs), value))
        return known[n]

    return value(node)


def _called(module: fx.GraphModule, node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if node.op == "get_attr":
        return _attribute(module, str(node.target))
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    call: Any = module.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    return call(*args, **kwargs)


def _rename(module: fx.GraphModule, path: str, nodes: Sequence[fx.Node]) -> None:
    """`conv.weight`, where nothing of that name is left."""
    owner, _, name = path.rpartition(".")
    targets = {str(n.target) for n in module.graph.nodes if n.op in ("get_attr", "call_module")}
    if path in targets or owner in targets:
        return
    parent: nn.Module = module
    for step in owner.split("."):
        if not hasattr(parent, step):
            parent.add_module(step, nn.Module())
        parent = getattr(parent, step)
    temporary = str(nodes[0].target)
    tensor = getattr(module, temporary)
    delattr(module, temporary)
    if hasattr(parent, name):
        delattr(parent, name)
    _register(parent, name, tensor)
    for node in nodes:
        node.target = path
