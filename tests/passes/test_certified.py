"""The certified search: an accepted ratio whose next one is rejected, the scan's wherever acceptance is monotone."""

import math

import numpy as np
import pytest

from passes.certified import Judge, certified
from passes.schedule import growth
from specs.diagnostics import PassError
from tests.passes.tables import Formula, Table, kept, one, options, two
from tests.passes.test_published import search as scan

GRID = tuple(round(step / 10, 1) for step in range(1, 10))


def search(space, options):
    return certified(space, options, growth(options.tolerance, options.total, len(space.groups)))


def scouting(space, options, *scouts):
    factor = growth(options.tolerance, options.total, len(space.groups))
    asked = [lambda keep, scout=scout: {"t": scout(*space.removed(keep))} for scout in scouts]
    return certified(space, options, factor, Judge(scouts=asked))


def nine(**given):
    return options(**{"grid": GRID, **given})


def test_rejected_at_the_first_ratio_leaves_the_group_whole():
    outcome = search(one(1.0, *[1.2] * 9), nine())
    (decision,) = outcome.decisions
    assert (decision.kept, decision.ratio, decision.stopped_by, decision.losses) == (10, 0.0, "t", {})
    assert decision.reason == "at ratio 0.10 the loss of 't' rose by 20.0%, 10.0% were allowed"
    assert outcome.record.unknown == 0


def test_never_rejected_takes_the_last_ratio():
    space = one(1.0, *[1.01] * 9)
    outcome = search(space, nine())
    (decision,) = outcome.decisions
    assert (decision.kept, decision.ratio, decision.stopped_by) == (1, 0.9, None)
    assert decision.reason == "the last ratio, 0.90, was accepted"
    assert decision.margin == pytest.approx(0.09)
    assert outcome.record.unknown == 1


def test_both_neighbours_are_evaluated():
    space = one(1.0, 1.01, 1.02, 1.04, 1.07, 1.13, 1.2, 1.4, 2.0, 5.0)
    (decision,) = search(space, nine()).decisions
    assert (decision.kept, decision.stopped_by) == (6, "t")
    assert {(4,), (5,)} <= set(space.asked)
    assert len(space.asked) < 6  # the base among them; the scan asks for six
    assert decision.margin == pytest.approx(0.03)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_rejects(bad):
    (decision,) = search(one(1.0, 1.0, *[bad] * 8), nine()).decisions
    assert decision.kept == 9
    assert decision.reason.startswith("at ratio 0.20 the loss of 't' rose to a value that is not finite")


def test_a_tie_with_the_tolerance_is_accepted():
    assert kept(search(one(1.0, 1.1, 1.1, *[1.1000001] * 7), nine())) == {"a": 8}


def test_falling_losses_are_accepted():
    assert kept(search(one(1.0, 0.9, 0.8, 0.7, 0.6, *[3.0] * 5), nine())) == {"a": 6}


def test_a_dip_that_was_not_looked_at_is_counted_as_unknown():
    """The scan stops at the second unit; the loss dips below the tolerance again until the fourth."""
    losses = (1.0, 1.02, 1.15, 1.04, 1.05, 1.2, 1.4, 1.6, 2.0, 3.0)
    assert kept(scan(one(*losses), nine())) == {"a": 9}
    space = one(*losses)
    outcome = search(space, nine())
    accepted, rejected = 10 - kept(outcome)["a"], 11 - kept(outcome)["a"]
    assert losses[accepted] <= 1.1 < losses[rejected]
    assert {(accepted,), (rejected,)} <= set(space.asked)
    assert outcome.record.unknown == (0 if accepted == 1 else 1)


def test_where_all_smaller_ratios_were_looked_at_nothing_is_unknown():
    assert search(one(1.0, 1.05, 1.2, *[2.0] * 7), nine()).record.unknown == 0


@pytest.mark.parametrize(("total", "first"), [(1.15, "a"), (1.43, "b")])
def test_lambda_on_both_sides_of_one(total, first):
    def losses(key):
        return {"t": (1 + 0.02 * key[0] ** 1.5) * (1 + 0.03 * key[1] ** 1.5)}

    spaces = [Table(("a", "b"), Formula(losses), {"a": 9, "b": 1}) for _ in range(2)]
    outcome, expected = search(spaces[0], nine(total=total)), scan(spaces[1], nine(total=total))
    assert next(d.group for d in outcome.decisions) == first
    assert kept(outcome) == kept(expected)


def test_the_budget_ends_the_search_at_the_first_ratio_that_meets_it():
    space = one(1.0, *[1.01] * 9, limit=6)
    (decision,) = search(space, nine(stop="budget")).decisions
    assert (decision.kept, decision.reason) == (6, "the budgets were met at ratio 0.40")
    assert (5,) not in space.asked


def test_a_group_whose_turn_does_not_come_is_left_whole():
    losses = Formula(lambda key: {"t": 1.01})
    space = Table(("a", "b"), losses, {"a": 9, "b": 1}, limit=100 - 18)
    outcome = search(space, nine(stop="budget", total=1.15))
    assert kept(outcome) == {"a": 8, "b": 10}
    assert outcome.decisions[1].reason == "the budgets were met before its turn"


def test_top_share_drops_the_cut_that_costs_most_per_mac():
    losses = {(0, 0): 1.0, (1, 0): 1.05, (2, 0): 1.5, (3, 0): 1.5, (1, 1): 1.1, (1, 2): 1.5, (1, 3): 1.5}
    outcome = search(two(losses, {"a": 9, "b": 1}), options(total=1.2, top=0.5))
    assert kept(outcome) == {"a": 9, "b": 10}


def test_a_budget_that_the_top_share_does_not_keep_is_searched_on():
    """b would meet the budget, but is the dearer one of two and is dropped: it goes on like the scan."""

    def losses(key):
        return {"t": 1 + 0.005 * key[0] + 0.02 * key[1]}

    spaces = [Table(("a", "b"), Formula(losses), {"a": 5, "b": 4}, limit=90 - 24) for _ in range(2)]
    given = nine(total=1.2, top=0.5, stop="budget", max_ratio=0.9, grid=(0.1, 0.2, 0.3))
    assert kept(search(spaces[0], given)) == kept(scan(spaces[1], given))


def test_a_base_that_is_not_finite_is_refused():
    with pytest.raises(PassError) as caught:
        search(one(math.nan), nine())
    assert str(caught.value).startswith(
        "error[P404]: the loss of task 't' is nan before anything is cut\n  hint: where samples have no"
    )


def random_space(rng, monotone):
    groups = tuple("abcdef"[: rng.integers(1, 7)])
    scale, power = rng.uniform(0.0005, 0.02, (len(groups), 2)), rng.uniform(0.8, 3.0, (len(groups), 2))
    bumps = 1 + (0 if monotone else 0.1) * rng.standard_normal((len(groups), 11, 2))

    def losses(key):
        total = np.ones(2)
        for group, count in enumerate(key):
            total += scale[group] * count ** power[group] * bumps[group, count]
        return {"s": float(total[0]), "t": 3 * float(total[1])}

    macs = {group: int(rng.integers(1, 50)) for group in groups}
    limit = int(rng.uniform(0, 1) * 10 * sum(macs.values()))
    return lambda: Table(groups, Formula(losses), macs, limit, {"s": 1.0, "t": 1.0})


@pytest.mark.parametrize("stop", ["tolerance", "budget"])
def test_it_is_the_scan_wherever_acceptance_is_monotone(stop):
    rng = np.random.default_rng(0)
    asked = [0, 0]
    for _ in range(300):
        make = random_space(rng, monotone=True)
        given = nine(tolerance=0.2, total=float(rng.uniform(1.3, 9)), stop=stop)
        ours, theirs = make(), make()
        outcome, expected = search(ours, given), scan(theirs, given)
        assert (outcome.keep == expected.keep).all()
        assert [d.ratio for d in outcome.decisions] == [d.ratio for d in expected.decisions]
        asked[0] += len(ours.asked)
        asked[1] += len(theirs.asked)
    assert asked[0] < 0.8 * asked[1]


def test_it_is_locally_maximal_whatever_the_losses_are():
    rng = np.random.default_rng(1)
    for _ in range(300):
        space = random_space(rng, monotone=False)()
        outcome = search(space, nine(tolerance=0.2, total=float(rng.uniform(1.3, 9))))
        for decision in outcome.decisions:
            seen = [e for e in space.seen if e.group == decision.group]
            accepted = max((e.ratio for e in seen if e.verdict == "accepted"), default=0.0)
            rejected = min((e.ratio for e in seen if e.verdict == "rejected"), default=1.0)
            assert decision.ratio == accepted < rejected <= round(accepted + 0.1, 1)


def test_where_a_part_of_the_samples_tells_the_truth_only_two_cuts_are_evaluated():
    space = one(1.0, 1.01, 1.02, 1.04, 1.07, 1.13, 1.2, 1.4, 2.0, 5.0)
    outcome = scouting(space, nine(), lambda n: 3 * space.table[(n,)]["t"])  # its own base counts
    assert kept(outcome) == {"a": 6}
    assert space.asked == [(0,), (4,), (5,)]


def test_a_larger_part_corrects_a_smaller_one():
    space = one(1.0, 1.01, 1.02, 1.04, 1.07, 1.13, 1.2, 1.4, 2.0, 5.0)
    looked = []

    def truth(n):
        looked.append(n)
        return space.table[(n,)]["t"]

    for lie in (lambda n: 1.0, lambda n: 1.0 + n):
        space.asked.clear()
        looked.clear()
        assert kept(scouting(space, nine(), lie, truth)) == {"a": 6}
        assert space.asked in ([(0,), (4,), (5,)], [(0,), (5,), (4,)])
        assert {4, 5} <= set(looked)


def test_every_group_is_announced_while_the_one_before_is_looked_at():
    losses = {(i, j): 1.0 + 0.02 * i + 0.03 * j for i in range(10) for j in range(10)}
    space = two(losses, {"a": 2, "b": 1})
    search(space, nine())
    assert space.announced in (["b", None], ["a", None])
    groups = list(dict.fromkeys(e.group for e in space.seen))
    assert space.announced == [groups[1], None]


@pytest.mark.parametrize("lie", [lambda n: 1.0, lambda n: 1.0 + n, lambda n: 1.1 if n < 8 else 9.0])
def test_where_it_lies_the_answer_is_the_same(lie):
    space = one(1.0, 1.01, 1.02, 1.04, 1.07, 1.13, 1.2, 1.4, 2.0, 5.0)
    assert kept(scouting(space, nine(), lie)) == {"a": 6}
    assert {(4,), (5,)} <= set(space.asked)
