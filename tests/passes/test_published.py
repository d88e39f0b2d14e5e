"""The published search against tables."""

import math

import pytest

from passes.published import published
from passes.schedule import growth
from passes.space import worst_rise
from specs.diagnostics import PassError
from tests.passes.tables import Table, kept, one, options, two


def search(space, options):
    return published(space, options, growth(options.tolerance, options.total, len(space.groups)))


def test_rejected_at_the_first_ratio_leaves_the_group_whole():
    outcome = search(one(1.0, 1.2), options())
    (decision,) = outcome.decisions
    assert (decision.kept, decision.ratio, decision.stopped_by) == (10, 0.0, "t")
    assert decision.reason == "at ratio 0.10 the loss of 't' rose by 20.0%, 10.0% were allowed"
    assert decision.losses == {}
    assert outcome.keep.all()


def test_never_rejected_takes_the_last_ratio_and_nobody_stopped_it():
    (decision,) = search(one(1.0, 1.01, 1.02, 1.03), options()).decisions
    assert (decision.kept, decision.ratio, decision.stopped_by) == (7, 0.3, None)
    assert decision.reason == "every ratio up to 0.30 was accepted"
    assert decision.margin == pytest.approx(0.07)


def test_the_last_ratio_before_the_rejection_counts():
    (decision,) = search(one(1.0, 1.02, 1.05, 1.5), options()).decisions
    assert (decision.kept, decision.ratio, decision.stopped_by) == (8, 0.2, "t")
    assert decision.losses == {"t": 1.05}
    assert decision.margin == pytest.approx(0.05)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_rejects(bad):
    (decision,) = search(one(1.0, 1.0, bad, 1.0), options()).decisions
    assert decision.kept == 9
    assert decision.reason == "at ratio 0.20 the loss of 't' rose to a value that is not finite, 10.0% were allowed"


def test_a_dip_after_the_rejection_is_never_seen():
    space = one(1.0, 1.05, 1.2, 1.0)
    assert kept(search(space, options())) == {"a": 9}
    assert (3,) not in space.asked


def test_a_tie_with_the_tolerance_is_accepted():
    assert kept(search(one(1.0, 1.1, 1.1, 1.1000001), options())) == {"a": 8}


def test_ratios_that_remove_nothing_are_not_evaluated():
    space = one(1.0, 1.0)
    (decision,) = search(space, options(grid=(0.01, 0.05, 0.1))).decisions
    assert space.asked == [(0,), (1,)]
    assert decision.ratio == 0.1


def test_falling_losses_leave_the_base_where_it_is():
    """The base only rises: after a fell to 0.5, b may still go up to 1.1 times the first base."""
    losses = {(0, 0): 1.0, (1, 0): 0.8, (2, 0): 0.6, (3, 0): 0.5, (3, 1): 1.0, (3, 2): 1.04, (3, 3): 1.3}
    space = two(losses, {"a": 9, "b": 1})
    assert kept(search(space, options(total=1.2))) == {"a": 7, "b": 8}


def test_lambda_below_one_puts_the_dearest_group_first_and_tightens():
    # (1 + .1)(1 + .1 x) = 1.15: x = .4545, so b may rise by 4.5% above a's new base of 1.1
    losses = {(0, 0): 1.0, (1, 0): 1.1, (2, 0): 1.2, (1, 1): 1.149, (1, 2): 1.151}
    space = two(losses, {"a": 9, "b": 1})
    outcome = search(space, options(total=1.15))
    assert [d.group for d in outcome.decisions] == ["a", "b"]
    assert outcome.record.growth == pytest.approx((1.15 / 1.1 - 1) / 0.1)
    assert kept(outcome) == {"a": 9, "b": 9}


def test_lambda_above_one_puts_the_dearest_group_last_and_loosens():
    # (1 + .1)(1 + .1 x) = 1.43: x = 3, so a, searched last, may rise by 30%
    losses = {(0, 0): 1.0, (0, 1): 1.05, (0, 2): 1.2, (1, 1): 1.36, (2, 1): 1.37}
    space = two(losses, {"a": 9, "b": 1})
    outcome = search(space, options(total=1.43))
    assert [d.group for d in outcome.decisions] == ["b", "a"]
    assert kept(outcome) == {"a": 9, "b": 9}


def test_a_refused_group_leaves_tolerance_and_base_unchanged():
    losses = {(0, 0): 1.0, (1, 0): 1.2, (0, 1): 1.09, (0, 2): 1.2}
    assert kept(search(two(losses, {"a": 9, "b": 1}), options(total=1.15))) == {"a": 10, "b": 9}


def test_the_worst_task_decides():
    table = {(0,): {"s": 1.0, "t": 4.0}, (1,): {"s": 1.01, "t": 4.2}, (2,): {"s": 1.02, "t": 4.6}}
    space = Table(("a",), table, {"a": 1}, weights={"s": 1.0, "t": 1.0})
    (decision,) = search(space, options()).decisions
    assert (decision.kept, decision.stopped_by) == (9, "t")


def test_top_share_drops_the_cut_that_costs_most_per_mac():
    # a: 0.05 for 9 MACs, b: 0.05 for 1 MAC: of two groups one stays, and it is cut on the start again
    losses = {(0, 0): 1.0, (1, 0): 1.05, (2, 0): 1.5, (1, 1): 1.1, (1, 2): 1.5}
    outcome = search(two(losses, {"a": 9, "b": 1}), options(total=1.2, top=0.5))
    assert kept(outcome) == {"a": 9, "b": 10}
    assert outcome.decisions[1].reason.endswith("dropped: its loss rise per MAC is not in the top share")
    assert outcome.decisions[1].ratio == 0.0


def test_top_share_of_one_group_keeps_it():
    assert kept(search(one(1.0, 1.05, 1.5), options(top=0.5))) == {"a": 9}


def test_the_budget_ends_the_search_at_the_step_that_meets_it():
    losses = {(0, 0): 1.0, (1, 0): 1.01, (2, 0): 1.02, (3, 0): 1.03}
    space = two(losses, {"a": 9, "b": 1}, limit=100 - 18)
    outcome = search(space, options(total=1.15, stop="budget"))
    assert kept(outcome) == {"a": 8, "b": 10}
    assert [d.reason for d in outcome.decisions] == [
        "the budgets were met at ratio 0.20",
        "the budgets were met before its turn",
    ]
    assert space.asked == [(0, 0), (1, 0), (2, 0)]


def test_every_evaluation_is_told():
    space = one(1.0, 1.02, 1.2)
    search(space, options())
    assert [(e.group, e.ratio, e.task, e.verdict) for e in space.seen] == [
        ("a", 0.1, "t", "accepted"),
        ("a", 0.2, "t", "rejected"),
    ]


def test_a_base_that_is_not_finite_is_refused():
    with pytest.raises(PassError) as caught:
        search(one(math.nan), options())
    assert str(caught.value).startswith(
        "error[P404]: the loss of task 't' is nan before anything is cut\n  hint: where samples have no"
    )


def test_rises_over_bases_that_are_not_positive():
    assert worst_rise({"t": -0.9}, {"t": -1.0}) == ("t", pytest.approx(1.1))
    assert worst_rise({"t": -1.1}, {"t": -1.0}) == ("t", 1.0)
    assert worst_rise({"t": 0.0}, {"t": 0.0}) == ("t", 1.0)
    assert worst_rise({"t": 0.1}, {"t": 0.0}) == ("t", math.inf)
    assert worst_rise({"s": math.nan, "t": 9.0}, {"s": 1.0, "t": 1.0}) == ("s", math.inf)


def test_a_task_with_a_tolerance_of_its_own_is_held_to_it():
    # s rises by 3% and 6%, t by 8% and 9%: at 5% of its own, s rejects the second
    table = {(0,): {"s": 1.0, "t": 1.0}, (1,): {"s": 1.03, "t": 1.08}, (2,): {"s": 1.06, "t": 1.09}}
    space = Table(("a",), table, {"a": 1}, weights={"s": 1.0, "t": 1.0})
    (decision,) = search(space, options(tolerances={"s": 0.05})).decisions
    assert (decision.kept, decision.stopped_by) == (9, "s")
    assert decision.reason == "at ratio 0.20 the loss of 's' rose by 6.0%, 5.0% were allowed"
    assert (decision.rise, decision.margin) == (pytest.approx(0.08), pytest.approx(0.02))


def test_the_record_says_what_each_task_ended_at():
    space = one(1.0, 1.02, 1.05, 1.5)
    record = search(space, options()).record
    assert (record.search, record.total, record.factors) == ("published", pytest.approx(1.1), {"t": 1.05})


def test_a_dropped_group_is_measured_without():
    losses = {(0, 0): 1.0, (1, 0): 1.05, (2, 0): 1.5, (1, 1): 1.1, (1, 2): 1.5}
    assert search(two(losses, {"a": 9, "b": 1}), options(total=1.2, top=0.5)).record.factors == {"t": 1.05}
