"""What is left of a weight while cores are taken off it, from the leaves of a tree inwards.

Enters: the weight as a tensor of its legs. Leaves: cores as they are stored, once each was chosen
(`tncompile.nn.trees`). The state stays in an orthonormal basis, and has on each edge only as many
entries as lead on, whatever the size of the edge: it never becomes larger than the weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tncompile.graph.ir import Core

# How a core lies on the axes of a state: the places on the core, and the lift.
_Lie = list[tuple[tuple[int, ...], Tensor | None]]


@dataclass(slots=True, eq=False)
class Node:
    """A trained core: its edges in the order of its axes, each an edge of the whole network."""

    core: Core
    edges: list[int]

    @property
    def key(self) -> tuple[str | None, int | None]:
        """What cores that are one and the same have in common."""
        return self.core.parameter, self.core.slot


@dataclass(slots=True)
class Network:
    """All stages of a layer as one network: sizes of its edges, its legs in the weight's order."""

    nodes: list[Node] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    legs: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """An axis of the state: a leg, or all edges between a core that is done and one that waits.

    The state has only as many entries there as lead on from the core that is done. `lift`,
    shape (entries of the edges, entries of the axis), makes of it what the waiting core stores;
    `frozen`, its pseudo-inverse, is what a frozen core that is done makes of its edges.
    """

    edges: tuple[int, ...]
    lift: Tensor | None = None
    frozen: Tensor | None = None


@dataclass(slots=True)
class Remainder:
    """What is left of the weight when some cores are done, in an orthonormal basis."""

    network: Network
    state: Tensor
    axes: list[Axis]

    def inner(self, node: Node) -> list[int]:
        """The axes of the state that a core takes, in the order of the core's axes."""
        own = [k for k, axis in enumerate(self.axes) if axis.edges[0] in node.edges]
        return sorted(own, key=lambda k: node.edges.index(self.axes[k].edges[0]))

    def outer(self, node: Node) -> tuple[int, ...]:
        """The edges of a core that are not in the state."""
        known = {edge for axis in self.axes for edge in axis.edges}
        return tuple(edge for edge in node.edges if edge not in known)

    def entries(self, edges: tuple[int, ...]) -> int:
        """How many entries some edges have together."""
        return math.prod(self.network.sizes[edge] for edge in edges)

    def matrix(self, node: Node) -> Tensor:
        """The state with the axes of a core as rows, all others as columns."""
        first = self.inner(node)
        others = [k for k in range(len(self.axes)) if k not in first]
        rows = math.prod(self.state.shape[k] for k in first)
        return self.state.permute([*first, *others]).reshape(rows, -1)

    def lie(self, node: Node) -> _Lie:
        """How a core lies on its axes: for each the places on the core, and the lift."""
        axes = [self.axes[k] for k in self.inner(node)]
        return [(tuple(node.edges.index(edge) for edge in a.edges), a.lift) for a in axes]

    def align(self, group: list[Node]) -> None:
        """Let cores that are one lie alike on their axes, which have all entries if they differ."""
        first = self.lie(group[0])
        if all(_is_same(first, self.lie(node)) for node in group[1:]):
            return
        for edge in [edge for node in group for edge in node.edges]:
            for k, axis in enumerate(self.axes):
                if edge in axis.edges:
                    self.open(k)
                    break

    def open(self, k: int) -> None:
        """Give each edge of an axis an axis of its own, with all its entries."""
        axis = self.axes[k]
        state = self.state if axis.lift is None else _times(self.state, k, axis.lift)
        sizes = [self.network.sizes[edge] for edge in axis.edges]
        self.state = state.reshape(*state.shape[:k], *sizes, *state.shape[k + 1 :])
        self.axes[k : k + 1] = [Axis((edge,)) for edge in axis.edges]

    def stored(self, node: Node, value: Tensor) -> Tensor:
        """A core as it is stored, from its values on its axes and, the last one, its outer edges.

        What edges have beyond the axes of the state is zero.
        """
        inner, outer = self.inner(node), self.outer(node)
        value = value.reshape(*(self.state.shape[k] for k in inner), -1)
        value = torch.nn.functional.pad(value, (0, self.entries(outer) - value.shape[-1]))
        for place, k in enumerate(inner):
            lift = self.axes[k].lift
            value = value if lift is None else _times(value, place, lift)
        edges = [*(edge for k in inner for edge in self.axes[k].edges), *outer]
        value = value.reshape([self.network.sizes[edge] for edge in edges])
        return value.permute([edges.index(edge) for edge in node.edges])

    def taken(self, node: Node) -> Tensor:
        """The last core, which is all that is left."""
        return self.stored(node, self.matrix(node))

    def project(self, node: Node, value: Tensor) -> Tensor:
        """Take a core off the state, its columns being orthonormal, and give it as it is stored."""
        made, outer = self.stored(node, value), self.outer(node)
        lift = torch.eye(self.entries(outer), value.shape[1], dtype=value.dtype)
        self._replace(node, value, Axis(outer, lift))
        return made

    def project_frozen(self, node: Node, value: Tensor) -> None:
        """Take a core off the state that keeps its values; the best that others can make of it."""
        inner, outer = self.inner(node), self.outer(node)
        edges = [*(edge for k in inner for edge in self.axes[k].edges), *outer]
        value = value.permute([node.edges.index(edge) for edge in edges])
        value = value.reshape(*(self.entries(self.axes[k].edges) for k in inner), -1)
        for place, k in enumerate(inner):
            made = self.axes[k].frozen
            value = value if made is None else _times(value, place, made)
        value = value.reshape(-1, value.shape[-1])
        left, scales, right = torch.linalg.svd(value, full_matrices=False)
        rank = max(
            int((scales > scales.max() * max(value.shape) * torch.finfo(value.dtype).eps).sum()), 1
        )
        frozen = scales[:rank, None] * right[:rank]
        self._replace(node, left[:, :rank], Axis(outer, torch.linalg.pinv(frozen), frozen))

    def _replace(self, node: Node, value: Tensor, axis: Axis) -> None:
        """The state seen by the columns of a matrix, which become its first axis."""
        inner = self.inner(node)
        others = [k for k in range(len(self.axes)) if k not in inner]
        state = (value.mT @ self.matrix(node)).reshape(-1, *(self.state.shape[k] for k in others))
        self.state, self.axes = state, [axis, *(self.axes[k] for k in others)]
        if not axis.edges:  # a network of its own, which is done
            self.open(0)


def _is_same(
    one: _Lie,
    other: _Lie,
) -> bool:
    """Whether two cores lie alike on the axes of a state."""
    if [places for places, _ in one] != [places for places, _ in other]:
        return False
    lifts = [(a, b) for (_, a), (_, b) in zip(one, other, strict=True)]
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in lifts)


def _times(tensor: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """A tensor with a matrix, shape (new, old), applied to one of its axes."""
    made: Tensor = torch.tensordot(matrix, tensor, ([1], [axis]))
    return made.movedim(0, axis)
