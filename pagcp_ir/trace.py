"""Trace a module into a Program: with torch.fx, which keeps the user's modules, and where that fails with torch.export.

A sub-module that torch.fx cannot follow becomes an opaque leaf; where it holds parameters, torch.export is asked first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from pagcp_ir.copying import copy_with
from pagcp_ir.effects import effects
from pagcp_ir.exported import export, graph_module_of, tensors_of
from pagcp_ir.folding import fold
from pagcp_ir.lifting import dropout_to_modules, lift
from pagcp_ir.program import TRACE_BATCH, Program, TensorSpec, example_inputs
from pagcp_ir.quiet import quiet
from pagcp_ir.source import user_line
from pagcp_ir.symbolic import symbolic
from pagcp_ir.values import propagate
from specs.diagnostics import Diagnostic, TraceError

__all__ = ["close", "program_of", "trace", "unwrapped"]


def trace(model: nn.Module, inputs: Sequence[TensorSpec]) -> Program:
    """Trace `model` in eval mode on inputs of these shapes (their batch size is replaced by 2).

    The model is left as it was: the program has copies of its tensors. Raises TraceError T2xx naming the source line.
    """
    with _own_gradients() as functions:
        program = _traced(unwrapped(model), inputs)
    notes = tuple(f"{name}: its own gradient is replaced by that of what it computes" for name in sorted(functions))
    return replace(program, notes=(*program.notes, *notes))


def _traced(root: nn.Module, inputs: Sequence[TensorSpec]) -> Program:
    with _left_as_it_was(root) as restore:
        restore()
        try:
            program, leaves = _by_fx(root, inputs)
        except Exception as failed:
            error = _refusal(root, failed)
            if error.diagnostics[0].code == "T203":
                raise
            restore()
            return _seen_at_another_size(root, _by_export(root, inputs, error), restore)
        program = _seen_at_another_size(root, program, restore)
        opaque = {path: why for path, why in leaves.items() if any(True for _ in root.get_submodule(path).parameters())}
        if not opaque:
            return program
        restore()
        try:
            why = TraceError(Diagnostic("T202", f"{p}: {told}") for p, told in opaque.items())
            return _seen_at_another_size(root, _by_export(root, inputs, why), restore)
        except TraceError:
            return program


def _seen_at_another_size(root: nn.Module, program: Program, restore: Callable[[], None]) -> Program:
    size = program.another_size()
    restore()
    return program if size is None else replace(program, any_size=bool(_same(root, program, TRACE_BATCH, size)))


def _refusal(root: nn.Module, error: Exception) -> TraceError:
    if isinstance(error, TraceError):
        return error
    told = f"{type(root).__name__} cannot be traced: {type(error).__name__}: {error}"
    return TraceError.one("T202", told, where=user_line(error.__traceback__))


def _by_fx(root: nn.Module, inputs: Sequence[TensorSpec]) -> tuple[Program, Mapping[str, str]]:
    """The program, and the sub-modules that are kept whole with the reasons."""
    with _seeded(), _without_proxies(root):
        found = symbolic(root, inputs, example_inputs(inputs, TRACE_BATCH))
    leaves = found.leaves
    _drop_assertions(found.module)
    program = program_of(found.module, type(root).__name__, inputs, root, only=(F.batch_norm,))
    for node in program.module.graph.nodes:
        if node.op == "call_module" and node.target in leaves:
            node.meta["opaque"] = leaves[node.target]
    kept = tuple(f"{path}: {reason}" for path, reason in leaves.items())
    _require_same(root, program)
    return replace(program, notes=(*program.notes, *kept)), leaves


def _by_export(root: nn.Module, inputs: Sequence[TensorSpec], why: TraceError) -> Program:
    """The same by torch.export. `why`: what torch.fx had against the model; raised again when nothing comes of it."""
    try:
        exported, fixed = export(root, inputs)
        name = type(root).__name__
        program = program_of(graph_module_of(exported, name, root), name, inputs, root, tensors=tensors_of(exported))
        _require_same(root, program)
    except Exception as error:
        if not isinstance(error, TraceError) or error.diagnostics[0].code != "T208":
            raise why from error
        told = f"torch.export fixes the batch size at {TRACE_BATCH}" + (f": {fixed}" if fixed else "")
        raise TraceError((*why.diagnostics, replace(error.diagnostics[0], message=told))) from error
    reasons = (f"{d.message} ({d.where})" if d.where else d.message for d in why.diagnostics)
    notes = (*(f"traced by torch.export: {reason}" for reason in reasons), *program.notes)
    return replace(program, route="export", notes=notes)


def program_of(
    graph: fx.GraphModule, name: str, inputs: Sequence[TensorSpec], original: nn.Module | None, **lifting: Any
) -> Program:
    """A copy of a traced graph as a program: its values on the nodes, modules in place of functional calls."""
    dropout_to_modules(graph)
    if not all("value" in n.meta for n in graph.graph.nodes if n.op != "output"):
        propagate(graph, [((TRACE_BATCH, *s.shape[1:]), s.dtype) for s in inputs])
    lift(graph, original, **lifting)
    module = copy_with(graph, {id(t): _detached(t) for t in (*graph.parameters(), *graph.buffers())}).eval()
    folded = fold(module)
    if folded:
        lift(module, original)
        module = copy_with(module, {})  # without the tensors that nothing reads any more
    module.meta["name"] = name  # a copied graph module loses its class name
    for node in module.graph.nodes:
        if node.op == "get_attr":
            path, _, last = str(node.target).rpartition(".")
            node.meta["value"] = getattr(module.get_submodule(path), last)
        elif node.op == "output":
            node.meta["value"] = fx.node.map_arg(node.args[0], lambda n: n.meta["value"])
    notes = (f"weights that forward computed from parameters are folded: {', '.join(folded)}",) if folded else ()
    return Program(module, tuple(inputs), notes)


def _detached(tensor: Tensor) -> Tensor:
    copied = tensor.detach().clone()
    return nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied


@contextmanager
def _own_gradients() -> Iterator[set[str]]:
    """The names of the torch.autograd.Functions that are applied meanwhile: only what they compute is traced."""
    function: Any = torch.autograd.Function
    original, found = function.__dict__["apply"], set[str]()

    def apply(kind: type, *args: Any, **kwargs: Any) -> Any:
        found.add(kind.__name__)
        return original.__get__(None, kind)(*args, **kwargs)

    function.apply = classmethod(apply)
    try:
        yield found
    finally:
        function.apply = original


@contextmanager
def _left_as_it_was(root: nn.Module) -> Iterator[Callable[[], None]]:
    """Give the modules their attributes back, afterwards and, in eval mode, whenever what it yields is called.

    Tracing leaves constants, and in what forward writes to itself proxies.
    """
    states = [(module, _shallow(vars(module))) for module in root.modules()]

    def restore() -> None:
        for module, state in states:
            vars(module).clear()
            vars(module).update(_shallow(state))

    def again() -> None:
        restore()
        root.eval()

    try:
        yield again
    finally:
        restore()


@contextmanager
def _without_proxies(root: nn.Module) -> Iterator[None]:
    """Take back what forward wrote to its modules where it is a proxy: the model could not run with it."""
    before = [(vars(module), dict(vars(module))) for module in root.modules()]
    try:
        yield
    finally:
        for now, then in before:
            for name, value in list(now.items()):
                if value is not then.get(name) and any(isinstance(v, fx.Proxy) for v in pytree.tree_leaves(value)):
                    del now[name]
                    now.update({name: then[name]} if name in then else {})


def _shallow(state: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that does not see what is put into or taken out of its containers."""
    return {k: _unshared(v) for k, v in state.items()}


def _unshared(value: Any) -> Any:
    if type(value) is dict:
        return {k: _unshared(v) for k, v in value.items()}
    if type(value) is list:
        return [_unshared(v) for v in value]
    return value.copy() if type(value) is set else value


def _require_same(root: nn.Module, program: Program) -> None:
    """What the tracer cannot see (a branch on an attribute, a write through an alias) must not change the result.

    Asked at another batch size than that of tracing: a size that forward takes as a number is a constant now.
    """
    name, verdict, batch = type(root).__name__, None, 0
    for batch in (1, TRACE_BATCH + 1, TRACE_BATCH):
        verdict = _same(root, program, batch)
        if verdict is not None:
            break
    if verdict is not False:
        return
    if batch != TRACE_BATCH and _same(root, program, TRACE_BATCH):
        raise TraceError.one(
            "T208",
            f"forward of {name} takes the batch size as a number: the graph would be right at {TRACE_BATCH} only",
            hint="read the batch size as x.shape[0] wherever forward needs it",
        )
    raise TraceError.one(
        "T207",
        f"the traced graph of {name} does not compute what the model computes",
        hint="look for writes into views of tensors and for state that forward changes",
    )


def _same(root: nn.Module, program: Program, batch: int, size: tuple[int, int] | None = None) -> bool | None:
    """Whether the two agree on random inputs; None where the model itself does not run at that batch or image size."""
    example = example_inputs(program.inputs, batch, size=size)
    try:
        expected = pytree.tree_leaves(_outputs(root, example))
    except Exception:  # noqa: BLE001 - the user's code may raise anything
        return None
    try:
        with quiet():  # a graph module prints its source when it fails
            got = pytree.tree_leaves(_outputs(program.module, example))
    except Exception:  # noqa: BLE001
        return False
    pairs = zip(expected, got, strict=False)
    return len(expected) == len(got) and all(close(a, b) for a, b in pairs if isinstance(a, Tensor))


def _outputs(module: nn.Module, example: Sequence[Tensor]) -> Any:
    with _seeded(), torch.no_grad():
        return module(*example)


@contextmanager
def _seeded() -> Iterator[None]:
    """The same random numbers every time, and none of the user's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def close(expected: Tensor, got: Any) -> bool:
    """Whether two values are one, up to the rounding of single precision."""
    if not isinstance(got, Tensor) or expected.shape != got.shape:
        return False
    return torch.allclose(expected.double(), got.double(), rtol=1e-4, atol=1e-5, equal_nan=True)


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's model inside DataParallel, DistributedDataParallel and torch.compile."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    inner = model.module if isinstance(model, wrappers) else vars(model).get("_modules", {}).get("_orig_mod")
    return unwrapped(inner) if isinstance(inner, nn.Module) else model


def _drop_assertions(module: fx.GraphModule) -> None:
    """Assertions on shapes were decided while tracing; what fed them goes too."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in (torch._assert, torch._check):
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code(effects(module))
