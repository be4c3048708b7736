"""What is measured: the table of cases, and the inputs of each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hybridsolve import models

FORWARD, GRADIENT, BOTH, PER_STEP = "forward", "gradient", "forward + gradient", "per-step parameters"
PEAK_MEMORY = "peak memory"  # of forward + gradient; measured by memory.py
MODES = {
    FORWARD: "no_grad",
    GRADIENT: "the backward pass alone, its graph given",
    BOTH: "static parameters require grad, the forcing does not",
    PER_STEP: "forward + gradient, with some parameters given and learned for every step",
}
SIZES = ((671, 16, 730), (1000, 1, 3650), (671, 4, 730), (100, 16, 365))  # basins, components, steps
VARIES = ("beta", "k0", "betaet")  # the parameters usually learned per step (Feng et al. 2022)


@dataclass(frozen=True)
class Case:
    """One measurement: what runs, how large, in which mode, precision and number of threads."""

    model: str
    B: int
    C: int
    T: int
    mode: str
    dtype: str = "float32"
    threads: int = 1

    @property
    def million_cell_steps(self) -> float:
        return self.B * self.C * self.T / 1e6

    @property
    def is_per_step(self) -> bool:
        return self.mode == PER_STEP

    def __str__(self) -> str:
        mode = self.mode.replace(" ", "")
        return f"{self.model}-{self.B}x{self.C}x{self.T}-{mode}-{self.dtype}-{self.threads}t"


HEADLINE = [Case("hbv10", *size, mode) for size in SIZES[:2] for mode in (FORWARD, BOTH)]
FULL = [
    Case(name, *size, mode, dtype, threads)
    for name in models.names()
    for size in SIZES
    for mode in MODES
    for dtype in ("float32", "float64")
    for threads in (1, 2)
]


def has_baseline(case: Case) -> bool:
    """The baselines take minutes a case to compile and run, so they serve the rows that are quoted."""
    return case.mode in (FORWARD, BOTH) and case.dtype == "float32" and case.threads == 1


def inputs(case: Case) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Seeded weather with winters and dry days, parameters over their whole bounds: every branch is taken."""
    dtype = getattr(torch, case.dtype)
    model = models.get(case.model)
    random = torch.Generator().manual_seed(0)
    step = torch.arange(case.T)[:, None]
    noise = torch.randn(case.T, case.B, generator=random)
    tmean = 8 - 10 * torch.cos(2 * math.pi * step / 365.25) + 3 * noise
    wet = torch.rand(case.T, case.B, generator=random) < 0.4
    depth = -8 * torch.log(torch.rand(case.T, case.B, generator=random) + 1e-6).clamp(max=0)
    weather = dict(prcp=torch.where(wet, depth, 0.0), tmean=tmean, pet=0.3 * tmean.clamp(min=0))
    forcing = {name: weather[name].to(dtype).contiguous() for name in model.forcing_names}

    names = list(model.parameter_names)
    if case.is_per_step:
        names += [name for name in model.optional_parameter_names if name in VARIES]
    unit = {}
    for name in names:
        leading = (case.T,) if case.is_per_step and name in VARIES else ()
        unit[name] = torch.rand(*leading, case.B, case.C, generator=random).to(dtype)
    return forcing, model.parameters_from_unit(unit)
