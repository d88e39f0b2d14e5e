"""The marginal search against tables: what goes first, where it ends, what a swap needs to be kept."""

import math

import numpy as np
import pytest

from passes.marginal import marginal, read_off
from specs.diagnostics import PassError
from specs.plan import indices
from tests.passes.tables import Formula, Table, kept, one, options, two


def search(space, **given):
    given = {
        "search": "marginal",
        "stop": "budget",
        "total": "auto",
        "swaps": 0,
        "moves": 0,
        "grid": (0.1, 0.2, 0.3),
        **given,
    }
    return marginal(space, options(**given))


def path(outcome):
    return [(step.group, step.ratio) for step in outcome.record.path]


def apart(a, b):
    """The loss is 1 and what each group's units cost."""
    return Formula(lambda key: {"t": 1 + a[key[0]] + b[key[1]]})


def test_the_cheapest_step_per_mac_goes_next():
    # per MAC: a .01, .03, .04; b .02, .02, .06. Budget: 40 of 60 MACs
    space = Table(("a", "b"), apart((0, 0.04, 0.16, 0.32), (0, 0.04, 0.08, 0.2)), {"a": 4, "b": 2}, limit=48)
    outcome = search(space)
    assert path(outcome) == [("a", 0.1), ("b", 0.1), ("b", 0.2), ("a", 0.2)]
    assert kept(outcome) == {"a": 8, "b": 8}
    assert [step.cost for step in outcome.record.path] == [56, 54, 52, 48]
    # loads: 0.04 / 0.1 over 4 MACs, ...
    assert [step.price for step in outcome.record.path] == pytest.approx([0.1, 0.2, 0.2, 0.3])
    assert outcome.record.factors == {"t": pytest.approx(1.24)}


def test_a_price_that_rose_is_seen_before_it_is_paid():
    """b is cheaper at first, but not once a is cut: its price is measured again."""
    losses = {(0, 0): 1.0, (1, 0): 1.01, (0, 1): 1.02, (1, 1): 1.5, (2, 0): 1.04, (3, 0): 1.09}
    outcome = search(two(losses, {"a": 1, "b": 1}, limit=18))
    assert path(outcome) == [("a", 0.1), ("a", 0.2)]


def test_only_the_cheapest_price_is_measured_again():
    space = Table(("a", "b"), apart((0, 0.01, 0.02, 0.03), (0, 0.5, 1, 2)), {"a": 1, "b": 1}, limit=18)
    search(space)
    assert space.asked == [(0, 0), (1, 0), (0, 1), (2, 0)]


def test_among_equal_prices_what_saves_most_goes_first():
    space = Table(("a", "b"), apart((0, 0, 0, 0), (0, 0, 0, 0)), {"a": 1, "b": 5}, limit=55)
    assert path(search(space)) == [("b", 0.1)]


def test_falling_losses_are_free_not_a_gain():
    """a falls by more than b, but both are free, and b saves more."""
    space = Table(("a", "b"), apart((0, -0.5, -0.6, -0.7), (0, -0.1, -0.2, -0.3)), {"a": 1, "b": 5}, limit=55)
    outcome = search(space)
    assert path(outcome) == [("b", 0.1)]
    assert outcome.record.path[0].price == 0.0


def test_the_task_that_a_step_costs_most_prices_it():
    table = Formula(lambda key: {"s": 1 + 0.02 * key[0], "t": 10 + 0.1 * key[0]})
    space = Table(("a",), table, {"a": 1}, limit=9, weights={"s": 1.0, "t": 1.0})
    (decision,) = search(space).decisions
    assert (decision.priced_by, decision.stopped_by, decision.rise) == ("s", None, pytest.approx(0.02))


def test_a_task_that_tolerates_more_pays_less():
    def table(key):
        return {"s": 1 + 0.02 * key[0] + 0.01 * key[1], "t": 1 + 0.005 * key[0] + 0.015 * key[1]}

    def first(**given):
        space = Table(("a", "b"), Formula(table), {"a": 1, "b": 1}, limit=19, weights={"s": 1.0, "t": 1.0})
        return path(search(space, **given))[0][0]

    assert first() == "b"
    assert first(tolerances={"s": 0.2}) == "a"


def test_the_last_step_is_no_larger_than_the_budget_asks_for():
    space = one(1.0, *[1 + 0.01 * i for i in range(1, 10)], limit=7)
    outcome = search(space, grid=(0.2, 0.6))
    assert path(outcome) == [("a", 0.2), ("a", 0.3)]
    assert kept(outcome) == {"a": 7}
    assert outcome.record.factors == {"t": pytest.approx(1.03)}


def test_a_budget_met_exactly_at_a_step_takes_the_step_whole():
    space = one(1.0, 1.01, 1.02, 1.03, limit=8)
    outcome = search(space)
    assert (kept(outcome), path(outcome)) == ({"a": 8}, [("a", 0.1), ("a", 0.2)])
    assert (3,) not in space.asked


def test_budgets_met_from_the_start_cut_nothing():
    outcome = search(one(1.0, limit=10))
    assert outcome.keep.all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_group(bad):
    space = two({(0, 0): 1.0, (1, 0): bad, (0, 1): 1.1, (0, 2): 1.2}, {"a": 1, "b": 1}, limit=18)
    outcome = search(space)
    assert kept(outcome) == {"a": 10, "b": 8}
    a = outcome.decisions[0]
    assert (a.reason, a.stopped_by) == ("its next cut raises the loss of 't' to a value that is not finite", "t")


def test_a_base_that_is_not_finite_is_refused():
    with pytest.raises(PassError) as caught:
        search(one(math.nan))
    assert str(caught.value).startswith(
        "error[P404]: the loss of task 't' is nan before anything is cut\n  hint: where samples have no"
    )


def test_without_budgets_it_goes_as_far_as_the_total_allows():
    outcome = search(one(1.0, 1.1, 1.25, 1.31), stop="tolerance", total=1.3)
    (decision,) = outcome.decisions
    assert (decision.kept, decision.stopped_by) == (8, "t")
    assert decision.reason == "its next cut raises the loss of 't' by 31.0%, 30.0% are allowed"


def test_a_step_that_the_total_does_not_allow_leaves_room_for_others():
    outcome = search(
        two({(0, 0): 1.0, (1, 0): 1.5, (0, 1): 1.1, (0, 2): 1.2, (0, 3): 1.4}, {"a": 9, "b": 1}), total=1.3
    )
    assert kept(outcome) == {"a": 10, "b": 8}


def test_the_last_ratio_ends_a_group():
    (decision,) = search(one(1.0, 1.0, 1.0, 1.0)).decisions
    assert (decision.kept, decision.reason) == (7, "the last ratio of the grid was reached")


def test_a_swap_that_helps_is_kept():
    """Greedy takes a, and then c, which does not go with it. In a's place b costs less."""
    table = {
        (0, 0, 0): 1.0,
        (1, 0, 0): 1.01,
        (0, 1, 0): 1.10,
        (0, 0, 1): 1.11,
        (1, 1, 0): 1.40,
        (1, 0, 1): 1.30,
        (0, 1, 1): 1.2,
    }
    space = Table(("a", "b", "c"), {k: {"t": v} for k, v in table.items()}, {"a": 1, "b": 1, "c": 1}, limit=28)
    greedy = search(space, grid=(0.1,))
    assert path(greedy) == [("a", 0.1), ("c", 0.1)]
    outcome = search(space, swaps=5, grid=(0.1,))
    assert kept(outcome) == {"a": 10, "b": 9, "c": 9}
    assert (outcome.record.swaps, outcome.record.factors) == (1, {"t": 1.2})
    assert path(outcome) == path(greedy)  # the path stays, another budget can be read off
    told = [(e.group, e.verdict) for e in space.seen if e.verdict in ("kept", "dropped")]
    assert told[0] == ("c", "dropped")
    assert ("a", "kept") in told


def test_a_swap_that_does_not_help_is_dropped():
    space = Table(("a", "b"), apart((0, 0.01, 0.5, 1), (0, 0.1, 0.6, 1)), {"a": 1, "b": 1}, limit=19)
    outcome = search(space, swaps=5)
    assert (kept(outcome), outcome.record.swaps) == ({"a": 9, "b": 10}, 0)
    assert [e.verdict for e in space.seen][-1] == "dropped"


def test_another_budget_is_read_off_the_path():
    rng = np.random.default_rng(0)
    for _ in range(50):
        steps = [np.concatenate([[0], rng.uniform(0, 0.1, 9)]).cumsum() for _ in range(3)]
        table = Formula(lambda key, steps=steps: {"t": 1 + sum(s[n] for s, n in zip(steps, key, strict=True))})
        macs = {name: int(rng.integers(1, 9)) for name in "abc"}
        whole = 10 * sum(macs.values())
        given = {"grid": tuple(k / 10 for k in range(1, 10))}
        deep = search(Table(("a", "b", "c"), table, macs, limit=int(0.3 * whole)), **given)
        for share in (0.4, 0.6, 0.8):
            space = Table(("a", "b", "c"), table, macs, limit=int(share * whole))
            assert (read_off(space, deep.record.path, share * whole) == search(space, **given).keep).all()


def test_the_path_says_which_units_went():
    outcome = search(one(1.0, 1.01, 1.02, 1.03, limit=8))
    assert [indices(step.removed) for step in outcome.record.path] == [(0,), (1,)]


def test_it_never_loses_more_than_any_other_order_of_separable_convex_losses():
    """With losses that add up and rise ever more steeply, greedy by price is optimal up to the last step."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        steps = [np.concatenate([[0], np.sort(rng.uniform(0, 0.2, 9))]).cumsum() for _ in range(2)]
        table = Formula(lambda key, steps=steps: {"t": 1 + steps[0][key[0]] + steps[1][key[1]]})
        space = Table(("a", "b"), table, {"a": 1, "b": 1}, limit=12)
        outcome = search(space, grid=tuple(k / 10 for k in range(1, 10)))
        best = min(table[(i, 8 - i)]["t"] for i in range(9))
        assert outcome.record.factors["t"] == pytest.approx(best)


STRIDES = {"grid": tuple(round(0.1 * i, 1) for i in range(1, 10)), "moves": 5}


def test_a_stride_saves_its_share_of_what_the_budgets_ask_for():
    # 20 of 100 MACs to save in 5 strides: 4 each, which is one unit of b, two of a, and two of what is left of a
    free = apart((0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09), [0.9 * i for i in range(10)])
    outcome = search(Table(("a", "b"), free, {"a": 2, "b": 8}, limit=88), **STRIDES)
    assert path(outcome) == [("a", 0.2), ("a", 0.4), ("a", 0.6)]


def test_no_stride_is_wider_than_three_tenths_of_its_group():
    space = Table(("a", "b"), apart(range(10), [0.01 * i for i in range(10)]), {"a": 9, "b": 1}, limit=91)
    outcome = search(space, **{**STRIDES, "moves": 2})
    assert path(outcome)[:2] == [("b", 0.3), ("b", 0.6)]


def test_strides_go_on_from_what_is_nearly_the_cheapest():
    """b's, priced last, is a little dearer than a's."""
    costs = (0.0, 0.0, 0.010, 0.010, 0.022, 0.022, 0.05, 0.05, 0.1, 0.1)
    space = Table(("a", "b"), apart(costs, (0.0, 0.0, 0.0115, *range(1, 8))), {"a": 1, "b": 1}, limit=10)
    outcome = search(space, **{**STRIDES, "grid": (0.2, 0.4, 0.6, 0.8)})
    assert path(outcome)[:2] == [("b", 0.2), ("a", 0.2)]


def test_where_a_stride_is_too_dear_single_steps_are_tried():
    space = one(*[1 + 0.1 * i for i in range(10)])
    outcome = search(space, stop="tolerance", total=1.45, **{**STRIDES, "moves": 2})
    assert kept(outcome) == {"a": 6}
    assert path(outcome) == [("a", 0.3), ("a", 0.4)]
    (decision,) = outcome.decisions
    assert decision.reason == "its next cut raises the loss of 't' by 50.0%, 45.0% are allowed"
