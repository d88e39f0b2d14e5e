"""The passes. PASSES is the one registry; installed packages add theirs by the entry-point group `pagcp.passes`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from passes.base import Pass
from passes.finetune import Finetune
from passes.pagcp import Pagcp
from passes.refit import Refit
from passes.repeat import Repeat
from passes.uniform import Uniform
from specs.diagnostics import PassError, nearest

__all__ = ["PASSES", "make_pass", "registry"]

PASSES: Mapping[str, Callable[[Any], Pass]] = {
    "uniform": Uniform,
    "pagcp": Pagcp,
    "refit": Refit,
    "finetune": Finetune,
    "repeat": Repeat,
}


def make_pass(name: str, options: Any) -> Pass:
    """The pass of that name with its options. PassError P408 when there is none."""
    known = registry()
    if name not in known:
        raise PassError.one("P408", f"there is no pass {name!r}", hint=nearest(name, list(known)))
    return known[name](options)


def registry(installed: tuple[EntryPoint, ...] | None = None) -> Mapping[str, Callable[[Any], Pass]]:
    """PASSES and the installed ones, loaded. PassError P408 when one of these takes a name that is in use."""
    found = dict(PASSES)
    for point in tuple(entry_points(group="pagcp.passes")) if installed is None else installed:
        if point.name in found:
            who = point.dist.name if point.dist is not None else point.value
            raise PassError.one("P408", f"the installed pass {point.name!r} of {who} has the name of another pass")
        found[point.name] = point.load()
    return found
