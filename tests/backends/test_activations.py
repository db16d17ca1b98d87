"""Each activation by its formula and by gradcheck."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import Compile
from tncompile.driver import Options, compile_source, read_program
from tncompile.graph import expressions
from tncompile.graph.activations import ACTIVATIONS, Number, Spec, spec
from tncompile.graph.formulas import Formula
from tncompile.graph.rational import rational_start
from tncompile.graph.unroll import unrolled
from tncompile.source import SourceFile


def rational(x: Tensor, m: int, n: int) -> Tensor:
    numerator, denominator = rational_start(m, n)
    top = sum(a * x**k for k, a in enumerate(numerator))
    bottom = 1 + sum(b * x**k for k, b in enumerate(denominator, start=1))
    return top / bottom  # type: ignore[return-value]


def phi(x: Tensor) -> Tensor:
    return (1 + torch.erf(x / math.sqrt(2))) / 2


FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": lambda x: torch.where(x > 0, x, torch.exp(x) - 1),
    "gelu": lambda x: x * phi(x),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "relu": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "tanh": lambda x: (torch.exp(2 * x) - 1) / (torch.exp(2 * x) + 1),
    "identity": lambda x: x,
    "siren": lambda x: torch.sin(30 * x),
    "siren(omega = 2.5)": lambda x: torch.sin(2.5 * x),
    "prelu": lambda x: torch.where(x >= 0, x, 0.25 * x),
    "prelu(slope = 0.1)": lambda x: torch.where(x >= 0, x, 0.1 * x),
    "swish": lambda x: x / (1 + torch.exp(-x)),
    "swish(beta = 2)": lambda x: x / (1 + torch.exp(-2 * x)),
    "swish(2, learnable = false)": lambda x: x / (1 + torch.exp(-2 * x)),
    "rational": lambda x: rational(x, 3, 2),
    "rational(5, 4)": lambda x: rational(x, 5, 4),
    "rational(m = 2, n = 0)": lambda x: rational(x, 2, 0),
    "rational(learnable = false)": lambda x: rational(x, 3, 2),
}
LEARNT = {
    "prelu": {"act1.slope": (1,), "act2.slope": (1,)},
    "swish": {"act1.beta": (1,), "act2.beta": (1,)},
    "rational": {
        "act1.numerator": (4,),
        "act1.denominator": (2,),
        "act2.numerator": (4,),
        "act2.denominator": (2,),
    },
}


def weight(compile_text: Compile, activation: str, scale: float = 0.6) -> torch.nn.Module:
    text = f"layer a : Tensor(2^9) from MERA(2) {{ activation = {activation} }}"
    torch.manual_seed(0)
    module: torch.nn.Module = compile_text(text).AWeight(dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.startswith("act"):
                parameter.copy_(torch.randn_like(parameter) * scale)
    return module


def test_every_activation_has_a_formula() -> None:
    assert {name.partition("(")[0] for name in FORMULAS} == set(ACTIVATIONS)


@pytest.mark.parametrize("activation", FORMULAS)
def test_formula(activation: str, compile_text: Compile) -> None:
    from tests.decoders import decoder_row

    own = weight(compile_text, activation)
    cores = {k: v.detach() for k, v in own.state_dict().items()}
    wanted = decoder_row("MERA", 9, 2, 2, 2).generate(cores, FORMULAS[activation])
    torch.testing.assert_close(own().detach(), wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("activation", FORMULAS)
def test_gradients(activation: str, compile_text: Compile) -> None:
    # Differences of sin(30 x) are good enough only where x is small.
    assert_gradients(weight(compile_text, activation, 0.2 if activation == "siren" else 0.6))


def assert_gradients(own: torch.nn.Module) -> None:
    names = [n for n, _ in own.named_parameters()]
    mask = torch.randn(own().numel(), dtype=torch.float64)

    def run(*values: Tensor) -> Tensor:
        out = torch.func.functional_call(own, dict(zip(names, values, strict=True)), ())
        assert isinstance(out, Tensor)
        return (out * mask).reshape(8, -1).sum(1)

    values = tuple(p.detach().clone().requires_grad_() for p in own.parameters())
    assert torch.autograd.gradcheck(run, values, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", LEARNT)
def test_learnt_numbers_have_their_names(name: str, compile_text: Compile) -> None:
    own = weight(compile_text, name)
    learnt = {n: tuple(p.shape) for n, p in own.named_parameters() if n.startswith("act")}
    assert learnt == LEARNT[name]


def test_rational_starts_near_silu_and_without_poles() -> None:
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    silu = torch.nn.functional.silu(x)
    assert float((rational(x, 3, 2) - silu).abs().max()) < 0.03
    far = torch.linspace(-1e3, 1e3, 100001, dtype=torch.float64)
    for m, n in ((3, 2), (5, 4), (1, 0), (12, 12), (1, 1)):
        assert torch.isfinite(rational(far, m, n)).all()


def test_every_function_is_there() -> None:
    written = import_module("tncompile.backends.torch.activations").FUNCTIONS
    assert written.keys() == expressions.FUNCTIONS.keys()


Entry = tuple[Spec, Callable[[Tensor], Tensor], str]
# Activations of a test's own: nothing but an entry of the table.
MADE_UP: dict[str, Entry] = {
    "softsign": (
        spec(
            "softsign",
            Formula(
                value="z / (1.0 + abs(z))",
                reads="z",
                lets=(("d", "1.0 + abs(z)"),),
                dz="g / (d * d)",
                equation="1 / (1 + |z|)^2",
            ),
            is_linear=True,
        ),
        lambda x: x / (1 + x.abs()),
        "softsign",
    ),
    "exponential": (
        spec(
            "exponential",
            Formula("expm1(rate * z)", "h", "g * (rate * (h + 1.0))", "rate (h + 1)"),
            (Number("rate", 0.5),),
        ),
        lambda x: torch.exp(0.5 * x) - 1,
        "exponential(rate = 0.5)",
    ),
    "bent": (
        spec(
            "bent",
            Formula(
                value="alpha * z + beta * log1p(z * z)",
                reads="z",
                partials=(("alpha", "g * z"), ("beta", "g * log1p(z * z)")),
                dz="g * (alpha + 2.0 * beta * z / (1.0 + z * z))",
                equation="alpha + 2 beta z / (1 + z^2)",
            ),
            (Number("alpha", 0.75, trained=True), Number("beta", -0.25, trained=True)),
            optional=True,
        ),
        lambda x: 0.75 * x - 0.25 * torch.log(1 + x * x),
        "bent(alpha = 0.75, beta = -0.25, learnable = true)",
    ),
}


@pytest.mark.parametrize("name", MADE_UP)
def test_an_entry_of_the_table_is_all_that_it_takes(
    name: str, compile_text: Compile, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.decoders import decoder_row

    entry, own_formula, _ = MADE_UP[name]
    monkeypatch.setitem(ACTIVATIONS, name, entry)
    own = weight(compile_text, name)
    cores = {k: v.detach() for k, v in own.state_dict().items()}
    wanted = decoder_row("MERA", 9, 2, 2, 2).generate(cores, own_formula)
    torch.testing.assert_close(own().detach(), wanted, rtol=1e-11, atol=1e-12)
    assert_gradients(own)


@pytest.mark.parametrize("name", MADE_UP)
def test_an_entry_of_the_table_is_emitted_and_written_back(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry, _, text = MADE_UP[name]
    monkeypatch.setitem(ACTIVATIONS, name, entry)
    layer = "layer a : Linear(64, 64) from TTN(2) {{ groups = 2  activation = {} }}\n"
    program = read_program(layer.format(name))
    assert f"activation = {text}" in unrolled(program.layers[0])
    file = tmp_path / "module.py"
    file.write_text(compile_source(SourceFile("a.tn", layer.format(name)), Options()).text)
    options = ["--isolated", "--line-length", "100", str(file)]
    subprocess.run([sys.executable, "-m", "ruff", "format", "--check", *options], check=True)


@pytest.mark.parametrize("name", MADE_UP)
def test_an_entry_of_the_table_has_row_groups(
    name: str, compile_text: Compile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ACTIVATIONS, name, MADE_UP[name][0])
    text = f"layer a : Tensor(2^8) from MERA(2) {{ groups = 2  activation = {name} }}"
    own = compile_text(text).AWeight(dtype=torch.float64)
    shapes = {n: tuple(p.shape) for n, p in own.named_parameters() if n.startswith("act1")}
    assert shapes == ({"act1.alpha": (2, 1), "act1.beta": (2, 1)} if name == "bent" else {})
    assert_gradients(own)
