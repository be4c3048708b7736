"""The table of shapes, the cases that a run measures, and the inputs of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

FORWARD, GRADIENT = "forward", "forward + gradient"
MODES = (FORWARD, GRADIENT)  # without a graph; with the gradient to every parameter
DTYPES, THREADS = ("float32", "float64"), (1, 2)
MODEL = "hbv11p"
STEP = 3600.0  # of rivers, s


@dataclass(frozen=True)
class Case:
    """One measurement's work.

    Attributes
    ----------
    shape : str
        Its name in `SHAPES`.
    model : str
        A model, or of rivers a scheme.
    B, C, T : int
        Basins, components and steps; of rivers reaches, 1 and steps.
    each : bool
        Whether every component's flow is kept, in place of the mean.
    river : bool
    """

    shape: str
    model: str
    B: int
    C: int
    T: int
    each: bool = False
    river: bool = False
    dtype: str = "float32"
    threads: int = 1

    @property
    def steps(self) -> int:
        """Cell-steps, or reach-steps."""
        return self.B * self.C * self.T

    @property
    def itemsize(self) -> int:
        return 8 if self.dtype == "float64" else 4

    @property
    def array_bytes(self) -> int:
        """Of the forcing and the flow, with a cotangent as large: what every implementation holds."""
        flow = self.B * self.T * (self.C if self.each else 1)
        return self.itemsize * ((1 if self.river else 3) * self.B * self.T + 2 * flow + 16 * self.B * self.C)

    def __str__(self) -> str:
        return f"{self.shape}, {self.model}, {self.B} x {self.C} x {self.T}, {self.dtype}, {self.threads} threads"


def _rivers(power: str, steps: int) -> dict[str, list[Case]]:
    name = f"rivers-{power}"
    return {name: [Case(name, s, int(float(power)), 1, steps, river=True) for s in ("todini", "ddr", "muskingum")]}


SHAPES: dict[str, list[Case]] = {
    "latency": [Case("latency", MODEL, 1, 1, 14_610)],  # one basin, 40 years
    "batch": [Case("batch", MODEL, 100, 16, 730)],
    "basins": [Case("basins", MODEL, 671, 16, 730)],
    "single": [Case("single", MODEL, 1000, 1, 3650)],
    "decade": [Case("decade", MODEL, 671, 16, 3650)],
    "cells": [Case("cells", MODEL, 1_000_000, 1, 365)],
    "starts": [Case("starts", MODEL, 20, 1000, 730, each=True)],
    "gr": [Case("gr", model, 1, 1, 14_610) for model in ("gr4j", "gr6j")],
    **_rivers("1e3", 2400),
    **_rivers("1e4", 720),
    **_rivers("1e5", 240),
    **_rivers("1e6", 48),
    **_rivers("3e6", 24),
    # For the exponents.
    "over-T": [Case("over-T", MODEL, 256, 4, 365 * 2**k) for k in range(4)],
    "over-N": [Case("over-N", MODEL, 64 * 4**k, 4, 365) for k in range(4)],
}
QUICK = ("latency", "batch", "basins", "single", "rivers-1e5", "over-T", "over-N")
TWO_THREADS = (
    "basins",
    "single",
    "rivers-1e5",
)  # where a run that is not full takes them too; a quick one not the last
WITH_PEERS = ("batch", "rivers-1e5")  # of a quick run


def plan(shapes: Sequence[str] | None, full: bool) -> list[Case]:
    """The cases of a run, in order.

    Parameters
    ----------
    shapes : sequence of str, optional
        Names of `SHAPES`, or "all"; those of a quick run, or all of a full one, if left out.
    full : bool
        In both precisions, each on one thread and on two.

    Raises
    ------
    ValueError
        If a name is not in the table.
    """
    every = list(shapes) == ["all"] if shapes else full
    names = list(SHAPES) if every else shapes or QUICK
    for name in names:
        if name not in SHAPES:
            raise ValueError(f"a shape must be all, or one of {', '.join(SHAPES)}; found '{name}': correct --shapes.")
    found = []
    for name in names:
        for case in SHAPES[name]:
            two = full or name in (TWO_THREADS if shapes else TWO_THREADS[:2])
            found += [
                replace(case, dtype=dtype, threads=threads)
                for dtype in (DTYPES if full else DTYPES[:1])
                for threads in (THREADS if two and name not in ("latency", "gr", "over-T", "over-N") else THREADS[:1])
            ]
    return found


def forcing_and_parameters(case: Case):
    """Seeded weather with winters and dry days ``[T, B]``, parameters over their whole bounds ``[B, C]``: every branch
    is taken."""
    import torch

    from hybridsolve import models

    dtype, model = getattr(torch, case.dtype), models.get(case.model)
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(case.T, case.B, generator=draw)
    season = torch.cos(2 * math.pi * torch.arange(case.T)[:, None] / 365.25)
    tmean = noise.mul_(3).add_(8 - 10 * season)
    wet = torch.rand(case.T, case.B, generator=draw) < 0.4
    depth = torch.rand(case.T, case.B, generator=draw).add_(1e-6).log_().mul_(-8).clamp_(min=0)
    weather = {"prcp": depth.mul_(wet), "tmean": tmean, "pet": 0.3 * tmean.clamp(min=0)}
    forcing = {name: weather.pop(name).to(dtype) for name in model.forcing_names}
    unit = {name: torch.rand(case.B, case.C, generator=draw).to(dtype) for name in model.parameter_names}
    return forcing, model.parameters_from_unit(unit)


def network_and_inflow(case: Case):
    """A random dendritic network with Muskingum's k, which is the travel time at 1 m/s; inflow ``[T, B]``, m3/s, about
    1 mm a day; and the scheme's parameters ``[B]``."""
    import torch

    from hybridsolve.routing import RiverNetwork
    from hybridsolve.routing.schemes import SCHEMES

    dtype = getattr(torch, case.dtype)
    network = RiverNetwork.random(case.B)
    network.attributes["k"] = network.attributes["length"].copy()
    area = torch.from_numpy(network.attributes["area"]).to(dtype)
    inflow = torch.rand(case.T, case.B, dtype=dtype, generator=torch.Generator().manual_seed(0)).mul_(area * 2e-8)
    return network, inflow, {n: torch.from_numpy(network.attributes[n]).to(dtype) for n in SCHEMES[case.model][0]}


def cotangent(case: Case):
    """Of the flow ``[T, B]`` or ``[T, B, C]``; random."""
    import torch

    shape = (case.T, case.B, case.C) if case.each else (case.T, case.B)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=getattr(torch, case.dtype))
