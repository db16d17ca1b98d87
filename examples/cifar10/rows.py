"""The rows of the table: those of the paper, and ours beside them.

Table 3 of the ADNTN paper (arXiv 2606.00130) has eleven rows: an architecture of tensor network
in place of some layers of a model, with the number of dense and of generated parameters, the
accuracy on CIFAR-10 and its change from the dense model. Each is a row here under a name such
as `alexnet-conv-mera`. For each group of layers there are three more, of ours: the dense
model, the layers at low rank, and the layers frozen as they were drawn.

The two convolutions of AlexNet have 1,572,864 weights in the paper, and 192 x 384 x 9 +
384 x 256 x 9 = 1,548,288 here: no two 3 x 3 convolutions of AlexNet have the paper's number.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from examples.cifar10.models import Classifier, alexnet, scaled, vgg16
from tncompile.nn.compress import compress
from tncompile.nn.generated import generated

HERE = Path(__file__).parent
LOW_RANK = "rank 1"
FROZEN = "frozen"
MODELS = {"alexnet": alexnet, "vgg16": vgg16}


@dataclass(frozen=True, slots=True)
class Layers:
    """Layers of a model that a row replaces."""

    model: str
    title: str
    source: str
    """The `.tn` file that generates them."""
    size: str
    """The let of that file which says how many channels there are, …"""
    channels: int
    """… and its value at full width."""
    names: tuple[str, ...]
    dense: int
    """Their weights, as the paper counts them."""


LAYERS = {
    "vgg16-fc2": Layers(
        "vgg16", "VGG-16, FC2", "vgg16_fc2.tn", "hidden", 4096, ("classifier.3",), 16_777_216
    ),
    "vgg16-conv": Layers(
        "vgg16",
        "VGG-16, 5 Conv",
        "vgg16_convs.tn",
        "channels",
        512,
        ("features.19", "features.21", "features.24", "features.26", "features.28"),
        11_796_480,
    ),
    "alexnet-conv": Layers(
        "alexnet",
        "AlexNet, 2 Conv",
        "alexnet_convs.tn",
        "channels",
        64,
        ("features.6", "features.8"),
        1_572_864,
    ),
}


@dataclass(frozen=True, slots=True)
class Published:
    """What the paper's table says, accuracies in percent."""

    generated: int
    accuracy: float
    deviation: float | None
    delta: float


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: what is trained."""

    name: str
    model: str
    architecture: str
    layers: str | None = None
    """Key of the replaced layers in `LAYERS`; none for a dense model."""
    decoder: str | None = None
    """Their topology, `decoder` of the `.tn` file, …"""
    size: int = 5
    """… and its argument: wires of the root, or layers of a brick wall."""
    published: Published | None = None
    seeds: tuple[int, ...] = (0, 1, 2)


def _rows() -> dict[str, Row]:
    """Every row by its name, in the order of the table."""
    published = {
        "vgg16-fc2": {
            "TTN": Published(216, 90.12, 0.19, -0.07),
            "aTTN": Published(392, 90.73, 0.11, +0.54),
            "MERA": Published(536, 89.94, 0.24, -0.25),
        },
        "vgg16-conv": {
            "TTN": Published(1020, 91.29, 0.11, +0.54),
            "aTTN": Published(1820, 91.37, 0.05, +0.62),
            "MERA": Published(2540, 91.54, 0.18, +0.79),
            "Brick wall": Published(1820, 91.09, None, +0.34),
        },
        "alexnet-conv": {
            "TTN": Published(304, 86.58, 0.26, -0.84),
            "aTTN": Published(592, 85.90, 0.20, -1.52),
            "MERA": Published(720, 86.79, 0.34, -0.63),
            "Brick wall": Published(364, 81.09, None, -6.33),
        },
    }
    walls = {"vgg16-conv": "Wall", "alexnet-conv": "BrickWall"}
    rows = [Row(f"{model}-dense", model, "dense") for model in MODELS]
    for layers, architectures in published.items():
        model = LAYERS[layers].model
        for architecture, figures in architectures.items():
            name = f"{layers}-{architecture.replace(' ', '').lower()}"
            wall = architecture == "Brick wall"
            decoder, size = (walls[layers], 1) if wall else (architecture, 5)
            rows.append(Row(name, model, architecture, layers, decoder, size, figures))
        rows.append(Row(f"{layers}-svd", model, LOW_RANK, layers))
        rows.append(Row(f"{layers}-frozen", model, FROZEN, layers))
    return {row.name: row for row in rows}


ROWS = _rows()


def build(row: Row, width: float = 1.0) -> Classifier:
    """The model of a row, freshly initialised from PyTorch's random state."""
    model = MODELS[row.model](width)
    if row.layers is None:
        return model
    layers = LAYERS[row.layers]
    if row.decoder is not None:
        # Random cores, and weights with the standard deviation of those that they replace.
        compress(model, HERE / layers.source, start="scale", definitions=definitions(row, width))
    else:
        for name in layers.names:
            dense = model.get_submodule(name)
            if row.architecture == FROZEN:
                dense.get_parameter("weight").requires_grad_(
                    False
                )  # and train the bias, as in all rows
            else:
                model.set_submodule(name, low_rank(dense, rank=1))
    return model


def definitions(row: Row, width: float) -> dict[str, object]:
    """Values for the lets of a row's `.tn` file."""
    if row.layers is None or row.decoder is None:
        return {}
    layers = LAYERS[row.layers]
    channels = scaled(layers.channels, width)
    return {"decoder": row.decoder, "size": row.size, layers.size: channels}


def low_rank(dense: nn.Module, rank: int) -> nn.Sequential:
    """Two layers whose product is a weight of this rank, as a matrix of outputs by the rest.

    The rank is the smallest that has at least as many numbers as a generator. Already 1 has
    far more than any generator of the table: 5,824 for the convolutions of AlexNet, 25,600 for
    those of VGG-16, 8,192 for FC2.
    """
    if isinstance(dense, nn.Linear):
        return nn.Sequential(
            nn.Linear(dense.in_features, rank, bias=False), nn.Linear(rank, dense.out_features)
        )
    assert isinstance(dense, nn.Conv2d)
    return nn.Sequential(
        nn.Conv2d(dense.in_channels, rank, 3, padding=1, bias=False),
        nn.Conv2d(rank, dense.out_channels, 1),
    )


def count_cores(model: nn.Module) -> int:
    """Numbers that the generated weights of a model are generated from; 0 in other rows."""
    return sum(core.numel() for each in generated(model) for core in each.cores().values())


def count_factors(row: Row, width: float) -> int:
    """Numbers that the weights of a row at low rank are products of; 0 in other rows."""
    if row.layers is None or row.architecture != LOW_RANK:
        return 0
    with torch.device("meta"):
        model = build(row, width)
    replaced = (model.get_submodule(name) for name in LAYERS[row.layers].names)
    return sum(p.numel() for module in replaced for p in module.parameters() if p.ndim > 1)
