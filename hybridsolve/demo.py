"""The demo: a real catchment calibrated in seconds, by several models too, and the solver's speed on a thousand others.

The Fulda at Grebenau (2,976 km2, Germany), daily 1979-1988, as shipped with SPOTPY (Houska et al. 2015).
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
import xarray as xr

from . import models
from .calibration import comparison_report, report
from .calibration.fit import calibrate
from .calibration.structures import calibrate_structures
from .data import read_fulda
from .data.files import locked
from .data.netcdf import open_netcdf
from .solve.simulate import simulate

TRAIN, TEST = "1980-01-01:1985-12-31", "1986-01-01:1988-12-31"
CHOICE = "1980-01-01:1983-12-31", "1984-01-01:1985-12-31"  # training and validation of several models


def run(folder: Path, command: str, overwrite: bool = False) -> None:
    """Calibrate the Fulda, write its results, then time 1,000 basins."""
    report.refuse_other_run(folder, overwrite=overwrite or _is_ours(folder / "calibration.nc"))
    data = read_fulda()
    print(
        "The Fulda at Grebenau, ten years of daily data from the package spotpy (Houska et al. 2015, "
        "doi 10.1371/journal.pone.0145180)."
    )
    print(f"Calibrating HBV 1.1p on {TRAIN}, testing on {TEST}:", flush=True)
    with locked(folder):
        result = calibrate(data, "hbv11p", train=TRAIN, test=TEST, starts=32, steps=200, ensemble=8)
        print(report.text(result))
        written = report.write(result, folder, command=command)
    print(_sketch(result))
    print("wrote " + ", ".join(str(path) for path in written))
    print(f"See {folder / 'hydrograph.png'} for the hydrograph.\n")
    _compare(data)
    _time_synthetic()


def _compare(data: xr.Dataset) -> None:
    """The models whose kernels every build has, side by side on the same river."""
    names = (*models.SHIPPED, models.DEFAULT)
    train, validation = CHOICE
    print(
        f"{len(names)} of {len(models.names())} models side by side (hybridsolve info lists all), chosen and weighted"
    )
    print(f"by {train} and {validation}, tested on {TEST}:", flush=True)
    result = calibrate_structures(data, names, train=train, validation=validation, test=TEST, progress=False)
    print(f"{comparison_report.text(result.sel(period=['test']))}\n")


def _is_ours(path: Path) -> bool:
    """Whether a calibration is one of the demo, which may replace it."""
    try:
        with open_netcdf(path, "the demo's calibration") as before:
            return before["basin"].values.tolist() == ["grebenau"] and before.attrs.get("test_period") == TEST
    except (OSError, ValueError, KeyError):
        return False  # missing, damaged or of another kind


def _sketch(result, height: int = 12, days: int = 100) -> str:
    """The hydrograph in characters, for a terminal without a picture viewer."""
    last = result.attrs["test_period"].split(":")[0]
    span = result.sel(time=slice(last, None)).isel(time=slice(60, 60 + days))
    obs, sim = span["obs"].values[:, 0], span["flow"].sel(member="best").values[:, 0]
    top = np.nanmax([np.nanmax(obs), sim.max()])
    rows = [[" "] * days for _ in range(height)]
    for series, mark in ((obs, "o"), (sim, "*")):
        for day, q in enumerate(series):
            if np.isfinite(q):
                rows[height - 1 - min(height - 1, int(q / top * height))][day] = mark
    first = str(span["time"].values[0])[:10]
    body = "\n".join(f"{top * (height - i) / height:5.1f} |" + "".join(row) for i, row in enumerate(rows))
    return f"mm/d from {first}, {days} days of the test period: o observed, * simulated\n{body}\n      +" + "-" * days


def _time_synthetic(n_steps: int = 3650, n_basins: int = 1000, repeats: int = 5) -> None:
    model = models.get("hbv11p")
    random = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(*shape, generator=random)  # noqa: E731
    season = torch.sin(torch.arange(n_steps) * 2 * torch.pi / 365)[:, None]
    forcing = dict(
        prcp=(draw(n_steps, n_basins) < 0.4) * 15 * draw(n_steps, n_basins),
        tmean=8 + 10 * season + 4 * draw(n_steps, n_basins),
        pet=2 + 1.8 * season + 0 * draw(1, n_basins),
    )
    parameters = model.parameters_from_unit({name: draw(n_basins, 1) for name in model.parameter_names})
    for p in parameters.values():
        p.requires_grad_()

    def timed(action):
        action()
        laps = []
        for _ in range(repeats):
            began = time.perf_counter()
            action()
            laps.append(time.perf_counter() - began)
        return median(laps)

    def forward():
        with torch.no_grad():
            simulate(model, forcing, parameters)

    def gradient():
        q = simulate(model, forcing, parameters).fluxes["streamflow"]
        torch.autograd.grad(q.square().mean(), list(parameters.values()))

    print(
        f"{n_basins} synthetic basins x {n_steps} days of HBV 1.1p on {torch.get_num_threads()} threads, median of "
        f"{repeats} after a warm-up:"
    )
    cells = n_steps * n_basins / 1e6
    for name, action in (("forward", forward), ("forward + gradient of 14 parameters each", gradient)):
        seconds = timed(action)
        print(f"  {name:42} {seconds * 1e3:7.1f} ms   {cells / seconds:6.0f} million cell-steps a second")
