"""The gate: what it keeps, what it takes back, and what it says of it."""

from __future__ import annotations

from dataclasses import replace

import torch

from passes.gate import Changed, Gate
from passes.journal import Journal, read_journal


class Table:
    """An oracle of losses in the order in which they are asked for."""

    def __init__(self, *losses):
        self.losses_asked = list(losses)

    def losses(self, program, channels, keep, finish=None):
        return self.losses_asked.pop(0)


def test_the_gate_keeps_what_harms_no_task(case, tmp_path):
    table = Table(
        {"label": 1.0, "map": 2.0},
        {"label": 1.0, "map": 1.5},
        {"label": 0.5, "map": 1.6},
        {"label": float("nan"), "map": 0.0},
        {"label": 0.9, "map": 1.5},
    )
    bias = case.state.program.tensors()["map.bias"].detach()
    with Journal(tmp_path / "journal.jsonl") as journal:
        gate = Gate(case.state, replace(case.ctx, oracle=table, journal=journal))
        assert gate.offer("map", "bias", {"map.bias": bias + 1})
        assert not gate.offer("map", "bias", {"map.bias": bias + 2})
        assert not gate.offer("label", "lstsq", {"label.weight": bias})
        assert gate.program.tensors()["map.bias"] == bias + 1
        assert gate.offer("label", "bias", {"label.bias": torch.zeros(4)})
    assert gate.losses == {"label": 0.9, "map": 1.5}
    assert gate.program.tensors()["map.bias"] == bias + 1
    assert not gate.program.tensors()["label.bias"].any()
    assert [r.get("reason") for r in read_journal(tmp_path / "journal.jsonl")] == [
        None,
        "the loss of 'map' rises by 6.67%, from 1.5 to 1.6",
        "the loss of 'label' rises from 1 to nan",
        None,
    ]


def test_a_change_is_named_by_what_it_does(case):
    bias = case.state.program.tensors()["map.bias"].detach()
    first, again, other = (Changed({"map.bias": bias + shift}) for shift in (0, 0, 1))
    assert first.key == again.key != other.key
