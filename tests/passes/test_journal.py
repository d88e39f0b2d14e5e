"""The journal survives a kill and holds JSON only."""

import json

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


def test_appends_and_forgives_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "journal.jsonl"
    for epoch in range(2):
        with Journal(path) as journal:
            journal.write("epoch", epoch=epoch)
    with path.open("a") as file:
        file.write('{"kind": "epo')
    assert [r["epoch"] for r in read_journal(path)] == [0, 1]


def test_without_a_path_nothing_happens():
    Journal().write("warning", message="x")
