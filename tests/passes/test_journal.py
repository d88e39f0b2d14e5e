"""The journal survives a kill and holds JSON only."""

import json
import math

import numpy as np
import pytest

from passes.journal import Journal, read_journal


def test_records_are_on_disk_at_once_and_are_json(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.write("evaluation", group="a", losses={"t": float("nan"), "u": float("inf")}, ratio=0.1)
    assert read_journal(path) == [
        {"kind": "evaluation", "group": "a", "losses": {"t": "nan", "u": "inf"}, "ratio": 0.1}
    ]
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))
    journal.close()


def test_goes_on_where_a_line_was_cut_off(tmp_path):
    path = tmp_path / "journal.jsonl"
    for epochs in (1, 2, 4):
        with Journal(path) as journal:
            for epoch in range(epochs):
                journal.write("epoch", epoch=epoch, seconds=float(epochs))
        with path.open("a") as file:
            file.write('{"kind": "epo')
    assert [(r["epoch"], r["seconds"]) for r in read_journal(path)] == [(0, 1.0), (1, 2.0), (2, 4.0), (3, 4.0)]


@pytest.mark.parametrize("damage", ["\0" * 20, "[1]", '{"a": 1}', "{"])
def test_what_is_no_record_ends_the_journal(tmp_path, damage):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.write("epoch", epoch=0)
    whole = path.read_text()
    path.write_text(whole + damage + "\n" + whole)
    with Journal(path) as journal:
        journal.write("epoch", epoch=0)
        journal.write("epoch", epoch=1)
    assert [r["epoch"] for r in read_journal(path)] == [0, 1]


def test_a_run_that_goes_another_way_says_so(tmp_path):
    path = tmp_path / "journal.jsonl"
    for losses in ([1.0, 2.0, 3.0], [1.0, 2.5, 3.5]):
        with Journal(path) as journal:
            for loss in losses:
                journal.write("evaluation", losses={"t": loss})
    kinds = [r["kind"] if r["kind"] == "warning" else r["losses"]["t"] for r in read_journal(path)]
    assert kinds == [1.0, 2.0, 3.0, "warning", 2.5, 3.5]


def test_answers_are_recalled_with_their_rows_to_the_bit(tmp_path):
    path, rows = tmp_path / "journal.jsonl", tmp_path / "rows"
    numbers = {"a": np.array([0.1, 1 / 3, np.nan]), "b": np.array([np.inf])}
    with Journal(path, rows) as journal:
        journal.remember("plain", {"totals": {"t": 1 / 3, "u": math.inf}})
        journal.remember("long", {"done": 1}, numbers)
        assert journal.recall("long") is None  # what this run measured it holds in memory
    with Journal(path, rows) as journal:
        plain, long = journal.recall("plain"), journal.recall("long")
        journal.remember("more", {}, {"a": np.array([7.0])})
    assert plain.fields == {"totals": {"t": 1 / 3, "u": "inf"}}
    assert long.fields == {"done": 1}
    assert {name: row.tobytes() for name, row in long.rows.items()} == {n: row.tobytes() for n, row in numbers.items()}
    with Journal(path, rows) as journal:
        assert journal.recall("more").rows["a"].tolist() == [7.0]
        assert journal.recall("long").rows["b"].tolist() == [math.inf]


def test_an_answer_without_its_rows_is_asked_for_again(tmp_path):
    path, rows = tmp_path / "journal.jsonl", tmp_path / "rows"
    with Journal(path, rows) as journal:
        journal.remember("kept", {}, {"a": np.arange(3.0)})
        journal.remember("lost", {}, {"a": np.arange(3.0)})
    rows.write_bytes(rows.read_bytes()[:-1])
    with Journal(path, rows) as journal:
        assert journal.recall("lost") is None
        journal.remember("lost", {}, {"a": np.arange(4.0)})
    with Journal(path, rows) as journal:
        assert journal.recall("kept").rows["a"].tolist() == [0, 1, 2]
        assert journal.recall("lost").rows["a"].tolist() == [0, 1, 2, 3]


def test_without_a_path_nothing_happens():
    Journal().write("warning", message="x")
