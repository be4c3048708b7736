"""Data and settings that the tests of trainings share: synthetic flow whose parameters follow the attributes."""

import functools

import numpy as np
import pandas as pd
import torch

import hybridsolve as hs
from hybridsolve import cli
from hybridsolve.data.dataset import assemble
from hybridsolve.training.config import read_config

SMALL = dict(
    name="small",
    model="hbv11p",
    components=2,
    network=dict(kind="mlp", hidden=[16], dropout=0.1),
    attributes=["wetness", "height", "rock"],
    fill=["height"],
    periods=dict(train="2002-01-01:2003-12-31", validation="2004-01-01:2004-12-31", test="2005-01-01:2005-12-31"),
    batch=dict(basins=6, days=90, warmup=60),
    loss="nse_batch",
    optimiser=dict(name="adam", learning_rate=0.02),
    epochs=3,
    steps_per_epoch=4,
)
RECURRENT = SMALL | dict(
    network=dict(kind="lstm", hidden=[8], dropout=0.1), weather=["prcp", "tmean", "pet"], dynamic=["beta", "k0"]
)
CORRECTED = RECURRENT | dict(network=dict(kind="gru", hidden=[16], state=8, period=7, dropout=0.1))


@functools.cache
def learnable():
    """Twelve basins, six years: flow of HBV whose parameters follow the attributes."""
    draw = np.random.default_rng(0)
    n, days = 12, 2192
    time = np.datetime64("2000-01-01") + np.arange(days)
    season = np.cos(2 * np.pi * (np.arange(days) - 200) / 365.25)[:, None]
    wetness, height = draw.uniform(size=n), draw.uniform(size=n)
    prcp = draw.gamma(0.3, 12, (days, n)) * (0.5 + wetness)
    tmean = 8 + 10 * season + 3 * draw.standard_normal((days, n)) - 6 * height
    pet = np.maximum(0, 2 + 2 * season + 0 * prcp)
    unit = {v.name: torch.full((n, 1), 0.4) for v in hs.models.get("hbv11p").parameters}
    unit["fc"] = torch.from_numpy(0.1 + 0.8 * wetness)[:, None].float()
    unit["cfmax"] = torch.from_numpy(0.2 + 0.6 * height)[:, None].float()
    forcing = {name: torch.from_numpy(x).float() for name, x in dict(prcp=prcp, tmean=tmean, pet=pet).items()}
    model = hs.models.get("hbv11p")
    flow = hs.simulate(model, forcing, model.parameters_from_unit(unit)).fluxes["streamflow"]
    qobs = hs.unit_hydrograph(flow, torch.full((n,), 1.0), torch.full((n,), 1.0)).numpy()
    qobs[draw.uniform(size=qobs.shape) < 0.02] = np.nan
    height = np.where(np.arange(n) == 3, np.nan, height)
    return assemble(
        dict(prcp=prcp, tmean=tmean, pet=pet, qobs=qobs),
        basin=[f"b{i:02d}" for i in range(n)],
        time=time,
        lat=draw.uniform(30, 48, n),
        lon=draw.uniform(-120, -70, n),
        static=dict(
            wetness=(wetness, {}),
            height=(height, {}),
            flat=(np.ones(n), {}),
            rock=(np.array(["lime", "sand"] * 6), {}),
            huc_02=(np.arange(n) // 3, {}),
        ),
    )


def forcing_of(data, steps=slice(0, 120)):
    return {n: torch.from_numpy(data[n].values[steps]) for n in ("prcp", "tmean", "pet")}


def small(**changes):
    return read_config(SMALL | changes)


TINY = dict(
    name="tiny",
    model="hbv10",
    network=dict(kind="mlp", hidden=[4]),
    components=2,
    attributes=["area"],
    periods=dict(train="2000-06-01:2000-12-31", test="2001-01-01:2001-06-30"),
    batch=dict(basins=2, days=40, warmup=30),
    loss="nse_batch",
    epochs=1,
    steps_per_epoch=1,
)
SEEN = TINY | dict(periods=TINY["periods"] | dict(validation="2001-07-01:2001-10-31"))
TINY_RECURRENT = TINY | dict(network=dict(kind="lstm", hidden=[4]), weather=["prcp", "tmean", "pet"])
QUICK = dict(progress=False, accelerator="cpu")


def make(n=3, days=730, place=True):
    draw = np.random.default_rng(0)
    shape = (days, n)
    series = dict(prcp=draw.gamma(0.4, 8, shape), tmean=draw.normal(8, 6, shape), pet=2 + draw.random(shape))
    at = dict(lat=np.linspace(40, 45, n), lon=np.linspace(-90, -80, n)) if place else {}
    return assemble(
        series | dict(qobs=draw.gamma(1, 1.5, shape)),
        basin=[f"0{i}" for i in range(n)],
        time=pd.date_range("2000-01-01", periods=days),
        static=dict(area=(np.arange(n) + 1.0, {})),
        **at,
    )


def said_by(capsys, command):
    """The sentence with which the command line ends, which is one line and gives no dangerous advice."""
    assert cli.main([str(x) for x in command]) == 2
    printed = capsys.readouterr()
    last = printed.err.strip().splitlines()[-1]
    assert last.startswith(f"hybridsolve {command[0]}: ") and "weights_only" not in printed.err + printed.out
    assert printed.out == ""
    return last
