"""Spec: the user's contract (DESIGN section 5), and `load_spec`, which reports all that is wrong with one at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError

from specs.diagnostics import Diagnostic, SpecError, nearest
from specs.exporting import FORMATS, Export
from specs.messages import findings, in_order, key_path
from specs.model import DEVICE, List, Model, Problem, Reference
from specs.node import KeyPath, Node, dotted, shown
from specs.options import OPTIONS, PassSpec, pass_of
from specs.sections import (
    Budgets,
    CalibrationSpec,
    DataSpec,
    Guarantee,
    InputSpec,
    ModelSpec,
    TaskSpec,
)
from specs.tree import read_tree

__all__ = [
    "Budgets",
    "CalibrationSpec",
    "DataSpec",
    "Guarantee",
    "InputSpec",
    "ModelSpec",
    "PassSpec",
    "Spec",
    "TaskSpec",
    "load_spec",
]

_FILES: dict[KeyPath, tuple[str, ...]] = {
    ("model", "weights"): (".safetensors", ".pt"),
    ("model", "program"): (".pt2",),
    ("budgets", "latency", "backend", "table"): (".csv",),
}
"""Where a spec names files, and what their names end in."""


def _pass_options(given: Mapping[str, Any], at: KeyPath = ()) -> Iterable[tuple[KeyPath, str, Mapping[str, Any]]]:
    """Place, name and options of the passes that are known, those in `repeat` too, as they were written."""
    passes = given.get("passes")
    for index, item in enumerate(passes if isinstance(passes, (list, tuple)) else ()):
        place, name, options = (*at, "passes", index), item, {}
        if isinstance(item, PassSpec):
            name, options = item.name, dict(item.options)
        elif isinstance(item, Mapping) and len(item) == 1:
            name, options = next(iter(item.items()))
        if not isinstance(name, str) or name not in OPTIONS:
            continue
        options = options if isinstance(options, Mapping) else {}
        yield place, name, options
        if name == "repeat":
            yield from _pass_options(options, (*place, name))


class Spec(Model):
    """What is to be compiled, how good it must stay, how small it must become."""

    version: Literal[1] = Field(description="of this format")
    seed: int = Field(default=0, ge=0, lt=2**32, description="of everything random")
    device: str = Field(default="auto", pattern=DEVICE, description="auto, cpu, cuda, cuda:1 or mps")
    model: ModelSpec = Field(description="the trained network")
    data: DataSpec | None = Field(default=None, description="where the data comes from")
    losses: Reference | None = Field(default=None, description="module:callable (output, target) -> {task: loss}")
    tasks: List[TaskSpec] = Field(default=(), description="what the network has to stay good at")
    budgets: Budgets = Field(default=Budgets(), description="what is kept at most")
    passes: Annotated[List[Annotated[PassSpec, BeforeValidator(pass_of)]], Field(min_length=1)] = Field(
        description="the steps, in order"
    )
    on_miss: Literal["fail", "back_off"] = Field(
        default="fail",
        description="fail: a missed guarantee is told, and exits 4; back_off: cuts are given back until all hold",
    )
    export: List[Export] = Field(default=FORMATS, description="what is written besides the plan")

    _path: Path | None = PrivateAttr(None)
    _root: Node | None = PrivateAttr(None)
    _overrides: tuple[str, ...] = PrivateAttr(())

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterable[Problem]:
        """Names that occur twice, and passes that lack what they need."""
        yield from _same_names(given)
        yield from _same_formats(given)
        if given.get("on_miss") == "back_off" and not any(task.get("guarantee") for task in _tasks(given)):
            hint = "give a task a guarantee: {max_drop: 1pp}"
            yield Problem("S110", ": back_off needs a guarantee that can be missed", hint, ("on_miss",))
        passes = list(_pass_options(given))
        needing = [(place, name) for place, name, options in passes if OPTIONS[name].needs_tasks(options)]
        for place, name in needing[:1]:
            lacking = " and ".join(key for key in ("tasks", "data") if not given.get(key))
            if lacking:
                yield Problem("S113", f": {name} needs {lacking}", "it measures the tasks' losses", place)
            yield from _without_loss(given, name)
        for place, name, options in passes:
            if name == "uniform" and options.get("ratio") is None and not given.get("budgets"):
                hint = "give ratio, or budgets that the smallest sufficient ratio is to meet"
                yield Problem("S106", "is missing", hint, (*place, name, "ratio"))
            if name == "pagcp":
                yield from _of_pagcp(given, (*place, name), options)
            if name == "finetune" and options.get("trainer") is not None and _has_program(given):
                hint = "leave out trainer, or give the model's factory and weights"
                yield Problem("S110", "needs model.factory, whose model it trains", hint, (*place, name, "trainer"))

    @property
    def path(self) -> Path | None:
        """The file that it was read from."""
        return self._path

    @property
    def overrides(self) -> tuple[str, ...]:
        """The overrides that it was read with."""
        return self._overrides

    def where(self, key: str | Iterable[str | int]) -> str:
        """file:line:col of "tasks[0].loss" (or of what should hold it); empty for a spec that was not read."""
        return "" if self._root is None else str(self._root.at(key_path(key)))

    def resolve(self, path: str | Path) -> Path:
        """A path of the spec as one of this machine: relative ones start at the spec's folder."""
        return (self._path.parent if self._path is not None else Path()) / path

    def resolved(self) -> dict[str, Any]:
        """The spec with every default, in YAML's types, loadable again, without a path of this machine."""
        from specs.lock import resolved

        return resolved(self, self._path, () if self._root is None else self._root.expanded())

    def to_yaml(self) -> str:
        """`resolved` as YAML."""
        from specs.lock import yaml_text

        return yaml_text(self.resolved())


def _has_program(given: Mapping[str, Any]) -> bool:
    model = given.get("model")
    program = model.get("program") if isinstance(model, Mapping) else getattr(model, "program", None)
    return program is not None


def _of_pagcp(given: Mapping[str, Any], place: KeyPath, options: Mapping[str, Any]) -> Iterable[Problem]:
    """What the search needs of the rest of the spec: budgets or a total, and the tasks that it names."""
    if options.get("total", "auto") == "auto" and options.get("stop") != "tolerance" and not given.get("budgets"):
        yield Problem("S106", "is missing", "give total, or budgets that are to be met", (*place, "total"))
    for index, task in enumerate(_tasks(given) if options.get("measure") == "metric" else ()):
        if task.get("metric") is None:
            hint = "pagcp: {measure: metric} measures the metric of every task"
            yield Problem("S106", "is missing", hint, ("tasks", index, "metric"))
    names = [task.get("name") for task in _tasks(given)]
    for key in ("tolerances", "floor"):
        overrides = options.get(key)
        for task in overrides if isinstance(overrides, Mapping) and names else ():
            if task not in names:
                hint = nearest(str(task), [str(name) for name in names])
                yield Problem("S107", f"names no task: {shown(task)}", hint, (*place, key, task))


def _same_names(given: Mapping[str, Any]) -> Iterable[Problem]:
    seen: dict[str, int] = {}
    for index, task in enumerate(_tasks(given)):
        name = task.get("name")
        if not isinstance(name, str):
            continue
        if name in seen:
            hint = f"tasks[{seen[name]}] has it already"
            yield Problem("S111", f"must be unique, got {shown(name)} again", hint, ("tasks", index, "name"))
        seen.setdefault(name, index)


def _same_formats(given: Mapping[str, Any]) -> Iterable[Problem]:
    listed = given.get("export")
    items = listed if isinstance(listed, (list, tuple)) else ()
    formats = [next(iter(item), None) if isinstance(item, Mapping) else item for item in items]
    for index, name in enumerate(formats):
        if name in FORMATS and name in formats[:index]:
            hint = f"export[{formats.index(name)}] asks for it already"
            yield Problem("S111", f"must be unique, got {name} again", hint, ("export", index))


def _without_loss(given: Mapping[str, Any], name: str) -> Iterable[Problem]:
    if given.get("losses") is None:
        for index, task in enumerate(_tasks(given)):
            if task.get("loss") is None:
                hint = f"{name} measures the loss of every task; for example loss: cross_entropy"
                yield Problem("S106", "is missing", hint, ("tasks", index, "loss"))


def _tasks(given: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tasks as written, an empty one for what is not a task."""
    tasks = given.get("tasks")
    items = tasks if isinstance(tasks, (list, tuple)) else ()
    return [dict(item) if isinstance(item, (Mapping, TaskSpec)) else {"loss": ""} for item in items]


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> Spec:
    """The spec in that file, with overrides such as "budgets.macs=50%". SpecError holds all that is wrong."""
    path = Path(path)
    problems: list[Diagnostic] = []
    root = read_tree(path, overrides, problems)
    spec = None
    try:
        spec = Spec.model_validate(root.plain())
    except ValidationError as error:
        problems += findings(error, root)
    problems += _missing_files(root, path.parent)
    if spec is None or problems:
        raise SpecError(in_order(problems, str(path)))
    spec._path, spec._root, spec._overrides = path, root, tuple(overrides)
    return spec


def _missing_files(root: Node, folder: Path) -> Iterable[Diagnostic]:
    for keys, suffixes in _FILES.items():
        node = root.get(keys)
        name = node.content if node is not None else None
        if node is None or not isinstance(name, str) or not name.endswith(suffixes) or (folder / name).is_file():
            continue
        beside = sorted(file.name for file in folder.iterdir() if file.suffix in suffixes) if folder.is_dir() else []
        close = nearest(name, beside)
        message = f"{dotted(keys)}: there is no file {name} (looked up from the folder of the spec)"
        yield node.place.diagnostic("S112", message, close)
