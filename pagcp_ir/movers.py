"""Label rules of ops that only move values: they need none, the op itself runs on the labels.

Two laws on top: a channel taken by a literal index is always there, and zeros padded onto the channel axis are
channels of their own, tied to what they are added to (fill law), so that pad amounts can be recomputed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pagcp_ir.labels import Ref, compact, spread, tied_across, varying
from pagcp_ir.reshapes import scrambles
from pagcp_ir.site import Site, opaque, pinned
from pagcp_ir.sizes import is_index, positions

__all__ = [
    "attribute",
    "channel_shuffle",
    "expanded",
    "getitem",
    "index_select",
    "made",
    "mover",
    "pad",
    "unbind",
    "viewed",
]


def mover(site: Site) -> Any:
    """Run the op on labels. What comes out must have the shapes that were traced, else the op is opaque."""
    args, kwargs = pytree.tree_map(_concrete(site), (site.args, dict(site.kwargs)))
    try:
        result = _call(site, args, kwargs)
    except Exception:  # noqa: BLE001 - whatever an op has against integers, it is declined
        return opaque(site)
    return _checked(site, result)


def viewed(site: Site) -> Any:
    """view, reshape: a reshape that mixes channels with positions ties other channels at every image size."""
    source, result = site.arg(0, "input"), mover(site)
    if isinstance(source, Tensor) and isinstance(result, Tensor) and scrambles(site.node, source, result):
        return pinned(site, f"`{site.labels.op}` mixes channels with positions of the image")
    return result


def _concrete(site: Site) -> Any:
    def leaf(value: Any) -> Any:
        return site.labels.element_labels(value) if isinstance(value, Ref) else value

    return leaf


def _call(site: Site, args: Any, kwargs: Any) -> Any:
    if site.module is not None:
        return type(site.module).forward(site.module, *args, **kwargs)
    if site.node.op == "call_method":
        name = str(site.node.target)
        return getattr(args[0], "reshape" if name == "view" else name)(*args[1:], **kwargs)
    target: Any = site.node.target
    return target(*args, **kwargs)


def _checked(site: Site, result: Any) -> Any:
    leaves, expected = pytree.tree_leaves(result), pytree.tree_leaves(site.value)
    if [_shape(v) for v in leaves] != [_shape(v) for v in expected]:
        return opaque(site)
    return pytree.tree_map(lambda v: compact(v) if isinstance(v, Tensor) else v, result)


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def getitem(site: Site) -> Any:
    """`x[...]`: an element of a container, or slices, integers, a list, None and Ellipsis on a tensor."""
    source, index = site.args
    if not isinstance(source, (Tensor, Ref)):
        return source[index]
    items = tuple(_constant(i) for i in (index if isinstance(index, tuple) else (index,)))
    listed = [i for i in items if isinstance(i, list)]
    if any(isinstance(i, (Tensor, Ref, bool)) for i in items) or (listed and not _takes_one(items)):
        return pinned(site, f"`{site.labels.op}` takes an index that is data")
    value = site.as_labels(source)
    result = compact(value[items])
    if any(isinstance(i, int) for i in items):
        _pin_selected(site, value, items, result)
    return result


def _constant(item: Any) -> Any:
    """A buffer of positions as the list that it holds."""
    return positions(item.tensor) if isinstance(item, Ref) and is_index(item.tensor) else item


def _takes_one(items: tuple[Any, ...]) -> bool:
    """Whether one list of positions is taken and all else are slices: the axes stay where they are."""
    lists = [i for i in items if isinstance(i, list)]
    plain = all(i is Ellipsis or isinstance(i, (slice, list)) for i in items)
    return plain and len(lists) == 1 and all(type(p) is int for p in lists[0])


def index_select(site: Site) -> Any:
    """`x.index_select(dim, index)` by a buffer of positions: the channels that it names, in its order."""
    x, dim, index = site.as_labels(site.arg(0, "input")), site.arg(1, "dim"), site.arg(2, "index")
    if not isinstance(index, Ref):
        return pinned(site, f"`{site.labels.op}` takes an index that is data")
    return compact(x.index_select(dim, index.tensor))


def expanded(site: Site) -> Any:
    """expand, repeat: the copies of one channel (a mask) along the channel axis are channels of their own.

    They are tied to what they meet; the channel that is copied stays. A value with several channels is only moved.
    """
    source, result = site.arg(0, "input"), mover(site)
    if not isinstance(result, Tensor):
        return result
    kernel = isinstance(source, Ref) and _is_kernel(site)
    shape = (1,) * (result.ndim - len(source.shape)) + tuple(source.shape)
    grown = [d for d in range(result.ndim) if shape[d] == 1 < result.shape[d] and (kernel or d > 0)]
    if not grown or (not kernel and varying(result)):
        return result
    axis = 0 if kernel else 1 if 1 in grown else result.ndim - 1
    if axis not in grown or axis > 2:
        return result  # positions of an image
    return spread(site.labels.fresh(result.shape[axis]), axis, tuple(result.shape))


def _is_kernel(site: Site) -> bool:
    """Whether the result is nothing but the weight of functional convolutions: one copy for every channel."""
    users = list(site.node.users)
    names = [getattr(user.target, "__name__", "") for user in users]
    return bool(users) and all(
        name.startswith("conv") and (user.args[1:2] == (site.node,) or user.kwargs.get("weight") is site.node)
        for name, user in zip(names, users, strict=True)
    )


def made(site: Site) -> Any:
    """A tensor that forward makes: its sizes are what they are, and so are those that it is told.

    `x.new_zeros(...)` takes no more than the dtype of x; one that is made of other tensors is not known.
    """
    alike = str(site.node.target).startswith("new_")
    if len(list(site.operands())) > int(alike):
        return opaque(site)
    return site.labels.fixed(site.shape, f"the constant of `{site.labels.op}`")


def attribute(site: Site) -> Any:
    """`x.T`, `x.mT` move values, `x.data` is the same; other attributes of a tensor are not known."""
    return mover(site) if site.args[1] in ("T", "mT", "data") else opaque(site)


def _pin_selected(site: Site, value: Tensor, items: tuple[Any, ...], result: Tensor) -> None:
    """A literal index along the channel axis names one channel, which has to stay."""
    axes = _axes_of(items, value.ndim)
    named = [axis for item, axis in zip(items, axes, strict=True) if isinstance(item, int)]
    _pin_named(site, value, named, result)


def _pin_named(site: Site, value: Tensor, named: Sequence[int], result: Any) -> None:
    """Where other axes hold channels too (the 3 of q, k, v), they are tied across the axis that is taken apart."""
    if not tied_across(site.labels, value, named)[1]:
        for leaf in pytree.tree_leaves(result):
            site.labels.pin(leaf, f"taken by a literal index in `{site.labels.op}`")


def _axes_of(items: tuple[Any, ...], ndim: int) -> list[int]:
    """The axis that each item of an index applies to (-1 for None and Ellipsis)."""
    used = sum(1 for i in items if i is not None and i is not Ellipsis)
    axes, axis = [], 0
    for item in items:
        if item is Ellipsis:
            axes.append(-1)
            axis += ndim - used
        elif item is None:
            axes.append(-1)
        else:
            axes.append(axis)
            axis += 1
    return axes


def unbind(site: Site) -> Any:
    """Taking an axis apart: along the channels every one is named, and stays."""
    x = site.as_labels(site.arg(0, "input"))
    if not tied_across(site.labels, x, [site.arg(1, "dim", 0) % x.ndim])[1]:
        return pinned(site, f"`{site.labels.op}` names every channel")
    return mover(site)


def select(site: Site) -> Any:
    """`x.select(dim, index)`: a channel that is named stays."""
    x = site.as_labels(site.arg(0, "input"))
    result = mover(site)
    _pin_named(site, x, [site.arg(1, "dim") % x.ndim], result)
    return result


def rolled(site: Site) -> Any:
    """roll: exact along other axes; along the channels the shift would have to change."""
    x = site.as_labels(site.arg(0, "input"))
    dims = site.arg(2, "dims", ())
    dims = dims if isinstance(dims, (tuple, list)) else (dims,)
    if not dims or any(d % x.ndim in varying(x) for d in dims):
        return pinned(site, f"`{site.labels.op}` shifts the channels")
    return x


def pad(site: Site) -> Any:
    """F.pad: spatial pads carry the channels; zeros on the channel axis are fresh channels."""
    x = site.as_labels(site.arg(0, "input"))
    amounts, mode = site.arg(1, "pad"), site.arg(2, "mode", "constant")
    if not all(isinstance(a, int) for a in amounts):
        return pinned(site, f"`{site.labels.op}` pads by an amount that is computed")
    for k, axis in enumerate(range(x.ndim - 1, x.ndim - 1 - len(amounts) // 2, -1)):
        before, after = amounts[2 * k], amounts[2 * k + 1]
        if (before, after) == (0, 0):
            continue
        if axis in varying(x):
            if min(before, after) < 0 or mode != "constant" or varying(x) != (axis,):
                return pinned(site, f"`{site.labels.op}` crops or mirrors the channels")
            x = _filled(site, x, axis, before, after)
        else:
            size = x.shape[axis] + before + after
            x = x.narrow(axis, 0, 1).expand(*x.shape[:axis], size, *x.shape[axis + 1 :])
    return x


def _filled(site: Site, x: Tensor, axis: int, before: int, after: int) -> Tensor:
    vector = x[tuple(slice(None) if d == axis else 0 for d in range(x.ndim))]
    whole = torch.cat([site.labels.fresh(before), vector, site.labels.fresh(after)])
    return spread(whole, axis, (*x.shape[:axis], whole.shape[0], *x.shape[axis + 1 :]))


def writes_through_a_view(site: Site) -> Any:
    """`v = y[:, :2]; v += 1` changes y as well: cutting could turn the view into a copy."""
    return pinned(site, f"`{site.labels.op}` writes through a view")


def hooked(site: Site) -> Any:
    """Hooks, or a forward of its own, may change tensors and results: the module is kept whole."""
    return pinned(site, f"`{site.labels.op}` has hooks and is kept whole")


def pixel_shuffle(site: Site) -> Any:
    """Channels become positions: what is left of them lies on the channel axis, tied across the positions."""
    made = mover(site)
    if made.ndim < 3 or made.ndim - 3 not in varying(made):
        return made
    return spread(site.labels.along(made, -3, ""), made.ndim - 3, site.shape)


def channel_shuffle(site: Site) -> Any:
    """view(g, c/g).transpose: keeps equal counts per part, so position j of every part is tied."""
    x = site.as_labels(site.arg(0, "input"))
    groups = getattr(site.module, "groups", None) if site.module is not None else site.arg(1, "groups")
    if not isinstance(groups, int):
        return opaque(site)
    parts = site.labels.along(x, 1, f"`{site.labels.op}` shuffles another axis").view(groups, -1)
    site.labels.tie(parts, parts[:1])
    vector = parts.t().reshape(-1)
    return spread(vector, 1, site.shape)
