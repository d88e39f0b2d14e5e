"""`make fuzz`: hypothesis draws random graphs over all ops and looks for one that is not cut exactly.

In chunks, each with a seed of its own, shared out among worker processes. Half of a chunk is dealt from a deck of all
kinds of ops, the other half hypothesis draws; a chunk that fails is shrunk to the fewest ops and told, and the others
go on. The exit status is 1 if any failed, or if no channel ever passed some kind of op.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import warnings
from collections.abc import Iterator

import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from tests.ir.nets.check import Coverage, check, dealt, recipes
from tests.ir.nets.net import Recipe

CHUNK = 50
WORKERS = 2
ENOUGH = 500
"""From this many graphs on every kind of op has to be passed by some channel."""


def run_chunk(number: int, size: int) -> tuple[int, Coverage, str]:
    """The chunk of that number: what it covered, and what failed (an empty text: nothing)."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    coverage, failed = Coverage(), list[tuple[Recipe, Exception]]()
    for recipe in dealt(size // 2, salt=number):
        try:
            check(recipe, coverage)
        except Exception as error:  # noqa: BLE001 - whatever a network of ours brings up is a finding
            return number, coverage, _told(number, *shrunk(recipe, error))

    @seed(number)
    @settings(
        max_examples=size - size // 2,
        deadline=None,
        database=None,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
    )
    @given(recipes())
    def every(recipe: Recipe) -> None:
        try:
            check(recipe, coverage)
        except Exception as error:
            failed.append((recipe, error))
            raise

    try:
        every()
    except Exception as error:  # noqa: BLE001 - whatever a network of ours brings up is a finding
        if not failed:
            return number, coverage, f"chunk {number}: {type(error).__name__}: {error}"
        return number, coverage, _told(number, *failed[-1])
    return number, coverage, ""


def shrunk(recipe: Recipe, error: Exception) -> tuple[Recipe, Exception]:
    """The fewest ops that still fail, taking them away one by one, and how they fail."""
    for at in range(len(recipe.ops)):
        fewer = Recipe(recipe.salt, recipe.ops[:at] + recipe.ops[at + 1 :])
        try:
            check(fewer)
        except Exception as cause:  # noqa: BLE001 - as above
            return shrunk(fewer, cause)
    return recipe, error


def _told(number: int, recipe: Recipe, error: Exception) -> str:
    return f"chunk {number}: {recipe}\n  {type(error).__name__}: {error}"


def _chunks(graphs: int, first: int) -> Iterator[tuple[int, int]]:
    for at, done in enumerate(range(0, graphs, CHUNK)):
        yield first * 10_000 + at, min(CHUNK, graphs - done)


def fuzz(graphs: int, first: int) -> int:
    """The exit status."""
    coverage, failures, start = Coverage(), list[str](), time.monotonic()
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        jobs = [pool.apply_async(run_chunk, chunk) for chunk in _chunks(graphs, first)]
        for done, job in enumerate(jobs, 1):
            _, found, failure = job.get()
            coverage.add(found)
            if failure:
                failures.append(failure)
                print(failure, flush=True)
            print(f"{min(done * CHUNK, graphs)} of {graphs} graphs, {len(failures)} chunks failed", file=sys.stderr)
        pool.close()
        pool.join()
    print(coverage.table())
    never = coverage.never_passed() if graphs >= ENOUGH else []
    if never:
        print(f"no channel ever passed: {', '.join(never)}")
    print(f"{graphs} graphs, seed {first}, {len(failures)} counterexamples, {time.monotonic() - start:.0f} s")
    if failures:
        print('again: python -m tests.fuzz --replay "RECIPE"')
    return int(bool(failures or never))


def replay(text: str) -> int:
    """Check one recipe, with its program and pins as text."""
    from pagcp_ir.analyse import analyse
    from pagcp_ir.trace import trace
    from tests.ir.nets.make import input_specs, random_net

    recipe = Recipe.parse(text)
    net = random_net(recipe)
    program = trace(net, input_specs(net))
    print(program.text())
    for pin in analyse(program).pins:
        print(f"units {pin.units.tolist()}: {pin.reason} {pin.where}")
    check(recipe)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", metavar="RECIPE", help="check one network: the text that a failure printed")
    arguments = parser.parse_args()
    return replay(arguments.replay) if arguments.replay else fuzz(arguments.graphs, arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
