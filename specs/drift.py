"""In what the plan that a spec gives now differs from one that was kept: one L809 for each thing."""

from __future__ import annotations

from collections.abc import Iterator

from specs.diagnostics import Diagnostic
from specs.plan import Cut, Plan

__all__ = ["drift"]

_HINT = "if that is right, keep the new plan: `pagcp plan` writes it"


def drift(kept: Plan, now: Plan, where: str) -> tuple[Diagnostic, ...]:
    """What differs, () for equal plans. `where`: the file of the kept one."""
    if kept == now:
        return ()
    told = list(_differences(kept, now)) or ["its text differs"]
    hints = [""] * (len(told) - 1) + [_HINT]
    return tuple(Diagnostic("L809", text, where, hint) for text, hint in zip(told, hints, strict=True))


def _differences(kept: Plan, now: Plan) -> Iterator[str]:
    if kept.fingerprint != now.fingerprint:
        yield f"it is of the network {kept.fingerprint}, the spec's is {now.fingerprint}"
    yield from _cuts({cut.group: cut for cut in kept.cuts}, {cut.group: cut for cut in now.cuts})
    for side in ("before", "after"):
        old, new = getattr(kept, side), getattr(now, side)
        if old != new:
            yield f"costs {side}: {old.macs:,} MACs, {old.params:,} parameters; now {new.macs:,}, {new.params:,}"
    if kept.amended != now.amended:
        changed = sorted({*kept.amended} ^ {*now.amended})
        yield f"`{changed[0]}` is {'no longer ' if changed[0] in kept.amended else 'now '}more than a slice"
    for name in ("pins", "layers", "tensors"):
        if getattr(kept, name) != getattr(now, name):
            yield f"{name} differ"


def _cuts(kept: dict[str, Cut], now: dict[str, Cut]) -> Iterator[str]:
    for group in sorted({*kept, *now}):
        old, new = kept.get(group), now.get(group)
        if old is None or new is None:
            cut = old or new
            assert cut is not None
            widths = f"{cut.width} -> {cut.kept}"
            yield f"group `{group}`: " + (f"was whole, now {widths}" if old is None else f"was {widths}, now whole")
        elif (old.width, old.kept) != (new.width, new.kept):
            yield f"group `{group}`: {old.width} -> {old.kept}, now {new.width} -> {new.kept}"
        elif old.removed != new.removed:
            yield f"group `{group}`: {old.width} -> {old.kept}, now other channels go"
