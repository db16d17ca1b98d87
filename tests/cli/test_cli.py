from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

GOOD = "let n = 3\nlayer fc : Linear(64, 64) from TTN(latent = n)\n"
BAD = "layer fc : Linear(64, 64) from TNT(latent = 3)\n"


def run(
    *arguments: str, cwd: Path, text: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tncompile", *arguments],
        cwd=cwd,
        input=text,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.tn").write_text(GOOD)
    (tmp_path / "bad.tn").write_text(BAD)
    return tmp_path


def test_check(folder: Path) -> None:
    fine = run("check", "good.tn", cwd=folder)
    assert (fine.returncode, fine.stdout, fine.stderr) == (0, "", "")
    wrong = run("check", "bad.tn", cwd=folder)
    assert wrong.returncode == 1
    assert wrong.stdout == ""
    assert "error[E0201]: unknown topology or network `TNT`" in wrong.stderr
    assert "did you mean `TT` or `TTN`?" in wrong.stderr
    data = json.loads(run("check", "bad.tn", "--format", "json", cwd=folder).stdout)
    (found,) = data["diagnostics"]
    assert found["code"] == "E0201"
    assert found["span"]["start"] == {"line": 1, "column": 32}
    assert "Traceback" not in wrong.stderr


def test_check_a_library(folder: Path) -> None:
    text = "network Pair(rank) { A(leg[1], b: rank)  B(b, leg[2]) }\n"
    (folder / "lib.tn").write_text(text)
    fine = run("check", "lib.tn", cwd=folder)
    assert (fine.returncode, fine.stdout) == (0, "")
    assert fine.stderr.startswith("tncompile: lib.tn has no layers; ")
    (folder / "lib.tn").write_text(text + "let n = 1 / 0\n")
    wrong = run("check", "lib.tn", cwd=folder)
    assert wrong.returncode == 1
    assert "E0207" in wrong.stderr
    (folder / "lib.tn").write_text("let n = 1\n")
    assert "E0211" in run("check", "lib.tn", cwd=folder).stderr


def test_compile_writes_whole_or_not_at_all(folder: Path) -> None:
    assert run("compile", "good.tn", cwd=folder).returncode == 0
    text = (folder / "good.py").read_text()
    assert "class FcWeight" in text
    (folder / "kept.py").write_text("kept")
    assert run("compile", "bad.tn", "-o", "kept.py", "--force", cwd=folder).returncode == 1
    assert (folder / "kept.py").read_text() == "kept"
    assert run("compile", "good.tn", "-o", "no/such/folder.py", cwd=folder).returncode == 1
    assert sorted(p.name for p in folder.iterdir()) == ["bad.tn", "good.py", "good.tn", "kept.py"]


def test_compile_keeps_what_it_did_not_write(folder: Path) -> None:
    """A module that somebody wrote beside `good.tn`; --force tells that it may go."""
    (folder / "good.py").write_text("import torch\n")
    for output in ((), ("-o", "good.py")):
        refused = run("compile", "good.tn", *output, cwd=folder)
        assert refused.returncode == 2
        assert "good.py is there already, and tncompile did not make it" in refused.stderr
        assert "-o" in refused.stderr
    assert (folder / "good.py").read_text() == "import torch\n"
    assert run("compile", "good.tn", "--check", cwd=folder).returncode == 1
    assert run("compile", "good.tn", "--force", cwd=folder).returncode == 0
    assert "class FcWeight" in (folder / "good.py").read_text()
    (folder / "empty.py").touch()
    assert run("compile", "good.tn", "-o", "empty.py", cwd=folder).returncode == 0


@pytest.mark.parametrize(
    ("name", "module"), [("my-net", "my_net"), ("2nd.try", "_2nd_try"), ("class", "_class")]
)
def test_modules_have_names_that_can_be_imported(folder: Path, name: str, module: str) -> None:
    (folder / f"{name}.tn").write_text(GOOD)
    done = run("compile", f"{name}.tn", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"tncompile: the module is {module}.py, since no import finds {name}.py\n"
    assert "class FcWeight" in (folder / f"{module}.py").read_text()


def test_no_module_of_another_file_is_replaced(folder: Path) -> None:
    (folder / "my_net.tn").write_text(GOOD)
    assert run("compile", "my_net.tn", cwd=folder).returncode == 0
    (folder / "my-net.tn").write_text(GOOD.replace("fc", "other"))
    refused = run("compile", "my-net.tn", cwd=folder)
    assert refused.returncode == 2
    assert "my_net.py is what another file compiles to" in refused.stderr
    assert "class FcWeight" in (folder / "my_net.py").read_text()
    assert run("compile", "my-net.tn", "--force", cwd=folder).returncode == 0
    assert run("compile", "my-net.tn", cwd=folder).returncode == 0
    assert "class OtherWeight" in (folder / "my_net.py").read_text()


def test_compile_twice_gives_the_same_bytes(folder: Path) -> None:
    outputs = [
        run("compile", "good.tn", "-o", "-", cwd=folder, PYTHONHASHSEED=seed).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] != ""
    piped = run("compile", "-", cwd=folder, text=GOOD)
    assert piped.stdout.replace("<stdin>", "good.tn").count("class Fc") == 2


def test_compile_check(folder: Path) -> None:
    assert run("compile", "good.tn", "--check", cwd=folder).returncode == 1
    run("compile", "good.tn", cwd=folder)
    assert run("compile", "good.tn", "--check", cwd=folder).returncode == 0
    changed = run("compile", "good.tn", "--check", "-D", "n=4", cwd=folder)
    assert changed.returncode == 1
    assert "good.py is not what good.tn compiles to" in changed.stderr


def test_outputs_never_replace_what_they_should_not(folder: Path) -> None:
    """Sources, links and pipes stay what they are."""
    (folder / "lib.tn").write_text("let k = 3\n")
    (folder / "main.tn").write_text('import "lib.tn"\n' + GOOD)
    for output in ("main.tn", "lib.tn", "./lib.tn"):
        result = run("compile", "main.tn", "-o", output, cwd=folder)
        assert result.returncode == 2
        assert "is a source" in result.stderr
    assert (folder / "lib.tn").read_text() == "let k = 3\n"
    (folder / "real.py").touch()
    (folder / "link.py").symlink_to("real.py")
    assert run("compile", "good.tn", "-o", "link.py", cwd=folder).returncode == 0
    assert (folder / "link.py").is_symlink()
    assert "class Fc" in (folder / "real.py").read_text()
    os.mkfifo(folder / "pipe")
    reader = subprocess.Popen(["cat", "pipe"], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert run("compile", "good.tn", "-o", "pipe", cwd=folder).returncode == 0
    assert "class Fc" in reader.communicate(timeout=20)[0]
    assert (folder / "pipe").is_fifo()


def test_closed_and_narrow_streams(folder: Path) -> None:
    code = [sys.executable, "-m", "tncompile"]
    for arguments in ("check - <&-", "compile good.tn -o - >&-", "fmt - <&-"):
        command = f"{' '.join(code)} {arguments}"
        result = subprocess.run(
            ["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 2, arguments
        assert "Traceback" not in result.stderr
    narrow = run("compile", "good.tn", "-o", "-", cwd=folder, PYTHONIOENCODING="ascii")
    assert narrow.returncode == 0


def test_fmt(folder: Path) -> None:
    (folder / "ugly.tn").write_text("let   a=1")
    assert run("fmt", "ugly.tn", "--check", cwd=folder).returncode == 1
    assert (folder / "ugly.tn").read_text() == "let   a=1"
    assert run("fmt", "ugly.tn", cwd=folder).returncode == 0
    assert (folder / "ugly.tn").read_text() == "let a = 1\n"
    assert run("fmt", "ugly.tn", "--check", cwd=folder).returncode == 0
    assert run("fmt", "-", cwd=folder, text="let   a=1").stdout == "let a = 1\n"
    assert run("fmt", "-", cwd=folder, text="let = 1").returncode == 1


def test_report(folder: Path) -> None:
    text = run("report", "good.tn", cwd=folder)
    assert text.returncode == 0
    assert "fc : Linear(64, 64) from TTN(latent = 3)" in text.stdout
    data = json.loads(run("report", "good.tn", "--format", "json", cwd=folder).stdout)
    assert data["layers"][0]["name"] == "fc"
    run("report", "good.tn", "--format", "json", "-o", "out.json", cwd=folder)
    assert json.loads((folder / "out.json").read_text()) == data
    page = run("report", "good.tn", "--format", "html", "-D", "n=2", cwd=folder)
    assert page.returncode == 0
    assert page.stdout.startswith("<!DOCTYPE html>")
    assert "TTN(latent = 2)" in page.stdout


def test_draw(folder: Path) -> None:
    shown = run("draw", "good.tn", cwd=folder)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert ElementTree.fromstring(shown.stdout).tag.endswith("}svg")
    assert run("draw", "good.tn", "-o", "net.svg", cwd=folder).stdout == ""
    assert (folder / "net.svg").read_text() == shown.stdout
    other = run("draw", "-", "-D", "n=2", cwd=folder, text=GOOD)
    assert "2 → 4 wires" in other.stdout
    wrong = run("draw", "bad.tn", "-o", "bad.svg", cwd=folder)
    assert wrong.returncode == 1
    assert "error[E0201]" in wrong.stderr
    assert not (folder / "bad.svg").exists()
    over = run("draw", "good.tn", "-o", "good.tn", cwd=folder)
    assert over.returncode == 2
    assert (folder / "good.tn").read_text() == GOOD


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("compile",),
        ("fly", "good.tn"),
        ("check", "good.tn", "--format", "xml"),
        ("check", "good.tn", "--format", "html"),
        ("draw",),
        ("compile", "good.tn", "--backend", "abacus"),
        ("compile", "good.tn", "--budget", "lots"),
        ("compile", "good.tn", "--budget", "-3MiB"),
        ("compile", "good.tn", "-D", "n"),
        ("compile", "good.tn", "-D", "a b=3"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], folder: Path) -> None:
    result = run(*arguments, cwd=folder)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["bad.tn", "good.tn"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "none.tn"),
        ("check", "."),
        ("check", "good.tn", "-D", "m=4"),
        ("check", "good.tn", "-D", "n=)"),
        ("compile", "good.tn", "--budget", "1KiB"),
        ("fmt", "none.tn"),
        ("draw", "none.tn"),
    ],
)
def test_wrong_files(arguments: tuple[str, ...], folder: Path) -> None:
    result = run(*arguments, cwd=folder)
    assert result.returncode == 1
    assert "error[E" in result.stderr
    assert "Traceback" not in result.stderr


def test_color_is_a_choice(folder: Path) -> None:
    assert "\x1b[" not in run("check", "bad.tn", cwd=folder).stderr
    assert "\x1b[" in run("check", "bad.tn", cwd=folder, FORCE_COLOR="1").stderr
    both = run("check", "bad.tn", cwd=folder, FORCE_COLOR="1", NO_COLOR="1")
    assert "\x1b[" not in both.stderr


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.argv = ['tncompile', '--help']\n"
        "from tncompile.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'lark', 'networkx', 'cotengra', 'jinja2', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    started = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "compile" in result.stdout
    assert time.perf_counter() - started < 5  # a hang, not a benchmark


def test_compiling_does_not_import_torch(folder: Path) -> None:
    code = (
        "import sys\nfrom tncompile.cli.main import main\n"
        "assert main(['compile', 'good.tn']) == 0\n"
        "assert 'torch' not in sys.modules and 'cotengra' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_version(tmp_path: Path) -> None:
    assert run("--version", cwd=tmp_path).stdout.startswith("tncompile 0.")
