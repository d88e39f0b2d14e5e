"""Splits: the four data sets of a spec as batches of (inputs, target) on the device, in a fixed order.

The search sees calibration, fine-tuning sees train, choices see validation, guarantees are measured on test. A last
short batch is merged into the one before: batch 1 takes other kernels than batch 256 and changes bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, default_collate

from passes.batches import Batch, chunks, collates_rows, mixed
from passes.blame import out_of_memory, raised_at, words
from passes.callables import call, resolve
from passes.labels import TargetOf, collate
from passes.seeding import borrowed_rng
from specs.diagnostics import DataError, nearest
from specs.spec import Spec

__all__ = ["CACHE_LIMIT", "CPU", "Batch", "Split", "SplitName", "Splits", "load_splits"]

SplitName = Literal["train", "calibration", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "calibration", "validation", "test")
CPU = torch.device("cpu")
CACHE_LIMIT = 8 * 2**30
"""Bytes of calibration data that are kept on the device at most."""


@dataclass(frozen=True)
class Split:
    """One split. `source` is indexed, or iterated as it is when it cannot be indexed or samples in its own way.

    `parts`, in place of a source: splits of some tasks each, which `tasks` names there.
    """

    name: str
    source: Any
    batch_size: int
    workers: int = 0
    collate: Callable[[list[Any]], Any] | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    """Expected shape of each input, batch first; empty: not checked."""
    device: torch.device = CPU
    seed: int = 0
    subset: tuple[int, ...] | None = None
    tasks: frozenset[str] | None = None
    parts: tuple[Split, ...] = ()

    @property
    def indexed(self) -> bool:
        """Whether samples can be had by index."""
        if self.parts:
            return all(part.indexed for part in self.parts)
        return not isinstance(self.source, (DataLoader, IterableDataset)) and hasattr(self.source, "__getitem__")

    def __len__(self) -> int:
        """Number of samples; TypeError when the source does not know."""
        if self.parts:
            return sum(len(part) for part in self.parts)
        if self.subset is not None:
            return len(self.subset)
        source: Any = self.source.dataset if isinstance(self.source, DataLoader) else self.source
        return len(source)

    def sample(self, count: int | None) -> Split:
        """A seeded subset of `count` samples (all when None or when there are fewer), in the split's order.

        Of each part so many.
        """
        if count is None:
            return self
        if self.parts:
            return replace(self, parts=tuple(part.sample(count) for part in self.parts))
        if not self.indexed:
            message = f"{count} samples of the {self.name} split were asked for, but it cannot be indexed"
            raise DataError.one("D710", message, hint="give a dataset with __len__ and __getitem__")
        if count >= len(self):
            return self
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(self.seed))[:count]
        return replace(self, subset=tuple(sorted(order.tolist())))

    def batches(self) -> Iterator[Batch]:
        """All samples in the fixed order, one part after the other. DataErrors name the split and the batch."""
        if self.parts:
            return (batch for part in self._here() for batch in part.batches())
        if not self.indexed:
            return self._iterated(self.source)
        return self._iterated(chunks(self._order(), self.batch_size))

    def shuffled(self, epoch: int, batch_size: int | None = None) -> Iterator[Batch]:
        """All samples in an order that depends on seed and epoch; the last batch is merged when it is short.

        The batches of parts are mixed, as evenly as their numbers allow.
        """
        if self.parts:
            sizes = [len(part) if part.indexed else 1 for part in self.parts]
            return mixed([part.shuffled(epoch, batch_size) for part in self._here()], sizes)
        if not self.indexed:
            return self._iterated(self.source)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        if self.subset is not None:
            order = [self.subset[i] for i in order]
        return self._iterated(chunks(order, batch_size or self.batch_size))

    def item(self, index: int) -> Any:
        """One sample as the source gives it, of a split that is indexed. DataError D704 where reading it raises."""
        try:
            return self.source[index if self.subset is None else self.subset[index]]
        except (Exception, SystemExit) as error:
            name, _, told = words(error).partition(": ")
            message = f"the {self.name} split raised {name} at sample {index}: {told}"
            raise DataError.one("D704", message, raised_at(error)) from error

    def first(self, count: int) -> Batch:
        """The first samples as one batch, read here and now; of a split that is indexed and has no parts."""
        with borrowed_rng(self.seed):
            order = tuple(self._order()[:count])
            return next(replace(self, subset=order, batch_size=len(order), workers=0).batches())

    def cached(self) -> tuple[Batch, ...]:
        """All batches, kept on the device. DataError D706 when they would take more than CACHE_LIMIT bytes."""
        kept, used = [], 0
        with borrowed_rng(self.seed):
            for part in self._here():
                by_row = part._collates_rows()
                for batch in part.batches():
                    leaves = pytree.tree_leaves((batch.inputs, batch.target))
                    used += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
                    if used > CACHE_LIMIT:
                        hint = "set data.calibration.samples to use a part of it"
                        message = f"the {self.name} split takes more than {CACHE_LIMIT >> 30} GiB"
                        raise DataError.one("D706", message, hint=hint)
                    kept.append(replace(batch, by_row=by_row))
        return tuple(kept)

    def _here(self) -> tuple[Split, ...]:
        """The parts, on this split's device; itself when it has none."""
        return tuple(replace(part, device=self.device) for part in self.parts) or (self,)

    def _collates_rows(self) -> bool:
        """Whether a batch is its samples, one row each: shown on the first batch, for a collate function not ours."""
        if not self.indexed:
            return getattr(self.source, "collate_fn", self.collate or default_collate) is default_collate
        if self.collate is None:
            return True
        with borrowed_rng(self.seed):
            return collates_rows(self.collate, self.source, chunks(self._order(), self.batch_size)[0])

    def _order(self) -> list[int]:
        return list(range(len(self))) if self.subset is None else list(self.subset)

    def _iterated(self, plan: Any) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self.seed)
        loader: Any = plan
        if not isinstance(plan, DataLoader):
            if self.indexed:
                options: dict[str, Any] = {"batch_sampler": plan}
            else:
                options = {"batch_size": self.batch_size}
            options |= {"collate_fn": self.collate or collate, "generator": generator}
            loader = DataLoader(self.source, num_workers=self.workers, **options)
        steps = iter(loader)
        count = 0
        while True:
            try:
                item = next(steps)
            except StopIteration:
                break
            except (Exception, SystemExit) as error:
                if out_of_memory(error):
                    hint = "lower data.batch_size or data.workers, or give the process more memory"
                    message = f"memory ran out while batch {count} of the {self.name} split was read"
                    raise DataError.one("D717", message, raised_at(error), hint) from error
                name, _, told = words(error).partition(": ")
                message = f"the {self.name} split raised {name} at batch {count}: {told}"
                raise DataError.one("D704", message, raised_at(error)) from error
            yield self._batch(item, count)
            count += 1
        if count == 0:
            raise DataError.one("D705", f"the {self.name} split is empty")

    def _batch(self, item: Any, index: int) -> Batch:
        place = f"{self.name} split, batch {index}"
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            got = f"{len(item)} values" if isinstance(item, (tuple, list)) else f"a {type(item).__name__}"
            raise DataError.one("D707", f"{place}: expected (input, target), got {got}")
        given, target = item
        inputs = tuple(given) if isinstance(given, (tuple, list)) else (given,)
        self._check(inputs, place)
        inputs, target = pytree.tree_map_only(Tensor, lambda t: t.to(self.device, non_blocking=True), (inputs, target))
        return Batch(inputs, target if self.tasks is None else TargetOf(self.tasks, target), int(inputs[0].shape[0]))

    def _check(self, inputs: tuple[Any, ...], place: str) -> None:
        for i, value in enumerate(inputs):
            if not isinstance(value, Tensor):
                raise DataError.one("D707", f"{place}: input {i} is a {type(value).__name__}, not a tensor")
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise DataError.one("D708", f"{place}: input {i} holds NaN or infinity")
        if not self.shapes:
            return
        if len(inputs) != len(self.shapes):
            message = f"{place}: the network takes {len(self.shapes)} inputs, got {len(inputs)}"
            raise DataError.one("D707", message)
        for i, (value, shape) in enumerate(zip(inputs, self.shapes, strict=True)):
            # image sizes may differ from the spec's, channels may not
            if value.ndim != len(shape) or (value.ndim > 1 and value.shape[1] != shape[1]):
                expected, got = ["N", *shape[1:]], list(value.shape)
                message = f"{place}: input {i} has shape {got}, expected [{', '.join(map(str, expected))}]"
                raise DataError.one("D707", message)


@dataclass(frozen=True)
class Splits:
    """The splits that the spec's factory gave, by name. `factory`, `where`: its name and line, for errors."""

    given: Mapping[str, Split]
    factory: str = "the data factory"
    where: str = ""

    def __contains__(self, name: SplitName) -> bool:
        return name in self.given

    def __getitem__(self, name: SplitName) -> Split:
        """The split. DataError D709 when the factory did not give it."""
        if name not in self.given:
            message = f"{self.factory} returned no {name!r} split; it returned {', '.join(self.given) or 'none'}"
            raise DataError.one("D709", message, self.where)
        return self.given[name]

    @property
    def judge(self) -> tuple[Split, Literal["test", "validation"]]:
        """Where guarantees are measured: test, or validation when there is no test split."""
        return (self["test"], "test") if "test" in self else (self["validation"], "validation")


def load_splits(spec: Spec, device: torch.device) -> Splits:
    """Call the spec's data factory. DataErrors: D709 for missing or unknown splits, D705 for an empty one."""
    if spec.data is None:
        raise DataError.one("D709", "the spec has no data")
    folder, where = None if spec.path is None else spec.path.parent, spec.where("data.factory")
    factory = resolve(spec.data.factory, folder, where)
    with borrowed_rng(spec.seed):
        made = call(factory, spec.data.factory, where, **dict(spec.data.args))
    if not isinstance(made, Mapping):
        message = f"{spec.data.factory} must return a dict of splits, got a {type(made).__name__}"
        raise DataError.one("D709", message, where)
    for name in made:
        if name not in SPLITS:
            message = f"{spec.data.factory} returns an unknown split {name!r}"
            raise DataError.one("D709", message, where, nearest(str(name), list(SPLITS)))
    made_by = None if spec.data.collate is None else resolve(spec.data.collate, folder, where)
    plain = Split(
        name="",
        source=None,
        batch_size=spec.data.batch_size,
        workers=spec.data.workers,
        collate=made_by,
        shapes=tuple(tuple(given.shape) for given in spec.model.inputs),
        device=device,
        seed=spec.seed,
    )
    tasks = [task.name for task in spec.tasks]
    splits = {name: _split_or_parts(replace(plain, name=name), source, tasks, where) for name, source in made.items()}
    if "calibration" in splits:
        splits["calibration"] = splits["calibration"].sample(spec.data.calibration.samples)
    return Splits(splits, spec.data.factory, where)


def _split_or_parts(plain: Split, source: Any, tasks: Sequence[str], where: str) -> Split:
    """The split; where the source is a mapping of tasks to data, one part for each data set."""
    if not isinstance(source, Mapping):
        return _split(plain, source, where)
    for name in source:
        if name not in tasks:
            message = f"the {plain.name} split has data for an unknown task {name!r}"
            raise DataError.one("D709", message, where, nearest(str(name), tasks))
    if lacking := [name for name in tasks if name not in source]:
        raise DataError.one("D709", f"the {plain.name} split has no data for the task {lacking[0]!r}", where)
    shared: dict[int, list[str]] = {}
    for name in tasks:  # tasks with the same data see the same batches
        shared.setdefault(id(source[name]), []).append(name)
    parts = []
    for names in shared.values():
        part = replace(plain, name=f"{plain.name} ({', '.join(names)})", tasks=frozenset(names))
        parts.append(_split(part, source[names[0]], where))
    return replace(plain, parts=tuple(parts))


def _split(plain: Split, source: Dataset[Any] | DataLoader[Any], where: str) -> Split:
    """A loader that goes through an indexed dataset in order or shuffled is opened up, so that order is ours."""
    if isinstance(source, DataLoader) and source.batch_size is not None:
        plain = replace(plain, batch_size=source.batch_size)
        known = isinstance(source.sampler, (SequentialSampler, RandomSampler))
        if known and not getattr(source.sampler, "replacement", False):
            made = None if source.collate_fn is default_collate else source.collate_fn
            plain = replace(plain, collate=plain.collate or made, workers=source.num_workers)
            source = source.dataset
    elif not isinstance(source, DataLoader) and not (hasattr(source, "__getitem__") or hasattr(source, "__iter__")):
        message = f"the {plain.name} split is a {type(source).__name__}, neither a dataset nor a DataLoader"
        raise DataError.one("D709", message, where)
    split = replace(plain, source=source)
    try:
        size: float = len(split)
    except TypeError:
        size = math.inf
    if size == 0:
        raise DataError.one("D705", f"the {plain.name} split is empty", where)
    return split
