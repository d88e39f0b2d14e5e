"""The schedule's growth, and the smallest one that meets the budgets, against spans worked by hand."""

import math

import numpy as np
import pytest

from passes.certified import certified
from passes.published import published
from passes.schedule import growth, least_growth, total_of
from passes.space import Outcome
from specs.diagnostics import PassError
from specs.search import SearchRecord
from tests.passes.tables import options, two
from tests.passes.test_certified import random_space


@pytest.mark.parametrize(
    ("n", "d", "total", "expected"), [(20, 0.06, 6, 1.045), (40, 0.06, 6, 0.986), (60, 0.05, 1.5, 0.878)]
)
def test_growth_is_that_of_the_published_table(n, d, total, expected):
    factor = growth(d, total, n)
    assert factor == pytest.approx(expected, abs=6e-4)
    assert math.prod(1 + d * factor**i for i in range(n)) == pytest.approx(total, rel=1e-9)
    assert total_of(d, factor, n) == pytest.approx(total, rel=1e-9)


def test_growth_of_one_group_and_of_a_total_too_small():
    assert growth(0.06, 6.0, 1) == 1.0
    with pytest.raises(PassError) as caught:
        growth(0.06, 1.06, 5)
    assert str(caught.value) == "error[P403]: total must exceed 1 + tolerance = 1.06, got 1.06"


def steps(*ends):
    """A search that decides alike between these growths; the asked ones are noted."""
    asked = []

    def search(factor):
        asked.append(factor)
        below = max((end for end in ends if end <= factor), default=0.0)
        above = min((end for end in ends if end > factor), default=math.inf)
        return Outcome(np.array([below]), (), SearchRecord("x", {}), (below, above))

    return search, asked


@pytest.mark.parametrize("end", [0.4, 0.7, 1.3, 2.9])
def test_the_smallest_growth_is_the_end_of_a_span(end):
    search, asked = steps(0.4, 0.7, 1.0001, 1.3, 2.9)
    found, outcome = least_growth(search, lambda outcome: outcome.keep[0] >= end, 0.06, 4)
    assert found == pytest.approx(end, rel=1e-8)
    assert outcome.keep[0] == end
    assert len(asked) < 8


def test_budgets_that_every_growth_meets_take_the_smallest():
    search, asked = steps()
    assert least_growth(search, lambda outcome: True, 0.06, 10)[0] == 1e-3
    assert asked == [1.0]


def test_budgets_that_none_meets_end_at_the_largest_total():
    search, _ = steps(0.5, 2.0)
    found, _ = least_growth(search, lambda outcome: False, 0.06, 10)
    assert found >= 1.0


def test_it_ends_where_spans_are_many():
    search, asked = steps(*np.linspace(0.5, 3, 1000))
    found, _ = least_growth(search, lambda outcome: outcome.keep[0] >= 1.777, 0.06, 10)
    assert found == pytest.approx(1.777, rel=3e-3)
    assert len(asked) < 20


def test_the_span_of_a_run_worked_by_hand():
    # a takes two units at the first tolerance. b, second: 5% accepted, 20% rejected, so that 0.1 x in .05...20
    losses = {(0, 0): 1.0, (1, 0): 1.0, (2, 0): 1.0, (3, 0): 2.0, (2, 1): 1.05, (2, 2): 1.2}
    outcome = published(two(losses, {"a": 9, "b": 1}), options(), 0.7)
    assert outcome.span == pytest.approx((0.5, 1.0))  # 2.0, but above 1 the order is another
    assert published(two(losses | {(0, 1): 3.0}, {"a": 9, "b": 1}), options(), 1.5).span[0] > 1


@pytest.mark.parametrize("search", [published, certified])
def test_every_growth_of_a_span_decides_alike(search):
    rng = np.random.default_rng(3)
    for _ in range(60):
        make = random_space(rng, monotone=True)
        given = options(tolerance=0.1, grid=tuple(k / 10 for k in range(1, 10)))
        factor = float(rng.uniform(0.5, 2))
        outcome = search(make(), given, factor)
        low, high = outcome.span
        assert low <= factor <= high
        for other in (low * (1 + 1e-9), min(high, 50.0) * (1 - 1e-9)):
            assert (search(make(), given, max(other, 1e-3)).keep == outcome.keep).all()
