"""Label rules of normalisations whose statistics run over channels: LayerNorm, GroupNorm, LocalResponseNorm.

Their channels may be cut, but what stays then has other statistics: the cut network equals one that was built without
these channels, not the masked original (DESIGN section 4). Equal-count law: GroupNorm keeps equal counts per group.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pagcp_ir.labels import Ref, spread, varying
from pagcp_ir.site import Site, pinned

__all__ = ["functional_group_norm", "functional_layer_norm", "group_norm", "layer_norm", "local_response_norm"]


def layer_norm(site: Site) -> Any:
    """nn.LayerNorm over the last axes, one of which holds the channels."""
    module = site.module
    assert isinstance(module, nn.LayerNorm)
    return _layer_norm(site, len(module.normalized_shape), (site.own("weight"), site.own("bias")))


def functional_layer_norm(site: Site) -> Any:
    """F.layer_norm(x, normalized_shape, weight, bias) on bare parameters."""
    shape = site.arg(1, "normalized_shape")
    tensors = (site.arg(2, "weight", None), site.arg(3, "bias", None))
    if not isinstance(shape, (tuple, list)) or not all(isinstance(t, (Ref, type(None))) for t in tensors):
        return pinned(site, f"the weight of `{site.labels.op}` is computed")
    return _layer_norm(site, len(shape), tensors)


def _layer_norm(site: Site, count: int, tensors: tuple[Ref | None, ...]) -> Tensor:
    x = site.as_labels(site.arg(0, "input"))
    axes = [d for d in varying(x) if d >= x.ndim - count]
    if not axes:
        return x  # the statistics run over positions only
    axis = max(axes, key=lambda d: (x.shape[d], d))
    vector = site.labels.along(x, axis, f"`{site.labels.op}` runs over another axis")
    if x.shape[-count:].numel() == len(vector):
        site.labels.normalised.append(vector)
    for ref in tensors:
        if ref is not None:
            site.labels.tie(site.labels.axis(ref, axis - (x.ndim - count), "along"), vector)
    return spread(vector, axis, tuple(x.shape))


def group_norm(site: Site) -> Any:
    """nn.GroupNorm over axis 1."""
    module = site.module
    assert isinstance(module, nn.GroupNorm)
    return _group_norm(site, module.num_groups, (site.own("weight"), site.own("bias")))


def functional_group_norm(site: Site) -> Any:
    """F.group_norm(x, num_groups, weight, bias) on bare parameters."""
    tensors = (site.arg(2, "weight", None), site.arg(3, "bias", None))
    if not all(isinstance(t, (Ref, type(None))) for t in tensors):
        return pinned(site, f"the weight of `{site.labels.op}` is computed")
    return _group_norm(site, site.arg(1, "num_groups"), tensors)


def _group_norm(site: Site, groups: int, tensors: tuple[Ref | None, ...]) -> Tensor:
    x = site.as_labels(site.arg(0, "input"))
    vector = site.labels.along(x, 1, f"`{site.labels.op}` works along another axis than the channels")
    parts = vector.view(groups, -1)
    if parts.shape[1] > 1:  # with one channel per group the groups themselves are what is cut
        site.labels.tie(parts, parts[:1])
    for ref in tensors:
        if ref is not None:
            site.labels.tie(site.labels.axis(ref, 0, "along"), vector)
    return spread(vector, 1, tuple(x.shape))


def local_response_norm(site: Site) -> Any:
    """Every channel is divided by its neighbours: they would be others after a cut."""
    return pinned(site, f"`{site.labels.op}` takes statistics over neighbouring channels")
