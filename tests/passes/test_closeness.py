"""How close decisions are: by hand, and by searches whose tables are changed by a little more and a little less."""

import math

import numpy as np
import pytest

from passes.certified import certified
from passes.closeness import of_loads, of_rises
from passes.marginal import marginal
from passes.published import published
from passes.racing import interval
from tests.passes.tables import Formula, Table, kept, one, options, two

TIGHT = 1e-9


def test_by_hand():
    base = {"t": 2.0, "u": 1.0}
    # 5% and 2% above: 10% are allowed
    assert of_rises({"t": 2.1, "u": 1.02}, base, {"t": 0.1, "u": 0.1}) == pytest.approx(0.05 / 1.05)
    # both are refused: both would have to be lower, the one farther off by a tenth of itself
    assert of_rises({"t": 2.4, "u": 1.15}, base, {"t": 0.1, "u": 0.1}) == pytest.approx(0.1 / 1.2)
    assert of_rises({"t": math.nan, "u": 1.0}, base, {"t": 0.1, "u": 0.1}) == pytest.approx(0.1)
    assert of_loads(1.5, 2.0, 0.1, 1.15) == pytest.approx(0.05 / 1.15)
    assert of_loads(math.inf, 2.0, 0.1, math.inf) == math.inf


def test_an_interval_knows_how_far_it_is_from_being_settled():
    values = np.random.default_rng(0).normal(0.3, 1.0, 512)
    found = interval(values, 4096, 1e-3)
    assert found.refused
    for sign, settled in ((-1, True), (1, False)):
        moved = interval(values - (found.close + sign * 1e-6), 4096, 1e-3)
        assert (moved.refused, moved.allowed) == (settled, False)


def searched(search, space, given):
    outcome = {
        "published": lambda: published(space, given, 1.0),
        "certified": lambda: certified(space, given, 1.0),
        "marginal": lambda: marginal(space, given),
    }[search]()
    return kept(outcome)


@pytest.mark.parametrize("search", ["published", "certified"])
def test_less_than_the_closest_decision_changes_nothing_and_more_does(search):
    losses = [1.0, 1.04, 1.095, 1.2]
    given = options(search=search)

    def found(share):
        """The accepted loss that is closest to what is allowed, changed."""
        space = one(*(loss * (1 + share) if loss == 1.095 else loss for loss in losses))
        return searched(search, space, given), space

    before, space = found(0.0)
    margin = min(space.margins)
    assert margin == pytest.approx(0.005 / 1.095)
    assert before == {"a": 8}
    assert found(margin - TIGHT)[0] == before
    assert found(margin + TIGHT)[0] == {"a": 9}


def test_the_place_in_the_top_share_is_a_decision():
    # both steps save as much; b raises the loss by 0.002 more than a, and only one of them stays
    table = Formula(
        lambda key: {"t": 1 + 0.020 * (key[0] > 0) + 0.022 * (key[1] > 0) + 9.0 * (key[0] > 1 or key[1] > 1)}
    )
    space = Table(("a", "b"), table, {"a": 1, "b": 1})
    assert searched("published", space, options(top=0.5)) == {"a": 9, "b": 10}
    assert min(space.margins) == pytest.approx(0.002 / 1.020)


def test_a_price_that_is_hardly_the_lowest_is_a_close_decision():
    def table(share):
        cuts = {(1, 0): 1.020 * (1 + share), (0, 1): 1.021, (1, 1): 1.041, (2, 0): 1.5, (0, 2): 1.5, (2, 1): 1.5}
        return two({(0, 0): 1.0, (1, 2): 1.5, (2, 2): 1.5, **cuts}, {"a": 10, "b": 10}, limit=190)

    given = options(search="marginal", stop="budget", total="auto", moves=0, swaps=0)
    space = table(0.0)
    assert searched("marginal", space, given) == {"a": 9, "b": 10}
    margin = min(space.margins)
    assert margin == pytest.approx(0.001 / 1.020, rel=0.01)
    assert searched("marginal", table(margin * 0.98), given) == {"a": 9, "b": 10}
    assert searched("marginal", table(margin * 1.02), given) == {"a": 10, "b": 9}
