"""`python -m bench.recovery`: the table of docs/recovery.md, digits at 40% of the MACs before and after recovery."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.pages import put
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

PAGE = Path(__file__).parents[1] / "docs" / "recovery.md"
RESULT = Path(__file__).parent / "results" / "recovery.json"
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
    """Print the table, store it, and put it on the page."""
    spec = load_spec(SPEC)
    tasks, split = build_tasks(spec), load_splits(spec, torch.device("cpu"))["test"]
    found = [
        {"what": name, **measure(program, tasks, split), "seconds": round(seconds, 1)}
        for name, program, seconds in rows()
    ]
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    put("recovery", table(found), PAGE)
    print(table(found))


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """A line a row."""
    lines = [f"{'':34}{'digit':>8}{'denoise':>9}{'seconds':>9}"]
    lines += [f"{row['what']:34}{row['digit']:8.2%}{row['denoise']:9.2f}{row['seconds']:9.1f}" for row in found]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
