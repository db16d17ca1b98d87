"""Names and values: what lets may do, and that none of it takes for ever."""

from __future__ import annotations

import pytest

from tncompile.diagnostics import DiagnosticError
from tncompile.driver import read_program

LAYER = "layer a : Linear(64, 64) from TTN(3)\n"


def codes(text: str) -> list[str]:
    with pytest.raises(DiagnosticError) as caught:
        read_program(text)
    return [d.code for d in caught.value.diagnostics]


@pytest.mark.parametrize(
    "lets",
    [
        "let a0 = 0\n" + "".join(f"let a{k} = a{k - 1} + a{k - 1}\n" for k in range(1, 60)),
        "let a0 = 0\n" + "".join(f"let a{k} = a{k - 1} + 1\n" for k in range(1, 3000)),
        "let a0 = 0\n" + "".join(f"let a{k} = a{k - 1}\n" for k in range(1, 3000)),
        "let a0 = TTN\n" + "".join(f"let a{k} = a{k - 1}\n" for k in range(1, 3000)),
    ],
)
def test_long_chains_are_computed_once(lets: str) -> None:
    assert read_program(lets + LAYER).layers


def test_names_stand_for_anything() -> None:
    (layer,) = read_program(
        "let act = siren(omega = w)\n".replace("w)", "5)")
        + "let fine = act\nlet sizes = fold(3)\nlet k = (3, 5)\nlet kind = MERA\n"
        "layer a : Conv2d(8, 8, k) from kind(2) { activation = fine  modes = sizes }\n"
    ).layers
    activation = layer.stages[0].activation
    assert activation is not None
    assert activation.constants == (("omega", 5.0),)
    assert layer.modes.sizes[0] == 3
    assert layer.target.weight_shape == (8, 8, 3, 5)
    assert layer.topology == "MERA(latent = 2)"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("let order = 3\n", "E0202"),
        ("let a = 1\nlet a = 2\n", "E0202"),
        ("let a = nothing\n", "E0201"),
        ("let a = a\n", "E0201"),
        ("let a = b\nlet b = 1\n", "E0201"),
        ("let a = unheard(3)\n", "E0201"),
        ("let a = 1000000000000^60\n", "E0207"),
        ("let a = TTN + 1\n", "E0201"),
    ],
)
def test_lets_that_mean_nothing(text: str, code: str) -> None:
    assert code in codes(text + LAYER)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("let n = 2  root dense(n)  until full { expand all }", "E0202"),
        ("root dense(n)  let k = 1  let k = 2  until full { expand all }", "E0202"),
        ("root dense(n)  let k = 1 / 0  until full { expand all }", "E0207"),
        ("root dense(n)  map all  until full { expand all }  mix pairs from order", "E0410"),
    ],
)
def test_bodies_that_mean_nothing(body: str, code: str) -> None:
    text = f"topology T(n) {{ {body} }}\nlayer a : Linear(64, 64) from T(3)\n"
    assert codes(text) == [code]


def test_the_widths_see_the_lets_of_the_body() -> None:
    text = (
        "let k = 2\ntopology T(n) { root dense(n)  until full { let k = 3  expand all into k } }\n"
        "layer a : Tensor(2^18) from T(2)\n"
    )
    widths = [len(s.outgoing) for s in read_program(text).layers[0].stages]
    assert widths == [6, 18]


def test_weights_beyond_all_memory_are_refused_at_once() -> None:
    sizes = ", ".join(["10^18"] * 300)
    assert codes(f"layer a : Tensor({sizes}) from TTN(5)\n") == ["E0206"]
