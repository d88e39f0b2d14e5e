"""Copies of a graph module that share its tensors: torch's own modules are copied by their attributes, which is many
times faster than `copy.deepcopy` of each; a module of the user's is deep-copied, since nobody knows what it holds.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

__all__ = ["assembled", "copied", "copy_with"]


def copy_with(module: fx.GraphModule, replaced: Mapping[int, Tensor]) -> fx.GraphModule:
    """A copy that shares every tensor of `module` except those replaced (by id of the original)."""
    return assembled(*copied(module, replaced), module)


def copied(module: fx.GraphModule, replaced: Mapping[int, Tensor]) -> tuple[nn.Module, fx.Graph]:
    """The modules under an empty root, and the graph: what `assembled` makes a graph module of."""
    tensors = {id(t): replaced.get(id(t), t) for t in (*module.parameters(), *module.buffers())}
    root, known = nn.Module(), dict[int, nn.Module]()
    root.training = module.training
    _adopt(root, module, tensors, known)
    return root, copy.deepcopy(module.graph)


def assembled(root: nn.Module, graph: fx.Graph, like: fx.GraphModule) -> fx.GraphModule:
    """The graph module of the two, with what `like` says of itself."""
    made = fx.GraphModule(root, graph, class_name=type(like).__name__)
    made.meta = dict(like.meta)
    return made


def _adopt(made: nn.Module, module: nn.Module, tensors: Mapping[int, Tensor], known: dict[int, nn.Module]) -> None:
    """Give `made` the tensors and copies of the children of `module`."""
    parameters: Any = {n: None if p is None else tensors[id(p)] for n, p in module._parameters.items()}
    made._parameters = parameters
    made._buffers = {n: None if b is None else tensors[id(b)] for n, b in module._buffers.items()}
    made._modules = {n: None if c is None else _copy(c, tensors, known) for n, c in module._modules.items()}


def _copy(module: nn.Module, tensors: Mapping[int, Tensor], known: dict[int, nn.Module]) -> nn.Module:
    if id(module) not in known:
        kind = type(module)
        if kind.__module__.startswith("torch.nn.modules.") and not isinstance(module, nn.RNNBase):
            made = known[id(module)] = kind.__new__(kind)
            vars(made).update({k: _shallow(v) for k, v in vars(module).items()})
            _adopt(made, module, tensors, known)
        else:
            known[id(module)] = copy.deepcopy(module, dict(tensors))
    return known[id(module)]


def _shallow(value: Any) -> Any:
    return value.copy() if type(value) in (dict, OrderedDict, list, set) else value
