"""How a model's flow, or a snow routine's pack, answers to each of its parameters, over a made-up year."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from hybridsolve.data.calendar import SERIES
from hybridsolve.plot.style import BLUE, ORANGE, colour, styled
from hybridsolve.routing.gauge import simulate_to_gauge
from hybridsolve.spec import ModelSpec

INPUTS = dict(annual_snowfall=250.0, lat=47.0, elev_mean=900.0, area_km2=1200.0)  # of a basin in the hills
LOW, HIGH = 0.1, 0.9  # of a parameter's range


def weather(model: ModelSpec) -> dict[str, torch.Tensor]:
    """Two years: storms at random, a cold winter, a warm summer."""
    days = np.arange("2000-10-01", "2002-10-01", dtype="datetime64[D]")
    season = -np.cos(2 * np.pi * (SERIES["day_of_year"](days) - 20) / 365.25)
    draw = np.random.default_rng(3)
    tmean = 7.5 + 9.5 * season + 3 * draw.standard_normal(len(days))
    series = dict(
        prcp=draw.gamma(0.3, 10.0, len(days)), tmean=tmean, tmin=tmean - 5, tmax=tmean + 5, pet=1.8 + 1.7 * season
    )
    series |= {name: SERIES[name](days) for name in ("day_of_year", "snow_day")}
    return {name: torch.tensor(series[name], dtype=torch.float64)[:, None] for name in model.forcing_names}


@styled
def figure(model: ModelSpec) -> Figure:
    """A panel a parameter: the second year at its low, its middle and its high value, all others in the middle."""
    rows = model.free_parameters
    sets = np.full((1 + 2 * len(rows), len(rows)), 0.5)
    for i in range(len(rows)):
        sets[1 + 2 * i : 3 + 2 * i, i] = LOW, HIGH
    unit = {v.name: torch.tensor(sets[:, i : i + 1]) for i, v in enumerate(rows)}
    parameters = model.parameters_from_unit(unit)
    others = (*model.parameters, *model.routing_parameters)
    parameters |= {v.name: torch.full((1, 1), v.default, dtype=torch.float64) for v in others if not v.free}
    shown = "swe" if model.outflow == "liquid" else model.outflow
    inputs = {name: torch.full((1,), INPUTS[name], dtype=torch.float64) for name in model.input_names}
    run = simulate_to_gauge(
        model, weather(model), parameters, fluxes=(shown,), inputs=inputs or None, backend="reference"
    )
    flow = run.fluxes[shown][365:].numpy()
    columns = min(3, len(rows))
    made = Figure(figsize=(9.0, 0.6 + 1.55 * -(-len(rows) // columns)), layout="constrained")
    panels = made.subplots(-(-len(rows) // columns), columns, sharex=True, sharey=True, squeeze=False).ravel()
    for i, (axes, v) in enumerate(zip(panels, rows, strict=False)):
        low, high = parameters[v.name][1 + 2 * i, 0], parameters[v.name][2 + 2 * i, 0]
        axes.plot(flow[:, 1 + 2 * i], color=colour(BLUE), lw=1.2, ls="--", label=f"{low:.3g}")
        axes.plot(flow[:, 0], color="#999999", lw=0.8)
        axes.plot(flow[:, 2 + 2 * i], color=colour(ORANGE), lw=1.2, label=f"{high:.3g}")
        axes.set_title(f"{v.name} ({v.unit})", fontsize=10, pad=3)
        axes.legend(fontsize=8, ncols=2, loc="upper right", handlelength=1.4, borderaxespad=0)
        axes.grid(True, axis="y")
    for axes in panels[len(rows) :]:
        axes.set_axis_off()
    panels[0].set_xticks(np.cumsum([0, 92, 90, 91]), ["Oct", "Jan", "Apr", "Jul"])
    panels[0].set_xlim(0, 365)
    panels[0].set_ylim(min(0, np.median(flow.min(0))), 1.6 * np.median(flow.max(0)))
    made.supylabel(f"{shown} ({model.variable(shown).unit})", fontsize=10)
    return made
