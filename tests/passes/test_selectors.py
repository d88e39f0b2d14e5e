"""uniform and pagcp on a real network."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pagcp_ir.cost import costs
from passes.base import meets, run_passes
from passes.data import Splits
from passes.journal import Journal, read_journal
from passes.oracle import RealOracle
from passes.pagcp import NetworkSpace, Pagcp
from passes.space import worst_rise
from passes.tasks import Task
from passes.uniform import Uniform
from specs.diagnostics import DataError, PassError
from specs.options import PagcpOptions, UniformOptions
from specs.spec import Budgets

PLAIN = {"criterion": "l1", "compensate": "none"}


def budgets(**given):
    return Budgets.model_validate(given)


def uniform(case, **options):
    return Uniform(UniformOptions(**options)).run(case.state, case.ctx)


def pagcp(case, ctx=None, **options):
    options = {"search": "published", **options}
    return run_passes([Pagcp(PagcpOptions(**options))], case.state, ctx or case.ctx)


def test_uniform_never_costs_more_at_a_higher_ratio(case):
    """W11."""
    before = costs(case.state.channels)
    for ratio in np.linspace(0.1, 0.95, 18):
        after = uniform(case, ratio=float(ratio)).plan.after
        assert (after.macs, after.params, after.bytes) <= (before.macs, before.params, before.bytes)
        assert after.macs <= before.macs
        assert after.params <= before.params
        before = after


def test_uniform_finds_the_smallest_ratio_that_meets_the_budgets(case):
    case = replace(case, ctx=replace(case.ctx, budgets=budgets(macs="40%", params="45%")))
    after = uniform(case)
    limits = case.ctx.budgets.limits(after.plan.before)
    assert meets(after.plan.after, limits)
    ratio = after.decisions[0].ratio
    # the next smaller ratio at which anything changes
    smaller = max(k / n for n in (8, 12) for k in range(n) if k / n < ratio)
    assert not meets(uniform(case, ratio=smaller).plan.after, limits)


def test_uniform_without_ratio_and_budgets_is_refused(case):
    with pytest.raises(PassError) as caught:
        uniform(case)
    assert str(caught.value) == "error[P409]: uniform has neither a ratio nor budgets to find one for"


def test_uniform_that_cuts_nothing_gives_the_reasons(case):
    """W8."""
    with pytest.raises(PassError) as caught:
        uniform(case, ratio=0.05, round_to=8)
    assert [d.message for d in caught.value.diagnostics] == [
        "uniform cut nothing",
        "group `stem`: the ratio 0.05 removes none of its 8 channels",
        "group `inner`: the ratio 0.05 removes none of its 12 channels",
    ]
    assert caught.value.diagnostics[1].where.partition(":")[0].endswith("conftest.py")


def test_pagcp_keeps_every_task_within_the_schedule(case):
    options = {"tolerance": 0.3, "total": 1.8, "grid": (0.25, 0.5, 0.75)}
    after = pagcp(case, **options)
    assert any(d.kept < d.width for d in after.decisions)
    state, oracle = case.state, case.ctx.oracle
    base = oracle.losses(state.program, state.channels, state.channels.all)
    final = oracle.losses(state.program, state.channels, after.keep)
    assert worst_rise(final, base)[1] <= 1.8
    last = [d for d in after.decisions if d.kept < d.width][-1]
    assert last.losses == pytest.approx(dict(final))


def test_pagcp_is_the_search_of_its_pseudo_code(case):
    """Worked again without the search: accept a ratio, reject the next, for the first group in the order."""
    options = PagcpOptions(tolerance=0.3, total=1.5, grid=(0.25, 0.5, 0.75))
    space = NetworkSpace(case.state, case.ctx, options)
    decision = pagcp(case, **options.model_dump()).decisions[0]
    saved = {g: space.cost(space.start) - space.cost(space.cut(space.start, g, 0.3).keep) for g in space.groups}
    assert decision.group == max(saved, key=lambda g: saved[g])
    base = space.losses(space.start)
    rises = [worst_rise(space.losses(space.cut(space.start, decision.group, r).keep), base)[1] for r in options.grid]
    accepted = [r for i, r in enumerate(options.grid) if all(rise <= 1.3 for rise in rises[: i + 1])]
    assert decision.ratio == (accepted[-1] if accepted else 0.0)


def test_pagcp_scores_the_network_as_it_is_cut(case):
    """Cutting `stem` takes input channels of `inner` away, which its filters' norms must feel."""
    space = NetworkSpace(case.state, case.ctx, PagcpOptions(criterion="l1"))
    first = space.cut(space.start, "stem", 0.5).keep
    weight = np.abs(case.state.program.tensors()["inner.weight"].detach().double().numpy())
    kept = first[case.state.channels.group("stem").units]
    expected = np.argsort(weight[:, kept].sum((1, 2, 3)), kind="stable")[:6]
    after = space.cut(first, "inner", 0.5).keep[case.state.channels.group("inner").units]
    assert set(np.flatnonzero(~after)) == set(expected)


def test_pagcp_stops_at_the_budgets(case):
    ctx = replace(case.ctx, budgets=budgets(macs="70%"))
    given = {"tolerance": 10, "total": 1e3, "grid": tuple(k / 12 for k in range(1, 12))}
    after = pagcp(case, ctx, **given)
    limit = ctx.budgets.limits(after.plan.before)["macs"]
    assert after.plan.after.macs <= limit
    assert after.decisions[-1].reason.startswith(("the budgets were met at", "the budgets were met before"))
    deeper = pagcp(case, ctx, **given, stop="tolerance")
    assert deeper.plan.after.macs < after.plan.after.macs


@pytest.mark.parametrize("search", ["marginal", "certified", "published"])
def test_every_search_meets_the_budgets_by_itself(case, search):
    """Without a total: the last two find it, the first needs none. What they report is what is left."""
    ctx = replace(case.ctx, budgets=budgets(macs="60%"))
    after = pagcp(case, ctx, search=search, grid=tuple(k / 12 for k in range(1, 12)), **PLAIN)
    assert after.plan.after.macs <= ctx.budgets.limits(after.plan.before)["macs"]
    (record,) = after.searches
    state, oracle = case.state, case.ctx.oracle
    base, final = (oracle.losses(state.program, state.channels, keep) for keep in (state.channels.all, after.keep))
    assert record.factors == pytest.approx({task: final[task] / base[task] for task in base})
    assert (record.search, record.total is None) == (search, search == "marginal")
    assert 0 < record.evaluations < 60
    assert record.samples == 40 * record.evaluations


def test_the_smallest_total_given_as_a_number_makes_the_same_plan(case):
    ctx = replace(case.ctx, budgets=budgets(macs="60%"))
    given = {"grid": tuple(k / 12 for k in range(1, 12)), "tolerance": 0.05}
    found = pagcp(case, ctx, **given)
    total = found.searches[0].total
    assert (pagcp(case, ctx, **given, total=total).keep == found.keep).all()
    less = pagcp(case, ctx, **given, total=1.05 + 0.99 * (total - 1.05))
    assert less.plan.after.macs > ctx.budgets.limits(less.plan.before)["macs"]


def test_marginal_cuts_a_group_of_a_task_that_tolerates_more(case):
    """Given much room, the map's own layers go first; given little, they stay."""
    ctx = replace(case.ctx, budgets=budgets(macs="70%"))
    rises = [
        pagcp(case, ctx, search="marginal", tolerances={"map": tolerance}, **PLAIN).searches[0].factors["map"]
        for tolerance in (1.0, 0.001)
    ]
    assert rises[1] < rises[0]


@pytest.mark.parametrize("given", [{"search": "marginal"}, {"search": "certified", "total": 2.0, "tolerance": 0.3}])
def test_races_run_on_a_real_network(case, given):
    """Of so few samples they look at all, and so decide as without; the samples were shuffled, bits may differ."""
    ctx = replace(case.ctx, budgets=budgets(macs="60%"))
    grid = tuple(k / 12 for k in range(1, 12))
    plain, raced = (pagcp(case, ctx, **given, grid=grid, confidence=c) for c in (None, 0.999))
    assert raced.plan.to_json() == plain.plan.to_json()
    assert raced.searches[0].undone == ()


def test_a_loss_that_is_not_finite_is_warned_of_once_with_its_batch(case, tmp_path):
    def loss(output, target):
        # not finite for the second batch alone, and only where the network was cut
        whole = float((output - target).abs().sum()) < 1e-4
        return ((output - target) ** 2).mean() + (0.0 if whole or len(output) == 16 else float("nan"))

    with torch.no_grad():
        batches = [
            replace(b, target={"map": case.state.program.module(*b.inputs)["map"]})
            for b in case.ctx.data["calibration"].cached()
        ]
    task = Task("map", "map", "map", loss=lambda output, target: loss(output, target) + 1)
    oracle = RealOracle([task], batches)
    with Journal(tmp_path / "journal.jsonl") as journal:
        ctx = replace(case.ctx, oracle=oracle, tasks=(task,), journal=journal)
        with pytest.raises(PassError):
            pagcp(case, ctx, tolerance=0.3, total=1.8, grid=(0.25, 0.5))
    warnings = [r["message"] for r in read_journal(tmp_path / "journal.jsonl") if r["kind"] == "warning"]
    assert warnings == [
        "the loss of 'map' is not finite on calibration batch 1 with 3 of 12 of inner cut",
        "the loss of 'map' is not finite on calibration batch 1 with 2 of 8 of stem cut",
    ]


def test_pagcp_that_cuts_nothing_gives_the_reason_of_each_group(case):
    """W8: the tolerance is far too small."""
    with pytest.raises(PassError) as caught:
        pagcp(case, tolerance=1e-9, total=1.1, grid=(0.5, 0.9))
    told = [d.message for d in caught.value.diagnostics]
    assert told[0] == "pagcp cut nothing"
    assert all("at ratio 0.50 the loss of '" in message for message in told[1:])
    assert len(told) == 3


def test_pagcp_journals_every_evaluation(case, tmp_path):
    with Journal(tmp_path / "journal.jsonl") as journal:
        pagcp(case, replace(case.ctx, journal=journal), tolerance=0.3, total=1.8, grid=(0.25, 0.5, 0.75))
    records = [r for r in read_journal(tmp_path / "journal.jsonl") if r["kind"] == "evaluation"]
    assert {r["group"] for r in records} == {"stem", "inner"}
    assert {r["verdict"] for r in records} <= {"accepted", "rejected"}
    assert all(set(r["losses"]) == {"label", "map"} and r["seconds"] >= 0 for r in records)


@pytest.mark.parametrize("criterion", ["l2", "tp_l1", "tp_l2", "tp_bn_scale", "tp_taylor", "tp_random"])
def test_every_criterion_drives_the_search(case, criterion):
    given = {"tolerance": 10, "total": 1e3, "grid": (0.5,), "criterion": criterion}
    first, second = pagcp(case, **given), pagcp(case, **given)
    assert [d.kept for d in first.decisions] == [6, 4] or [d.kept for d in first.decisions] == [4, 6]
    assert first.plan.to_json() == second.plan.to_json()


def test_without_tasks_pagcp_says_so(case):
    with pytest.raises(DataError) as caught:
        pagcp(case, replace(case.ctx, oracle=None))
    assert str(caught.value) == "error[D709]: pagcp measures the tasks' losses: the spec needs tasks and data"


def test_without_calibration_it_says_what_the_factory_returned(case):
    given = {name: case.ctx.data[name] for name in ("train", "validation")}
    data = Splits(given, "net:datasets", "net.yaml:9:3")
    with pytest.raises(DataError) as caught:
        pagcp(case, replace(case.ctx, oracle=None, data=data))
    assert str(caught.value) == (
        "net.yaml:9:3  error[D709]: net:datasets returned no 'calibration' split; it returned train, validation"
    )
