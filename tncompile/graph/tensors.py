"""The tensors of a drawn stage as cores, constants included."""

from __future__ import annotations

from collections.abc import Iterator

from tncompile.graph.drawing import DrawnStage, DrawnTensor, Name
from tncompile.graph.ir import Core, CoreKind, Index


class Cores:
    """The cores of one stage; `places` are the parameters and slots of its tensors."""

    def __init__(
        self,
        stage: DrawnStage,
        known: dict[Name, Index],
        incoming: tuple[Index, ...],
        places: dict[Name, tuple[str, int]],
    ) -> None:
        self.stage, self.known, self.places = stage, known, places
        self.incoming = {index.name for index in incoming}
        self.constants = 0

    def run(self) -> tuple[Core, ...]:
        """In the order in which they were drawn."""
        return tuple(core for tensor in self.stage.tensors for core in self._cores(tensor))

    def _cores(self, tensor: DrawnTensor) -> Iterator[Core]:
        indices = [self.known[use.name] for use in tensor.indices]
        match tensor.name.name if tensor.constant else "":
            case "ones":
                for index in indices:
                    yield self._constant(CoreKind.ONES, tensor, index)
            case "identity" | "diagonal":
                for index in indices[1:]:
                    yield from self._tied(tensor, indices[0], index)
            case _:
                yield from self._tensor(tensor, indices)

    def _tensor(self, tensor: DrawnTensor, indices: list[Index]) -> Iterator[Core]:
        """A tensor, and identities for the indices that stand on it again."""
        name, slot = self.places[tensor.name]
        own: list[Index] = []
        for index in indices:
            if index in own:
                again = Index(f"{index.name} again {len(own)}", index.size)
                yield self._constant(CoreKind.COPY, tensor, index, again)
                index = again
            own.append(index)
        yield Core(
            name=name if slot < 0 else f"{name}[{slot}]",
            kind=CoreKind.TENSOR,
            parameter=name,
            slot=None if slot < 0 else slot,
            indices=tuple(own),
            inputs=tuple(i.name for i in own if i.name in self.incoming),
            statement=tensor.text,
            span=tensor.span,
        )

    def _tied(self, tensor: DrawnTensor, one: Index, other: Index) -> Iterator[Core]:
        """An identity from an index to another; one to itself only counts its values."""
        if one == other:
            yield self._constant(CoreKind.ONES, tensor, one)
            return
        yield self._constant(CoreKind.COPY, tensor, one, other)

    def _constant(self, kind: CoreKind, tensor: DrawnTensor, *indices: Index) -> Core:
        self.constants += 1
        inputs = tuple(i.name for i in indices if i.name in self.incoming)
        name = f"{kind}[{self.constants - 1}]"
        return Core(name, kind, None, None, indices, inputs, tensor.text, tensor.span)
