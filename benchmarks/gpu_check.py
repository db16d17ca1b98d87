"""The errors of kernels on the golden cases, beside those of the PyTorch backend's module.

Both modules get the golden cores, rounded to a dtype, on one device. Errors are parts of the
largest entry, of the weight and of every gradient: against a weight in float64 from the same
rounded cores, so that only what a module rounds itself counts, and against the golden case,
where they hold what rounding the cores does. In float64 the two are the same case.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.device import Lab
from benchmarks.memory import ROOT
from benchmarks.networks import Target, compile_text

GOLDEN = ROOT / "tests" / "data" / "oracle"
OURS, THEIRS = "triton", "torch"
_QUICK = ("TTN-q6-n3-elu", "MERA-q7-n3-gelu")


@dataclass(frozen=True, slots=True)
class Precision:
    """A dtype, whether float32 is multiplied in TF32, and one rounding, as part of a number."""

    name: str
    dtype: torch.dtype
    rounding: float
    matmul: str = "highest"


PRECISIONS = (
    Precision("float32", torch.float32, 2.0**-24),
    Precision("bfloat16", torch.bfloat16, 2.0**-9),
    Precision("float64", torch.float64, 2.0**-53),
    Precision("tf32", torch.float32, 2.0**-11, matmul="high"),
    Precision("float16", torch.float16, 2.0**-12),
)

Results = Mapping[str, Tensor]  # the weight as `out`, and the gradients by their names


def golden_cases(quick: bool) -> list[Path]:
    """The files of all cases, small ones first."""
    paths = sorted(GOLDEN.glob("*.json"), key=lambda p: (_order(p), p.stem))
    return [p for p in paths if p.stem in _QUICK] if quick else paths


def check_rows(lab: Lab) -> Iterator[dict[str, Any]]:
    """One row for each precision and case."""
    paths = golden_cases(lab.quick)
    for precision in PRECISIONS:
        for path in paths:
            what = f"check {path.stem}, {precision.name}"
            if lab.late(what):
                continue
            with lab.trying(what):
                yield _row(path, precision, lab)


def _order(path: Path) -> int:
    return int(json.loads(path.read_text("utf-8"))["order"])


def _row(path: Path, precision: Precision, lab: Lab) -> dict[str, Any]:
    data = {k: torch.from_numpy(v) for k, v in np.load(path.with_suffix(".npz")).items()}
    golden = {k.removeprefix("grad."): v for k, v in data.items() if k.startswith(("out", "grad."))}
    upstream = golden.pop("out_bar")
    cores = {k: v for k, v in data.items() if not k.startswith(("out", "grad."))}
    rounded = {k: v.to(precision.dtype) for k, v in cores.items()}
    pulled = upstream.to(precision.dtype)
    exact = _results(path, THEIRS, lab, torch.float64, rounded, pulled)
    with matmul(precision.matmul):
        found = {
            backend: _results(path, backend, lab, precision.dtype, rounded, pulled)
            for backend in (OURS, THEIRS)
        }
    by_module = {backend: _errors(results, exact) for backend, results in found.items()}
    if precision.dtype == torch.float64:  # the case itself is the judge
        by_module = {backend: _errors(results, golden) for backend, results in found.items()}
    ratios = {
        what: _worst(by_module[OURS], what)
        / max(_worst(by_module[THEIRS], what), precision.rounding)
        for what in ("value", "gradients")
    }
    return {
        "case": path.stem,
        "precision": precision.name,
        "rounding": precision.rounding,
        "errors": by_module,
        "golden_errors": {backend: _errors(results, golden) for backend, results in found.items()},
        "ratios": ratios,
        "ratio": float(np.max(list(ratios.values()))),  # not a number where one is not
    }


def run_once(path: Path, dtype: torch.dtype, lab: Lab) -> None:
    """The weight of a case and its gradients, made once by kernels."""
    data = np.load(path.with_suffix(".npz"))
    cores = {k: v for k, v in data.items() if not k.startswith(("out", "grad."))}
    given = {k: torch.from_numpy(v).to(dtype) for k, v in cores.items()}
    _results(path, OURS, lab, dtype, given, torch.from_numpy(data["out_bar"]).to(dtype))


def _results(
    path: Path,
    backend: str,
    lab: Lab,
    dtype: torch.dtype,
    cores: Mapping[str, Tensor],
    upstream: Tensor,
) -> Results:
    """The weight and all gradients, in float64 on the CPU."""
    target = lab.target(backend, dtype)
    weight = _generator(path, target)
    weight.load_state_dict(dict(cores))
    made = weight()
    made.backward(upstream.to(target.device, dtype))
    gradients = {name: core.grad for name, core in weight.named_parameters()}
    return {k: v.detach().cpu().double() for k, v in ({"out": made} | gradients).items()}


def _generator(path: Path, target: Target) -> Any:
    case = json.loads(path.read_text("utf-8"))
    name = path.stem.replace("-", "_").lower()
    module = compile_text(
        f"layer {name} : Tensor({2 ** case['order']}) from {case['topology']}(latent ="
        f" {case['latent']}) {{ activation = {case['activation']} }}\n",
        target,
    )
    return getattr(module, module.__all__[-1])(device=target.device, dtype=target.dtype)


def _errors(found: Results, wanted: Results) -> dict[str, float]:
    return {
        name: float((found[name] - value).abs().max() / value.abs().max())
        for name, value in wanted.items()
    }


def _worst(errors: Mapping[str, float], what: str) -> float:
    """The error of the weight, or the largest of all gradients; not a number where one is not."""
    return float(np.max([e for name, e in errors.items() if (name == "out") == (what == "value")]))


@contextmanager
def matmul(precision: str) -> Iterator[None]:
    """How PyTorch multiplies float32, and with it the kernels."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
