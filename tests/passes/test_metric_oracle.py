"""measure: metric. Searches that go by metrics: direction, the whole set at once, and nothing asked of the losses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from pagcp_ir.rewrite import materialise
from passes.answers import Answers
from passes.base import run_passes
from passes.journal import Journal
from passes.metric_oracle import MetricOracle, measuring
from passes.metrics import Whole, torchmetrics_metric
from passes.oracle import RealOracle
from passes.pagcp import Pagcp
from passes.processes import joined
from passes.schedule import growth
from passes.tasks import Task
from specs.diagnostics import DataError, PassError
from specs.options import PagcpOptions
from specs.spec import Budgets
from tests.launching import launched
from tests.passes.tables import kept, one, options

SEARCHES = ("marginal", "certified", "published")


def furthest(output, target):
    """No mean over samples, nor over batches."""
    return (output - target).flatten(1).abs().mean(1).median()


def tasks(**changed):
    accuracy, higher = torchmetrics_metric("MulticlassAccuracy", {"num_classes": 4, "average": "micro"})
    label = Task("label", "label", "label", functional.cross_entropy, metric=accuracy, higher_is_better=bool(higher))
    far = Task("map", "map", "map", functional.mse_loss, metric=lambda device: Whole(furthest), higher_is_better=False)
    return replace(label, **changed), far


def oracle(case, journal=None, **changed):
    batches = case.ctx.data["calibration"].cached()
    return RealOracle(tasks(**changed), batches, None if journal is None else Answers(journal))


def context(case, real=None, macs="70%"):
    real = real or oracle(case)
    return replace(case.ctx, oracle=real, tasks=real.tasks, budgets=Budgets.model_validate({"macs": macs}))


def by_hand(case, keep):
    batches = case.ctx.data["calibration"].cached()
    module = materialise(case.state.program, case.state.channels, keep).module
    with torch.no_grad():
        found = [module(*batch.inputs) for batch in batches]
    labels, maps = (torch.cat([each[name] for each in found]) for name in ("label", "map"))
    wanted = {name: torch.cat([batch.target[name] for batch in batches]) for name in ("label", "map")}
    accuracy = (labels.argmax(1) == wanted["label"]).double().mean()
    return {"label": -float(accuracy), "map": float(furthest(maps, wanted["map"]))}


def half(case):
    keep = case.state.channels.all
    keep[case.state.channels.group("inner").units[::2]] = False
    return keep


@pytest.mark.parametrize("cut", [False, True])
def test_metrics_are_of_the_whole_set_and_less_is_better(case, cut):
    keep = half(case) if cut else case.state.channels.all
    real = oracle(case)
    found = MetricOracle(real)
    assert found.losses(case.state.program, case.state.channels, keep) == pytest.approx(by_hand(case, keep), rel=1e-5)
    assert list(found.losses(case.state.program, case.state.channels, keep)) == ["label", "map"]
    assert (found.usage.evaluations, found.usage.images) == (1, 40)  # remembered


def test_prefixes_are_shared_with_the_losses_and_change_no_bit(case):
    def found(megabytes):
        real = oracle(case)
        real.reuse(megabytes)
        asked = MetricOracle(real)
        keeps = [case.state.channels.all, half(case), case.state.channels.all]
        keeps[2][case.state.channels.group("inner").units[:3]] = False
        answers = [asked.losses(case.state.program, case.state.channels, keep) for keep in keeps]
        return answers, real._prefixes.hits if megabytes else 0

    assert found(64)[0] == found(0)[0]
    assert found(64)[1] > 0


@pytest.mark.parametrize("search", SEARCHES)
def test_a_metric_may_lose_that_share_of_what_it_was(search):
    """0.90 to 0.82 is within a tenth, 0.80 is not; scale and range of the metric do not matter."""
    for scale in (1.0, 100.0):
        space = one(*(-scale * metric for metric in (0.90, 0.88, 0.82, 0.80, 0.79)))
        given = options(search=search, measure="metric", total=1.1001, tolerance=0.1, grid=(0.1, 0.2, 0.3, 0.4))
        outcome = run(space, given)
        assert kept(outcome) == {"a": 8}
        (decision,) = outcome.decisions
        assert decision.reason.startswith(
            ("at ratio 0.30 the metric of 't' got worse by 11.1%", "its next cut worsens")
        )
        assert outcome.record.factors["t"] == pytest.approx(0.98 / 0.90)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_metric_that_gets_better_is_no_rise(search):
    space = one(*(-metric for metric in (0.80, 0.82, 0.85, 0.9, 0.1)))
    given = options(search=search, measure="metric", total=1.1001, tolerance=0.1, grid=(0.1, 0.2, 0.3, 0.4))
    assert kept(run(space, given)) == {"a": 7}


def run(space, given):
    from passes.certified import certified
    from passes.marginal import marginal
    from passes.published import published

    if given.search == "marginal":
        return marginal(space, given)
    factor = growth(given.tolerance, given.total, len(space.groups))
    return {"certified": certified, "published": published}[given.search](space, given, factor)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("compensate", ["none", "mean"])
def test_no_search_asks_for_a_loss(case, search, compensate, monkeypatch):
    def refused(*given):
        raise AssertionError("a loss was asked for")

    monkeypatch.setattr(RealOracle, "losses", refused)
    given = PagcpOptions(search=search, measure="metric", compensate=compensate, criterion="l1", tolerance=0.3)
    after = run_passes([Pagcp(given)], case.state, context(case))
    (record,) = after.searches
    assert after.plan.after.macs <= 0.7 * after.plan.before.macs
    assert record.measure == "metric"
    if compensate == "none":
        base, end = by_hand(case, case.state.keep), by_hand(case, after.keep)
        assert record.start == pytest.approx(base, rel=1e-5)
        rises = {"label": 1 + (base["label"] - end["label"]) / base["label"], "map": end["map"] / base["map"]}
        assert record.factors == pytest.approx({**rises, "label": max(1.0, rises["label"])}, rel=1e-4)


def test_a_run_that_goes_on_measures_nothing_twice(case, tmp_path, monkeypatch):
    given = PagcpOptions(search="certified", measure="metric", tolerance=0.3)

    def found():
        with Journal(tmp_path / "journal.jsonl", tmp_path / "rows") as journal:
            ctx = replace(context(case, oracle(case, journal)), journal=journal)
            return run_passes([Pagcp(given)], case.state, ctx)

    first = found()
    monkeypatch.setattr(RealOracle, "show", lambda *given: pytest.fail("measured again"))
    again = found()
    np.testing.assert_array_equal(first.keep, again.keep)
    assert first.searches[0].evaluations == again.searches[0].evaluations > 3


def test_two_processes_find_the_same(case):
    given = PagcpOptions(search="certified", measure="metric", tolerance=0.3)

    def body():
        with joined():
            after = run_passes([Pagcp(given)], case.state, context(case))
            return after.keep.tolist(), dict(after.searches[0].factors)

    assert launched(body, 2) == [body()] * 2


def test_the_gate_of_compensation_goes_by_the_metric(case, monkeypatch):
    asked = []
    original = MetricOracle.losses

    def spied(self, program, channels, keep, finish=None):
        asked.append(finish)
        return original(self, program, channels, keep, finish)

    monkeypatch.setattr(MetricOracle, "losses", spied)
    run_passes([Pagcp(PagcpOptions(measure="metric", tolerance=0.3))], case.state, context(case))
    assert asked[-1] is not None or asked[-2] is not None  # the last: with and without


def test_what_has_no_share_is_refused(case):
    def zero(device):
        return Whole(lambda output, target: 0.0)

    with pytest.raises(PassError, match=r"P404.*the metric of task 'label' is 0 before anything is cut"):
        run_passes([Pagcp(PagcpOptions(measure="metric"))], case.state, context(case, oracle(case, metric=zero)))
    with pytest.raises(PassError, match=r"P409.*needs a metric of task 'label'"):
        run_passes([Pagcp(PagcpOptions(measure="metric"))], case.state, context(case, oracle(case, metric=None)))


def test_a_metric_that_fails_is_told(case):
    def bad(device):
        return Whole(lambda output, target: [][1])

    with pytest.raises(DataError, match=r"D722.*IndexError"):
        run_passes([Pagcp(PagcpOptions(measure="metric"))], case.state, context(case, oracle(case, metric=bad)))


def test_losses_are_measured_as_ever_where_they_are_asked_for(case):
    ctx = context(case)
    assert measuring(PagcpOptions(), ctx).oracle is ctx.oracle
    first = measuring(PagcpOptions(measure="metric"), ctx).oracle
    assert first is measuring(PagcpOptions(measure="metric"), ctx).oracle
    assert first.parts == ()
