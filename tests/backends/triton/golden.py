"""The golden cases as layers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = sorted((Path(__file__).parents[2] / "data" / "oracle").glob("*.json"))


def golden_data(path: Path) -> tuple[str, dict[str, Tensor]]:
    """A case's layer, and its data."""
    case = json.loads(path.read_text())
    data = {k: torch.from_numpy(v) for k, v in np.load(path.with_suffix(".npz")).items()}
    text = (
        f"layer a : Tensor({2 ** case['order']}) from {case['topology']}(latent ="
        f" {case['latent']}) {{ activation = {case['activation']} }}"
    )
    return text, data
