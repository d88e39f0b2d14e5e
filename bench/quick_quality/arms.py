"""The arms: how the network is cut to the budget. `version` is raised where a change of code changes what one does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bench.quick_quality.cases import Case
from bench.quick_quality.peer import cut_by_peer
from pagcp_ir.analyse import analyse
from pagcp_ir.planning import make_plan
from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.trace import trace
from passes.base import Context, Pass, State, run_passes
from passes.oracle import RealOracle
from passes.pagcp import Pagcp
from passes.refit import Refit
from passes.uniform import Uniform
from specs.options import PagcpOptions, RefitOptions, UniformOptions
from specs.spec import Budgets

__all__ = ["ARMS", "Arm", "Cut", "started"]


@dataclass(frozen=True)
class Arm:
    """`kind`: of whose options. `refit`: what was cut is repaired by that pass, with the same calibration images."""

    about: str
    kind: Literal["pagcp", "uniform", "peer"]
    options: Mapping[str, Any] = field(default_factory=dict)
    refit: bool = False
    version: int = 1

    @property
    def told(self) -> dict[str, Any]:
        """What determines the arm."""
        return asdict(self) | {"about": None}


GRID = {"start": 0.0625, "stop": 0.9375, "steps": 15}
"""Every sixteenth: the smallest widths have 16 channels."""
OURS = {"criterion": "task_taylor", "compensate": "mean"}
SWAPS = 10
"""As many as `swaps` may try."""
PLAIN = {"criterion": "l1", "compensate": "none"}


def _pagcp(about: str, refit: bool = True, version: int = 2, **options: Any) -> Arm:
    return Arm(about, "pagcp", {"grid": GRID, **OURS, **options}, refit, version)


ARMS: Mapping[str, Arm] = {
    "marginal": _pagcp("the default: pagcp, then refit"),
    "swaps": _pagcp("the default, and swaps", version=1, swaps=SWAPS),
    "racing": _pagcp("the default, racing", confidence=0.999),
    "certified": _pagcp("the default, but search: certified", search="certified"),
    "published": _pagcp("the published procedure", refit=False, version=1, search="published", **PLAIN),
    "uniform_l1": Arm("every group alike, by L1", "uniform", PLAIN),
    "tp_l1_local": Arm("torch-pruning", "peer", {"measure": "l1", "whole": False}),
    "tp_l1_global": Arm("torch-pruning", "peer", {"measure": "l1", "whole": True}),
    "tp_taylor_local": Arm("torch-pruning", "peer", {"measure": "taylor", "whole": False}),
    "tp_taylor_global": Arm("torch-pruning", "peer", {"measure": "taylor", "whole": True}),
    "no_refit": _pagcp("the default, without refit", refit=False),
    "no_compensation": _pagcp("the default, but compensate: none", compensate="none"),
    "by_l1": _pagcp("the default, but criterion: l1", criterion="l1"),
    "uniform": Arm("the default, but every group alike", "uniform", OURS, refit=True, version=2),
}
PEERS = ("published", "uniform_l1", "tp_l1_local", "tp_l1_global", "tp_taylor_local", "tp_taylor_global")
"""What the default is held against."""


@dataclass(frozen=True)
class Cut:
    """A cut network, and what finding it cost: processor seconds, evaluations."""

    program: Program
    seconds: float
    evaluations: int
    losses: Mapping[str, float]


def cut(arm: Arm, case: Case, seed: int) -> Cut:
    """The case's network, cut by the arm with the seed's calibration images."""
    batches = case.calibrating(seed).cached()
    began = time.process_time()
    if arm.kind == "peer":
        program = trace(cut_by_peer(case, batches=batches, **arm.options), [TensorSpec(case.shape)])
        return Cut(program, time.process_time() - began, 0, {})
    oracle = RealOracle(case.tasks, batches)
    ctx = Context(Budgets.model_validate({"macs": f"{case.macs:.1%}"}), seed=seed, oracle=oracle, tasks=case.tasks)
    step: Pass = Pagcp(PagcpOptions.model_validate(arm.options)) if arm.kind == "pagcp" else _uniform(arm)
    steps = (step, Refit(RefitOptions())) if arm.refit else (step,)
    end = run_passes(steps, started(case.program(), case.protect), ctx)
    factors = end.searches[0].factors if end.searches else {}
    return Cut(end.program, time.process_time() - began, oracle.usage.evaluations, factors)


def _uniform(arm: Arm) -> Uniform:
    return Uniform(UniformOptions.model_validate(arm.options))


def started(program: Program, protect: tuple[str, ...] = ()) -> State:
    """The program, uncut."""
    channels = analyse(program, protect)
    return State(program, channels, make_plan(program, channels, channels.all))
