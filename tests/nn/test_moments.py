from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tncompile.nn import ModelError, input_moments, output_error
from tncompile.nn.moments import moments_of, root_of, times_root

MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(5, 4), (7, 3, 5)),
    "conv1": (nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), (2, 4, 11)),
    "conv2": (nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=(2, 0), bias=False), (2, 3, 6, 7)),
    "same": (nn.Conv2d(3, 4, 3, padding="same", padding_mode="circular"), (2, 3, 5, 5)),
    "conv3": (nn.Conv3d(2, 3, 2, dilation=(1, 2, 1)), (2, 2, 4, 5, 4)),
}


@pytest.mark.parametrize("kind", list(MODULES))
def test_errors_of_outputs_are_those_that_moments_foretell(kind: str) -> None:
    """Against the module itself, with another weight, on the inputs that were seen."""
    torch.manual_seed(0)
    module, shape = MODULES[kind]
    module = module.double()
    batches = [torch.randn(shape, dtype=torch.float64) for _ in range(3)]
    model = nn.Sequential(module)
    moments = input_moments(model, ["0"], lambda: [model(batch) for batch in batches])["0"]
    weight = module.weight
    assert isinstance(weight, Tensor)
    other = weight.detach() + 0.1 * torch.randn_like(weight)
    if isinstance(module.bias, Tensor):
        nn.init.zeros_(module.bias)
    with torch.no_grad():
        true = [model(batch) for batch in batches]
        spoilt = {"0.weight": other}
        made = [torch.func.functional_call(model, spoilt, (batch,)) for batch in batches]
    off = sum(float((one - two).square().sum()) for one, two in zip(true, made, strict=True))
    expected = (off / sum(float(one.square().sum()) for one in true)) ** 0.5
    assert output_error(other, weight.detach(), moments) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", list(MODULES))
def test_parts_of_inputs_have_the_moments_of_all(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small the parts are, each within the bound or a single window."""
    torch.manual_seed(0)
    module, shape = MODULES[kind]
    batch = torch.randn(shape, dtype=torch.float64)
    model = nn.Sequential(module.double())
    whole = input_moments(model, ["0"], lambda: model(batch))["0"]
    seen: list[int] = []
    double = Tensor.double

    def watched(tensor: Tensor) -> Tensor:
        seen.append(tensor.numel())
        return double(tensor)

    monkeypatch.setattr(Tensor, "double", watched)
    monkeypatch.setattr("tncompile.nn.moments._ENTRIES", 60)
    parts = input_moments(model, ["0"], lambda: model(batch))["0"]
    torch.testing.assert_close(parts, whole)
    assert len(seen) > 1
    assert max(seen) <= 60


def test_embeddings_are_weighted_by_how_often_rows_come() -> None:
    model = nn.Sequential(nn.Embedding(4, 3))
    words = torch.tensor([[0, 0, 1], [0, 3, 3]])
    moments = input_moments(model, ["0"], lambda: model(words))["0"]
    torch.testing.assert_close(moments, torch.tensor([3, 1, 0, 2.0], dtype=torch.float64) / 6)
    weight = model.get_parameter("0.weight").detach()
    other = weight.clone()
    other[2] += 100.0  # a word that never comes
    assert output_error(other, weight, moments) == 0.0


def test_attention_sees_its_queries() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, 5, 8)
    model = nn.ModuleDict({"a": attention})
    moments = input_moments(model, ["a"], lambda: attention(x, x, x))["a"]
    torch.testing.assert_close(moments, moments_of(x.reshape(-1, 8)))


def test_roots_are_roots() -> None:
    torch.manual_seed(0)
    rows = torch.randn(3, 6, dtype=torch.float64)  # of rank 3: half of the values are zero
    moments = moments_of(rows)
    root = root_of(moments)
    torch.testing.assert_close(root @ root, moments)
    weight = torch.randn(2, 6, dtype=torch.float64)
    seen = (rows @ weight.mT).square().sum() / 3
    torch.testing.assert_close(times_root(weight, root).square().sum(), seen)


def test_bad_input() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    with pytest.raises(ModelError, match="`1` is a ReLU"):
        input_moments(model, ["1"], lambda: model(torch.zeros(1, 3)))
    with pytest.raises(ModelError, match="`0` was not called"):
        input_moments(model, ["0"], lambda: None)
    with pytest.raises(ModelError, match="`0` was not called"):
        input_moments(model, iter(["0"]), lambda: None)
    with pytest.raises(ModelError, match="or called with keywords only"):
        input_moments(model, ["0"], lambda: model[0](input=torch.zeros(1, 3)))
    with pytest.raises(ModelError, match="no module `9`"):
        input_moments(model, ["0", "9"], lambda: model(torch.zeros(1, 3)))
    with pytest.raises(ModelError, match=r"names=\['0'\], not '0'"):
        input_moments(model, "0", lambda: model(torch.zeros(1, 3)))
    assert not model[0]._forward_pre_hooks
    with pytest.raises(ModelError, match=r"shape \(2, 2\) do not belong to a weight of shape"):
        output_error(torch.zeros(3, 3), torch.zeros(3, 3), torch.eye(2))
    with pytest.raises(ModelError, match="look for NaN in the inputs"):
        output_error(torch.zeros(3, 3), torch.zeros(3, 3), torch.full((3, 3), torch.nan))
    with pytest.raises(ModelError, match="one a row"):
        moments_of(torch.zeros(3))
