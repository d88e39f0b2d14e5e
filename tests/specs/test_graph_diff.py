"""Two graphs as a unified diff: what is matched, what is marked, and that either graph can be read back from it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from specs.graph_diff import Edge, GraphDiff, GraphNode, GraphText, graph_diff


def graph(*lines: str, title: str = "net") -> GraphText:
    """Nodes written as `name:width = op given given`; layers are matched by the name of their op, as in conv.stem."""
    nodes: dict[str, GraphNode] = {}
    for line in lines:
        made, _, rest = line.partition(" = ")
        name, _, width = made.partition(":")
        op, *inputs = rest.split()
        edges = tuple(Edge(i, nodes[i].type, i) if i in nodes else Edge(i, "") for i in inputs)
        nodes[name] = GraphNode(name, f"f32[{width}]", op, edges, op)
    return GraphText(title, tuple(nodes.values()))


def marked(found: GraphDiff) -> list[str]:
    return [str(line) for hunk in found.hunks for line in hunk.lines if line.marks]


BEFORE = ("x:3 = input", "a:8 = conv.a x", "r:8 = relu a", "b:8 = conv.b r", "s:8 = add a b")


def test_equal_graphs() -> None:
    found = graph_diff(graph(*BEFORE), graph(*BEFORE))
    assert (found.equal, found.hunks, found.counts["same"]) == (True, (), 5)


def test_other_names_are_no_difference() -> None:
    other = ("in:3 = input", "c0:8 = conv.a in", "act:8 = relu c0", "c1:8 = conv.b act", "sum:8 = add c0 c1")
    assert graph_diff(graph(*BEFORE), graph(*other)).equal


def test_each_mark() -> None:
    after = ("x:3 = input", "a:4 = conv.a x", "r:4 = relu a", "n:4 = norm r", "b:4 = conv.b n", "s:4 = mul a b")
    found = graph_diff(graph(*BEFORE), graph(*after))
    assert marked(found) == [
        "+a: f32[4] = conv.a(x f32[3])  # retyped",
        "+r: f32[4] = relu(a f32[4])  # retyped",
        "+n: f32[4] = norm(r f32[4])  # added",
        "+b: f32[4] = conv.b(n f32[4])  # retyped, rewired",
        "-s: f32[8] = add(a f32[8], b f32[8])  # removed",
        "+s': f32[4] = mul(a f32[4], b f32[4])  # added",
    ]
    assert found.counts == {"retyped": 3, "added": 2, "rewired": 1, "removed": 1, "same": 1}


def test_a_setting() -> None:
    found = graph_diff(graph("x:3 = input", "y:3 = pool x 2"), graph("x:3 = input", "y:3 = pool x 3"))
    assert marked(found) == ["+y: f32[3] = pool(x f32[3], 3)  # changed"]


def test_rewired_alone() -> None:
    after = (*BEFORE[:4], "s:8 = add r b")
    assert marked(graph_diff(graph(*BEFORE), graph(*after))) == ["+s: f32[8] = add(r f32[8], b f32[8])  # rewired"]


def test_hunks_and_their_numbers() -> None:
    long = [f"n{i}:1 = op{i}" for i in range(30)]
    after = [*long[:4], "n4:2 = op4", *long[5:20], "new:1 = other", *long[20:]]
    first, second = graph_diff(graph(*long), graph(*after)).hunks
    assert (first.before, first.after) == ((2, 7), (2, 7))
    assert (second.before, second.after) == ((18, 6), (18, 7))
    assert str(second).splitlines()[0] == "@@ -18,6 +18,7 @@"


OPS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 3)), max_size=12)
GRAPHS = OPS.map(lambda ops: graph(*(f"v{at}:{width} = {op}" for at, (op, width) in enumerate(ops))))


@given(GRAPHS, GRAPHS)
def test_either_graph_can_be_read_back(a: GraphText, b: GraphText) -> None:
    """Lines with - and without a sign are the first graph, those with + the second, from where the hunk says."""
    found = graph_diff(a, b)
    old = [str(node) for node in a.nodes]
    for hunk in found.hunks:
        begin, count = hunk.before
        left = [line.text for line in hunk.lines if line.sign != "+"]
        assert len(left) == count
        assert old[begin - 1 :][:count] == left if count else not left
        assert sum(line.sign != "-" for line in hunk.lines) == hunk.after[1]
    shown = sum(hunk.after[1] - hunk.before[1] for hunk in found.hunks)
    assert len(b.nodes) - len(a.nodes) == shown
    assert found.equal == (not found.hunks)
    assert graph_diff(a, a).equal
