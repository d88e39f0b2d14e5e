"""The published groups of convolutions that are cut together, carried to YOLOv5 v6, held against those that we find.

arXiv 2303.11923: in a C3 block with shortcuts the first convolution and each bottleneck's second one are added up; all
others stand alone. In v6 these are blocks 2, 4, 6 and 8. The last layer is not cut.
"""

from __future__ import annotations

from torch import nn

from bench.yolov5.detector import build
from pagcp_ir.channels import ChannelGraph

__all__ = ["LAST", "SHORTCUTS", "check_groups", "found_groups", "published_groups"]

SHORTCUTS, LAST = (2, 4, 6, 8), 24
"""Blocks with shortcuts, and the layer that gives the outputs."""


def published_groups(model: nn.Module) -> set[frozenset[str]]:
    """The sets of names of convolutions that the published rule cuts together."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    single = [name for name in names if not name.startswith(f"model.{LAST}.")]
    coupled = []
    for block in SHORTCUTS:
        joined = {f"model.{block}.cv1.conv"}
        joined |= {n for n in single if n.startswith(f"model.{block}.m.") and n.endswith(".cv2.conv")}
        coupled.append(frozenset(joined))
    return {*coupled, *(frozenset({name}) for name in set(single).difference(*coupled))}


def found_groups(channels: ChannelGraph) -> set[frozenset[str]]:
    """The same of the groups that may be cut."""
    free = channels.free
    return {frozenset(group.producers) for group in channels.groups if bool(free[group.units].any())}


def check_groups(channels: ChannelGraph) -> int:
    """How many there are. ValueError names groups that the published rule does not have, or has and we do not."""
    wanted, found = published_groups(build()), found_groups(channels)
    if wanted != found:
        differ = sorted(", ".join(sorted(group)) for group in wanted ^ found)
        raise ValueError(f"groups differ from the published rule's: {'; '.join(differ)}")
    return len(found)
