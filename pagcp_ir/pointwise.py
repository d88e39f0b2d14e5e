"""Label rules of ops that work position by position, and of those that reduce or normalise along axes.

Broadcast law: `[N, 1, H, W] * [N, C, H, W]` pins the size-1 side and ties nothing.
"""

from __future__ import annotations

import re
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from pagcp_ir.labels import Ref, compact, spread, tied_across, varying, without_copies
from pagcp_ir.site import Rule, Site, opaque, pinned

__all__ = ["elementwise", "glu", "normalised_along", "reduced_along", "resized", "unary"]


def unary(site: Site) -> Any:
    """One tensor in, the same channels out. Of a parameter it makes a value, which is no longer that parameter."""
    return site.as_labels(site.arg(0, "input"))


def elementwise(site: Site) -> Any:
    """Any number of operands that broadcast: positions that meet are tied."""
    operands = list(site.operands())
    known = [o for o in operands if isinstance(o, Tensor)]
    shape = site.shape
    placed = [_placed(site, o, known, shape) for o in operands]
    return reduce(lambda a, b: _join(site, a, b), placed).expand(shape)


def _placed(site: Site, operand: Tensor | Ref, others: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    """A parameter takes the axis along which the activations vary; its other axes hold no channels."""
    if isinstance(operand, Tensor):
        return operand
    lead = len(shape) - len(operand.shape)
    for axis in sorted({d + len(shape) - o.ndim for o in others for d in varying(o)}):
        own = axis - lead
        if own >= 0 and operand.shape[own] == shape[axis]:
            return spread(site.labels.axis(operand, own, "along"), own, tuple(operand.shape))
    long = [d for d, size in enumerate(operand.shape) if size > 1]
    if len(long) == 1:
        return site.labels.element_labels(operand)
    return site.labels.fixed(tuple(operand.shape), f"`{operand.name}`")


def _join(site: Site, a: Tensor, b: Tensor) -> Tensor:
    shape: torch.Size = torch.broadcast_shapes(a.shape, b.shape)  # type: ignore[no-untyped-call]
    a, b = (t.reshape((1,) * (len(shape) - t.ndim) + tuple(t.shape)) for t in (a, b))
    a, b = _on_shared_axes(site, a, b), _on_shared_axes(site, b, a)
    a_is_smaller, b_is_smaller = _broadcasts(a, b), _broadcasts(b, a)
    reason = f"broadcast over other channels in `{site.labels.op}`"
    if a_is_smaller:
        site.labels.pin(a, reason)
    if b_is_smaller:
        site.labels.pin(b, reason)
    if a_is_smaller and b_is_smaller:
        return site.labels.fixed(tuple(shape), f"the outer `{site.labels.op}`")
    if a_is_smaller or b_is_smaller:
        return (b if a_is_smaller else a).expand(shape)
    site.labels.tie(a, b)
    one, two = a.expand(shape), b.expand(shape)
    if _all_free(one):
        return one
    return two if _all_free(two) else compact(torch.maximum(one, two))


def _all_free(value: Tensor) -> bool:
    return bool((without_copies(value) >= 0).all())


def _on_shared_axes(site: Site, a: Tensor, b: Tensor) -> Tensor:
    """Where `a` varies on an axis that `b` has too, its channels lie there, not on axes that `b` broadcasts over."""
    shared = [d for d in varying(a) if b.shape[d] != 1]
    return tied_across(site.labels, a, [d for d in varying(a) if b.shape[d] == 1])[0] if shared else a


def _broadcasts(small: Tensor, large: Tensor) -> bool:
    """Whether `small` has size 1 on an axis along which the labels of `large` vary."""
    return any(small.shape[d] == 1 for d in varying(large))


def resized(site: Site) -> Any:
    """Pools, resizes and spatial pads: channels stay, the sizes after them change."""
    x = site.as_labels(site.arg(0, "input"))
    if not isinstance(site.value, Tensor):
        return opaque(site)
    shape, spatial = site.shape, re.search(r"([123])d", site.labels.op.split(": ")[-1])
    first = x.ndim - int(spatial[1]) if spatial else 2
    changed = [d for d in range(x.ndim) if d >= first or x.ndim != len(shape) or x.shape[d] != shape[d]]
    x, free = tied_across(site.labels, x, changed)
    if not free:
        return pinned(site, f"`{site.labels.op}` works along the channels")
    return without_copies(x).expand(shape)


def sampled(site: Site) -> Any:
    """F.grid_sample: every channel is sampled at the places of the grid, which are no channels."""
    x, grid = site.as_labels(site.arg(0, "input")), site.as_labels(site.arg(1, "grid"))
    site.labels.pin(grid, f"the grid of `{site.labels.op}`")
    vector = site.labels.along(x, 1, f"`{site.labels.op}` works along another axis than the channels")
    return spread(vector, 1, site.shape)


def _dims(site: Site, index: int, ndim: int) -> tuple[int, ...]:
    dims = site.arg(index, "dim", site.kwargs.get("axis"))
    if dims is None:
        return tuple(range(ndim))
    return tuple(d % ndim for d in (dims if isinstance(dims, (tuple, list)) else (dims,)))


def reduced_along(site: Site) -> Any:
    """mean, sum, max...: other axes keep their channels; a reduction over channels pins them."""
    if isinstance(site.arg(1, "other", None), (Tensor, Ref)):  # torch.max(a, b)
        return elementwise(site)
    return _reduced(site, 1)


def norm_along(site: Site) -> Any:
    """`x.norm(p, dim)`: the axis is its second argument."""
    return _reduced(site, 2)


def _reduced(site: Site, index: int) -> Any:
    x = site.as_labels(site.arg(0, "input"))
    dims = _dims(site, index, x.ndim)
    x, free = tied_across(site.labels, x, dims)
    if not free:
        return pinned(site, f"`{site.labels.op}` runs over the channels")
    return _map_tensors(site, lambda shape: _without(x, dims, shape))


def _without(x: Tensor, dims: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    keepdim = len(shape) == x.ndim
    index = tuple((slice(0, 1) if keepdim else 0) if d in dims else slice(None) for d in range(x.ndim))
    return x[index].expand(shape)


def _map_tensors(site: Site, make: Any) -> Any:
    value = site.value
    if isinstance(value, Tensor):
        return make(tuple(value.shape))
    return tuple(make(tuple(v.shape)) for v in value)


def normalised_along(index: int, name: str = "dim", default: Any = -1) -> Rule:
    """softmax, normalize, cumsum: exact along other axes, pinned along the channels."""

    def rule(site: Site) -> Any:
        x = site.as_labels(site.arg(0, "input"))
        return _along(site, x, site.arg(index, name, default))

    return rule


def _along(site: Site, x: Tensor, dim: Any) -> Any:
    x, free = tied_across(site.labels, x, [dim % x.ndim] if isinstance(dim, int) else range(x.ndim))
    return x if free else pinned(site, f"`{site.labels.op}` runs over the channels")


def module_normalised_along(default: int) -> Rule:
    """The same for modules, whose axis is an attribute."""

    def rule(site: Site) -> Any:
        x = site.as_labels(site.arg(0, "input"))
        return _along(site, x, getattr(site.module, "dim", default))

    return rule


def glu(site: Site) -> Any:
    """`a * sigmoid(b)` for the two halves of an axis: position j of both is tied."""
    x = site.as_labels(site.arg(0, "input"))
    dim = getattr(site.module, "dim", None) if site.module is not None else site.arg(1, "dim", -1)
    first, second = x.chunk(2, dim if isinstance(dim, int) else -1)
    site.labels.tie(first, second)
    return compact(first)
