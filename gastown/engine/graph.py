"""The dependency graph as cycles see it.

Law: asks the ledger only. Edges: blocks, conditional-blocks and parent-child lead to their target; waits-for leads to
its target and to each of the target's children. Whoever adds an edge asks first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from ..model import CYCLE_KINDS, Edge, Refused
from .turn import Turn

Extra = Mapping[str, Iterable[Edge]]  # edges that the call would add, by the id that waits


class Graph:
    def __init__(self, turn: Turn, extra: Extra) -> None:
        turn.flush()
        self.turn, self.extra = turn, extra

    def children(self, bead_id: str) -> list[str]:
        stored = [self.turn.row(row[0])[0].id for row in self.turn.store.many("children", bead_id)]
        fresh = [src for src, edges in self.extra.items() for e in edges if e[:2] == (bead_id, "parent-child")]
        return stored + fresh

    def edges(self, bead_id: str) -> list[Edge]:
        n = self.turn.store.find(bead_id)
        stored = [] if n is None else [Edge._make(row) for row in self.turn.store.many("edges_of", n)]
        return [*stored, *self.extra.get(bead_id, ())]

    def along(self, edge: Edge) -> list[str]:
        """Where one edge leads."""
        if edge.kind not in CYCLE_KINDS:
            return []
        return [edge.dst, *self.children(edge.dst)] if edge.kind == "waits-for" else [edge.dst]

    def path(self, starts: Iterable[str], goal: str) -> list[str] | None:
        """The shortest way from one of `starts` to `goal`, both included."""
        came: dict[str, str | None] = dict.fromkeys(starts)
        todo = deque(came)
        while todo:
            here = todo.popleft()
            if here == goal:
                return _back(came, here)
            for edge in self.edges(here):
                for there in self.along(edge):
                    if there not in came:
                        came[there] = here
                        todo.append(there)
        return None


def _back(came: Mapping[str, str | None], here: str | None) -> list[str]:
    steps = []
    while here is not None:
        steps.append(here)
        here = came[here]
    return steps[::-1]


def refuse_cycle(turn: Turn, extra: Extra) -> None:
    """Raise dependency_cycle if one of the `extra` edges would close a loop; `path` leads from an id back to itself."""
    if not any(edge.kind in CYCLE_KINDS for edges in extra.values() for edge in edges):
        return
    graph = Graph(turn, extra)
    for src, edges in extra.items():
        for edge in edges:
            back = graph.path(graph.along(edge), src)
            if back is None and edge.kind == "parent-child":
                back = _through_waiters(graph, src, edge.dst)
            if back is not None:
                raise Refused("dependency_cycle", "this edge would close a loop", path=[src, *back])


def _through_waiters(graph: Graph, child: str, parent: str) -> list[str] | None:
    """A new child is also what the parent's waiters wait for: child -> .. -> waiter -> child."""
    for waiter_n, kind in graph.turn.store.many("edges_to", parent):
        if kind == "waits-for":
            waiter = graph.turn.row(waiter_n)[0].id
            starts = [there for edge in graph.edges(child) for there in graph.along(edge)]
            steps = graph.path(starts, waiter)
            if steps is not None:
                return [*steps, child]
    return None
