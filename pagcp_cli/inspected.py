"""What `inspect` prints: one paragraph per group, long lists shortened; `--json` has them in full."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from pagcp_cli.numbers import count, percent
from pagcp_cli.render import pairs, text_of

if TYPE_CHECKING:
    from pagcp_cli.inspection import Inspection, SeenGroup
    from pagcp_ir.coupling import Coupling

__all__ = ["inspection_report"]

_SHOWN = 6
"""Names and reasons beyond this many are counted, not listed."""

_ROUTES = {"fx": "torch.fx", "export": "torch.export", "pt2": "torch.export, read from a file"}

_DONE = {
    **dict.fromkeys(("add", "add_", "iadd"), "added"),
    **dict.fromkeys(("sub", "sub_", "isub"), "subtracted"),
    **dict.fromkeys(("mul", "mul_", "imul"), "multiplied"),
}


def inspection_report(found: Inspection) -> str:
    """The totals, then each group: its width, what is coupled and why, who reads it, what is pinned and why."""
    whole, conv = found.macs, found.conv_macs
    prunable = f"{percent(whole.prunable, whole.total)} of {count(whole.total)} MACs"
    if conv.total:
        prunable += f", {percent(conv.prunable, conv.total)} of the {count(conv.total)} of convolutions"
    facts = [
        ("traced by", _ROUTES[found.route]),
        *(("kept whole", note) for note in found.kept_whole),
        *(("note", note) for note in found.notes),
        ("groups", f"{len(found.groups)}, {found.free} of {found.units} units free to cut"),
        ("prunable", prunable),
    ]
    parts: list[RenderableType] = [Text(found.model, style="bold"), pairs(facts)]
    for group in found.groups:
        parts += ["", *_group(group, whole.total)]
    if len(found.groups) > 1:
        parts += [
            "",
            Text(
                "A layer between two groups counts for both: what groups touch adds up to more than 100%.", style="dim"
            ),
        ]
    return text_of(parts)


def _group(group: SeenGroup, total: int) -> Iterable[RenderableType]:
    yield Text(group.name, style="bold")
    units = f" in {group.units} unit{'s' * (group.units > 1)}" if group.units != group.width else ""
    free = "all" if group.free == group.units else str(group.free or "none")
    parts = [f"{name} in {number} equal parts" for name, number in group.parts.items()]
    facts = [
        ("width", f"{group.width}{units}, {free} free; touches {percent(group.macs, total)} of MACs"),
        *(("coupled", line) for line in _shortened(list(_couplings(group.couplings)))),
        *([("grouped", _listed(parts))] if parts else []),
        *([("carried by", _carriers(group))] if group.carriers else []),
        ("read by", _listed(group.readers) or "nothing"),
        *(("pinned", line) for line in _shortened([_pin(group, number) for number in range(len(group.pins))])),
    ]
    yield pairs(_once(facts), indent=2)


def _couplings(couplings: Sequence[Coupling]) -> Iterable[str]:
    """`a ~ b, c: added at net.py:12`, those of one line of code together."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for coupling in couplings:
        alike.setdefault((coupling.first, coupling.op, coupling.where), []).append(coupling.second)
    for (first, op, where), others in alike.items():
        done = _DONE.get(op, f"tied by `{op}`")
        yield f"{first} ~ {_listed(others)}: {done}" + (f" at {where}" if where else "")


def _carriers(group: SeenGroup) -> str:
    kinds: dict[str, list[str]] = {}
    for carrier in group.carriers:
        kinds.setdefault(carrier.kind, []).append(carrier.name)
    return "; ".join(f"{kind} {_listed(names)}" for kind, names in kinds.items())


def _pin(group: SeenGroup, number: int) -> str:
    pin = group.pins[number]
    return f"{pin.count} of {group.units}: {pin.reason}" + (f" ({pin.where})" if pin.where else "")


def _listed(names: Sequence[str]) -> str:
    *first, last = _shortened(names) or [""]
    return ", ".join(first) + (" " if last.startswith("and ") else ", ") * bool(first) + last


def _shortened(items: Sequence[str]) -> list[str]:
    more = len(items) - _SHOWN
    return [*items[:_SHOWN], f"and {more} more"] if more > 1 else list(items)


def _once(facts: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """A name that the line above has already is left out."""
    above = ""
    for name, told in facts:
        yield (name if name != above else ""), told
        above = name
