"""Most bytes alive at once, by the allocator's events and by what the system has resident.

Run as a command this is a process of its own, TOPOLOGY ROWS COLUMNS ACTIVATION: it compiles
the decoder, runs forward and backward, and prints what that took beyond what was there.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.networks import Decoder, Twin

ROOT = Path(__file__).parents[1]


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes that some work holds at once, its result included, by the allocator."""
    with _silence(), torch.profiler.profile(profile_memory=True) as profile:
        work()
    alive = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    return most


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing on standard error, where the profiler reports that it starts and stops."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def resident_growth(work: Callable[[], object]) -> int | None:
    """By how much some work raises the resident memory, at its peak; Linux tells."""
    status, forget = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        forget.write_text("5")  # the peak starts again from what is there now
        before = _kilobytes(status.read_text(), "VmRSS")
        work()
        return 1024 * (_kilobytes(status.read_text(), "VmHWM") - before)
    except OSError:
        return None


def _kilobytes(status: str, name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB", status, re.MULTILINE)
    if found is None:
        raise OSError(f"the system does not tell {name}")
    return int(found[1])


def training_memory(decoder: Decoder) -> dict[str, Any]:
    """Bytes of forward and backward in a process of its own, the upstream gradient included."""
    words = (decoder.topology, str(decoder.rows), str(decoder.columns), decoder.activation)
    command = [sys.executable, "-m", "benchmarks.memory", *words]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def main() -> None:
    """Measure one decoder."""
    topology, rows, columns, activation = sys.argv[1:]
    torch.set_num_threads(2)
    twin = Twin(Decoder(topology, int(rows), int(columns), activation))
    given = twin.upstream.nbytes
    twin.both()  # threads and libraries take their memory once
    resident = resident_growth(twin.both)
    allocated = peak_bytes(twin.both)
    print(
        json.dumps(
            {
                "allocated_bytes": allocated + given,
                "resident_bytes": None if resident is None else resident + given,
            }
        )
    )


if __name__ == "__main__":
    main()
