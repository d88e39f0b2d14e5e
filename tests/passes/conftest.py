"""A network with a residual, a concatenation and two heads, and four small splits of random images for it."""

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional

from pagcp_ir.analyse import analyse
from pagcp_ir.planning import make_plan
from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.trace import trace
from passes.base import Context, State
from passes.data import Split, Splits
from passes.oracle import RealOracle
from passes.tasks import Task
from specs.spec import Budgets


class Net(nn.Module):
    """[N, 3, 8, 8] -> {"label": logits [N, 4], "map": [N, 1, 8, 8]}."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(12)
        self.outer = nn.Conv2d(12, 8, 3, padding=1, bias=False)
        self.outer_norm = nn.BatchNorm2d(8)
        self.label = nn.Linear(8, 4)
        self.map = nn.Conv2d(16, 1, 1)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        y = x + self.outer_norm(self.outer(torch.relu(self.inner_norm(self.inner(x)))))
        pooled = functional.adaptive_avg_pool2d(torch.relu(y), 1).flatten(1)
        return {"label": self.label(pooled), "map": self.map(torch.cat([x, y], 1))}


def samples(count: int, seed: int) -> list:
    """The maps are the network's own with noise, so that whatever is cut raises that task's loss."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 8, 8, generator=generator)
    labels = (images.mean((1, 2, 3)) * 20).long().clamp(-1, 2) + 1
    with torch.no_grad():
        maps = make_net()(images)["map"]
    maps = maps + maps.std() * torch.randn(maps.shape, generator=generator)
    return [(images[i], {"label": labels[i], "map": maps[i]}) for i in range(count)]


@dataclass(frozen=True)
class Case:
    """A state at the start of a pipeline, and the context for it."""

    state: State
    ctx: Context


def make_state(program: Program) -> State:
    channels = analyse(program)
    return State(program, channels, make_plan(program, channels, channels.all))


@cache
def make_net() -> Net:
    """Seeded weights, and the normalisations' statistics those of the data."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        net = Net()
        for norm in (net.norm, net.inner_norm, net.outer_norm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
        images = torch.randn(256, 3, 8, 8)
    with torch.no_grad():
        for _ in range(60):
            net(images)
    return net.eval()


def make_tasks() -> tuple[Task, ...]:
    return (
        Task("label", "label", "label", loss=functional.cross_entropy, distill="kl"),
        Task("map", "map", "map", loss=functional.mse_loss, weight=2.0),
    )


@pytest.fixture(scope="session")
def program() -> Program:
    return trace(make_net(), [TensorSpec((1, 3, 8, 8))])


@pytest.fixture
def case(program) -> Case:
    tasks = make_tasks()
    sizes = {"train": 48, "calibration": 40, "validation": 24, "test": 24}
    splits = Splits(
        {name: Split(name, samples(n, seed), batch_size=16) for seed, (name, n) in enumerate(sizes.items())}
    )
    oracle = RealOracle(tasks, splits["calibration"].cached())
    ctx = Context(budgets=Budgets(), oracle=oracle, data=splits, tasks=tasks)
    return Case(make_state(program), ctx)
