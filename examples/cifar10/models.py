"""AlexNet and VGG-16 for images of 32 x 32 pixels, with PyTorch's names for their layers.

Both are of their family, not of the papers: batch normalisation after every convolution, in
front of the activation, lets them train from scratch with one learning rate. It sits in the
place of the activation (`features.7` is normalisation and ReLU), so that `features.6` is still
the third convolution of AlexNet, and `features.28` the last of VGG-16. Convolutions start as
Kaiming normal with the fan of the outputs, linear layers as PyTorch has them; `width` scales
all channels, for trials.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

CLASSES = 10


class Classifier(nn.Module):
    """Features of an image, and a classifier on them."""

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Images of shape (n, 3, 32, 32) to logits of shape (n, 10)."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def alexnet(width: float = 1.0) -> Classifier:
    """Five convolutions of 64, 192, 384, 256 and 256 channels, and a hidden layer of 512.

    The first one has stride 2, as in the AlexNet for larger images: the two largest ones, 192
    to 384 and 384 to 256, see 4 x 4 pixels, and an epoch takes two minutes on a CPU core.
    """
    c = scaled(64, width)
    features = nn.Sequential(
        nn.Conv2d(3, c, 3, stride=2, padding=1),
        _activation(c),
        nn.MaxPool2d(2),
        nn.Conv2d(c, 3 * c, 3, padding=1),
        _activation(3 * c),
        nn.MaxPool2d(2),
        nn.Conv2d(3 * c, 6 * c, 3, padding=1),
        _activation(6 * c),
        nn.Conv2d(6 * c, 4 * c, 3, padding=1),
        _activation(4 * c),
        nn.Conv2d(4 * c, 4 * c, 3, padding=1),
        _activation(4 * c),
        nn.MaxPool2d(2),
    )
    hidden = 8 * c
    classifier = nn.Sequential(
        nn.Linear(4 * c * 2 * 2, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES)
    )
    return Classifier(features, classifier)


def vgg16(width: float = 1.0) -> Classifier:
    """Thirteen convolutions, and hidden layers of 4096 with dropout.

    Five pooling layers leave one pixel of 512 channels, where larger images leave 7 x 7: the
    first hidden layer is 512 to 4096, the second one, FC2, 4096 to 4096 as ever.
    """
    layers: list[nn.Module] = []
    channels = 3
    for block in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
        sizes = [channels, *(scaled(size, width) for size in block)]
        for size, following in pairwise(sizes):
            layers += [nn.Conv2d(size, following, 3, padding=1), _activation(following)]
        layers.append(nn.MaxPool2d(2))
        channels = sizes[-1]
    hidden = scaled(4096, width)
    classifier = nn.Sequential(
        nn.Linear(channels, hidden),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(hidden, CLASSES),
    )
    return Classifier(nn.Sequential(*layers), classifier)


def scaled(size: int, width: float) -> int:
    """A number of channels times `width`, at least 4."""
    return max(4, round(size * width))


def _activation(channels: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        assert module.bias is not None
        nn.init.zeros_(module.bias)
