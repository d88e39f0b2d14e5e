"""Tasks: what the network is for. Each has a loss that the search may not let rise, a metric and a guarantee.

A loss is the mean over the samples of its batch that have the task's label. Several tasks may share one joint callable
(output, target) -> {task: loss}; there a loss may be a pair (loss, samples), or None where no sample has the label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.utils import _pytree as pytree

from passes.blame import out_of_memory, raised_at, words
from passes.callables import resolve
from passes.labels import Partial, TargetOf, lacking
from passes.metrics import MetricFactory
from passes.named import Loss, named_loss, named_metric
from specs.diagnostics import DataError, nearest
from specs.spec import Guarantee, Spec, TaskSpec

__all__ = [
    "NOT_FINITE",
    "Key",
    "Loss",
    "Part",
    "Task",
    "TaskLoss",
    "batch_losses",
    "build_tasks",
    "holds_nan",
    "labelled",
    "part_of",
    "select",
    "task_losses",
    "weighted",
]

NOT_FINITE = "where samples have no label, say so: missing: nan in the task; else check data, weights and loss"
"""The hint where a loss is NaN: most often the labels are."""
Key = str | int | None
Joint = Callable[[Any, Any], Mapping[str, Any]]


@dataclass(frozen=True)
class Task:
    """One task. `joint`, where given, replaces `loss`; `joint_name` is what the spec calls it.

    `distill`: how its outputs are imitated.

    `missing`: a sample has no label where its target is that value throughout.
    """

    name: str
    output: Key = None
    target: Key = None
    loss: Loss | None = None
    joint: Joint | None = None
    joint_name: str = "losses"
    weight: float = 1.0
    metric_name: str = ""
    metric: MetricFactory | None = None
    higher_is_better: bool = True
    guarantee: Guarantee | None = None
    distill: Literal["kl", "mse"] = "mse"
    missing: Literal["nan"] | int | None = None


@dataclass(frozen=True)
class Part:
    """What a task sees of a batch: its part of output and target; `samples`: of how many, None for all of them."""

    output: Any
    target: Any
    samples: int | None = None


@dataclass(frozen=True)
class TaskLoss:
    """The mean, a scalar, over the `samples` of a batch that have the task's label; None: over all of them."""

    value: Tensor
    samples: int | None = None

    def of(self, size: int) -> int:
        """Over how many of a batch of that size."""
        return size if self.samples is None else self.samples


def select(tree: Any, key: Key, what: str = "output") -> Any:
    """The part of a nested output or target: None is the whole, else an index, a key, or a dotted path.

    DataError D711 names what there is instead.
    """
    for part in _path(tree, key):
        tree = _child(tree, part, f"{what} {key!r}")
    return tree


def _path(tree: Any, key: Key) -> Sequence[Any]:
    """The steps down a tree; a key that is there as it is, dots or not, is one."""
    if key is None:
        return ()
    return (key,) if isinstance(tree, Mapping) and key in tree else str(key).split(".")


def _child(tree: Any, part: Any, what: str) -> Any:
    if isinstance(tree, Mapping):
        if part in tree:
            return tree[part]
        by_text = {str(key): key for key in tree}
        if part in by_text:
            return tree[by_text[part]]
        raise DataError.one("D711", f"{what}: there is no key {part!r}", hint=nearest(part, list(by_text)))
    if isinstance(tree, (list, tuple)):
        if part.lstrip("-").isdigit() and -len(tree) <= int(part) < len(tree):
            return tree[int(part)]
        if hasattr(tree, part) and part in getattr(tree, "_fields", ()):
            return getattr(tree, part)
        raise DataError.one("D711", f"{what}: {part!r} is not an index into {len(tree)} values")
    raise DataError.one("D711", f"{what}: {part!r} is looked up in a {type(tree).__name__}")


def labelled(task: Task, target: Any, size: int) -> int:
    """How many samples of a batch of `size` have the task's label; a joint callable may know better."""
    if task.joint is not None:
        return size if not isinstance(target, TargetOf) or task.name in target.tasks else 0
    found = _label(task, target)
    if found is None:
        return 0
    return size if found[1] is None else len(found[1])


def part_of(task: Task, output: Any, target: Any) -> Part | None:
    """What the task sees of a batch; None where no sample has its label. DataError D711, D716."""
    found = _label(task, target)
    if found is None:
        return None
    part, (label, rows) = select(output, task.output), found
    if rows is None:
        return Part(part, label)
    return Part(_taken(part, rows, task), label, len(rows))


def task_losses(tasks: Sequence[Task], output: Any, target: Any) -> dict[str, Tensor]:
    """The losses of `batch_losses` alone."""
    return {name: loss.value for name, loss in batch_losses(tasks, output, target).items()}


def batch_losses(tasks: Sequence[Task], output: Any, target: Any) -> dict[str, TaskLoss]:
    """Each task's loss on one batch, in the order of the tasks; not of those of which no sample has the label.

    DataError D712 for a loss that raises, D713 for one that is no scalar, D716 for labels that cannot be told apart.
    """
    joint: dict[Joint, Mapping[str, Any]] = {}
    found = {}
    for task in tasks:
        if task.joint is not None:
            loss = _joint_loss(task, task.joint, joint, output, target)
        elif task.loss is not None:
            part = part_of(task, output, target)
            loss = None
            if part is not None:
                value = _called(task.loss, f"the loss of {task.name!r}", part.output, part.target)
                loss = TaskLoss(_scalar(task, value), part.samples)
        else:
            raise DataError.one("D712", f"task {task.name!r} has no loss")
        if loss is not None:
            found[task.name] = loss
    return found


def _joint_loss(
    task: Task, joint: Joint, known: dict[Joint, Mapping[str, Any]], output: Any, target: Any
) -> TaskLoss | None:
    """The task's loss from the joint callable, which is called once for all tasks."""
    if isinstance(target, TargetOf):
        if task.name not in target.tasks:
            return None
        target = target.value
    if joint not in known:
        if lacking(target):
            hint = "data.collate: module:callable makes the targets of a batch as the callable wants them"
            message = f"{task.joint_name} sees whole targets, of which some samples lack a part"
            raise DataError.one("D716", message, hint=hint)
        known[joint] = _called(joint, task.joint_name, output, target)
        _require_mapping(task, known[joint])
    value: Any = select(known[joint], task.name, f"the value of {task.joint_name}:")
    if isinstance(value, (tuple, list)):
        value, samples = _pair(task, value)
        return TaskLoss(_scalar(task, value), samples) if samples else None
    return None if value is None else TaskLoss(_scalar(task, value))


_JOINT = "it returns {task: loss}; a loss is one number, (one number, how many samples), or None where no sample has it"


def _require_mapping(task: Task, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise DataError.one("D713", f"{task.joint_name} must return a dict, got {_shape(value)}", hint=_JOINT)


def _pair(task: Task, value: Sequence[Any]) -> tuple[Any, int]:
    """A loss and over how many samples it is: a whole number, or a tensor of one."""
    if len(value) == 2:
        count = value[1].item() if isinstance(value[1], Tensor) and value[1].numel() == 1 else value[1]
        if isinstance(count, (int, float)) and not isinstance(count, bool) and count == count // 1 and count >= 0:
            return value[0], int(count)
    told = f"({', '.join(str(v) if v is None or isinstance(v, (int, float)) else _shape(v) for v in value)})"
    message = f"{task.joint_name} gave {told} for {task.name!r}: that is no (loss, samples)"
    raise DataError.one("D713", message, hint=_JOINT)


def _scalar(task: Task, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
        kind = "complex shape" if isinstance(value, Tensor) and value.is_complex() else "shape"
        got = f"{kind} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        by = f" from {task.joint_name}" if task.joint is not None else ""
        raise DataError.one("D713", f"the loss of {task.name!r}{by} must be one number, got {got}")
    return value.reshape(())


def _label(task: Task, target: Any) -> tuple[Any, Tensor | None] | None:
    """The task's target of the samples that have it, and which these are, None for all; None where none has it."""
    if isinstance(target, TargetOf):
        if task.name not in target.tasks:
            return None
        target = target.value
    found, rows = _opened(target, None)
    for step in _path(found, task.target):
        if found is None:
            break
        found, rows = _opened(_child(found, step, f"target {task.target!r}"), rows)
    if rows is not None and not len(rows):
        return None
    if lacking(found):
        hint = "`target` selects the part that the task's loss and metric take"
        raise DataError.one("D716", f"the target of {task.name!r} has parts that some samples lack", hint=hint)
    if task.missing is None:
        return found, rows
    there = _there(task, found, task.missing, None if rows is None else len(rows))
    if bool(there.all()):
        return found, rows
    kept = there.nonzero().flatten()
    return (found[kept], kept if rows is None else rows[kept]) if len(kept) else None


def _opened(target: Any, rows: Tensor | None) -> tuple[Any, Tensor | None]:
    """What is inside, of the samples that have it, and which of the batch these are; `rows`: those that are left."""
    while isinstance(target, Partial):
        rows = target.rows if rows is None else rows[target.rows]
        target = target.value
    return target, rows


def _there(task: Task, target: Any, missing: Literal["nan"] | int, size: int | None) -> Tensor:
    """bool [samples]: where the target is not `missing` throughout."""
    if not isinstance(target, Tensor) or not target.ndim or (size is not None and len(target) != size):
        message = f"missing: {missing} needs a target that is a tensor with the samples first, got {_shape(target)}"
        raise DataError.one("D716", f"task {task.name!r}: {message}")
    gone = target.isnan() if missing == "nan" else target == missing
    return ~gone.reshape(len(target), -1).all(1)


def _taken(output: Any, rows: Tensor, task: Task) -> Any:
    """Those samples of the output."""

    def taken(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.ndim or len(leaf) <= int(rows[-1]):
            message = f"some samples have no label for {task.name!r}, but its output does not hold the samples first"
            raise DataError.one("D716", f"{message}: it is {_shape(output)}")
        return leaf[rows.to(leaf.device)]

    return pytree.tree_map(taken, output)


def holds_nan(target: Any) -> bool:
    """Whether a label of that target is NaN."""
    leaves = (leaf for leaf in pytree.tree_leaves(target) if isinstance(leaf, Tensor) and leaf.is_floating_point())
    return any(bool(leaf.isnan().any()) for leaf in leaves)


def weighted(tasks: Sequence[Task], losses: Mapping[str, Any]) -> Any:
    """The sum over tasks of weight * loss, of tensors or of floats; without the tasks that have none."""
    return sum(task.weight * losses[task.name] for task in tasks if task.name in losses)


def _called(function: Callable[[Any, Any], Any], what: str, output: Any, target: Any) -> Any:
    try:
        return function(output, target)
    except (Exception, SystemExit) as error:
        if out_of_memory(error):
            raise
        shapes = f"output {_shape(output)}, target {_shape(target)}"
        raise DataError.one("D712", f"{what} raised {words(error)} ({shapes})", raised_at(error)) from error


def _shape(tree: Any) -> str:
    if isinstance(tree, Tensor):
        return f"{str(tree.dtype).removeprefix('torch.')}{list(tree.shape)}"
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{key}: {_shape(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, (list, tuple)):
        return "(" + ", ".join(_shape(value) for value in tree) + ")"
    return type(tree).__name__


def build_tasks(spec: Spec) -> tuple[Task, ...]:
    """The spec's tasks with their losses and metrics resolved. DataError for what does not resolve."""
    folder = None if spec.path is None else spec.path.parent
    joint = None if spec.losses is None else resolve(spec.losses, folder, spec.where("losses"))
    places = [spec.where(f"tasks[{i}]") for i in range(len(spec.tasks))]
    return tuple(_task(*each, joint, spec.losses, folder) for each in zip(spec.tasks, places, strict=True))


def _task(spec: TaskSpec, where: str, joint: Joint | None, joint_name: str | None, folder: Path | None) -> Task:
    loss_name, loss = named_loss(spec, folder, where)
    if loss is None and joint is None:
        raise DataError.one("D714", f"task {spec.name!r} has no loss, and the spec has no joint `losses`", where)
    metric_name, metric, higher = named_metric(spec, folder, where)
    return Task(
        name=spec.name,
        output=spec.output,
        target=spec.target,
        loss=loss,
        joint=joint if loss is None else None,
        joint_name=joint_name or "losses",
        weight=spec.weight,
        metric_name=metric_name,
        metric=metric,
        higher_is_better=higher,
        guarantee=spec.guarantee,
        distill="kl" if loss_name == "cross_entropy" else "mse",
        missing=spec.missing,
    )
