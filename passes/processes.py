"""Several processes that run one program and decide alike, because all that they decide on is the same to the bit.

Every process takes the same steps. What is much work is shared out (`gather_in_order`) or left to the first process
(`broadcast_object`), and everyone gets all of it, in one order. Each exchange says what it is about, so that processes
that went different ways end instead of mixing their numbers up; one that fails tells the others, and all end with its
message. They are started by torchrun, or by whatever else sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
"""

from __future__ import annotations

import os
import pickle
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from specs.diagnostics import PagcpError, ProcessError

__all__ = [
    "RemoteError",
    "World",
    "agreed",
    "barrier",
    "broadcast_object",
    "gather_in_order",
    "is_main",
    "joined",
    "shared_failures",
    "speaks",
    "world",
]

_T = TypeVar("_T")
START = timedelta(minutes=10)
"""How long processes wait for each other at the start."""
WAIT = timedelta(hours=24)
"""How long they wait for what another one computes. One that ended is noticed at once."""
GRACE = timedelta(seconds=30)
"""How long one that fails, or is done, waits for the others to hear of it."""
PAUSE = 0.01
"""Seconds between two looks at whether the others have answered, at most."""
SHORT = 2048
"""Bytes of a message that is exchanged in one step."""


@dataclass(frozen=True)
class World:
    """This process is number `rank` of `size`."""

    rank: int = 0
    size: int = 1


@dataclass
class _Joined:
    """The processes of this launch. `group`: for our exchanges alone, so that no trainer's come in between.

    `ending`: a process has failed, and all know; `alone`: the others are gone, or did not listen.
    """

    world: World
    group: Any
    ending: bool = False
    alone: bool = False


@dataclass(frozen=True)
class _Message:
    """What one process says in an exchange."""

    what: str
    value: Any = None
    error: PagcpError | str | None = None


class RemoteError(RuntimeError):
    """A bug in another process; the cause is its traceback."""


# One launch is one group of processes, as in torch.distributed itself.
_joined: _Joined | None = None


def world() -> World:
    """Which of how many processes this is."""
    return World() if _joined is None else _joined.world


def is_main() -> bool:
    """Whether this is the process that writes, prints and keeps the journal."""
    return world().rank == 0


def speaks() -> bool:
    """Whether this process tells people: the first one, or one that could not reach it."""
    return is_main() or (_joined is not None and _joined.alone)


@contextmanager
def joined() -> Iterator[World]:
    """Inside, the processes of a launch work together; none of them leaves before all do, or one is gone.

    One process is a world of its own. Inside another `joined` nothing happens.
    """
    global _joined
    if _joined is not None or not _launched():
        yield world()
        return
    made = not dist.is_initialized()
    try:
        if made:
            store, rank, size = next(rendezvous("env://", timeout=START))
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=WAIT)
        group = dist.new_group(backend="gloo", timeout=WAIT)
        _joined = _Joined(World(dist.get_rank(), dist.get_world_size()), group)
        barrier("the start")
    except RuntimeError as error:  # of torch.distributed: all that it raises
        _joined = None
        told = (str(error).strip().splitlines() or [""])[0]
        message = f"the processes of this launch cannot reach each other: {told}"
        hint = "RANK and WORLD_SIZE say that there are several; without them this is one"
        raise ProcessError.one("R901", message, hint=hint) from error
    try:
        yield _joined.world
        _last(_joined)
    except Exception:
        _last(_joined)
        raise
    finally:
        _joined = None
        if made:
            dist.destroy_process_group()


@contextmanager
def shared_failures() -> Iterator[None]:
    """An error inside, that the other processes do not know of yet, ends them too, with its message."""
    try:
        yield
    except Exception as error:
        if _joined is not None and not _joined.ending:
            _joined.ending = True
            told = error if isinstance(error, PagcpError) else traceback.format_exc()
            try:
                _said(_joined, _Message("", error=told), GRACE)
            except RuntimeError:
                _joined.alone = True
        raise


def gather_in_order(what: str, numbers: Iterable[int], work: Callable[[int], _T]) -> list[_T]:
    """`work` of every number, in their order, in every process; each is done by one of them, and can be pickled.

    `what`: the same in all processes, and as telling as can be: it is how they notice that they went different ways.
    """
    if _joined is None:
        return [work(number) for number in numbers]
    numbers, here = list(numbers), _joined.world
    mine = {number: work(number) for number in numbers if number % here.size == here.rank}
    found = dict[int, _T]()
    for part in _exchanged(what, mine):
        found |= part
    return [found[number] for number in numbers]


def broadcast_object(what: str, make: Callable[[], _T]) -> _T:
    """What the first process makes of it, in every process; it can be pickled."""
    if _joined is None:
        return make()
    if is_main():
        value = make()
        data = pickle.dumps(value)
        _exchanged(what, data if len(data) < SHORT // 2 else len(data))
        if len(data) >= SHORT // 2:
            _broadcast(what, _bytes(data))
        return value
    told: bytes | int = _exchanged(what, None)[0]
    if isinstance(told, int):
        buffer = torch.empty(told, dtype=torch.uint8)
        _broadcast(what, buffer)
        told = buffer.numpy().tobytes()
    found: _T = pickle.loads(told)
    return found


def barrier(what: str) -> None:
    """Wait until all processes have come here."""
    if _joined is not None:
        _exchanged(what, None)


def agreed(what: str, value: str) -> None:
    """ProcessError R902 unless all processes say the same of `what`."""
    if _joined is None:
        return
    for rank, other in enumerate(_exchanged(what, value)):
        if other != value:
            hint = "all processes must build the same network and read the same data in the same order"
            raise ProcessError.one("R902", f"{what} is not the same in processes 0 and {rank}", hint=hint)


def _launched() -> bool:
    """Whether this is one of several processes."""
    if dist.is_initialized():
        return dist.get_world_size() > 1
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def _exchanged(what: str, value: Any) -> list[Any]:
    """The values of all processes. Raises what one of them raised, and R902 when they are about different things."""
    assert _joined is not None
    if _joined.ending:
        raise _lost(what)
    try:
        messages = _said(_joined, _Message(what, value), WAIT)
    except RuntimeError as error:
        _joined.ending = _joined.alone = True
        raise _lost(what) from error
    for rank, message in enumerate(messages):
        if message.error is not None:
            _joined.ending = True
            _raise(rank, message.error)
    for rank, message in enumerate(messages):
        if message.what != messages[0].what:
            _joined.ending = True  # all see it
            told = f"process 0 is at {messages[0].what!r}, process {rank} at {message.what!r}"
            hint = "something in the spec's own code depends on the process or on the time"
            raise ProcessError.one("R902", f"the processes went different ways: {told}", hint=hint)
    return [message.value for message in messages]


def _raise(rank: int, error: PagcpError | str) -> None:
    if isinstance(error, PagcpError):
        raise type(error)(replace(d, message=f"{d.message} (in process {rank})") for d in error.diagnostics)
    last = error.strip().splitlines()[-1]
    raise RemoteError(f"in process {rank}: {last}") from RemoteError(error)


def _lost(what: str) -> ProcessError:
    hint = "its own messages say why; without any it was killed, most often for lack of memory"
    return ProcessError.one("R901", f"another process ended while this one waited for it, at {what!r}", hint=hint)


def _said(here: _Joined, message: _Message, wait: timedelta) -> list[_Message]:
    """The messages of all processes. RuntimeError when one is gone or does not answer in time."""
    try:
        data = pickle.dumps(message)
    except Exception as error:  # noqa: BLE001 - whatever the user's objects raise: the others still have to hear of it
        data = pickle.dumps(_Message(message.what, error=f"{type(error).__name__}: cannot be sent: {error}"))
    deadline = time.monotonic() + wait.total_seconds()
    head = torch.zeros(SHORT, dtype=torch.uint8)
    head[:8] = torch.tensor([len(data)]).view(torch.uint8)
    head[8 : 8 + len(data)] = _bytes(data[: SHORT - 8])
    heads = _gathered(here, head, deadline)
    sizes = [int(each[:8].view(torch.int64)) for each in heads]
    if max(sizes) > SHORT - 8:
        whole = torch.zeros(max(sizes), dtype=torch.uint8)
        whole[: len(data)] = _bytes(data)
        parts = _gathered(here, whole, deadline)
    else:
        parts = [each[8:] for each in heads]
    return [pickle.loads(part[:size].numpy().tobytes()) for part, size in zip(parts, sizes, strict=True)]


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _gathered(here: _Joined, mine: Tensor, deadline: float) -> list[Tensor]:
    found = [torch.empty_like(mine) for _ in range(here.world.size)]
    _done(dist.all_gather(found, mine, group=here.group, async_op=True), deadline)
    return found


def _done(work: Any, deadline: float) -> None:
    """Wait for it where a signal can interrupt: not in torch. RuntimeError when it fails or is not done in time."""
    began = time.monotonic()
    while not work.is_completed():
        now = time.monotonic()
        if now > deadline:
            raise RuntimeError("the other processes do not answer")
        time.sleep(min((now - began) / 8, PAUSE))
    work.wait()


def _broadcast(what: str, buffer: Tensor) -> None:
    """Fill the buffer with the first process's."""
    assert _joined is not None
    try:
        work = dist.broadcast(buffer, 0, group=_joined.group, async_op=True)
        _done(work, time.monotonic() + WAIT.total_seconds())
    except RuntimeError as error:
        _joined.ending = _joined.alone = True
        raise _lost(what) from error


def _last(here: _Joined) -> None:
    """Wait for the others to come to the end, for a while; who is gone is not waited for."""
    if here.alone:
        return
    try:
        _said(here, _Message("the end"), GRACE)
    except RuntimeError:
        here.alone = True
