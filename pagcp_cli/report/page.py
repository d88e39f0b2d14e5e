"""The report as one HTML page: what was asked and met first, then how it came about, then how to use it.

Nothing is loaded from anywhere, and the page's own policy forbids it; without scripts there is nothing to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pagcp_cli.numbers import count, percent, size, value
from pagcp_cli.report.data import Budget, Facts, TaskFacts
from pagcp_cli.report.figures import Drawn, drop_figure
from pagcp_cli.report.html import Child, Markup, el, join, raw, table
from pagcp_cli.report.sections import Draw, all_of, back_off, figure, groups, layers, pins, recovery, searches, section
from pagcp_cli.report.style import CSS

__all__ = ["headline", "page", "snippets"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
NAMES = {"macs": "MACs", "params": "parameters", "bytes": "bytes"}


def page(facts: Facts, draw: Callable[[Drawn], str], made_by: str) -> str:
    """The page. `draw` gives a figure's SVG; `made_by` says what drew them."""

    def svg(drawn: Drawn) -> Markup:
        return raw(draw(drawn))

    told = el(
        "main",
        el("h1", f"{facts.title}, pruned by pagcp"),
        _verdict(facts),
        _tiles(facts),
        _promises(facts),
        _tasks(facts, svg),
        all_of([layers(facts, svg), groups(facts, svg), searches(facts, svg), recovery(facts, svg), back_off(facts)]),
        all_of([_latency(facts), pins(facts), _loading(facts), _made(facts)]),
        el("footer", f"{made_by}. Made of the files of this folder alone; pagcp report makes it again."),
    )
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="generator", content=made_by),
        el("title", f"{headline(facts)} {facts.title}"),
        el("style", raw(CSS)),
    )
    return f"<!DOCTYPE html>\n{el('html', head, el('body', told), lang='en')}\n"


def headline(facts: Facts) -> str:
    """The verdict in a sentence."""
    missed, asked = len(facts.missed), facts.promises
    if not asked:
        return "No guarantee and no budget was asked for."
    if missed:
        return (
            f"{missed} of {asked} {'promise' if asked == 1 else 'promises'} {'was' if missed == 1 else 'were'} missed."
        )
    return f"All {asked} promises were kept." if asked > 1 else "The promise was kept."


def _verdict(facts: Facts) -> Markup:
    kept = percent(facts.plan.after.macs, facts.plan.before.macs)
    proof = facts.verification
    exact = "The cuts equal the masked original"
    told = f"{kept} of the MACs are left. {exact}{_error(proof.get('error'))}."
    mark = "✗ " if facts.missed else "✓ " if facts.promises else ""
    lines = el("ul", *(el("li", line) for line in facts.missed)) if facts.missed else None
    kind = "verdict missed" if facts.missed else "verdict"
    return el("div", el("strong", mark + headline(facts)), el("p", told), lines, class_=kind, role="status")


def _error(error: object) -> str:
    return f" within {value(float(error))}, relative" if isinstance(error, (int, float)) else ""


def _tiles(facts: Facts) -> Markup:
    tiles = [
        (f"{NAMES[b.name]} kept", percent(b.after, b.before), f"{_amount(b, b.before)} → {_amount(b, b.after)}")
        for b in facts.budgets
    ]
    if facts.latency is not None:
        t = facts.latency
        tiles.append(("time kept", f"{t.ratio:.1%}", f"{value(t.before)} → {value(t.after)} ms"))
    return el("dl", *(el("div", el("dt", a), el("dd", b), el("dd", c)) for a, b, c in tiles), class_="tiles")


def _amount(budget: Budget, number: int) -> str:
    return size(number) if budget.name == "bytes" else count(number)


def word(met: bool) -> Markup:
    """The verdict on one promise: a sign, a word, and only then a colour."""
    return el("span", "✓ met" if met else "✗ missed", class_="met" if met else "missed-word")


def _promises(facts: Facts) -> Markup:
    """One row per promise, and per task without one."""
    rows = [*_task_rows(facts.tasks), *_budget_rows(facts.budgets)]
    if (t := facts.latency) is not None:
        found = (f"{value(t.before)} ms", f"{value(t.after)} ms")
        rows.append(("time of a run", word(t.met), f"keep at most {t.at_most}", *found, ""))
    columns = ("what", "verdict", "asked", ">before", ">after", ">worst allowed")
    return section("What was asked, and what was met", table("Promises", columns, rows))


def _task_rows(tasks: Iterable[TaskFacts]) -> Iterable[tuple[Child, ...]]:
    for task in tasks:
        v = task.verdict
        what = join([v.task, " ", el("span", f"{v.metric} on {v.split}", class_="muted")])
        asked = task.asked or ("–" if v.allowed is None else "as allowed")
        allowed = "" if v.allowed is None else value(v.allowed)
        yield what, "" if v.allowed is None else word(v.met), asked, value(v.dense), value(v.recovered), allowed


def _budget_rows(budgets: Iterable[Budget]) -> Iterable[tuple[Child, ...]]:
    for b in budgets:
        if b.limit is not None:
            found = (_amount(b, number) for number in (b.before, b.after, b.limit))
            yield NAMES[b.name], word(b.met), b.asked, *found


def _tasks(facts: Facts, draw: Draw) -> Markup | None:
    """Each task's drop, drawn, and every figure of its verdict."""
    if not facts.tasks:
        return None
    guaranteed = [(number, task) for number, task in enumerate(facts.tasks) if task.allowed is not None]
    cards = [
        figure(
            draw,
            drop_figure(number, task),
            el("strong", task.verdict.task),
            " ",
            word(task.verdict.met),
            el("br"),
            el("span", f"{task.verdict.metric}: worse by {value(task.drop)}"),
        )
        for number, task in guaranteed
    ]
    told = (
        "How much worse each task became, in its metric's unit: right of 0 is worse, whichever way the metric goes. "
        "The dashed line is the drop allowed, the thin line the interval of the drop."
    )
    columns = (
        "task",
        "metric",
        ">dense",
        ">pruned",
        ">recovered",
        ">allowed",
        ">margin",
        ">drop",
        ">interval",
        "split",
    )
    drawn = [el("p", told), el("div", *cards, class_="cards")] if cards else []
    figures = table("Every figure", columns, map(_figures, facts.tasks))
    return section("The tasks", *drawn, figures, *map(_note, _notes(facts)))


def _figures(task: TaskFacts) -> tuple[str, ...]:
    v = task.verdict
    span = "–" if v.interval is None else f"{value(v.interval.low)} to {value(v.interval.high)}"
    allowed, margin = ("–" if number is None else value(number) for number in (v.allowed, v.margin))
    told = (value(v.dense), value(v.pruned), value(v.recovered), allowed, margin)
    return (v.task, v.metric, *told, "–" if v.allowed is None else value(task.drop), span, v.split)


def _note(text: str) -> Markup:
    return el("p", text, class_="muted")


def _notes(facts: Facts) -> Iterable[str]:
    spans = {(s.confidence, s.resamples, s.of) for task in facts.tasks if (s := task.interval) is not None}
    for sure, resamples, of in sorted(spans):
        each = percent(1 - sure, 1)
        drawn = f"of {resamples} paired resamples of {of}"
        yield f"Interval: {drawn}, {each} lie below the first number, {each} above the second."
    for task in facts.tasks:
        if task.verdict.note:
            yield f"No interval for {task.verdict.task}: {task.verdict.note}."
        if task.verdict.confidence is not None:
            yield f"The margin of {task.verdict.task} is that of the bound at {task.verdict.confidence:g} confidence."
    if any(task.verdict.split == "validation" for task in facts.tasks):
        yield "There is no test split: this is validation, on which was chosen what to keep."


def _latency(facts: Facts) -> Markup | None:
    t = facts.latency
    if t is None:
        return None
    ratio = f"{t.ratio:.1%} ({t.low:.1%} to {t.high:.1%})"
    rows = [
        (t.backend, str(t.batch), str(t.threads), f"{value(t.before)} ms", f"{value(t.after)} ms", ratio, word(t.met))
    ]
    columns = ("backend", ">batch", ">threads", ">before", ">after", ">after / before, quartiles", "verdict")
    return section("Latency", table("Time of a run, medians", columns, rows))


def snippets(files: Iterable[str]) -> Iterable[tuple[str, str]]:
    """How to load each kind of file that there is: what it needs, and the code."""
    there = set(files)
    if "model.py" in there:
        yield (
            "In the folder, or with it on the import path; needs torch alone",
            "from model import load\n\nnet = load()",
        )
    if "model.pt2" in there:
        yield "torch.export program", 'import torch\n\nnet = torch.export.load("model.pt2").module()'
    if "model.onnx" in there:
        code = 'import onnxruntime\n\nsession = onnxruntime.InferenceSession("model.onnx")'
        yield "ONNX", f"{code}\noutputs = session.run(None, {{session.get_inputs()[0].name: x}})"


def _loading(facts: Facts) -> Markup:
    parts = [part for told, code in snippets(facts.files) for part in (el("h3", told), el("pre", el("code", code)))]
    rows = [
        (
            e["format"],
            "–" if e["parity"] is None else value(float(e["parity"])),
            ", ".join(e["dynamic"]) or "nothing",
            e["note"] or "",
        )
        for e in facts.exports
    ]
    columns = ("format", ">largest difference", "free sizes", "*note")
    caption = "Each was run again and compared with the pruned network, relative to the output's scale"
    if not parts:
        return section("How to load it", el("p", "Nothing was exported; pagcp apply cuts the original by plan.json."))
    return section("How to load it", *parts, table(caption, columns, rows))


def _made(facts: Facts) -> Markup:
    versions = ", ".join(f"{name} {number}" for name, number in facts.versions.items())
    warned = [el("h3", "Warnings"), el("ul", *(el("li", line) for line in facts.warnings))] if facts.warnings else []
    spec = el("details", el("summary", "The spec, resolved"), el("pre", el("code", facts.locked)))
    return section("How it was made", el("p", versions), *warned, spec)
