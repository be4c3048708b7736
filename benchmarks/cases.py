"""A case of the GPU's benchmark: one of `hybridsolve bench` in one mode, with its inputs and what compares results."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hybridsolve.bench import cases as shapes
from hybridsolve.bench import gate
from hybridsolve.bench.cases import FORWARD
from hybridsolve.bench.cases import GRADIENT as BOTH

__all__ = ["BOTH", "FORWARD", "Case", "compare", "cotangent", "gradient", "inputs", "leaves"]


@dataclass(frozen=True)
class Case:
    """What runs, how large, in which mode and precision."""

    model: str
    B: int
    C: int
    T: int
    mode: str
    dtype: str = "float32"

    @property
    def million_cell_steps(self) -> float:
        return self.B * self.C * self.T / 1e6

    def __str__(self) -> str:
        return f"{self.model}-{self.B}x{self.C}x{self.T}-{self.mode.replace(' ', '')}-{self.dtype}"


def _shape(case: Case) -> shapes.Case:
    return shapes.Case("", case.model, case.B, case.C, case.T, dtype=case.dtype)


def inputs(case: Case):
    return shapes.forcing_and_parameters(_shape(case))


def cotangent(case: Case) -> torch.Tensor:
    return shapes.cotangent(_shape(case))


def leaves(parameters):
    return {name: p.clone().requires_grad_() for name, p in parameters.items()}


def gradient(run, forcing, parameters, cotangent):
    """Streamflow, and the gradients of all parameters."""
    learned = leaves(parameters)
    flow = run(forcing, learned)
    return flow.detach(), torch.autograd.grad(flow, list(learned.values()), cotangent)


def compare(found, expected, names, case: Case) -> None:
    """Raise unless flow and gradients are those expected."""
    for what, x, y in zip(("flow", *names), (found[0], *found[1]), (expected[0], *expected[1]), strict=True):
        gate.compare(f"{case}: {what}", x, y, gate.TOLERANCES[case.dtype])
