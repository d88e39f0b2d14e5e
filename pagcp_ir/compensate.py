"""Compensation: a removed unit acts as its mean: what its readers would have made of it moves into their biases.

For a call y = W x + b that loses the inputs R with means m, b grows by the mean over positions of W (m on R, 0 else):
the call's own response to constant inputs. That is exact where the response is the same everywhere (no zeros padded
in, no strided transposed kernel), and else the best constant. A call without a bias in front of a BatchNorm gives it
to the running mean, with the sign turned; any other one gets a bias. What several calls share gets the mean of what
each of them needs. Sums of products without weights have no bias: there a removed unit is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from pagcp_ir.channels import Binding, ChannelGraph, Keep, TensorInfo, Units
from pagcp_ir.copying import copy_with
from pagcp_ir.program import Program
from pagcp_ir.reads import Means, Read

__all__ = ["Call", "Fold", "Place", "Users", "compensated", "described", "folds", "needed"]

Place = Literal["bias", "running_mean", "new bias"]
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True, eq=False)
class Fold:
    """`tensor`, which nothing but the calls of `reads` uses, can make up for units that these calls lose."""

    tensor: str
    place: Place
    reads: tuple[Read, ...]
    outputs: Units

    @property
    def name(self) -> str:
        """The reading layer's name."""
        return self.reads[0].layer.name

    def loses(self, keep: Keep) -> bool:
        """Whether any of the calls loses an input under `keep`."""
        return any(not keep[read.units].all() for read in self.reads)


def folds(program: Program, found: Sequence[Read], grow: bool = True) -> tuple[Fold, ...]:
    """Where the weighted ones of these reads can be made up for. `grow`: a layer without bias may get one."""
    users = Users(program)
    placed: dict[tuple[str, Place], list[Read]] = {}
    for read in found:
        place = users.place(read) if read.weighted else None
        if place is not None:
            placed.setdefault(place, []).append(read)
    return tuple(
        Fold(tensor, place, tuple(same), same[0].layer.outputs)
        for (tensor, place), same in placed.items()
        if users.alone(tensor, place, same) and (grow or place != "new bias")
    )


class Users:
    """Which calls of a program use which tensor: `users`, by name of the tensor the names of the nodes."""

    def __init__(self, program: Program) -> None:
        self.modules = dict(program.module.named_modules(remove_duplicate=False))
        self.nodes = {node.name: node for node in program.module.graph.nodes}
        self.names = {id(tensor): name for name, tensor in program.tensors().items()}
        self.users: dict[str, set[str]] = {}
        for node in self.nodes.values():
            for tensor, user in _uses(node, self.modules):
                if id(tensor) in self.names:
                    self.users.setdefault(self.names[id(tensor)], set()).add(user)

    def place(self, read: Read) -> tuple[str, Place] | None:
        """The tensor that a read can be made up for in."""
        node = self.nodes[read.node]
        if len(read.layer.tensors) > 1:
            return read.layer.tensors[1], "bias"
        norm = self.norm(node, read)
        if norm is not None:
            return self.names[id(norm.running_mean)], "running_mean"
        if node.op != "call_module":
            return None
        return f"{node.target}.bias", "new bias"

    def alone(self, tensor: str, place: Place, found: Sequence[Read]) -> bool:
        """Whether nothing but these reads (or the BatchNorms behind them) depends on the tensor."""
        calls = {read.node for read in found}
        if place == "bias":
            return self.users.get(tensor, set()) == calls
        if place == "running_mean":
            return self.users.get(tensor, set()) == {next(iter(self.nodes[name].users)).name for name in calls}
        module = self.modules[str(self.nodes[found[0].node].target)]
        return {n.name for n in self.nodes.values() if self._module(n) is module} == calls

    def norm(self, node: fx.Node, read: Read) -> nn.modules.batchnorm._BatchNorm | None:
        """The BatchNorm with statistics of its own that alone takes the call's result, channel by channel."""
        user = next(iter(node.users)) if len(node.users) == 1 else None
        module = self._module(user) if user is not None else None
        on_axis_1 = node.meta["value"].ndim + read.axis == 1
        if type(module) not in _BATCH_NORMS or not on_axis_1:
            return None
        assert isinstance(module, nn.modules.batchnorm._BatchNorm)
        return module if module.running_mean is not None and not module.training else None

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules.get(str(node.target)) if node.op == "call_module" else None


def _uses(node: fx.Node, modules: Mapping[str, nn.Module]) -> list[tuple[Tensor, str]]:
    if node.op == "call_module":
        module = modules[str(node.target)]
        return [(tensor, node.name) for tensor in (*module.parameters(), *module.buffers())]
    if node.op == "get_attr":
        tensor = _attribute(node, modules)
        return [(tensor, user.name) for user in node.users] if isinstance(tensor, Tensor) else []
    return []


def _attribute(node: fx.Node, modules: Mapping[str, nn.Module]) -> Any:
    path, _, name = str(node.target).rpartition(".")
    return getattr(modules[path], name)


def needed(program: Program, fold: Fold, average: Means, keep: Keep) -> Tensor:
    """What the outputs of a fold's calls lack once the inputs outside `keep` are gone: float64 [width]."""
    lacking = []
    for read in fold.reads:
        gone = torch.from_numpy(~keep[read.units])
        made = Call(program, read).response(torch.where(gone, average[read.node], 0.0))
        lacking.append(made.movedim(read.axis, -1).flatten(0, -2).mean(0, dtype=torch.float64))
    return torch.stack(lacking).mean(0)


class Call:
    """A read's call, to be made on other values of what it reads: as in the program otherwise."""

    def __init__(self, program: Program, read: Read) -> None:
        self.modules = dict(program.module.named_modules(remove_duplicate=False))
        self.node = next(n for n in program.module.graph.nodes if n.name == read.node)
        self.read = read
        self.weight = program.tensors()[read.layer.tensors[0]]

    def __call__(self, value: Tensor) -> Tensor:
        def taken(source: fx.Node) -> Any:
            if source.name == self.read.operand:
                return value
            return _attribute(source, self.modules) if source.op == "get_attr" else source.meta["value"]

        args, kwargs = fx.node.map_arg((self.node.args, self.node.kwargs), taken)
        made: Any = self.modules[str(self.node.target)] if self.node.op == "call_module" else self.node.target
        with torch.no_grad():
            found: Tensor = made(*args, **kwargs)
        return found

    def response(self, inputs: Tensor) -> Tensor:
        """What the call makes of one sample that is the same everywhere, [width], less what it makes of zeros."""
        operand = next(n for n in self.node.all_input_nodes if n.name == self.read.operand).meta["value"]
        shape = [1 if operand.ndim > -self.read.axis else operand.shape[0], *operand.shape[1:]]
        given = inputs.to(self.weight).view(-1, *(1,) * (-1 - self.read.axis)).expand(shape)
        return self(given) - self(torch.zeros_like(given))


def compensated(cut: Program, found: Sequence[Fold], keep: Keep, lacking: Mapping[str, Tensor]) -> Program:
    """The cut program with each fold's tensor changed by `lacking` (by tensor, over the outputs before the cut)."""
    tensors, replaced, new = cut.tensors(), dict[int, Tensor](), dict[str, Tensor]()
    for fold in found:
        change = lacking[fold.tensor][torch.from_numpy(keep[fold.outputs])]
        if fold.place == "new bias":
            new[fold.tensor] = change
            continue
        old = tensors[fold.tensor].detach()
        value = old + (change if fold.place == "bias" else -change).to(old)
        is_parameter = isinstance(tensors[fold.tensor], nn.Parameter)
        frozen = not tensors[fold.tensor].requires_grad
        replaced[id(tensors[fold.tensor])] = nn.Parameter(value, not frozen) if is_parameter else value
    module = copy_with(cut.module, replaced)
    for name, change in new.items():
        layer: Any = module.get_submodule(name.removesuffix(".bias"))
        layer.bias = nn.Parameter(change.to(layer.weight), requires_grad=layer.weight.requires_grad)
    return replace(cut, module=module)


def described(program: Program, channels: ChannelGraph) -> ChannelGraph:
    """The graph of a program whose layers may have got biases that the graph does not know."""
    modules = dict(program.module.named_modules(remove_duplicate=False))
    nodes = {node.name: node for node in program.module.graph.nodes}
    tensors = program.tensors()
    names = {id(tensor): name for name, tensor in tensors.items()}
    bindings, layers, known = list(channels.bindings), [], dict(channels.tensors)
    for layer in channels.layers:
        node = nodes.get(layer.node)
        module = modules.get(str(node.target)) if node is not None and node.op == "call_module" else None
        bias = getattr(module, "bias", None) if len(layer.tensors) == 1 else None
        if isinstance(bias, nn.Parameter):
            name = names[id(bias)]
            if name not in known:
                bindings.append(Binding(name, 0, layer.outputs, "along"))
                known[name] = TensorInfo(tuple(bias.shape), bias.element_size(), True)
            layer = replace(layer, tensors=(*layer.tensors, name))
        layers.append(layer)
    if len(known) == len(channels.tensors):
        return channels
    return replace(channels, bindings=tuple(bindings), layers=tuple(layers), tensors=known)
