"""What a step of the marginal search saves, where the budgets are on more than MACs."""

from dataclasses import replace

import pytest

from pagcp_ir.cost import costs
from passes.pagcp import NetworkSpace
from specs.options import PagcpOptions
from specs.spec import Budgets


def test_what_a_step_saves_counts_for_the_budgets_that_are_not_met(case):
    channels = case.state.channels
    start, whole = channels.all, costs(channels)

    def space(**given):
        return NetworkSpace(case.state, replace(case.ctx, budgets=Budgets.model_validate(given)), PagcpOptions())

    def saved(name, before, after):
        return getattr(costs(channels, before), name) - getattr(costs(channels, after), name)

    some = space().cut(start, "stem", 0.25).keep
    more = space().cut(some, "inner", 0.5).keep
    for plain in (space(), space(macs="50%")):
        assert plain.saved(start, some) == saved("macs", start, some)
    params = saved("params", start, some) * whole.macs / whole.params
    assert space(params="50%").saved(start, some) == pytest.approx(params)
    both = space(macs="60%", params="20%")
    assert both.to_save == pytest.approx(0.8 * whole.macs, rel=0.01)
    macs, params = (both.to_save / share for share in (0.4 * whole.macs, 0.8 * whole.params))
    expected = macs * saved("macs", start, some) + params * saved("params", start, some)
    assert both.saved(start, some) == pytest.approx(expected, rel=0.01)
    limit = f"{100 * costs(channels, some).macs / whole.macs + 0.1:.2f}%"
    met = space(macs=limit, params="20%")  # at `some`
    assert met.saved(some, more) == pytest.approx(saved("params", some, more) * whole.macs / whole.params)
