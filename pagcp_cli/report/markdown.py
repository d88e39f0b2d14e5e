"""A result in Markdown, for pull requests: the verdict, the promises, every task, and what was cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pagcp_cli.numbers import count, percent, size, value
from pagcp_cli.report.data import Facts, TaskFacts
from pagcp_cli.report.page import NAMES, headline

__all__ = ["markdown_report"]


def markdown_report(facts: Facts) -> str:
    """The text, with a newline at the end."""
    mark = "❌ " if facts.missed else "✅ " if facts.promises else ""
    kept = percent(facts.plan.after.macs, facts.plan.before.macs)
    parts = [f"### {mark}{headline(facts)}", f"{_text(facts.title)}, pruned by pagcp: {kept} of the MACs are left."]
    parts += ["\n".join(f"- {_text(line)}" for line in facts.missed)] if facts.missed else []
    if facts.tasks:
        columns = ("task", "metric", ">before", ">after", ">worst allowed", ">drop", ">interval", "")
        parts.append(_table(columns, map(_task, facts.tasks)))
    parts.append(_table(("", ">before", ">after", ">kept", ">at most", ""), _costs(facts)))
    if facts.decisions:
        last = {d.group: d for d in facts.decisions}
        rows = [(d.group, f"{d.width} → {d.kept}", d.reason) for d in last.values() if d.kept < d.width]
        table = _table(("group", ">channels", "why not more"), rows)
        parts.append(f"<details><summary>{len(rows)} of {len(last)} groups were cut</summary>\n\n{table}\n\n</details>")
    return "\n\n".join(parts) + "\n"


def _task(task: TaskFacts) -> Sequence[str]:
    v, span = task.verdict, task.interval
    told = (v.task, v.metric, value(v.dense), value(v.recovered))
    if v.allowed is None:
        return (*told, "–", "–", "–", "")
    interval = "–" if span is None else f"{value(span.low)} to {value(span.high)}"
    return (*told, value(v.allowed), value(task.drop), interval, _word(v.met))


def _costs(facts: Facts) -> Iterable[Sequence[str]]:
    for b in facts.budgets:
        told = size if b.name == "bytes" else count
        limit = ("–", "") if b.limit is None else (told(b.limit), _word(b.met))
        yield (NAMES[b.name], told(b.before), told(b.after), percent(b.after, b.before), *limit)
    if (t := facts.latency) is not None:
        yield (
            "time of a run",
            f"{value(t.before)} ms",
            f"{value(t.after)} ms",
            f"{t.ratio:.1%}",
            t.at_most,
            _word(t.met),
        )


def _word(met: bool) -> str:
    return "met" if met else "**missed**"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "| " + " | ".join(name.removeprefix(">") for name in columns) + " |"
    line = "|" + "|".join("---:" if name.startswith(">") else "---" for name in columns) + "|"
    return "\n".join([head, line, *("| " + " | ".join(map(_cell, row)) + " |" for row in rows)])


def _cell(text: str) -> str:
    return text if text == "**missed**" else _text(text)


def _text(text: str) -> str:
    """The text as it reads, whatever Markdown or HTML would make of it."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|~#@" else c for c in plain)
