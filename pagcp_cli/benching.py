"""bench: one or two artifacts timed on every backend that runs them, at every batch size and number of threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from pagcp_ir.timing.inputs import Shapes, given_shapes, onnx_inputs
from pagcp_ir.timing.layers import LayerTime, layer_times
from pagcp_ir.timing.race import ROUNDS, Backend, Given, Job, Spread, race
from specs.diagnostics import SpecError

__all__ = ["Bench", "Measured", "bench", "parse_shapes"]

_KINDS = "an output folder, a model.py in one, a .onnx or a .pt2 file"


@dataclass(frozen=True)
class Measured:
    """One artifact in one race: `ms` of a run, `per_second` samples, `peak` bytes of memory, `ratio` to the first."""

    path: str
    backend: Backend
    batch: int
    threads: int
    ms: Spread
    per_second: float
    peak: int
    runs: int
    ratio: Spread | None = None


@dataclass(frozen=True)
class Bench:
    """All that was measured; `layers` in onnxruntime, at the first batch size and number of threads."""

    rows: tuple[Measured, ...]
    layers: tuple[LayerTime, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The data of `--json`."""
        return {"rows": [asdict(row) for row in self.rows], "layers": [layer.to_dict() for layer in self.layers]}


@dataclass(frozen=True)
class _Source:
    """A file that a backend runs, and its inputs at a batch size."""

    path: Path
    inputs: Callable[[int | None], tuple[Given, ...]]


def bench(
    artifacts: Sequence[str | Path],
    batches: Sequence[int] = (),
    threads: Sequence[int] = (1,),
    shapes: Shapes | None = None,
    layers: bool = True,
    rounds: int = ROUNDS,
) -> Bench:
    """Time one or two artifacts in turns. `batches`: none for 1, or what is fixed; `shapes`: of inputs.

    Raises SpecError S122 for what cannot be timed as asked, EmitError E612, E613 or TraceError T209 for files that
    cannot be read or run.
    """
    sides = [_sources(Path(artifact), shapes or {}) for artifact in artifacts]
    common = [backend for backend in sides[0] if all(backend in side for side in sides)]
    if not common:
        told = " and ".join(f"{path} runs in {' and '.join(side)}" for path, side in zip(artifacts, sides, strict=True))
        raise SpecError.one("S122", f"no backend runs both: {told}", hint="compare two folders, .onnx or .pt2 files")
    rows: list[Measured] = []
    for backend in common:
        for batch in batches or (None,):
            for count in threads:
                jobs = [Job(backend, s[backend].path, s[backend].inputs(batch), count) for s in sides]
                rows += _raced(artifacts, jobs, rounds)
    timed: tuple[LayerTime, ...] = ()
    if layers and "onnxruntime" in common:
        batch = batches[0] if batches else None
        files = [(s["onnxruntime"].path, s["onnxruntime"].inputs(batch)) for s in sides]
        timed = layer_times(files, _batch(files[0][1]), threads[0])
    return Bench(tuple(rows), timed)


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`NAME=1x3x224x224`, or shapes alone, which are those of the inputs by place. SpecError S105."""
    found: dict[str, tuple[int, ...]] = {}
    for place, text in enumerate(texts):
        name, _, shape = text.rpartition("=")
        sizes = shape.split("x")
        if not all(size.isascii() and size.isdigit() and int(size) > 0 for size in sizes):
            raise SpecError.one("S105", f"--input must be a shape such as NAME=1x3x224x224, got {text}")
        found[name or str(place)] = tuple(map(int, sizes))
    return found


def _raced(artifacts: Sequence[str | Path], jobs: Sequence[Job], rounds: int) -> list[Measured]:
    found = race(jobs, rounds)
    return [
        Measured(
            path=str(artifacts[n]),
            backend=job.backend,
            batch=_batch(job.inputs),
            threads=job.threads,
            ms=found.ms[n],
            per_second=1e3 * _batch(job.inputs) / found.ms[n].median,
            peak=found.peaks[n],
            runs=found.runs[n],
            ratio=found.ratios[n] if n else None,
        )
        for n, job in enumerate(jobs)
    ]


def _batch(inputs: Sequence[Given]) -> int:
    return inputs[0].shape[0] if inputs and inputs[0].shape else 1


def _sources(path: Path, shapes: Shapes) -> Mapping[Backend, _Source]:
    """What runs an artifact, by backend."""
    if not path.exists():
        raise SpecError.one("S122", "there is no such file or folder", str(path), f"name {_KINDS}")
    onnx = path / "model.onnx" if path.is_dir() else path
    found: dict[Backend, _Source] = {}
    if onnx.suffix == ".onnx" and onnx.is_file():
        sizes = shapes or {given.name: given.shape for given in _locked(onnx.with_name("spec.lock.yaml"))}
        found["onnxruntime"] = _Source(onnx, lambda batch: onnx_inputs(onnx, sizes, batch))
    names = [path / "model.py", path / "model.pt2"] if path.is_dir() else [path]
    for file in names:
        if file.is_file() and file.suffix in (".py", ".pt2") and "torch" not in found:
            found["torch"] = _torch_source(file, shapes)
    if not found:
        held = "the folder holds neither model.onnx, model.py nor model.pt2" if path.is_dir() else "cannot be run"
        raise SpecError.one("S122", held, str(path), f"name {_KINDS}")
    return found


def _torch_source(file: Path, shapes: Shapes) -> _Source:
    own, free = _own_inputs(file, shapes)
    names = [given.name for given in own] or [str(place) for place in range(len(shapes))]
    told = given_shapes(names, shapes, str(file))
    if not own and not told:
        hint = "give the shape of each input: --input 1x3x224x224"
        raise SpecError.one("S122", "nothing says what inputs it takes", str(file), hint)

    def inputs(batch: int | None) -> tuple[Given, ...]:
        made = own or tuple(Given(name, told[name]) for name in names)
        shaped = [Given(g.name, told.get(g.name, g.shape), g.dtype) for g in made]
        fixed = None if free else own[0].shape[0]
        if fixed is not None and batch not in (None, fixed):
            raise SpecError.one("S122", f"its batch size is fixed: --batch {fixed}", str(file))
        return tuple(Given(g.name, (fixed or batch or g.shape[0], *g.shape[1:]), g.dtype) for g in shaped)

    return _Source(file, inputs)


def _own_inputs(file: Path, shapes: Shapes) -> tuple[tuple[Given, ...], bool]:
    """What the file is known to take, and whether its batch size is free."""
    if file.suffix == ".pt2":
        from pagcp_ir.program_file import inputs_of_program

        specs, free = inputs_of_program(file)
        return tuple(_given(n, spec.shape, str(spec.dtype), free) for n, spec in enumerate(specs)), free
    locked = _locked(file.with_name("spec.lock.yaml"))
    beside = file.with_name("model.onnx")
    if not locked and beside.is_file():
        return onnx_inputs(beside, shapes, None), True
    return locked, True


def _locked(lock: Path) -> tuple[Given, ...]:
    """The inputs that a result's lock names, by their place; none where it does not say."""
    if not lock.is_file():
        return ()
    from specs.spec import ModelSpec

    try:
        told = ModelSpec.model_validate(
            {"factory": "a:b", "inputs": yaml.safe_load(lock.read_bytes())["spec"]["model"]["inputs"]}
        )
    except (ValueError, KeyError, TypeError, yaml.YAMLError):
        return ()
    return tuple(_given(n, each.shape, each.dtype, True) for n, each in enumerate(told.inputs))


def _given(place: int, shape: Sequence[int], kind: str, free: bool) -> Given:
    return Given(str(place), (1 if free else shape[0], *shape[1:]), kind.removeprefix("torch."))
