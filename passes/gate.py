"""The gate: a change of a network is kept only if no task's calibration loss is higher with it than without it.

Losses are the oracle's, on the whole calibration set: what is kept is never worse for any task there than what came.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import torch
from torch import Tensor, nn

from pagcp_ir.channels import Keep
from pagcp_ir.copying import copy_with
from pagcp_ir.program import Program
from passes.base import Context, State

__all__ = ["Changed", "Changes", "Gate"]

Changes = Mapping[str, Tensor]
"""By name: what a tensor becomes."""


@dataclass(frozen=True, eq=False)
class Changed:
    """The program with other values in some tensors; an oracle's Finish."""

    changes: Changes
    key: str = field(init=False)
    """What it does: the digest of the values."""

    def __post_init__(self) -> None:
        digest = blake2b(digest_size=12)
        for name, value in sorted(self.changes.items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        object.__setattr__(self, "key", f"refit: {digest.hexdigest()}")

    def __call__(self, program: Program, keep: Keep) -> Program:
        """`program`, which stays as it is, with the values in it."""
        tensors = program.tensors()
        replaced = {id(tensors[name]): _like(tensors[name], value) for name, value in self.changes.items()}
        return replace(program, module=copy_with(program.module, replaced))


def _like(old: Tensor, value: Tensor) -> Tensor:
    value = value.detach().to(old)
    return nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value


class Gate:
    """Where the state's program stands, with the changes that were kept. `losses`: what they have come to."""

    def __init__(self, state: State, ctx: Context) -> None:
        self._state, self._ctx = state, ctx
        self._oracle, self._here, self._keep = ctx.need_oracle("refit"), state.here, state.keep
        self._kept: dict[str, Tensor] = {}
        self.program = state.program
        self.losses = self._measured(None)

    def offer(self, layer: str, what: str, changes: Changes) -> bool:
        """Take the changes if no task's loss rises; whether it did. The journal says why not."""
        began = time.perf_counter()
        tried = Changed({**self._kept, **changes})
        losses = self._measured(tried)
        worse = [task for task in losses if not losses[task] <= self.losses[task]]
        told = {"layer": layer, "what": what, "kept": not worse, "losses": losses}
        if worse:
            told["reason"] = "; ".join(_rise(task, self.losses[task], losses[task]) for task in worse)
        self._ctx.note("refit", **told, seconds=round(time.perf_counter() - began, 3))
        if not worse:
            self._kept, self.losses = dict(tried.changes), losses
            self.program = tried(self._state.program, self._keep)
        return not worse

    def decline(self, layer: str, what: str, reason: str) -> None:
        """Say why there is nothing to offer."""
        self._ctx.note("refit", layer=layer, what=what, kept=False, reason=reason)

    def _measured(self, changed: Changed | None) -> Mapping[str, float]:
        return dict(self._oracle.losses(self._state.program, self._here, self._keep, changed))


def _rise(task: str, before: float, after: float) -> str:
    share = f" by {(after - before) / abs(before):.2%}," if before and math.isfinite(after - before) else ""
    return f"the loss of {task!r} rises{share} from {before:.6g} to {after:.6g}"
