"""`python -m bench.recovery`: the table of docs/recovery.md, digits at 40% of the MACs before and after recovery."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch

from pagcp_cli.network import open_network
from pagcp_ir.planning import make_plan
from pagcp_ir.program import Program
from passes import make_pass
from passes.base import Context, State, run_passes
from passes.data import load_splits
from passes.finetune import Finetune
from passes.measure import measure
from passes.oracle import RealOracle
from passes.refit import Refit
from passes.tasks import build_tasks
from specs.options import FinetuneOptions, RefitOptions
from specs.spec import load_spec

SPEC = Path(__file__).parents[1] / "specs" / "examples" / "digits.yaml"
REFITS = {
    "bias": {"mode": "bias", "batchnorm": False, "heads": False},
    "bias, batchnorm": {"mode": "bias", "batchnorm": True, "heads": False},
    "bias, batchnorm, heads": {"mode": "bias"},
    "lstsq": {"batchnorm": False, "heads": False},
    "lstsq, batchnorm, heads": {},
}


def rows() -> Iterator[tuple[str, Program, float]]:
    """What was done, the program that it gave, and the seconds of its last step."""
    spec = load_spec(SPEC)
    program, channels = open_network(spec)
    tasks, data = build_tasks(spec), load_splits(spec, torch.device("cpu"))
    start = State(program, channels, make_plan(program, channels, channels.all))
    yield "original", program, 0.0
    search, finetune = spec.passes
    for compensate in ("none", "mean"):

        def run(step, state):
            oracle = RealOracle(tasks, data["calibration"].cached())
            ctx = Context(spec.budgets, spec.seed, oracle=oracle, data=data, tasks=tasks, original=program)
            began = time.perf_counter()
            return run_passes([step], state, ctx), time.perf_counter() - began

        selector = make_pass("pagcp", search.options.model_copy(update={"compensate": compensate}))
        cut, seconds = run(selector, start)
        yield f"cut, compensate: {compensate}", cut.program, seconds
        for name, options in REFITS.items():
            repaired, seconds = run(Refit(RefitOptions(**options)), cut)
            yield f"  refit: {name}", repaired.program, seconds
        assert isinstance(finetune.options, FinetuneOptions)
        for name, state in (("finetune", cut), ("refit, then finetune", repaired)):
            trained, seconds = run(Finetune(finetune.options), state)
            yield f"  {name}: {finetune.options.epochs} epochs", trained.program, seconds


def main() -> None:
    """Print the table."""
    spec = load_spec(SPEC)
    tasks, split = build_tasks(spec), load_splits(spec, torch.device("cpu"))["test"]
    print(f"{'':34}{'digit':>8}{'denoise':>9}{'seconds':>9}")
    for name, program, seconds in rows():
        found = measure(program, tasks, split)
        print(f"{name:34}{found['digit']:8.2%}{found['denoise']:9.2f}{seconds:9.1f}", flush=True)


if __name__ == "__main__":
    main()
