"""Random graphs over all ops, random legal plans: the rewritten network equals the masked original, costs are what is
counted, cutting twice is cutting once; the kinds of ops are in tests/ir/nets, `make fuzz` draws many more."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings

from tests.ir.nets.check import Coverage, check, recipes
from tests.ir.nets.make import KEPT_WHOLE, KINDS
from tests.ir.nets.net import Recipe


def test_random_graphs_are_cut_exactly() -> None:
    coverage = Coverage()

    @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(recipes())
    def every(recipe: Recipe) -> None:
        check(recipe, coverage)

    every()
    assert sum(coverage.met[kind] > 0 for kind in KINDS) > 0.9 * len(KINDS)
    assert len(coverage.never_passed()) < 0.1 * len(KINDS), coverage.never_passed()


def test_kinds_have_names_that_recipes_can_say() -> None:
    assert set(KINDS) >= KEPT_WHOLE
    recipe = Recipe(3, tuple((kind, 5) for kind in KINDS))
    assert Recipe.parse(str(recipe)) == recipe
