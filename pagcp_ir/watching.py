"""Runs a program as far as some of its calls, and shows what these take and give before anything else is run.

The calls must not write into what they take.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, fx

from pagcp_ir.effects import effects
from pagcp_ir.program import Program

__all__ = ["See", "Watch"]

See = Callable[[int, str, Tensor, Tensor], None]
"""Told of a call: the batch's number, the node's name, the first tensor that it takes, and the tensor that it gives."""


class Watch(fx.Interpreter):
    """Shows `see` the calls of these nodes in the order of the graph; what comes after the last is not run."""

    def __init__(self, program: Program, nodes: Collection[str], see: See) -> None:
        super().__init__(program.module, graph=_until(program, nodes))
        self._watched, self._see, self._number = frozenset(nodes), see, 0

    def __call__(self, number: int, *inputs: Tensor) -> None:
        """Run it on the batch of that number."""
        self._number = number
        self.run(*inputs)

    def run_node(self, n: fx.Node) -> Any:
        """See fx.Interpreter."""
        if n.name not in self._watched:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        taken, given = args[0] if args else kwargs["input"], super().run_node(n)
        self._see(self._number, n.name, taken, given)
        return given


def _until(program: Program, nodes: Collection[str]) -> fx.Graph:
    """The graph as far as the last of the nodes, which it returns; what nothing of that needs is gone."""
    graph = copy.deepcopy(program.module.graph)
    wanted = [node for node in graph.nodes if node.name in nodes]
    for node in reversed(list(graph.nodes)):
        if node is wanted[-1]:
            break
        if node.op != "placeholder":
            graph.erase_node(node)
    graph.output(tuple(wanted))
    graph.eliminate_dead_code(effects(program.module))
    return graph
