"""The journal survives a kill and holds JSON only."""

import json
import math

import numpy as np
import pytest

from passes.journal import Journal, read_journal
from specs.diagnostics import SpecError


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


@pytest.mark.parametrize("left", [b"\0" * 20 + b"\n", b"\0" * 5000, b"{\n", b'{"kind": "epoch", "losses": {"\xc3'])
def test_what_a_power_cut_left_at_the_end_is_removed(tmp_path, left):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.write("epoch", epoch=0)
    path.write_bytes(path.read_bytes() + left)
    with Journal(path) as journal:
        journal.write("epoch", epoch=0)
        journal.write("epoch", epoch=1)
    assert [r["epoch"] for r in read_journal(path)] == [0, 1]


ANSWER = {
    "kind": "answer",
    "key": "a",
    "totals": {"t": 1.0},
    "counts": {"t": 4},
    "unfit": {},
    "done": 1,
    "sizes": {},
    "images": 4,
    "seconds": 0.1,
}
START = {"kind": "start", "spec": "", "network": "", "calibration": "", "versions": {}, "code": {}, "resolved": {}}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"\0" * 20, "is not JSON: expecting value (column 1)"),
        (b"{", "is not JSON: expecting property name enclosed in double quotes (column 2)"),
        (b'{"kind": "epoch" ', "is not JSON: expecting ',' delimiter (column 18)"),
        (b'{"kind": "\xff"}', "is not UTF-8 text (byte 11)"),
        (b"[1]", "must be an object, got a list"),
        (b'{"a": 1}', "has no known kind, got null"),
        (b'{"kind": ["epoch"]}', 'has no known kind, got ["epoch"]'),
        (b'{"kind": "epoch", "kind": "kept"}', "has a key twice in one object"),
        (b'{"kind": "epoch", "loss": NaN}', "holds NaN, which is not JSON"),
        (b'{"kind": "epoch", "loss": ' + b"9" * 5000 + b"}", "holds a number that is too large"),
        (b"[" * 200_000, "is nested too deeply"),
        ({**START, "versions": {"torch": 2}}, "must have texts in versions"),
        ({**START, "code": None}, "must have code as an object, got null"),
        ({**START, "network": 3}, "must have network as text, got 3"),
        ({k: v for k, v in START.items() if k != "spec"}, "must have spec as text, got null"),
        ({**ANSWER, "key": 3}, "must have key as text, got 3"),
        ({k: v for k, v in ANSWER.items() if k != "totals"}, "must have totals as an object, got null"),
        ({**ANSWER, "totals": {"t": "1.0"}}, 'must have a number in totals.t, got "1.0"'),
        ({**ANSWER, "counts": {"u": 4}}, "must have totals and counts of the same tasks"),
        ({**ANSWER, "counts": {"t": -4}}, "must have a whole number in counts.t, got -4"),
        ({**ANSWER, "done": True}, "must have a whole number in done, got true"),
        ({**ANSWER, "sizes": {"t": [3, 1]}}, "must have as many rows of 't' as its sizes add up to"),
        ({**ANSWER, "sizes": {"t": 3}}, "must have a list in sizes.t, got 3"),
        ({**ANSWER, "rows": {"at": 0}}, "must have rows with at, sizes and crc"),
        ({**ANSWER, "rows": {"at": -8, "sizes": {"t": 1}, "crc": 1}}, "must have a whole number in at, got -8"),
        ({"kind": "answer", "key": "a", "numbers": {"t": [1]}}, "must have a number in numbers.t, got a list"),
    ],
)
def test_a_line_that_is_no_record_is_refused(tmp_path, line, told):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.write("epoch", epoch=0)
    whole = path.read_bytes()
    path.write_bytes(whole + (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" + whole)
    with pytest.raises(SpecError) as caught:
        Journal(path)
    assert str(caught.value) == (
        f"{path}:2  error[S123]: this line of the journal {told}\n  hint: undo the change; or cut the file before "
        "line 2, to go on from there; or --force without --resume"
    )


def test_what_we_write_is_read(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in (START, ANSWER)))
    assert len(read_journal(path)) == 2


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
        journal.remember("plain", {"numbers": {"t": 1 / 3, "u": math.inf}})
        journal.remember("long", {"numbers": {}, "done": 1}, numbers)
        assert journal.recall("long") is None  # what this run measured it holds in memory
    with Journal(path, rows) as journal:
        plain, long = journal.recall("plain"), journal.recall("long")
        journal.remember("more", {"numbers": {}}, {"a": np.array([7.0])})
    assert plain.fields == {"numbers": {"t": 1 / 3, "u": "inf"}}
    assert long.fields == {"numbers": {}, "done": 1}
    assert {name: row.tobytes() for name, row in long.rows.items()} == {n: row.tobytes() for n, row in numbers.items()}
    with Journal(path, rows) as journal:
        assert journal.recall("more").rows["a"].tolist() == [7.0]
        assert journal.recall("long").rows["b"].tolist() == [math.inf]


def test_an_answer_without_its_rows_is_asked_for_again(tmp_path):
    path, rows = tmp_path / "journal.jsonl", tmp_path / "rows"
    with Journal(path, rows) as journal:
        journal.remember("kept", {"numbers": {}}, {"a": np.arange(3.0)})
        journal.remember("lost", {"numbers": {}}, {"a": np.arange(3.0)})
    rows.write_bytes(rows.read_bytes()[:-1])
    with Journal(path, rows) as journal:
        assert journal.recall("lost") is None
        journal.remember("lost", {"numbers": {}}, {"a": np.arange(4.0)})
    with Journal(path, rows) as journal:
        assert journal.recall("kept").rows["a"].tolist() == [0, 1, 2]
        assert journal.recall("lost").rows["a"].tolist() == [0, 1, 2, 3]


def test_without_a_path_nothing_happens():
    Journal().write("warning", message="x")
