"""The plan cache: hits give the same plan, and whatever is wrong with it costs time alone."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tncompile.driver import Options, Planned, plan_source, read_program
from tncompile.graph.ir import Stage
from tncompile.plan import CPU, H200
from tncompile.plan.cache import Cache, Entry
from tncompile.plan.choose import Chooser
from tncompile.plan.decision import Decision, key
from tncompile.plan.results import Candidate
from tncompile.plan.work import Machine
from tncompile.source import SourceFile

# One stage that is a row of neighbours, and one that is none and needs a tree.
ROW = "layer row : Tensor(64) from TTN(2)\n"
RING = """topology R() { root product(order)  mix pairs (1, order), (2, 5) }
layer ring : Tensor(2^6) from R()
"""


@pytest.fixture(autouse=True)
def plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the plans of this test."""
    monkeypatch.setenv("TNCOMPILE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "cache" / "plans"


def plan(text: str = RING) -> Planned:
    return plan_source(SourceFile("t.tn", text), Options())


def no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise AssertionError("searched")

    monkeypatch.setattr(Chooser, "_search", fail)
    monkeypatch.setattr(Chooser, "_search_entries", fail)


@pytest.mark.parametrize("text", [RING, ROW])
def test_a_hit_is_the_same_plan_without_a_search(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = plan(text)
    with monkeypatch.context() as patch:
        no_search(patch)
        assert plan(text).plan == first.plan
        with pytest.raises(AssertionError, match="searched"):
            plan_source(SourceFile("t.tn", text), Options(cache=False))


def test_without_a_cache_nothing_is_written(plans: Path) -> None:
    plan_source(SourceFile("t.tn", RING), Options(cache=False))
    assert not plans.exists()


GOOD = '{"format": 1, "decision": %s, "candidates": [["tree", 1.0]], "reason": ""}'


def file_of(plans: Path, purpose: str) -> Path:
    """The file of the ring's only stage, or of its single entries."""
    (stage,) = stages(RING)
    return plans / f"{key(stage, MACHINE, purpose, None)}.json"


@pytest.mark.parametrize("purpose", ["fast", "entries"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "\x00" * 40,
        "not json",
        "null",
        "[]",
        "[" * 100_000,
        "9" * 10_000,
        (GOOD % '{"path": [[0, 1]], "sliced": []}').replace("1,", "2,", 1),
        GOOD % "null",
        GOOD % '{"path": [[0, 1]], "sliced": []}',
        GOOD % '{"path": [[0, 0]], "sliced": []}',
        GOOD % '{"sections": [[0, 1, [[0, 6]]]]}',
        GOOD % '{"sections": []}',
        GOOD % '{"rows": [[], []]}',
        GOOD % '{"entries": [[0, 0]]}',
        GOOD % '{"entries": []}',
        (GOOD % '{"sections": []}').replace('[["tree", 1.0]]', "[]"),
    ],
)
def test_what_is_no_entry_is_replaced_with_one_warning(
    text: str, purpose: str, plans: Path
) -> None:
    wanted = plan()
    entry = file_of(plans, purpose)
    good = entry.read_bytes()
    entry.write_text(text)
    found = plan()
    assert found.plan == wanted.plan
    (warning,) = found.warnings
    assert warning.code == "W0501"
    assert str(entry) in warning.message()
    assert entry.read_bytes() == good
    assert plan().warnings == ()


def test_every_truncation_is_no_entry(plans: Path) -> None:
    wanted = plan()
    entry = file_of(plans, "fast")
    good = entry.read_bytes()
    told: list[str] = []
    for length in range(len(good)):
        entry.write_bytes(good[:length])
        assert Cache(plans, told.append).get(entry.stem) is None
        assert len(told) == length + 1
    entry.write_bytes(b"\xff\xfe" + good)
    assert plan().plan == wanted.plan
    entry.write_bytes(good)
    assert Cache(plans, told.append).get(entry.stem) is not None


@pytest.mark.parametrize("where", ["home", "home/cache", "home/cache/plans"])
def test_a_folder_that_is_a_file(where: str, tmp_path: Path) -> None:
    (tmp_path / where).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / where).write_text("a file")
    found = plan(RING + ROW.replace("64", "4096"))  # several networks, one warning
    assert [w.code for w in found.warnings] == ["W0501"]
    assert found.plan.layers
    assert (tmp_path / where).read_text() == "a file"


def full(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("what", ["os.replace", "json.dump", "tempfile.mkstemp"])
def test_a_full_disk(what: str, plans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(what, full)
    found = plan(RING + ROW)
    (warning,) = found.warnings
    assert warning.code == "W0501"
    assert "No space left on device" in warning.message()
    assert list(plans.iterdir()) == []


def test_an_interrupt_leaves_nothing_behind(plans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dump", interrupt)
    with pytest.raises(KeyboardInterrupt):
        plan()
    assert list(plans.iterdir()) == []


MANY = """
import sys
from pathlib import Path
from tncompile.plan.cache import Cache, Entry
from tncompile.plan.decision import Decision
from tncompile.plan.results import Candidate

number = int(sys.argv[2])
told = []
cache = Cache(Path(sys.argv[1]), told.append)
# Long entries: a half-written one would be seen.
entry = Entry(Decision(path=((0, number),) * 2000), (Candidate("tree", float(number)),), "")
sys.stdin.readline()  # all begin at once
for _ in range(20):
    cache.put("same", entry)
    found = cache.get("same")
    assert found is not None and not told, told
    (candidate,) = found.candidates
    assert found.decision.path == ((0, int(candidate.seconds)),) * 2000
"""


def test_eight_processes_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "shared" / "plans"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", MANY, str(folder), str(number)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert [p.name for p in folder.iterdir()] == ["same.json"]


def test_entries_survive_a_file(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "plans")
    seconds = (Candidate("a", 1.5e-300), Candidate("b", 0.1))
    for decision in (
        Decision(path=((0, 1),), sliced=(3,)),
        Decision(),
        Decision(others=((), ())),
        Decision(entries=((0, 1),)),
    ):
        cache.put("k", Entry(decision, seconds, "why"))
        assert cache.get("k") == Entry(decision, seconds, "why")
    assert cache.get("other") is None
    assert Cache().get("k") is None


# Keys

PLAIN = "layer a : Tensor(64) from TTN(3)\n"
MACHINE = Machine(CPU)


def stages(text: str) -> tuple[Stage, ...]:
    return read_program(text).layers[0].stages


def keys(text: str, **other: Any) -> list[str]:
    given = {"machine": MACHINE, "effort": "fast", "largest": None, **other}
    return [key(stage, **given) for stage in stages(text)]


def test_names_do_not_matter() -> None:
    renamed = """topology Other(n) { root dense(n)  until full { expand all } }
    layer something : Tensor(64) from Other(3)
    """
    assert keys(PLAIN) == keys(renamed)
    # Every layer of a deep network of equal layers is one network.
    deep = keys("layer a : Tensor(64) from BrickWall(6) { activation = tanh }\n")
    assert len(set(deep)) < len(deep)


def test_whatever_a_search_depends_on_matters() -> None:
    other = "layer a : Tensor(64) from TTN(3) { bond = 3 }\n"
    fast = replace(CPU, memory_bytes_per_second=1e12)
    found = [
        keys(PLAIN),
        keys(PLAIN.replace("TTN", "MERA")),
        keys(other),
        keys(PLAIN, machine=Machine(CPU, "float64")),
        keys(PLAIN, machine=Machine(H200)),
        keys(PLAIN, machine=Machine(fast)),
        keys(PLAIN, effort="thorough"),
        keys(PLAIN, largest=8),
        keys(PLAIN, largest=4),
    ]
    last = [names[-1] for names in found]
    assert len(set(last)) == len(last)


def test_the_order_of_cores_matters() -> None:
    """Equal sizes, other wires: another network."""
    one = RING.replace("(2, 5)", "(2, 4)")
    assert keys(one) != keys(RING)
    assert key(stages(RING)[0], MACHINE, "fast", None) == keys(RING)[0]
