"""What to keep for the backward pass, and what to run again, under a budget of bytes.

The stages of a generator are cut into segments: single stages that keep what their backward
pass needs, and runs of stages that keep their incoming state alone and are run again. A
segment's moments depend on the others only through the sum of what those before it keep,
so the cheapest cut that fits is found by dynamic programming over (stage, bytes kept).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tncompile.plan.memory import Part, Segment, inference_peak, run_segment
from tncompile.plan.results import Moment
from tncompile.plan.tape import Tape
from tncompile.plan.work import Machine, total

# Lengths of runs of stages that are tried: all short ones, and a few long ones.
_LENGTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A way to run the first stages: bytes kept, seconds of running again, the segments."""

    saved: int
    seconds: float
    segments: tuple[Segment, ...]


class Recomputation:
    """The segments of one layer's tape, each simulated once."""

    def __init__(self, tape: Tape, parts: tuple[Part, ...], machine: Machine, entries: int) -> None:
        self.tape = tape
        self.parts = parts
        self.machine = machine
        self.entries = entries
        self.segments: dict[tuple[int, int, bool], Segment] = {}
        self.seconds = [
            total((w for op in part.ops for w in op.forward), machine).seconds for part in parts
        ]
        # Bytes that are there before a stage's backward pass: gradients of later parameters,
        # and the weight and its gradient, which the caller holds.
        later, self.later = 0, [0] * (len(parts) + 1)
        held = (tape.sizes[parts[-1].result] + entries) * machine.entry_bytes
        for number in range(len(parts) - 1, -1, -1):
            self.later[number + 1] = later + (held if number + 1 < len(parts) else 0)
            later += parts[number].gradients * machine.entry_bytes

    def plain(self) -> tuple[Segment, ...]:
        """Everything kept."""
        return tuple(self._segment(k, k + 1, False) for k in range(len(self.parts)))

    def cheapest(self, limit: int) -> tuple[Segment, ...] | None:
        """The segments of least added time whose peak is at most `limit` bytes."""
        if self.peak(self.plain()) <= limit:
            return self.plain()
        best: list[list[_Kept]] = [[] for _ in range(len(self.parts) + 1)]
        best[0] = [_Kept(0, 0.0, ())]
        for begin in range(len(self.parts)):
            for segment, end in self._starting(begin):
                added = sum(self.seconds[begin:end]) if segment.recomputed else 0.0
                highest = max(segment.forward_peak, segment.backward_peak + self.later[end])
                best[end] += [
                    _Kept(way.saved + segment.saved, way.seconds + added, (*way.segments, segment))
                    for way in best[begin]
                    if way.saved + highest <= limit
                ]
            best[begin + 1] = _undominated(best[begin + 1])
        ways = best[-1]
        return min(ways, key=lambda way: (way.seconds, way.saved)).segments if ways else None

    def least(self) -> tuple[Segment, ...]:
        """The segments of the smallest peak, to a part in a thousand."""
        best = self.plain()
        low, high = self.entries * self.machine.entry_bytes, self.peak(best)
        while high - low > max(high // 1000, 1):
            middle = (low + high) // 2
            way = self.cheapest(middle)
            if way is None:
                low = middle
            else:
                best, high = way, self.peak(way)
        return best

    def peak(self, segments: tuple[Segment, ...]) -> int:
        """Most bytes alive at once, parameters left out."""
        return max((m.live_bytes for m in self.timeline(segments)), default=0)

    def inference_peak(self, segments: tuple[Segment, ...]) -> int:
        """Most bytes alive in a forward pass without gradients."""
        recomputed = [s.forward_peak for s in segments if s.recomputed]
        size = self.machine.entry_bytes
        return max(*recomputed, inference_peak(self.tape, self.parts, size), 0)

    def saved(self, segments: tuple[Segment, ...]) -> int:
        """Bytes alive between the two passes."""
        return sum(segment.saved for segment in segments)

    def timeline(self, segments: tuple[Segment, ...]) -> Iterator[Moment]:
        """Bytes alive at every operation, forward and then backward."""
        before = 0
        bases = []
        for segment in segments:
            bases.append(before)
            for live in segment.forward:
                yield Moment(live.phase, live.stage, live.label, before + live.bytes)
            before += segment.saved
        end = len(self.parts)
        for segment, base in zip(reversed(segments), reversed(bases), strict=True):
            added = base + self.later[end]
            for live in segment.backward:
                yield Moment(live.phase, live.stage, live.label, added + live.bytes)
            end -= segment.last - segment.first + 1

    def _starting(self, begin: int) -> Iterator[tuple[Segment, int]]:
        yield self._segment(begin, begin + 1, False), begin + 1
        for length in _LENGTHS:
            end = begin + length
            # The last stage stands alone: what it takes in is what other modes take in too.
            if end < len(self.parts) or (end == len(self.parts) and length == 1):
                yield self._segment(begin, end, True), end

    def _segment(self, begin: int, end: int, recomputed: bool) -> Segment:
        key = (begin, end, recomputed)
        if key not in self.segments:
            final = self.entries if end == len(self.parts) else None
            self.segments[key] = run_segment(
                self.tape, self.parts[begin:end], self.machine.entry_bytes, recomputed, final
            )
        return self.segments[key]


def _undominated(ways: list[_Kept]) -> list[_Kept]:
    """The ways that no other one beats in both bytes and seconds."""
    kept: list[_Kept] = []
    for way in sorted(ways, key=lambda w: (w.saved, w.seconds)):
        if not kept or way.seconds < kept[-1].seconds:
            kept.append(way)
    return kept
