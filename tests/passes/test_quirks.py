"""`quirks: true` against runs worked by hand; beside each, what happens without."""

import math

import pytest

from tests.passes.tables import Table, kept, one, options, two
from tests.passes.test_published import search


def test_never_rejected_takes_the_last_ratio_but_one():
    space = one(1.0, 1.01, 1.02, 1.03)
    assert kept(search(space, options(quirks=True))) == {"a": 8}
    assert kept(search(space, options())) == {"a": 7}


def test_never_rejected_the_search_goes_on_as_if_it_were_whole():
    """b is searched on the whole a, with the first tolerance and base; both are cut in the end."""
    losses = {(0, 0): 1.0, (1, 0): 1.08, (2, 0): 1.08, (3, 0): 1.08, (0, 1): 1.09, (0, 2): 1.11, (2, 1): 1.3}
    space = two(losses, {"a": 9, "b": 1})
    outcome = search(space, options(total=1.15, quirks=True))
    assert kept(outcome) == {"a": 8, "b": 9}
    assert outcome.record.factors == {"t": 1.3}
    assert (3, 1) not in space.asked


def test_one_ratio_alone_is_its_own_last_but_one():
    assert kept(search(one(1.0, 1.01), options(quirks=True, grid=(0.1,)))) == {"a": 9}


def test_a_loss_that_is_nan_never_rejects():
    space = one(1.0, math.nan, 1.2)
    assert kept(search(space, options(quirks=True))) == {"a": 9}
    assert kept(search(space, options())) == {"a": 10}


def test_nan_hides_the_tasks_after_it_but_none_before_it():
    table = {(0,): {"s": 1.0, "t": 1.0}, (1,): {"s": math.nan, "t": 9.0}, (2,): {"s": 9.0, "t": math.nan}}
    space = Table(("a",), table, {"a": 1}, weights={"s": 1.0, "t": 1.0})
    assert kept(search(space, options(quirks=True))) == {"a": 9}


def test_an_infinite_loss_rejects():
    assert kept(search(one(1.0, math.inf), options(quirks=True))) == {"a": 10}


def test_a_group_that_loses_nothing_takes_a_place_in_the_ranking():
    """The first ratio removes nothing of b, the second is rejected: at a rise of 0 it is the cheapest of two."""
    losses = {(0, 0): 1.0, (1, 0): 1.05, (2, 0): 1.5, (1, 1): 1.5}
    grid = (0.05, 0.1, 0.2)
    space = two(losses, {"a": 9, "b": 1})
    assert kept(search(space, options(quirks=True, total=1.2, top=0.5, grid=grid))) == {"a": 10, "b": 10}
    assert kept(search(space, options(total=1.2, top=0.5, grid=grid))) == {"a": 9, "b": 10}


def test_bases_that_rose_in_different_groups_make_the_empty_group_dear():
    """s rose with a, t with b: the sum of the bases exceeds every total, and c's rise of that over 1e-20 is huge."""
    table = {
        (0, 0, 0): {"s": 1.0, "t": 1.0},
        (1, 0, 0): {"s": 1.08, "t": 0.9},
        (2, 0, 0): {"s": 9.0, "t": 9.0},
        (1, 1, 0): {"s": 1.0, "t": 1.05},
        (1, 2, 0): {"s": 9.0, "t": 9.0},
        (1, 1, 1): {"s": 9.0, "t": 9.0},
    }
    space = Table(("a", "b", "c"), table, {"a": 9, "b": 5, "c": 1}, weights={"s": 1.0, "t": 1.0})
    outcome = search(space, options(quirks=True, total=1.3, top=0.67, grid=(0.05, 0.1, 0.2)))
    assert kept(outcome) == {"a": 9, "b": 9, "c": 10}


def test_a_share_that_keeps_none_keeps_none():
    space = one(1.0, 1.05, 1.5)
    assert kept(search(space, options(quirks=True, top=0.5))) == {"a": 10}
    assert kept(search(space, options(top=0.5))) == {"a": 9}


def test_losses_are_ranked_unweighed():
    """Both cuts of one unit: by weights a costs 0.5 for 9 MACs and b 0.06 for 8, unweighed 0.05 and 0.06."""
    table = {
        (0, 0): {"s": 1.0, "t": 1.0},
        (1, 0): {"s": 1.05, "t": 1.0},
        (0, 1): {"s": 1.0, "t": 1.06},
        (2, 0): {"s": 9.0, "t": 9.0},
        (1, 1): {"s": 1.05, "t": 1.06},
        (1, 2): {"s": 9.0, "t": 9.0},
    }
    space = Table(("a", "b"), table, {"a": 9, "b": 8}, weights={"s": 10.0, "t": 1.0})
    assert kept(search(space, options(quirks=True, total=1.2, top=0.5))) == {"a": 9, "b": 10}
    assert kept(search(space, options(total=1.2, top=0.5))) == {"a": 10, "b": 9}


def test_without_a_quirk_to_show_both_decide_alike():
    space = one(1.0, 1.02, 1.05, 1.5)
    plain, quirky = (search(space, options(quirks=quirks)) for quirks in (False, True))
    assert (plain.keep == quirky.keep).all()
    assert plain.decisions[0].margin == pytest.approx(quirky.decisions[0].margin)
