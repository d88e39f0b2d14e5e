"""Heads for all values that nothing reads, in nested containers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from tests.ir.nets.net import Live, Net


class Pair(NamedTuple):
    first: Any
    rest: Any


@dataclass
class Found:
    first: Any
    rest: Any


LAYOUTS: tuple[Callable[[list[Any]], Any], ...] = (
    lambda made: made,
    tuple,
    lambda made: {f"out{i}": v for i, v in enumerate(made)},
    lambda made: {"first": made[0], "rest": [{"value": v} for v in made[1:]], "none": None},
    lambda made: (made[0], [tuple(made[1:]), made[0]]),
    lambda made: Pair(made[0], {"all": made}),
    lambda made: Found(made[0], made[1:]),
    lambda made: made[0] if len(made) == 1 else Found(made[0], Pair(made[1], made[2:])),
)


def finish(n: Net) -> Callable[[Sequence[Tensor]], Any]:
    """Called with the live values; returns the outputs of the network."""
    layout = n.of(*LAYOUTS)
    left = [v for v in n.values[len(n.inputs) :] if v.at not in n.consumed]
    heads = [(v.at, _head(n, v)) for v in left]
    return lambda live: layout([head(live[at]) for at, head in heads])


def _head(n: Net, x: Live) -> Callable[[Tensor], Tensor]:
    if x.form != "map":
        layer = n.add(nn.Linear(x.c, 3))
        return lambda t: layer(t)
    if n.below(2):
        maps = n.add(nn.Conv2d(x.c, 3, 1))
        return lambda t: maps(t)
    scores = n.add(nn.Linear(x.c, 4))
    return lambda t: scores((F.adaptive_max_pool2d(t, 1) / 2 + F.adaptive_avg_pool2d(t, 1)).flatten(1))
