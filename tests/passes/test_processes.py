"""Processes that decide alike: shares in order, one process's answer for all, and what happens when one fails."""

import os
import time

import pytest
import torch

from passes import processes
from passes.metrics import torchmetrics_metric
from passes.oracle import RealOracle
from passes.pagcp import Pagcp
from passes.processes import agreed, barrier, broadcast_object, gather_in_order, joined, shared_failures, speaks, world
from passes.tasks import Task
from passes.uniform import Uniform
from specs.diagnostics import DataError, PagcpError
from specs.options import PagcpOptions, UniformOptions
from tests.launching import LIMIT, launched


def together(body, size=2):
    """What `body` gives in each of the processes, and whether it speaks; an error as its type's name and its text."""

    def inside():
        with joined():
            try:
                with shared_failures():
                    found = body()
            except (PagcpError, processes.RemoteError, ValueError) as error:
                found = type(error).__name__, str(error)
            return found, speaks()

    return launched(inside, size)


def told(found):
    return [one[0] for one in found]


def test_one_process_is_a_world_of_its_own():
    with joined() as here:
        assert (here.rank, here.size, speaks()) == (0, 1, True)
        assert gather_in_order("work", [3, 1], lambda number: number * 10) == [30, 10]
        assert broadcast_object("it", lambda: 5) == 5
        agreed("it", "a")
        barrier("end")


def test_shares_come_back_whole_and_in_order_everywhere():
    done = []

    def body():
        def work(number):
            done.append(number)
            return torch.full((100,), number / 3, dtype=torch.float64)  # more than fits into a short message

        parts = gather_in_order("work", [4, 0, 1, 2, 7], work)
        return [float(part[0]) for part in parts], tuple(done), world().size

    first, second = told(together(body))
    assert first[0] == second[0] == [number / 3 for number in (4, 0, 1, 2, 7)]
    assert (first[1], second[1]) == ((4, 0, 2), (1, 7))
    assert first[2] == 2


def test_three_processes_with_less_work_than_processes():
    found = told(together(lambda: gather_in_order("work", [1], lambda number: number), size=3))
    assert found == [[1], [1], [1]]


def test_what_the_first_process_makes_is_what_all_get():
    def body():
        value = broadcast_object("it", lambda: {"rank": world().rank, "tensor": torch.arange(5000)})
        return value["rank"], int(value["tensor"].sum())

    assert told(together(body)) == [(0, 12497500)] * 2


def fails_in(rank, error):
    def body():
        def work(number):
            if number == rank:
                raise error
            return number

        gather_in_order("work", [0, 1], work)
        time.sleep(LIMIT)  # never reached

    return body


def test_an_error_in_one_process_ends_all_with_its_message():
    began = time.monotonic()
    first, second = together(fails_in(1, DataError.one("D705", "the calibration split is empty", "face.yaml:3:1")))
    assert first[0] == ("DataError", "face.yaml:3:1  error[D705]: the calibration split is empty (in process 1)")
    assert second[0] == ("DataError", "face.yaml:3:1  error[D705]: the calibration split is empty")
    assert (first[1], second[1]) == (True, False)  # told once, by the first process
    assert time.monotonic() - began < LIMIT / 2


def test_a_bug_in_one_process_ends_all():
    first, second = told(together(fails_in(1, ValueError("such a bug"))))
    assert first == ("RemoteError", "in process 1: ValueError: such a bug")
    assert second == ("ValueError", "such a bug")


def test_an_error_in_all_processes_is_everyones_own():
    def body():
        raise DataError.one("D705", "the calibration split is empty")

    assert told(together(body)) == [("DataError", "error[D705]: the calibration split is empty")] * 2


def test_a_process_that_is_killed_is_noticed():
    def body():
        if world().rank == 1:
            os._exit(9)
        barrier("what comes next")

    began = time.monotonic()
    first, second = together(body)
    assert second == "exit code 9"
    assert first[0][0] == "ProcessError"
    assert "error[R901]: another process ended while this one waited for it, at 'what comes next'" in first[0][1]
    assert time.monotonic() - began < LIMIT / 2


def test_who_cannot_reach_the_first_process_speaks():
    def body():
        if world().rank == 0:
            os._exit(9)
        barrier("what comes next")

    assert together(body)[1][1] is True


def test_processes_that_go_different_ways_end():
    found = told(together(lambda: barrier(f"group {world().rank}")))
    assert [one[0] for one in found] == ["ProcessError"] * 2
    told_first = "the processes went different ways: process 0 is at 'group 0', process 1 at 'group 1'"
    assert all(told_first in one[1] for one in found)


def test_what_must_be_alike_is_compared():
    assert told(together(lambda: agreed("the network", "same"))) == [None, None]
    (first, second) = told(together(lambda: agreed("the network", str(world().rank))))
    assert first[0] == second[0] == "ProcessError"
    assert "error[R902]: the network is not the same in processes 0 and 1" in first[1]


def test_what_cannot_be_sent_is_told():
    first, second = told(together(lambda: gather_in_order("work", [0, 1], lambda number: lambda: number)))
    assert first[0] == second[0] == "RemoteError"
    assert "cannot be sent" in first[1]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_failure_after_the_last_exchange_holds_nobody_up(rank):
    def body():
        barrier("almost the end")
        if world().rank == rank:
            raise DataError.one("D705", "late")
        return "fine"

    began = time.monotonic()
    found = told(together(body))
    assert found[rank] == ("DataError", "error[D705]: late")
    assert found[1 - rank] == "fine"
    assert time.monotonic() - began < LIMIT / 2


COARSE = {"grid": (0.2, 0.4, 0.6), "tolerance": 0.3, "total": 20.0, "stop": "tolerance"}
PASSES = {
    "published": Pagcp(PagcpOptions(search="published", criterion="l1", **COARSE)),
    "compensated": Pagcp(PagcpOptions(search="certified", criterion="task_taylor", compensate="mean", **COARSE)),
    "races": Pagcp(PagcpOptions(search="certified", criterion="l2", confidence=0.9, **COARSE)),
    "priced by races": Pagcp(PagcpOptions(search="marginal", criterion="task_taylor", confidence=0.9, **COARSE)),
    "gradients": Uniform(UniformOptions(ratio=0.4, criterion="tp_taylor")),
    "squared gradients": Uniform(UniformOptions(ratio=0.4, criterion="tp_hessian")),
}


@pytest.mark.parametrize("name", PASSES)
def test_passes_decide_alike_whatever_the_number_of_processes(case, name):
    """The calibration set has batches of 16 and 24 samples, so that of three processes one has nothing to do."""

    def body():
        state = PASSES[name].run(case.state, case.ctx)
        losses = [sorted(decision.losses.items()) for decision in state.decisions]
        return state.keep.tolist(), losses, [(r.factors, r.closest, r.evaluations) for r in state.searches]

    (alone,) = launched(body, 1)
    assert not all(alone[0])
    for size in (2, 3):
        assert told(together(body, size)) == [alone] * size


def test_a_race_for_one_batch_gets_one_from_every_process(case):
    def body():
        oracle, state = case.ctx.oracle, case.state
        found = oracle.samples(state.program, state.channels, state.channels.all, 1)
        first = oracle.usage.images
        oracle.samples(state.program, state.channels, state.channels.all, 2)
        return len(found.values["map"]), first, oracle.usage.images

    assert launched(body, 1) == [(16, 16, 40)]
    assert told(together(body)) == [(16, 40, 40)] * 2


def test_a_loss_that_is_not_finite_is_told_of_batches_that_were_asked_for(case):
    task = Task("map", "map", "map", loss=lambda output, target: output.mean() / (len(output) == 16))

    def body():
        oracle, state = RealOracle([task], case.ctx.data["calibration"].cached()), case.state
        oracle.samples(state.program, state.channels, state.channels.all, 1)
        first = oracle.unfit(state.channels.all)
        oracle.losses(state.program, state.channels, state.channels.all)
        return dict(first), dict(oracle.unfit(state.channels.all))

    assert launched(body, 1) == [({}, {"map": 1})]
    assert told(together(body)) == [({}, {"map": 1})] * 2


def test_processes_that_have_met_before_stay_together():
    def body():
        torch.distributed.init_process_group("gloo")
        with joined():
            found = gather_in_order("work", range(3), lambda number: number)
        torch.distributed.barrier()
        return found

    assert launched(body) == [[0, 1, 2]] * 2


def test_losses_that_draw_random_numbers_draw_the_same_in_every_process(case):
    noisy = Task("map", "map", "map", loss=lambda output, target: (output - target * torch.rand(())).square().mean())

    def body():
        oracle = RealOracle([noisy], case.ctx.data["calibration"].cached())
        return oracle.losses(case.state.program, case.state.channels, case.state.channels.all)["map"]

    (alone,) = launched(body, 1)
    assert told(together(body, 2)) == [alone] * 2


def test_a_decision_that_depends_on_the_process_is_noticed(case):
    def body():
        keep = case.state.channels.all
        keep[case.state.channels.group("inner").units[: world().rank]] = False
        return dict(case.ctx.oracle.losses(case.state.program, case.state.channels, keep))

    found = told(together(body))
    assert [one[0] for one in found] == ["ProcessError"] * 2
    assert "the processes went different ways: process 0 is at 'batches 0 to 2 of " in found[0][1]


def test_metrics_are_those_of_what_a_process_was_fed(case):
    make, _ = torchmetrics_metric("MeanSquaredError", {})

    def body():
        metric = make(torch.device("cpu"))
        metric.update(torch.ones(2), torch.zeros(2) + world().rank)
        return float(metric.compute())

    assert told(together(body)) == [1.0, 0.0]
