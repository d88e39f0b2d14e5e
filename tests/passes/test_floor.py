"""`floor`: rises are measured over no less, in every search; a calibration set that was learned by heart is told."""

from dataclasses import replace

import numpy as np
import pytest

from passes.certified import certified
from passes.journal import Journal, read_journal
from passes.marginal import marginal
from passes.memorised import warn_memorised
from passes.published import published
from passes.racing import RacingRule
from passes.sequential import Base, Turn
from specs.options import PagcpOptions
from tests.passes.tables import kept, one, options, two
from tests.passes.test_racing import Drawn, pair


@pytest.mark.parametrize(("floor", "left"), [(None, 10), (0.1, 9), ({"t": 0.2}, 7), ({"s": 9.0}, 10), (1e-4, 10)])
@pytest.mark.parametrize("search", [published, certified])
def test_rises_are_measured_over_the_floor(search, floor, left):
    """With a base of .001 a loss of .1 is a hundredfold; over a floor of .1 it is no rise at all."""
    space = one(0.001, 0.1, 0.15, 0.21)
    given = options(floor=floor, search=search.__name__)
    outcome = search(space, given, 1.0)
    assert kept(outcome) == {"a": left}
    assert outcome.record.factors["t"] == pytest.approx({10: 1, 9: 100, 7: 210}[left])


@pytest.mark.parametrize("floor", [None, 0.5])
def test_a_base_above_the_floor_rises_as_ever(floor):
    space = two({(0, 0): 1.0, (1, 0): 1.09, (2, 0): 1.2, (1, 1): 1.19, (1, 2): 1.3}, {"a": 2, "b": 1})
    assert kept(published(space, options(floor=floor, grid=(0.1, 0.2)), 1.0)) == {"a": 9, "b": 9}


def test_marginal_weighs_tasks_over_their_floors():
    """`s` is nearly 0, so that cutting `a`, which costs it .01, is dear; with a floor it is cheap."""

    def losses(key):
        return {"s": 0.001 + 0.01 * key[0], "t": 1 + 0.05 * key[1]}

    table = {(a, b): losses((a, b)) for a in range(4) for b in range(4)}

    def search(**given):
        space = two({}, {"a": 1, "b": 1}, limit=18, weights={"s": 1.0, "t": 1.0})
        space.table = table
        return kept(marginal(space, options(search="marginal", stop="budget", total="auto", **given)))

    assert search() == {"a": 10, "b": 8}
    assert search(floor={"s": 1.0}) == {"a": 8, "b": 10}


@pytest.mark.parametrize(("floor", "accepted"), [(None, False), (0.05, False), (0.12, False), (0.4, True), (2.0, True)])
def test_a_race_is_over_the_floor_too(floor, accepted):
    rng = np.random.default_rng(0)
    before, after = pair(rng, 4096, 1.0)  # 1 -> 2
    before, after = before / 10, after / 10
    space = Drawn(("a",), {(0,): {"t": before}, (1,): {"t": after}}, {"a": 1})
    space.total = 4096
    given = options(floor=floor)
    base = Base(given.bounded(space.losses(space.start)), {"t": space.start})
    space.looked.clear()
    turn = Turn("a", space.start, base, 0.2, {"t": 1.0}, base.losses, (), lambda step: False)
    keep = space.cut(space.start, "a", 0.1).keep
    rule = RacingRule(space, 0.999, 1, floors=given.floors(["t"]))
    ruling = rule(space, turn, keep)
    assert ruling.accepted == accepted
    assert space.looked[(1,)] < 4096
    assert ruling.losses["t"] == pytest.approx(0.2, rel=0.3)


def test_a_calibration_set_that_was_trained_on_is_told(case, tmp_path):
    losses = case.ctx.oracle.losses(case.state.program, case.state.channels, case.state.channels.all)
    ctx = replace(case.ctx, journal=Journal(tmp_path / "journal.jsonl"))
    warn_memorised(losses, case.state.program, ctx)
    assert [r["kind"] for r in read_journal(tmp_path / "journal.jsonl")] == ["answer"]
    warn_memorised({"label": losses["label"], "map": losses["map"] / 3}, case.state.program, ctx)
    (record,) = [r for r in read_journal(tmp_path / "journal.jsonl") if r["kind"] == "warning"]
    told = record["message"]
    assert told.startswith(f"the loss of 'map' is {losses['map'] / 3:.4g} on the calibration set and ")
    assert told.endswith(
        " on validation: it seems to have been trained on; calibrate on other images, or give the task a floor"
    )


def test_floors_by_task_and_for_all():
    assert PagcpOptions(floor=0.5).bounded({"s": 0.1, "t": 1.0}) == {"s": 0.5, "t": 1.0}
    assert PagcpOptions(floor={"t": 2.0}).bounded({"s": 0.1, "t": 1.0}) == {"s": 0.1, "t": 2.0}
    assert PagcpOptions().bounded({"s": -0.1}) == {"s": -0.1}
