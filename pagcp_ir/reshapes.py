"""Which axes of a reshape belong together, and whether channels and image positions are mixed up there.

`[N, C, H, W] -> [N, C * H * W]` keeps the positions of a channel together; `[N, H * W, C] -> [N, C, H, W]` does not:
which channels then share a row depends on the image size, and a cut that is exact at one is wrong at another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, fx

from pagcp_ir.labels import varying
from pagcp_ir.sizes import sizes_read

__all__ = ["blocks", "scrambles"]


def blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The smallest runs of axes, before and after, that hold the same number of elements."""
    left, right = 0, 0
    while left < len(before) and right < len(after):
        ins, outs = [left], [right]
        have, want = before[left], after[right]
        while have != want:
            if have < want:
                ins.append(ins[-1] + 1)
                have *= before[ins[-1]]
            else:
                outs.append(outs[-1] + 1)
                want *= after[outs[-1]]
        left, right = ins[-1] + 1, outs[-1] + 1
        yield ins, outs


def scrambles(node: fx.Node, source: Tensor, result: Tensor) -> bool:
    """Whether channels (labels that vary) and positions are mixed, by sizes that follow the image."""
    if not source.numel():
        return False
    sizes = _sizes(node)
    for ins, outs in blocks(tuple(source.shape), tuple(result.shape)):
        channels = [d for d in ins if d in varying(source)]
        positions = [d for d in ins if source.shape[d] > 1 and d not in channels]
        spread = [d for d in outs if d in varying(result)]
        if not (channels and positions and len(spread) > 1):
            continue
        given = [sizes[d] for d in outs if d < len(sizes)]
        if max(channels) < min(positions):  # channel by channel: what follows the image may only come last
            given = given[:-1]
        if any(_follows_image(size) for size in given):
            return True
    return False


def _sizes(node: fx.Node) -> Sequence[Any]:
    first: Any = node.args[1] if len(node.args) > 1 else next(iter(node.kwargs.values()), ())
    return first if isinstance(first, (tuple, list)) else node.args[1:]


def _follows_image(size: Any) -> bool:
    """-1, or a number that is computed from the size of an axis behind the channels."""
    if not isinstance(size, fx.Node):
        return bool(size == -1)
    read = sizes_read(size)
    if read:
        return any(axis is None or axis > 1 or axis < 0 for _, axis in read)
    return any(_follows_image(n) for n in size.all_input_nodes)
