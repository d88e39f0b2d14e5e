"""The dense network: a YOLOv5n of two classes whose last layer is made anew for COCO's, fine-tuned on 96 images.

First the last layer alone, on features that are computed once; then everything, by our own `finetune`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from bench.oracle_speed.cases import data_folder
from bench.quick_quality.cached import folder, key, written
from bench.yolov5.coco import Images, collate, images, mirrored
from bench.yolov5.detector import CLASSES, build, losses
from bench.yolov5.environment import WEIGHTS
from pagcp_cli.network import open_network
from pagcp_ir.channels import ChannelGraph
from pagcp_ir.emit import EXPORTERS, About
from pagcp_ir.planning import make_plan
from pagcp_ir.program import Program
from passes.base import Context, State, run_passes
from passes.data import Splits, load_splits
from passes.finetune import Finetune
from passes.measure import mean_losses
from passes.tasks import Task, build_tasks
from specs.options import FinetuneOptions
from specs.spec import Budgets, load_spec

__all__ = ["SPEC", "Recipe", "dense", "exported", "opened", "started"]

SPEC = Path(__file__).parent / "detector.yaml"


@dataclass(frozen=True)
class Recipe:
    """Epochs and learning rates of the last layer alone, then of the whole network; `version`: of all that is here."""

    head_epochs: int = 60
    head_lr: float = 5e-3
    epochs: int = 12
    lr: float = 5e-4
    batch_size: int = 16
    seed: int = 0
    version: int = 2


def dense(recipe: Recipe) -> tuple[Path, str]:
    """The file of its weights, made where it is not there, and the key that names it."""
    found = key("yolov5n", asdict(recipe))
    path = folder() / f"yolov5n-{found}.safetensors"
    if not path.is_file():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            model = build()
            model.load_state_dict(started(model.state_dict(), load_file(data_folder() / WEIGHTS)))
            _train_head(model, recipe)
            head = path.with_suffix(".head.safetensors")
            _save(head, model.state_dict())
            tuned = _finetuned(head, recipe)  # which also holds the constants of its forward
            _save(path, {name: tuned.get(name, tensor) for name, tensor in model.state_dict().items()})
            head.unlink()
    return path, found


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    written(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def started(fresh: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`given`, of another number of classes: what its last layer says of boxes and objectness stays, classes are fresh.

    An output is one of 5 + classes for each of three anchors, in this order.
    """
    found = {}
    for name, old in given.items():
        new, old = fresh[name].clone(), old.to(fresh[name].dtype)
        if old.shape == new.shape:
            found[name] = old
            continue
        by_anchor = new.view(3, 5 + CLASSES, *new.shape[1:])
        by_anchor[:, :5] = old.view(3, -1, *old.shape[1:])[:, :5]
        found[name] = new
    return found


def _train_head(model: nn.Module, recipe: Recipe) -> None:
    """Adam on the sum of the losses, the learning rate falling along a cosine."""
    last: Any = model.model[-1]
    rows = _twice(images("train"))
    features = _features(model, [image for image, _ in rows])
    optimizer = torch.optim.AdamW(last.m.parameters(), lr=recipe.head_lr)
    steps, step = recipe.head_epochs * math.ceil(len(rows) / recipe.batch_size), 0
    last.train()
    for _ in range(recipe.head_epochs):
        for chosen in torch.randperm(len(rows)).split(recipe.batch_size):
            optimizer.param_groups[0]["lr"] = recipe.head_lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            output = last([scale[chosen] for scale in features])
            target = collate([rows[i] for i in chosen.tolist()])[1]
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(losses((None, output), target).values())).sum().backward()
            optimizer.step()
            step += 1
    model.eval()


def _twice(train: Images) -> list[tuple[Tensor, Tensor]]:
    """Every image, and mirrored."""
    plain = [train[i] for i in range(len(train))]
    return plain + [mirrored(*sample) for sample in plain]


def _features(model: nn.Module, pixels: list[Tensor]) -> list[Tensor]:
    """What the last layer reads, of all images: one tensor a scale."""
    seen: list[list[Tensor]] = []
    last: Any = model.model[-1]
    handle = last.register_forward_pre_hook(lambda _, given: seen.append(list(given[0])))
    with torch.inference_mode():
        for start in range(0, len(pixels), 16):
            model(torch.stack(pixels[start : start + 16]))
    handle.remove()
    return [torch.cat(scale).clone() for scale in zip(*seen, strict=True)]


def _finetuned(weights: Path, recipe: Recipe) -> Mapping[str, Tensor]:
    """The tensors that our `finetune` makes of it."""
    program, channels = opened(weights)
    start = State(program, channels, make_plan(program, channels, channels.all))
    tasks, data = judged_by()
    options = FinetuneOptions(epochs=recipe.epochs, lr=recipe.lr, batch_size=recipe.batch_size)
    ctx = Context(Budgets(), recipe.seed, data=data, tasks=tasks)
    return run_passes([Finetune(options)], start, ctx).program.module.state_dict()


def opened(weights: Path) -> tuple[Program, ChannelGraph]:
    """The network with these weights."""
    return open_network(load_spec(SPEC, [f"model.weights={weights}"]))


def judged_by() -> tuple[tuple[Task, ...], Splits]:
    """The tasks and the data of the spec."""
    spec = load_spec(SPEC)
    return build_tasks(spec), load_splits(spec, torch.device("cpu"))


def exported(weights: Path, made: str) -> tuple[Path, dict[str, float]]:
    """model.onnx of the network, and its losses on validation. `made`: the key of the weights."""
    program, _ = opened(weights)
    place = folder() / "yolov5" / f"dense-{made}"
    place.mkdir(parents=True, exist_ok=True)
    (name,) = EXPORTERS["onnx"](program, place, About("YOLOv5n")).files
    tasks, data = judged_by()
    losses = mean_losses(program, tasks, data["validation"])
    return place / name, {task: round(loss, 5) for task, loss in losses.items()}
