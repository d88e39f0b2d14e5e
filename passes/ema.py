"""The exponential moving average of a network that is trained: m <- d m + (1 - d) w after every step.

d rises from 2/11 to `decay` as min(decay, (1 + t) / (10 + t)), so that a short run does not end near its start.
Statistics are averaged like weights; what is no floating point number is copied.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["Ema"]


class Ema:
    """`module`: the averaged network, in eval mode."""

    def __init__(self, source: fx.GraphModule, decay: float) -> None:
        self.module = copy.deepcopy(source).eval()
        self._decay, self._steps = decay, 0

    @torch.no_grad()
    def update(self, source: fx.GraphModule) -> None:
        """After a step of `source`."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        now: Mapping[str, Tensor] = source.state_dict()
        for name, mean in self.module.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(now[name], 1 - decay)
            else:
                mean.copy_(now[name])

    def state(self) -> dict[str, Any]:
        """All that `load` needs to go on from here."""
        return {"steps": self._steps, "tensors": self.module.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._steps = state["steps"]
        self.module.load_state_dict(state["tensors"])
