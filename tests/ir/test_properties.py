"""Random graphs over all ops, random legal plans: the rewritten network equals the masked original, costs are what is
counted, cutting twice is cutting once; the kinds of ops are in tests/ir/nets, `make fuzz` draws many more."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import HealthCheck, Phase, example, given, settings

from tests.ir.nets.check import Coverage, check, dealt, recipes
from tests.ir.nets.make import KEPT_WHOLE, KINDS
from tests.ir.nets.net import Recipe

DEALT, DRAWN = 110, 90


def run(phases: Sequence[Phase]) -> Coverage:
    """The 200 graphs; raises at the first that fails."""
    coverage = Coverage()

    def every(recipe: Recipe) -> None:
        check(recipe, coverage)

    drawn = given(recipes())(every)
    for recipe in dealt(DEALT, salt=0):
        drawn = example(recipe)(drawn)
    settings(
        max_examples=DRAWN,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=phases,
        derandomize=True,
    )(drawn)()
    return coverage


def test_random_graphs_are_cut_exactly() -> None:
    coverage = run((Phase.explicit, Phase.generate, Phase.shrink))
    assert not coverage.never_passed()


def test_kinds_have_names_that_recipes_can_say() -> None:
    assert set(KINDS) >= KEPT_WHOLE
    recipe = Recipe(3, tuple((kind, 5) for kind in KINDS))
    assert Recipe.parse(str(recipe)) == recipe
