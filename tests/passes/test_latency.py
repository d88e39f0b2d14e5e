"""Estimates by layers, the limit that measured networks move, and what a step saves of a latency's budget."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from passes.end_to_end import TURNS, timed
from passes.journal import Journal
from passes.latency import Latency
from passes.layer_times import widths
from passes.marginal import marginal
from passes.pagcp import NetworkSpace
from specs.diagnostics import PassError
from specs.latency import LatencyBudget
from specs.options import PagcpOptions
from specs.spec import Budgets


class Known(Latency):
    """Times that are known: a layer's are inputs x outputs in microseconds, the rest of a network takes `rest` ms."""

    rest = 0.0

    def __init__(self, case, at_most, rest=0.0, journal=None):
        budget = None if at_most is None else LatencyBudget.model_validate({"at_most": at_most})
        super().__init__(budget, case.state.program, case.state.channels, journal)
        self.rest, self.measurements, self.asked = rest, 0, 0

    def _by_layer(self, asked):
        self.asked += len(asked)
        return {f"{n} {inputs} {outputs}": inputs * outputs / 1000 for n, inputs, outputs in asked}

    def _end_to_end(self, keep):
        self.measurements += 1
        before, after = (self.rest + self.estimate(k) for k in (self._channels.all, keep))
        return {"before": before, "after": after, **dict.fromkeys(("ratio", "low", "high"), after / before)}


def cut(case, share):
    keep = case.state.channels.all
    for group in case.state.channels.groups:
        if case.state.channels.free[group.units].all():
            keep[group.units[: int(share * group.units.size)]] = False
    return keep


def test_an_estimate_is_the_sum_over_layers(case):
    found = Known(case, None)
    asked = widths(case.state.channels, case.state.channels.all)
    assert found.estimate(case.state.channels.all) == pytest.approx(sum(a * b / 1000 for _, a, b in asked))
    assert found.within(case.state.channels.all)
    assert found.confirmed(case.state.channels.all)
    assert found.measurements == 0


def test_the_limit_moves_to_where_what_was_measured_says(case):
    whole = case.state.channels.all
    found = Known(case, "60%", rest=1.0)
    total = found.estimate(whole)
    assert found.limit == pytest.approx(0.98 * 0.6 * total)  # the layers alone
    deep = cut(case, 0.75)
    found.measured(deep)
    exact = 0.6 * 0.98 * (1 + total) - 1  # the budget, less what no cut saves
    if found.measured(deep).met:
        assert found.limit == pytest.approx(exact, rel=0.05)
    else:
        assert found.limit <= 0.98 * found.estimate(deep)
    count = found.measurements
    found.measured(deep)
    assert found.measurements == count
    assert not found.within(whole)


def test_every_network_that_misses_lowers_the_limit(case):
    found = Known(case, "90%", rest=2.0)
    found.confirmed(cut(case, 0.75))
    before = found.limit
    half = cut(case, 0.25)
    if not found.confirmed(half):
        assert found.limit < min(before, found.estimate(half)) + 1e-12
        assert not found.within(half)


def test_a_step_saves_milliseconds(case):
    channels = case.state.channels
    found = Known(case, "50%")
    ctx = replace(case.ctx, budgets=Budgets.model_validate({"latency": "50%"}), latency=found)
    space = NetworkSpace(case.state, ctx, PagcpOptions())
    some = space.cut(channels.all, "stem", 0.5).keep
    ratio = space.saved(channels.all, some) / (found.estimate(channels.all) - found.estimate(some))
    more = space.cut(some, "inner", 0.5).keep
    assert space.saved(some, more) == pytest.approx(ratio * (found.estimate(some) - found.estimate(more)))
    assert space.cost(some) == int(space.cost(some))  # MACs
    timed = NetworkSpace(case.state, replace(ctx, budgets=Budgets()), PagcpOptions(order="latency"))
    assert timed.cost(some) == found.estimate(some)
    assert timed.saved(channels.all, some) == pytest.approx(
        ratio * (found.estimate(channels.all) - found.estimate(some))
    )
    assert not np.array_equal(some, more)


def test_a_run_that_goes_on_reads_back_what_was_measured(case, tmp_path):
    def decided(journal):
        found = Known(case, "80%", 1.0, journal)
        return [found.measured(cut(case, share)) for share in (0.75, 0.5)], found.limit, found

    with Journal(tmp_path / "journal.jsonl") as journal:
        first, limit, measured = decided(journal)
    with Journal(tmp_path / "journal.jsonl") as journal:
        again, same, recalled = decided(journal)
    assert (first, limit) == (again, same)
    assert measured.measurements == 2 < measured.asked
    assert (recalled.measurements, recalled.asked) == (0, 0)


@pytest.mark.parametrize("rest", [0.0, 5.0])
def test_the_search_goes_on_until_what_is_measured_meets_the_budget(case, rest):
    """Nobody tells the search of what no cut saves: it measures, corrects itself, and goes on from where it was."""
    found = Known(case, "80%", rest)
    ctx = replace(case.ctx, budgets=Budgets.model_validate({"latency": "80%"}), latency=found)
    options = PagcpOptions(compensate="none", criterion="l1", moves=0)
    outcome = marginal(NetworkSpace(case.state, ctx, options), options)
    assert found.confirmed(outcome.keep) or all(not found.confirmed(keep) for keep in [cut(case, 0.75)])
    costs = [step.cost for step in outcome.record.path]
    assert costs == sorted(costs, reverse=True)
    assert (found.measurements > 2) == (rest > 0)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("./nothing {onnx}", "the command cannot be run: no such file or directory"),
        (f"{sys.executable} -c 'raise SystemExit(3)' {{onnx}}", "the command failed with exit code 3"),
        (f"{sys.executable} -c 'print(1, chr(10), -2)' {{onnx}}", "ends with no milliseconds"),
        ("echo {onnx} none", "ends with no milliseconds"),
    ],
)
def test_commands_that_say_no_milliseconds(command, told, tmp_path):
    budget = LatencyBudget.model_validate({"at_most": "60%", "backend": {"command": command}})
    with pytest.raises(PassError) as error:
        timed([tmp_path / "none.onnx"], [], budget, tmp_path)
    assert error.value.diagnostics[0].code == "P414"
    assert told in error.value.diagnostics[0].message


def test_a_command_is_asked_in_turns_from_the_folder_of_the_spec(tmp_path):
    (tmp_path / "say.sh").write_text('#!/bin/sh\necho "$1" >> asked\ncat "$1"\n')
    (tmp_path / "say.sh").chmod(0o755)
    for name, text in (("a", "first 1\n10 ms"), ("b", "5.5e0ms")):
        (tmp_path / name).write_text(text)
    budget = LatencyBudget.model_validate({"at_most": "60%", "backend": {"command": "./say.sh {onnx}"}})
    found = timed([tmp_path / "a", tmp_path / "b"], [], budget, tmp_path)
    assert [spread.median for spread in found.ms] == [10.0, 5.5]
    assert found.ratios[1].median == 0.55
    asked = [line.rpartition("/")[2] for line in (tmp_path / "asked").read_text().split()]
    assert asked == ["a", "b"] * TURNS
