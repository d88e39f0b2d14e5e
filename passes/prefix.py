"""Activations reused: a candidate runs only from the last place up to which it equals a network that was run before.

What is kept are the live values at one place of the graph, for the batches that fit into the limit; a candidate with
the same fingerprint up to there goes on from them, by the same kernels on the same shapes, so that nothing changes but
time. A value is kept when its prefix is met for the second time, where most work is saved, or at the place from which
on the next candidates are said to differ, where there is room.
Not kept: what comes after random numbers were drawn. What is written into later is copied; a network that writes into
its inputs or weights, so that it computes something else the next time, is not traced at all.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from pagcp_ir.effects import writes_in_place
from pagcp_ir.program import TRACE_BATCH, Program
from passes.data import Batch
from passes.fingerprint import Digests, fingerprints

__all__ = ["Prefixes", "Run"]


@dataclass(frozen=True)
class _Saved:
    """Live values by node name. `own`: whether nothing else can write into them."""

    values: Mapping[str, Any]
    own: bool
    nbytes: int


class Prefixes:
    """The memory, and what is known of prefixes, of one program cut in many ways and one order of batches."""

    def __init__(self, program: Program, megabytes: int, samples: int, work: Mapping[str, int]) -> None:
        """`samples`: how many there are in all; `work`: by name of a node, what it costs to run."""
        self.limit, self.samples, self.work = megabytes * 2**20, samples, work
        self.used = 0
        self.hits = 0
        self.ahead: str | None = None
        """The node from which on the next candidates differ, as far as is known."""
        self._digests = Digests(program.tensors().values())
        self._met: set[bytes] = set()
        self._refused: set[bytes] = set()
        self._slots: OrderedDict[bytes, dict[int, _Saved]] = OrderedDict()

    def run(self, cut: Program, module: fx.GraphModule) -> Run:
        """How to run that network. `module`: it, its tensors perhaps in another order in memory, the same for all."""
        chain = fingerprints(cut.module, self._digests)
        shared = next((i for i, key in enumerate(chain) if key not in self._met), len(chain)) - 1
        self._met.update(chain)
        return Run(self, module, chain, shared, self.ahead)

    def find(self, key: bytes, batch: int) -> _Saved | None:
        """What was kept of that prefix and batch."""
        slot = self._slots.get(key)
        if slot is None:
            return None
        self._slots.move_to_end(key)
        return slot.get(batch)

    def keep(self, key: bytes, batch: int, saved: _Saved, spared: Container[bytes] = ()) -> bool:
        """Keep it if it fits, in place of what was not used for the longest time; whether it was kept."""
        slot = self._slots.setdefault(key, {})
        self._slots.move_to_end(key)
        for other in [other for other in self._slots if other != key and other not in spared]:
            if self.used + saved.nbytes <= self.limit:
                break
            self.used -= sum(each.nbytes for each in self._slots.pop(other).values())
        if batch in slot or self.used + saved.nbytes > self.limit:
            return False
        slot[batch] = saved
        self.used += saved.nbytes
        return True

    def refuse(self, key: bytes) -> None:
        """Keep nothing from there on."""
        self._refused.add(key)

    def refused(self, key: bytes) -> bool:
        """Whether nothing may be kept there."""
        return key in self._refused


class Run:
    """One network, run batch by batch, each from where it equals one that was run before."""

    def __init__(
        self, prefixes: Prefixes, module: fx.GraphModule, chain: list[bytes], shared: int, ahead: str | None
    ) -> None:
        self._prefixes, self._module, self._chain = prefixes, module, chain
        self._nodes = list(module.graph.nodes)
        self._interpreter = fx.Interpreter(module)
        self._writing = _writing(module)
        self._live = _live(self._nodes)
        self._places = self._promising(shared)
        self._ahead = next((place for place, node in enumerate(self._nodes) if node.name == ahead), 0)

    def __call__(self, number: int, batch: Batch) -> Any:
        """The network's output on the batch, which has that number."""
        start, saved = self._latest(number)
        end = next((place for place, key in enumerate(self._chain) if self._prefixes.refused(key)), len(self._chain))
        target = next((place for place in self._places if place < end), 0)
        targets = [place for place in {target, self._ahead} if start < place < end and self._live[place]]
        if start == 0 and not targets:
            return self._module(*batch.inputs)
        return self._run(start, saved, targets, number, batch)

    def _latest(self, number: int) -> tuple[int, _Saved | None]:
        """The last place at which values of the batch were kept, and these."""
        for place in range(len(self._chain) - 1, 0, -1):
            saved = self._prefixes.find(self._chain[place], number)
            if saved is None or not all(node.name in saved.values for node in self._live[place]):
                continue
            if saved.own or not self._written_from(place):
                return place, saved
        return 0, None

    def _promising(self, shared: int) -> list[int]:
        """Places up to `shared`, that which saves most work first where its values only fit in part."""
        found, work, samples = list[tuple[float, int]](), 0, self._prefixes.samples
        for place, node in enumerate(self._nodes[: shared + 1]):
            need = sum(map(_nbytes, self._live[place])) / TRACE_BATCH * samples
            if work and self._live[place]:
                found.append((work * min(1.0, self._prefixes.limit / max(need, 1.0)), place))
            work += self._prefixes.work.get(node.name, 0)
        return [place for _, place in sorted(found, reverse=True)]

    def _written_from(self, place: int) -> bool:
        return any(index >= place for index in self._writing)

    def _run(self, start: int, saved: _Saved | None, targets: list[int], number: int, batch: Batch) -> Any:
        interpreter, env = self._interpreter, dict[fx.Node, Any]()
        interpreter.env, interpreter.args_iter = env, iter(self._module.graph.process_inputs(*batch.inputs))
        if saved is not None:
            self._prefixes.hits += 1
            values = _copied(saved.values) if self._written_from(start) else saved.values
            env.update((node, values[node.name]) for node in self._live[start])
        drawn, held, output = _drawn() if targets else None, [saved], None
        spared = {self._chain[place] for place in (start, *targets) if place != self._ahead}
        for place, node in enumerate(self._nodes):
            if place in targets:
                held.append(self._keep(place, env, drawn, number, spared))
            if place >= start or node.op in ("placeholder", "get_attr"):
                env[node] = interpreter.run_node(node)
                if node.op == "output":
                    output = env[node]
                for dead in interpreter.user_to_last_uses.get(node, []):
                    env.pop(dead, None)
        env.clear()
        return _apart(self._module.graph.process_outputs(output), [each.values for each in held if each is not None])

    def _keep(
        self, place: int, env: Mapping[fx.Node, Any], drawn: Any, number: int, spared: Container[bytes]
    ) -> _Saved | None:
        """Keep the live values, if nothing speaks against it."""
        key, values = self._chain[place], {node.name: env[node] for node in self._live[place]}
        own = self._written_from(place)
        if drawn != _drawn() or not _storable(values):
            self._prefixes.refuse(key)
            return None
        size = sum(storage.nbytes() for storage in _storages(values).values())
        saved = _Saved(_copied(values) if own else values, own, size)
        return saved if self._prefixes.keep(key, number, saved, spared if place == self._ahead else ()) else None


def _writing(module: fx.GraphModule) -> frozenset[int]:
    """The places of nodes that write into a value that they are given."""
    modules = dict(module.named_modules(remove_duplicate=False))
    return frozenset(
        place
        for place, node in enumerate(module.graph.nodes)
        if node.op.startswith("call_") and _writes(node, modules.get(str(node.target)))
    )


def _writes(node: fx.Node, module: nn.Module | None) -> bool:
    if node.op == "call_module" and module is not None:
        return any(writes_in_place(node, part) for part in module.modules())
    if isinstance(node.target, torch._ops.OpOverload):
        return bool(node.target._schema.is_mutable)
    return writes_in_place(node)


def _live(nodes: list[fx.Node]) -> list[tuple[fx.Node, ...]]:
    """Before each node: the values that were computed and are still read; inputs and constants are at hand anyway."""
    places = {node: place for place, node in enumerate(nodes)}
    last = {node: max((places[user] for user in node.users), default=-1) for node in nodes}
    live, found = list[fx.Node](), list[tuple[fx.Node, ...]]()
    for place, node in enumerate(nodes):
        live = [each for each in live if last[each] >= place]
        found.append(tuple(live))
        if node.op.startswith("call_"):
            live.append(node)
    return found


def _nbytes(node: fx.Node) -> int:
    return sum(leaf.nbytes for leaf in pytree.tree_leaves(node.meta.get("value")) if isinstance(leaf, Tensor))


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor))


def _storages(tree: Any) -> dict[int, torch.UntypedStorage]:
    """The memory under a tree's tensors, by its address."""
    storages = (tensor.untyped_storage() for tensor in _tensors(tree))
    return {storage.data_ptr(): storage for storage in storages if storage.nbytes()}


def _storable(tree: Any) -> bool:
    """Whether all leaves are plain tensors, numbers and the like."""
    plain = (int, float, bool, str, type(None), torch.dtype, torch.device)
    return all(type(leaf) is Tensor or isinstance(leaf, plain) for leaf in pytree.tree_leaves(tree))


def _copied(tree: Any) -> Any:
    """A tree with memory of its own, in which tensors share what they shared, with their strides."""
    storages = {address: storage.clone() for address, storage in _storages(tree).items()}  # type: ignore[no-untyped-call]

    def copy(tensor: Tensor) -> Tensor:
        storage = storages.get(tensor.untyped_storage().data_ptr())
        if storage is None:
            return tensor.clone()
        return tensor.new_empty(0).set_(storage, tensor.storage_offset(), tensor.size(), tensor.stride())

    return pytree.tree_map_only(Tensor, copy, tree)


def _apart(output: Any, kept: Any) -> Any:
    """The output; as a copy where it shares memory with what was kept, since a loss may write into it."""
    return _copied(output) if _storages(kept).keys() & _storages(output).keys() else output


def _drawn() -> tuple[Any, ...]:
    """Where the random generators stand."""
    legacy: Any = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), legacy[1].tobytes(), *legacy[2:]
