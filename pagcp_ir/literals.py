"""Size literals follow the cut: `view(-1, 128)`, split sizes, slice bounds and pad amounts are recomputed from what
survives. Sizes that the program computes from shapes recompute themselves.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from pagcp_ir.channels import Keep, Layer, ValueAxis
from pagcp_ir.sizes import is_index, positions

__all__ = ["Cutting", "Index", "Resize"]

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Cutting:
    """What a literal has to know: the channel axis of every value before the cut, and what is kept."""

    values: Mapping[str, ValueAxis]
    keep: Keep
    modules: Mapping[str, nn.Module]
    layers: Mapping[str, Layer]

    def axis(self, node: Any) -> ValueAxis | None:
        """Where the node's channels lie, None where it has none."""
        return self.values.get(node.name) if isinstance(node, fx.Node) else None

    def survivors(self, value: ValueAxis) -> NDArray[np.bool_]:
        """bool [width]: the positions along the channel axis that stay."""
        return self.keep[value.units]

    def count(self, value: ValueAxis, start: int = 0, stop: int | None = None) -> int:
        """How many of the positions start..stop stay."""
        return int(self.survivors(value)[start:stop].sum())


Resize = Callable[[Cutting, fx.Node], None]


def output_sizes(cutting: Cutting, node: fx.Node) -> None:
    """view, reshape, expand, unflatten: the literal at the output's channel axis becomes the new count."""
    out = cutting.axis(node)
    if out is None:
        return
    position = out.axis
    if node.target in ("unflatten", torch.unflatten):
        dim = _argument(node, 1, "dim")
        source = node.args[0].meta["value"]  # type: ignore[union-attr]
        position -= int(dim) % source.ndim
        if position >= 0:
            _set_size(node, 2, position, out, cutting)
        return
    if len(node.args) > 1 and not isinstance(node.args[1], (tuple, list)):
        _set_flat(node, 1 + position, out, cutting)
    else:
        _set_size(node, 1, position, out, cutting)


def literal_where_wrong(node: fx.Node, shape: Sequence[int]) -> None:
    """A size that the program computes, but that no longer comes out right (`c // 2` after a cut of the 2), is set.

    Called when the values of the node's arguments after the cut are known.
    """
    first = 2 if node.target in ("unflatten", torch.unflatten) else 1
    lead = 0
    if first == 2:
        lead = int(_argument(node, 1, "dim")) % node.args[0].meta["value"].ndim  # type: ignore[union-attr]
    flat = len(node.args) > first and not isinstance(node.args[first], (tuple, list))
    sizes = list(node.args[first:] if flat else _argument(node, first, "shape", ()))
    if len(sizes) > len(shape) - lead:
        return
    fixed = [wanted if _computed_wrong(s, wanted) else s for s, wanted in zip(sizes, shape[lead:], strict=False)]
    wrong = [i for i, (a, b) in enumerate(zip(fixed, sizes, strict=False)) if a is not b]
    if len(wrong) == 1 and -1 not in sizes and _op_name(node) in ("view", "reshape"):
        fixed[wrong[0]] = -1  # what is left over, at other image sizes too
    if fixed != sizes:
        rest = fixed if flat else (tuple(fixed), *node.args[first + 1 :])
        node.args = (*node.args[:first], *rest)


def _op_name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")


def _computed_wrong(size: Any, wanted: int) -> bool:
    return isinstance(size, fx.Node) and isinstance(size.meta["value"], int) and size.meta["value"] != wanted


def _set_flat(node: fx.Node, index: int, out: ValueAxis, cutting: Cutting) -> None:
    if index < len(node.args) and _is_literal(node.args[index], out):
        node.update_arg(index, cutting.count(out))


def _set_size(node: fx.Node, index: int, position: int, out: ValueAxis, cutting: Cutting) -> None:
    name = next((n for n in ("shape", "size", "sizes") if n in node.kwargs), None)
    sizes = node.args[index] if index < len(node.args) else node.kwargs.get(name or "")
    if not isinstance(sizes, (tuple, list)) or position >= len(sizes):
        return
    if _is_literal(sizes[position], out):
        new = [*sizes[:position], cutting.count(out), *sizes[position + 1 :]]
        if index < len(node.args):
            node.update_arg(index, tuple(new))
        elif name is not None:
            node.update_kwarg(name, tuple(new))


def _is_literal(size: Any, out: ValueAxis) -> bool:
    return isinstance(size, int) and size == len(out.units)


def unflatten_module(cutting: Cutting, node: fx.Node) -> None:
    """nn.Unflatten carries its sizes as an attribute."""
    out, module = cutting.axis(node), cutting.modules[str(node.target)]
    assert isinstance(module, nn.Unflatten)
    if out is None or not isinstance(module.dim, int):
        return
    position = out.axis - module.dim % node.args[0].meta["value"].ndim  # type: ignore[union-attr]
    sizes = list(module.unflattened_size)
    if 0 <= position < len(sizes) and _is_literal(sizes[position], out):
        sizes[position] = cutting.count(out)
        module.unflattened_size = tuple(sizes)


def split_sizes(cutting: Cutting, node: fx.Node) -> None:
    """chunk and split become a split into the counts that survive in each part, unless they still say so."""
    source = cutting.axis(node.args[0])
    if source is None:
        return
    dim = _argument(node, 2, "dim", 0)
    if not isinstance(dim, int) or dim % node.args[0].meta["value"].ndim != source.axis:  # type: ignore[union-attr]
        return
    sizes = [int(part.shape[source.axis]) for part in node.meta["value"]]
    bounds = np.cumsum([0, *sizes])
    counts = [cutting.count(source, int(a), int(b)) for a, b in pairwise(bounds)]
    if counts != _would_give(node, sum(counts)):
        node.op, node.target = "call_function", torch.split
        node.args, node.kwargs = (node.args[0], counts, dim), {}


def _would_give(node: fx.Node, total: int) -> list[int] | None:
    """The part sizes that the call as it stands gives for a new total, None where it would fail."""
    second = node.args[1] if len(node.args) > 1 else next(iter(node.kwargs.values()))
    if not isinstance(second, int) or node.target in ("tensor_split", torch.tensor_split):
        return None
    probe = torch.empty(total)
    parts = (
        probe.chunk(second)
        if node.target in ("chunk", torch.chunk)
        else torch.split_with_sizes(probe, _even(total, second))
    )
    return [int(p.shape[0]) for p in parts]


def _even(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def getitem(cutting: Cutting, node: fx.Node) -> None:
    """Slices along the channel axis: new bounds, or the list of positions where no slice says it."""
    source, index = cutting.axis(node.args[0]), node.args[1]
    if source is None or cutting.survivors(source).all():
        return
    items = list(index) if isinstance(index, tuple) else [index]
    place = _item_at(items, source.axis, node.args[0].meta["value"].ndim)  # type: ignore[union-attr]
    if place is None:
        return
    width, item = len(source.units), items[place]
    taken = np.arange(width)[_literal(item)]
    if isinstance(item, (list, fx.Node)):  # positions by name: a list, or a buffer that holds them
        items[place] = _new_positions(cutting, source, taken)
        node.update_arg(1, tuple(items) if isinstance(index, tuple) else items[0])
        return
    if isinstance(item, int):
        items[place] = _new_positions(cutting, source, np.array([taken]))[0]
    elif isinstance(item, slice) and taken.size == width and (item.step or 1) == 1:
        return
    else:
        items[place] = _as_index(_new_positions(cutting, source, taken))
    node.update_arg(1, tuple(items) if isinstance(index, tuple) else items[0])


def _literal(item: Any) -> Any:
    """A slice whose bounds are nodes is read at its traced values, and so is a buffer of positions."""
    if isinstance(item, fx.Node) and is_index(item.meta["value"]):
        return positions(item.meta["value"])
    if not isinstance(item, slice):
        return item
    read = [p.meta["value"] if isinstance(p, fx.Node) else p for p in (item.start, item.stop, item.step)]
    return slice(*read)


def _item_at(items: Sequence[Any], axis: int, ndim: int) -> int | None:
    used = sum(1 for i in items if i is not None and i is not Ellipsis)
    at = 0
    for place, item in enumerate(items):
        if item is Ellipsis:
            at += ndim - used
        elif item is not None:
            if at == axis:
                return place
            at += 1
    return None


def _new_positions(cutting: Cutting, source: ValueAxis, taken: Index) -> list[int]:
    alive = cutting.survivors(source)
    after = np.cumsum(alive) - 1
    return [int(after[p]) for p in taken if alive[p]]


def _as_index(positions: list[int]) -> Any:
    if not positions:
        return slice(0, 0)
    start, stop = positions[0], positions[-1] + 1
    return slice(start, stop) if positions == list(range(start, stop)) else positions


def index_select(cutting: Cutting, node: fx.Node) -> None:
    """index_select along the channel axis becomes a list of the positions that survive."""
    source: Any = node.args[0]
    channels, index = cutting.axis(source), _argument(node, 2, "index")
    if channels is None or cutting.survivors(channels).all() or not is_index(index.meta["value"]):
        return
    ndim = source.meta["value"].ndim
    axis = int(_argument(node, 1, "dim")) % ndim
    if axis == channels.axis:
        left = _new_positions(cutting, channels, np.array(positions(index.meta["value"])))
        node.op, node.target = "call_function", operator.getitem
        node.args, node.kwargs = (source, (*(slice(None),) * axis, left)), {}


def repeats(cutting: Cutting, node: fx.Node) -> None:
    """`repeat(1, 16, 1, 1)` of one channel: as many copies as survive."""
    source: Any = node.args[0]
    shape, out = source.meta["value"].shape, cutting.axis(node)
    lead = node.meta["value"].ndim - len(shape)
    if out is not None and (out.axis < lead or shape[out.axis - lead] == 1):
        output_sizes(cutting, node)


def squeeze_dims(cutting: Cutting, node: fx.Node) -> None:
    """`squeeze()` takes away every axis of size 1: those that had it, not one that the cut leaves with one channel."""
    source: Any = node.args[0]
    shape = source.meta["value"].shape
    if len(node.args) == 1 and not node.kwargs:
        node.args = (source, tuple(d for d, size in enumerate(shape) if size == 1))


def narrow(cutting: Cutting, node: fx.Node) -> None:
    """`narrow(dim, start, length)` along the channel axis."""
    source = cutting.axis(node.args[0])
    dim, start, length = (_argument(node, i, n) for i, n in ((1, "dim"), (2, "start"), (3, "length")))
    if source is None or dim % node.args[0].meta["value"].ndim != source.axis:  # type: ignore[union-attr]
        return
    at, size = (v.meta["value"] if isinstance(v, fx.Node) else int(v) for v in (start, length))
    at %= max(1, len(source.units))
    node.args = (node.args[0], dim, cutting.count(source, 0, at), cutting.count(source, at, at + size))
    node.kwargs = {}


def select(cutting: Cutting, node: fx.Node) -> None:
    """`select(dim, index)` along the channel axis: the channel that is named has a new position."""
    source = cutting.axis(node.args[0])
    dim, index = _argument(node, 1, "dim"), _argument(node, 2, "index")
    if source is None or dim % node.args[0].meta["value"].ndim != source.axis:  # type: ignore[union-attr]
        return
    position = int(index) % len(source.units)
    node.args, node.kwargs = (node.args[0], dim, cutting.count(source, 0, position)), {}


def pad_amounts(cutting: Cutting, node: fx.Node) -> None:
    """F.pad on the channel axis: as many zeros as survive on each side."""
    out = cutting.axis(node)
    if out is None:
        return
    amounts = list(_argument(node, 1, "pad"))
    pair = 2 * (node.meta["value"].ndim - 1 - out.axis)
    if pair + 1 >= len(amounts):
        return
    before, after, width = amounts[pair], amounts[pair + 1], len(out.units)
    amounts[pair] = cutting.count(out, 0, before)
    amounts[pair + 1] = cutting.count(out, width - after, width)
    if len(node.args) > 1:
        node.update_arg(1, tuple(amounts))
    else:
        node.update_kwarg("pad", tuple(amounts))


def conv_groups(cutting: Cutting, node: fx.Node) -> None:
    """A functional depthwise convolution has as many parts as inputs survive."""
    layer, given = cutting.layers.get(node.name), _argument(node, 6, "groups")
    if layer is not None and layer.per_channel and not isinstance(given, fx.Node):
        _set_groups(node, int(cutting.keep[layer.inputs].sum()))


def groups_where_wrong(cutting: Cutting, node: fx.Node) -> None:
    """Groups that are computed, but no longer come out right: any other convolution has as many as before."""
    layer, given = cutting.layers.get(node.name), _argument(node, 6, "groups")
    if layer is None or not isinstance(given, fx.Node) or not (layer.per_channel or layer.tensors):
        return
    wanted = int(cutting.keep[layer.inputs].sum()) if layer.per_channel else layer.parts
    if given.meta["value"] != wanted:
        _set_groups(node, wanted)


def _set_groups(node: fx.Node, groups: int) -> None:
    if len(node.args) > 6:
        node.update_arg(6, groups)
    else:
        node.update_kwarg("groups", groups)


def normalized_shape(cutting: Cutting, node: fx.Node) -> None:
    """F.layer_norm names the sizes of the axes that it runs over."""
    out, shape = cutting.axis(node), _argument(node, 1, "normalized_shape")
    if out is None or not isinstance(shape, (tuple, list)):
        return
    position = out.axis - (node.meta["value"].ndim - len(shape))
    if position < 0 or not _is_literal(shape[position], out):
        return
    new = (*shape[:position], cutting.count(out), *shape[position + 1 :])
    if len(node.args) > 1:
        node.update_arg(1, new)
    else:
        node.update_kwarg("normalized_shape", new)


def layer_norm_module(cutting: Cutting, node: fx.Node) -> None:
    """nn.LayerNorm carries the sizes of its axes as an attribute; a shared one is set once."""
    out, module = cutting.axis(node), cutting.modules[str(node.target)]
    assert isinstance(module, nn.LayerNorm)
    if out is None:
        return
    sizes = list(module.normalized_shape)
    position = out.axis - (node.meta["value"].ndim - len(sizes))
    if position >= 0 and _is_literal(sizes[position], out):
        sizes[position] = cutting.count(out)
        module.normalized_shape = tuple(sizes)


def group_norm_module(cutting: Cutting, node: fx.Node) -> None:
    """nn.GroupNorm with one channel per group has as many groups as channels."""
    out, module = cutting.axis(node), cutting.modules[str(node.target)]
    assert isinstance(module, nn.GroupNorm)
    if out is None or module.num_channels != len(out.units):
        return
    if module.num_groups == module.num_channels:
        module.num_groups = cutting.count(out)
    module.num_channels = cutting.count(out)


def norm_groups(cutting: Cutting, node: fx.Node) -> None:
    """F.group_norm with one channel per group has as many groups as channels."""
    out = cutting.axis(node)
    if out is None or _argument(node, 1, "num_groups") != len(out.units):
        return
    if len(node.args) > 1:
        node.update_arg(1, cutting.count(out))
    else:
        node.update_kwarg("num_groups", cutting.count(out))


def attention_scale(cutting: Cutting, node: fx.Node) -> None:
    """The default scale of attention is 1/sqrt of the width before the cut: it is written out."""
    query = cutting.axis(node.args[0] if node.args else node.kwargs["query"])
    source: Any = node.args[0] if node.args else node.kwargs["query"]
    width = source.meta["value"].ndim - 1
    if query is None or query.axis != width or _argument(node, 6, "scale") is not None:
        return
    if cutting.count(query) != len(query.units):
        node.update_kwarg("scale", len(query.units) ** -0.5)


def _argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    return node.args[index] if index < len(node.args) else node.kwargs.get(name, default)
