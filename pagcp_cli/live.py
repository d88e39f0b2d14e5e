"""Progress on stderr: a live line on a terminal, one plain line per pass and group elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from pagcp_cli.numbers import count, value

__all__ = ["live_progress"]


class _Progress(Protocol):
    def __call__(self, kind: str, fields: Mapping[str, Any], /) -> None: ...


@contextmanager
def live_progress(stream: TextIO | None = None) -> Iterator[_Progress]:
    """A receiver of journal records that shows them on `stream` (stderr)."""
    console = Console(file=stream or sys.stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Live(console=console, transient=True, refresh_per_second=8) as live:
        yield _Live(live)


class _Lines:
    """Plain lines: passes, the outcome of each group's turn, epochs, warnings. A price is no outcome."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: Mapping[str, Any] = {}

    def __call__(self, kind: str, fields: Mapping[str, Any], /) -> None:
        if kind == "evaluation":
            if fields.get("verdict") == "priced":
                return
            if self._last and self._last.get("group") != fields.get("group"):
                self._group()
            self._last = dict(fields)
            return
        self._group()
        self._print(_sentence(kind, fields))

    def _group(self) -> None:
        if self._last:
            self._print(_sentence("evaluation", self._last))
            self._last = {}

    def _print(self, line: str) -> None:
        if line:
            self._console.print(line, soft_wrap=True)


class _Live:
    """A spinner with the current group and task losses; what is finished scrolls by above it."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._spinner = Spinner("dots", Text("tracing the network"))
        live.update(self._spinner)

    def __call__(self, kind: str, fields: Mapping[str, Any], /) -> None:
        sentence = _sentence(kind, fields)
        if kind in ("resumed", "pass_end", "kept", "back_off", "warning"):
            self._live.console.print(Text(sentence, style="yellow" if kind == "warning" else ""))
        else:
            self._spinner.update(text=Text(sentence, overflow="ellipsis", no_wrap=True))


def _sentence(kind: str, fields: Mapping[str, Any]) -> str:
    """One line for a journal record; "" for one that people need not see."""
    if kind == "resumed":
        return f"goes on with an interrupted run, of which {fields['answers']} answers are known"
    if kind == "pass_start":
        return f"{fields['name']}: started"
    if kind == "pass_end":
        costs = f"{count(fields['macs'])} MACs, {count(fields['params'])} params"
        return f"{fields['name']}: done in {fields['seconds']:.1f} s, {costs}"
    if kind == "evaluation":
        return _evaluation(fields)
    if kind == "epoch":
        mark = ", best so far" if fields["best"] else ""
        return f"epoch {fields['epoch']}: {_shown(fields['losses'])}, score {_shown(fields['score'])}{mark}"
    if kind == "refit":
        outcome = _shown(fields["losses"]) if fields["kept"] else fields["reason"]
        return f"{fields['layer']}, {fields['what']}: {'kept' if fields['kept'] else 'dropped'}, {outcome}"
    if kind == "trained":
        outcome = "kept" if fields["kept"] else "dropped"
        return f"{fields['trainer']}: score {_shown(fields['score'])}, {_shown(fields['before'])} before; {outcome}"
    if kind == "back_off":
        margins = ", ".join(f"{task} {_shown(margin)}" for task, margin in fields["margins"].items())
        return f"margins on validation: {margins}; given back: {', '.join(fields['given'])}"
    if kind == "kept":
        epoch = fields["epoch"]
        return f"kept epoch {epoch}" if epoch else "kept the network as it was before fine-tuning"
    if kind == "warning":
        return f"warning: {fields.get('message', '')}"
    return ""


def _evaluation(fields: Mapping[str, Any]) -> str:
    group, ratio = fields.get("group"), fields.get("ratio")
    losses = ", ".join(f"{task} {_shown(loss)}" for task, loss in fields.get("losses", {}).items())
    verdict = f", {fields['verdict']}" if fields.get("verdict") else ""
    place = f"{group} at {ratio:.0%}" if group and ratio is not None else str(group or "losses")
    return f"{place}: {losses}{verdict}"


def _shown(item: Any) -> str:
    if isinstance(item, Mapping):
        return " ".join(f"{key} {_shown(part)}" for key, part in item.items())
    return value(item) if isinstance(item, float) else str(item)
