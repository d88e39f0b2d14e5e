"""Processes that decide alike: shares in order, one process's answer for all, and what happens when one fails."""

import multiprocessing
import os
import socket
import time

import pytest
import torch

from passes import processes
from passes.processes import agreed, barrier, broadcast_object, gather_in_order, joined, shared_failures, speaks, world
from specs.diagnostics import DataError, PagcpError

FORK = multiprocessing.get_context("fork")
LIMIT = 60


def launched(body, size=2):
    """What `body` gives in each of `size` processes; an error as its type's name and its text."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes, started = [], []
    for rank in range(size):
        receiver, sender = FORK.Pipe(duplex=False)
        one = FORK.Process(target=_child, args=(body, rank, size, port, sender))
        one.start()
        sender.close()
        pipes.append(receiver)
        started.append(one)
    found = []
    for one, pipe in zip(started, pipes, strict=True):
        one.join(LIMIT)
        assert not one.is_alive(), "a process did not end"
        try:
            found.append(pipe.recv())
        except EOFError:
            found.append(f"exit code {one.exitcode}")
    return found


def _child(body, rank, size, port, sender):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with joined():
        try:
            with shared_failures():
                found = body()
        except (PagcpError, processes.RemoteError, ValueError) as error:
            found = type(error).__name__, str(error)
        sender.send((found, speaks()))


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

    first, second = told(launched(body))
    assert first[0] == second[0] == [number / 3 for number in (4, 0, 1, 2, 7)]
    assert (first[1], second[1]) == ((4, 0, 2), (1, 7))
    assert first[2] == 2


def test_three_processes_with_less_work_than_processes():
    found = told(launched(lambda: gather_in_order("work", [1], lambda number: number), size=3))
    assert found == [[1], [1], [1]]


def test_what_the_first_process_makes_is_what_all_get():
    def body():
        value = broadcast_object("it", lambda: {"rank": world().rank, "tensor": torch.arange(5000)})
        return value["rank"], int(value["tensor"].sum())

    assert told(launched(body)) == [(0, 12497500)] * 2


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
    first, second = launched(fails_in(1, DataError.one("D705", "the calibration split is empty", "face.yaml:3:1")))
    assert first[0] == ("DataError", "face.yaml:3:1  error[D705]: the calibration split is empty (in process 1)")
    assert second[0] == ("DataError", "face.yaml:3:1  error[D705]: the calibration split is empty")
    assert (first[1], second[1]) == (True, False)  # told once, by the first process
    assert time.monotonic() - began < LIMIT / 2


def test_a_bug_in_one_process_ends_all():
    first, second = told(launched(fails_in(1, ValueError("such a bug"))))
    assert first == ("RemoteError", "in process 1: ValueError: such a bug")
    assert second == ("ValueError", "such a bug")


def test_an_error_in_all_processes_is_everyones_own():
    def body():
        raise DataError.one("D705", "the calibration split is empty")

    assert told(launched(body)) == [("DataError", "error[D705]: the calibration split is empty")] * 2


def test_a_process_that_is_killed_is_noticed():
    def body():
        if world().rank == 1:
            os._exit(9)
        barrier("what comes next")

    began = time.monotonic()
    first, second = launched(body)
    assert second == "exit code 9"
    assert first[0][0] == "ProcessError"
    assert "error[R901]: another process ended while this one waited for it, at 'what comes next'" in first[0][1]
    assert time.monotonic() - began < LIMIT / 2


def test_who_cannot_reach_the_first_process_speaks():
    def body():
        if world().rank == 0:
            os._exit(9)
        barrier("what comes next")

    assert launched(body)[1][1] is True


def test_processes_that_go_different_ways_end():
    found = told(launched(lambda: barrier(f"group {world().rank}")))
    assert [one[0] for one in found] == ["ProcessError"] * 2
    told_first = "the processes went different ways: process 0 is at 'group 0', process 1 at 'group 1'"
    assert all(told_first in one[1] for one in found)


def test_what_must_be_alike_is_compared():
    assert told(launched(lambda: agreed("the network", "same"))) == [None, None]
    (first, second) = told(launched(lambda: agreed("the network", str(world().rank))))
    assert first[0] == second[0] == "ProcessError"
    assert "error[R902]: the network is not the same in processes 0 and 1" in first[1]


def test_what_cannot_be_sent_is_told():
    first, second = told(launched(lambda: gather_in_order("work", [0, 1], lambda number: lambda: number)))
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
    found = told(launched(body))
    assert found[rank] == ("DataError", "error[D705]: late")
    assert found[1 - rank] == "fine"
    assert time.monotonic() - began < LIMIT / 2
