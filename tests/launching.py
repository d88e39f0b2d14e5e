"""Several processes of one launch, forked from this one: nothing is imported again."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo  # what tracing takes seconds to import, once for all children

FORK = multiprocessing.get_context("fork")
LIMIT = 60


def launched(body: Callable[[], Any], size: int = 2) -> list[Any]:
    """What `body` gives in each of `size` processes; "exit code 9" for one that ended without a word."""
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
    return [_heard(one, pipe) for one, pipe in zip(started, pipes, strict=True)]


def _heard(one: Any, pipe: Any) -> Any:
    try:
        if not pipe.poll(LIMIT):
            one.kill()
            raise AssertionError(f"a process said nothing for {LIMIT} s")
        found = pipe.recv()
    except EOFError:
        one.join(LIMIT)
        return f"exit code {one.exitcode}"
    one.join(LIMIT)
    assert not one.is_alive(), "a process did not end"
    return found


def _child(body: Callable[[], Any], rank: int, size: int, port: int, sender: Any) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    sender.send(body())
