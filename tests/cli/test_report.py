"""report.html: its figures are there and say what the folder says; names are escaped; made again it is the same."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pagcp_cli import compile_spec, load_spec
from pagcp_cli.numbers import value
from pagcp_cli.report.data import read_facts
from pagcp_cli.report.markdown import markdown_report
from pagcp_cli.report.page import page as rendered
from pagcp_cli.report.search import rounds_of
from pagcp_cli.report.writing import report_html
from pagcp_cli.sums import check_sums, seal
from pagcp_cli.verifying import verify_folder
from specs.diagnostics import EmitError, PagcpError
from tests.cli.projects import project
from tests.cli.reports import EVIL, Page, reported
from tests.running import pagcp


@pytest.fixture(autouse=True)
def unhidden(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The network of this test's spec is found before that of the module's."""
    made = str(tmp_path_factory.getbasetemp())
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not path.startswith(made)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    result = compile_spec(load_spec(reported(folder)), folder / "out")
    assert "report.html" in result.files
    assert result.report == ""
    assert len(result.missed) == 1
    return folder / "out"


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


def test_all_figures_are_there_once(whole: Path) -> None:
    text = (whole / "report.html").read_text()
    shown, groups = Page(text), 3
    expected = ["drop-0", "drop-1", "widths", "macs", *(f"group-0-{n}" for n in range(groups)), "search-0", "epochs-0"]
    assert shown.charts == expected
    assert all(at["role"] == "img" and at["aria-label"] for tag, at in shown.tags if tag == "svg")
    ids = [at["id"] for _, at in shown.tags if "id" in at]
    assert len(ids) == len(set(ids))
    assert len(text) < 1_500_000


def test_nothing_is_loaded_and_nothing_runs(whole: Path) -> None:
    text = (whole / "report.html").read_text()
    page = Page(text)
    assert "http:" not in text
    assert "https:" not in text
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "image"})
    assert all(
        not str(at.get(key) or "#").lstrip().startswith(("/", "data")) for _, at in page.tags for key in ("href",)
    )
    assert str(whole.parent) not in text
    assert ("http-equiv", "Content-Security-Policy") in [pair for _, at in page.tags for pair in at.items()]


def test_names_are_text(whole: Path) -> None:
    text = (whole / "report.html").read_text()
    assert "<script" not in text
    assert Page(text).text.count(EVIL) >= 4  # promises, tasks, legends
    assert any(EVIL in str(at.get("aria-label")) for _, at in Page(text).tags)


def test_figures_are_those_of_the_evidence(whole: Path) -> None:
    evidence, page = json.loads((whole / "evidence.json").read_text()), Page((whole / "report.html").read_text())
    told = " ".join(page.text)
    assert "✗ 1 of 3 promises was missed." in told
    for row in evidence["verdicts"]:
        for key in ("dense", "pruned", "recovered"):
            assert value(row[key]) in page.text
    for row in evidence["decisions"]:
        assert row["group"] in page.text
        assert row["reason"] in page.text
    after = evidence["costs"]["after"]["macs"]
    assert f"{100 * after / evidence['costs']['before']['macs']:.1f}% of the MACs are left" in told


def test_made_again_it_is_the_same(out: Path) -> None:
    before = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    ran = pagcp("report", out, env={"PYTHONHASHSEED": "7"})
    assert (ran.code, ran.out) == (0, f"wrote {out}/report.html\n"), ran.err
    assert (out / "report.html").read_bytes() == before
    assert check_sums(out) == ()


def test_a_page_of_another_day_is_listed_anew(out: Path) -> None:
    (out / "report.html").write_text("old")
    assert [d.code for d in check_sums(out)] == ["E610"]
    assert pagcp("report", out).code == 0
    assert check_sums(out) == ()
    assert verify_folder(out)["report"] == "it says what the other files come to"


def test_verify_holds_the_text_against_the_other_files(out: Path) -> None:
    text = (out / "report.html").read_text()
    (out / "report.html").write_text(text.replace("1 of 3 promises was missed", "All 3 promises were kept"))
    seal(out)
    with pytest.raises(EmitError, match=r"E611.*report\.html is not the report of the other files"):
        verify_folder(out)


def test_elsewhere_and_in_markdown(out: Path, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    assert pagcp("report", out, "-o", tmp_path / "r.html").code == 0
    assert (tmp_path / "r.html").read_bytes() == before["report.html"]
    ran = pagcp("report", out, "--markdown")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0] == "### ❌ 1 of 3 promises was missed."
    assert "&lt;script>alert(1)&lt;/script> &amp; $x\\_1$" in ran.out
    assert sum(line.startswith("| ") and line.endswith("| met |") for line in lines) == 2
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_latency_is_told_where_it_was_measured(out: Path) -> None:
    evidence = json.loads((out / "evidence.json").read_text())
    measured = {"backend": "onnxruntime", "batch": 1, "threads": 2, "at_most": "60%", "load": 1.25, "met": False}
    evidence["latency"] = {**measured, "before": 12.0, "after": 9.0, "ratio": 0.75, "low": 0.74, "high": 0.77}
    (out / "evidence.json").write_text(json.dumps(evidence))
    (out / "SHA256SUMS").unlink()
    facts = read_facts(out)
    assert facts.promises == 4
    told = Page(rendered(facts, lambda drawn: "", "here")).text
    assert {"Latency", "9.0000 ms", "75.0% (74.0% to 77.0%)", "keep at most 60%", "time kept"} <= set(told)
    assert "| time of a run | 12.000 ms | 9.0000 ms | 75.0% | 60% | **missed** |" in markdown_report(facts)


def _broken(name: str, text: str) -> Callable[[Path], None]:
    return lambda out: (out / name).write_text(text) and None  # type: ignore[func-returns-value]


def _dropped(key: str) -> Callable[[Path], None]:
    def drop(out: Path) -> None:
        evidence = json.loads((out / "evidence.json").read_text())
        del evidence["verdicts"][0][key]
        (out / "evidence.json").write_text(json.dumps(evidence))

    return drop


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda out: (out / "evidence.json").unlink(), "evidence.json"),
        (lambda out: (out / "plan.json").unlink(), "plan.json"),
        (_broken("evidence.json", "{"), "evidence.json"),
        (_broken("evidence.json", "[]"), "evidence.json"),
        (_dropped("dense"), "evidence.json"),
        (_broken("journal.jsonl", '{"kind": "epoch"}\n'), "journal.jsonl"),
        (_broken("spec.lock.yaml", "a: ["), "spec.lock.yaml"),
    ],
)
def test_what_cannot_be_read_is_named(damage: Callable[[Path], None], named: str, out: Path) -> None:
    damage(out)
    ran = pagcp("report", out)
    assert ran.code == 1
    assert f"{named}  error[E610]" in ran.err or f"{named} " in ran.err.splitlines()[0]
    (out / "SHA256SUMS").unlink()  # nothing says what was written: the file itself is told to be none
    with pytest.raises(PagcpError) as caught:
        read_facts(out)
    assert all(named in str(d.where) for d in caught.value.diagnostics)


def test_without_matplotlib_compile_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = compile_spec(load_spec(project(tmp_path)), tmp_path / "out")
    assert "report.html" not in result.files
    assert not (tmp_path / "out" / "report.html").exists()
    told = f"not drawn, for want of matplotlib: pip install 'pagcp[report]', then pagcp report {tmp_path / 'out'}"
    assert result.report == told
    with pytest.raises(EmitError, match="E616"):
        report_html(read_facts(tmp_path / "out"))
    monkeypatch.undo()
    sys.modules.pop("net", None)
    assert pagcp("report", tmp_path / "out").code == 0
    assert set(Page((tmp_path / "out" / "report.html").read_text()).charts) == {"widths", "macs"}  # uniform, no tasks
    assert "No guarantee and no budget was asked for." in (tmp_path / "out" / "report.html").read_text()


def test_a_drawing_that_fails_does_not_take_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(facts: object) -> str:
        raise ZeroDivisionError("no room")

    monkeypatch.setattr("pagcp_cli.report.writing.report_html", fails)
    result = compile_spec(load_spec(project(tmp_path)), tmp_path / "out")
    assert result.report.endswith("tries again: ZeroDivisionError: no room")
    assert (tmp_path / "out" / "plan.json").is_file()


def _evaluation(group: str, ratio: float, loss: float, verdict: str = "priced") -> dict[str, object]:
    told = {"losses": {"t": loss}, "task": "t", "rise": loss, "verdict": verdict, "seconds": 0.5}
    return {"kind": "evaluation", "group": group, "ratio": ratio, **told}


def test_a_groups_curve_is_its_own_part() -> None:
    """a: 1 -> 2 is made; then b is asked at 3, which is half as much again; then a at 6: 2 of its own times 3."""
    step = {"group": "a", "ratio": 0.5, "removed": [], "cost": 5, "task": "t", "price": 0.1, "losses": {"t": 2.0}}
    search = {"search": "marginal", "factors": {"t": 2.0}, "start": {"t": 1.0}, "path": [step]}
    decisions = [
        {
            "group": g,
            "width": 4,
            "kept": 2,
            "stopped_by": None,
            "ratio": 0.5,
            "losses": {},
            "margin": 0,
            "reason": "",
            "seconds": 1,
        }
        for g in ("a", "b")
    ]
    journal = [_evaluation("a", 0.5, 2.0), _evaluation("b", 0.5, 3.0), _evaluation("a", 0.75, 6.0)]
    journal += [_evaluation("a", 0.9, 9.0, "kept"), {"kind": "pass_end", "name": "pagcp"}]
    (found,) = rounds_of([search], decisions, journal)
    curves = {c.decision.group: [(p.ratio, p.factors["t"]) for p in c.points] for c in found.curves}
    assert curves == {"a": [(0.5, 2.0), (0.75, 6.0)], "b": [(0.5, 1.5)]}
    assert [(made.number, made.step.cost) for made in found.made] == [(1, 5)]
    assert [asked.at for asked in found.asked] == [0.5, 1.0, 1.5, 2.0]


def test_a_search_that_asked_nothing_keeps_its_place() -> None:
    """Of two rounds the first one asked nothing: the second one's evaluations are the second one's."""
    search = {"search": "marginal", "factors": {"t": 1.0}, "start": {"t": 1.0}}
    ends = [{"kind": "pass_end", "name": name} for name in ("pagcp", "finetune", "pagcp")]
    first, second = rounds_of([search, search], [], [*ends[:2], _evaluation("a", 0.5, 2.0), ends[2]])
    assert (len(first.asked), len(second.asked)) == (0, 1)
