"""SHM, the simple hydrological model (Ehret et al. 2020), as a hybrid's network drives it (Acuña Espinoza et al. 2024).

One step of a day, in this order; ss snow, sf fast flow, su unsaturated zone, si interflow, sb baseflow:

    (1) T < 0: snowfall = P, rain = 0, melt = 0; else rain = P, melt = min(ss, dd T).
        ss <- ss - melt + snowfall: the day's snow does not melt on it;  q = melt + rain
    (2) qf = [q - f_thr]+,  qu = min(q, f_thr)
    (3) sf <- sf + qf;  of = sf / kf;  sf <- sf - of
    (4) psi = (su / sumax)^beta;  t = su + qu (1 - psi);  su <- min(t, sumax);  qo = qu psi + [t - sumax]+
    (5) su <= 0.8 sumax: ET = 0.9 PET su / sumax, else 0.9 PET;  ET <- min(ET, su);  su <- su - ET
    (6) si <- si + perc qo;  oi = si / ki;  si <- si - oi
    (7) sb <- sb + (1 - perc) qo;  ob = sb / kb;  sb <- sb - ob;  Q = of + oi + ob

ET jumps by a fifth at 0.8 sumax, and precipitation from snow to rain at 0 degC: there is no gradient to where. ET is
what the soil could give, so that the balance closes; the published program reports none. T is the mean temperature,
which that program makes of the lowest and the highest.

As rates (`shm@rk4x8`, `shm@backward_euler`) all that happens at once: m = min(ss, dd T), of = sf / kf, oi = si / ki,
ob = sb / kb, ET at most su, psi at most 1, and what the soil cannot hold leaves it within a day: [su - sumax]+.

Checked against NeuralHydrology within 1e-9: states, flow, and gradients to the parameters of every day.
"""

from __future__ import annotations

from dataclasses import replace

from ..spec import Balance, ModelSpec, Parameter, State, Variable
from .forcings import PET, PRCP, TMEAN, fallen
from .primitives import minimum, power, relu, select

ACUNA = "Acuña Espinoza et al. 2024, doi 10.5194/hess-28-2705-2024"


def reference_step(f, k, p, s):
    """One day; see the equations above."""
    thaw = f["tmean"] >= 0.0
    rain = select(thaw, f["prcp"], 0.0)
    snowfall = fallen(p, f["prcp"] - rain)
    melt = select(thaw, minimum(s["ss"], p["dd"] * f["tmean"]), 0.0)
    water = melt + rain
    fast = s["sf"] + relu(water - p["f_thr"])
    qf = fast / p["kf"]
    soaking = minimum(water, p["f_thr"])
    wetness = power(s["su"] / p["sumax"], p["beta"])
    filled = s["su"] + soaking * (1 - wetness)
    soil = minimum(filled, p["sumax"])
    passing = soaking * wetness + relu(filled - p["sumax"])
    share = soil / p["sumax"]
    aet = minimum(0.9 * f["pet"] * select(share <= 0.8, share, 1.0), soil)
    interflow = s["si"] + p["perc"] * passing
    qi = interflow / p["ki"]
    base = s["sb"] + (1 - p["perc"]) * passing
    qb = base / p["kb"]
    state = dict(ss=s["ss"] - melt + snowfall, sf=fast - qf, su=soil - aet, si=interflow - qi, sb=base - qb)
    fluxes = dict(streamflow=qf + qi + qb, qf=qf, qi=qi, qb=qb, aet=aet)
    return state, {**fluxes, "rain": rain, "snowfall": snowfall, "melt": melt}


shm = ModelSpec(
    name="shm",
    title="SHM",
    source="Ehret et al. 2020, doi 10.5194/hess-24-4389-2020",
    forcings=(PRCP, TMEAN, PET),
    parameters=(
        Parameter("dd", "mm degC-1 d-1", "degree-day factor of melt", 0.0, 10.0, ACUNA),
        Parameter("f_thr", "mm d-1", "water above which the rest runs off fast", 10.0, 60.0, ACUNA),
        Parameter("sumax", "mm", "capacity of the unsaturated zone", 20.0, 700.0, ACUNA),
        Parameter("beta", "1", "shape of the soil's response: share of the water that passes", 1.0, 6.0, ACUNA),
        Parameter("perc", "1", "share of what passes the soil that becomes interflow", 0.0, 1.0, ACUNA),
        Parameter("kf", "d", "residence time of the fast flow", 1.0, 20.0, ACUNA),
        Parameter("ki", "d", "residence time of the interflow", 1.0, 100.0, ACUNA),
        Parameter("kb", "d", "residence time of the baseflow", 10.0, 1000.0, ACUNA),
    ),
    states=(
        State("ss", "mm", "snowpack", 0.0, 1e30, initial=0.0, wet=100.0),
        State("sf", "mm", "fast flow's store", 0.0, 1e30, initial=1.0, wet=20.0),
        State("su", "mm", "water in the unsaturated zone", 0.0, 1e30, initial=5.0, wet=lambda p: p["sumax"]),
        State("si", "mm", "interflow's store", 0.0, 1e30, initial=10.0, wet=100.0),
        State("sb", "mm", "baseflow's store", 0.0, 1e30, initial=15.0, wet=300.0),
    ),
    fluxes=(
        Variable("streamflow", "mm d-1", "flow of the river"),
        Variable("qf", "mm d-1", "fast flow"),
        Variable("qi", "mm d-1", "interflow"),
        Variable("qb", "mm d-1", "baseflow"),
        Variable("aet", "mm d-1", "actual evapotranspiration"),
        Variable("rain", "mm d-1", "precipitation at or above 0 degC"),
        Variable("snowfall", "mm d-1", "precipitation below 0 degC"),
        Variable("melt", "mm d-1", "melt"),
    ),
    reference_step=reference_step,
    outflow="streamflow",
    balance=Balance(gains=("prcp",), losses=("streamflow", "aet")),
)


def rates(f, k, p, s):
    """mm/d; see above."""
    ss, su = relu(s["ss"]), relu(s["su"])
    thaw = f["tmean"] >= 0.0
    rain = select(thaw, f["prcp"], 0.0)
    snowfall = fallen(p, f["prcp"] - rain)
    melt = select(thaw, minimum(ss, p["dd"] * f["tmean"]), 0.0)
    water = melt + rain
    fast, soaking = relu(water - p["f_thr"]), minimum(water, p["f_thr"])
    share = su / p["sumax"]
    passing = soaking * minimum(power(share, p["beta"]), 1.0) + relu(su - p["sumax"])
    aet = minimum(0.9 * f["pet"] * select(share <= 0.8, share, 1.0), su)
    qf, qi, qb = s["sf"] / p["kf"], s["si"] / p["ki"], s["sb"] / p["kb"]
    into = p["perc"] * passing
    slopes = dict(ss=snowfall - melt, sf=fast - qf, su=soaking - passing - aet, si=into - qi, sb=passing - into - qb)
    fluxes = dict(streamflow=qf + qi + qb, qf=qf, qi=qi, qb=qb, aet=aet)
    return slopes, {**fluxes, "rain": rain, "snowfall": snowfall, "melt": melt}


shm_rates = replace(
    shm,
    states=tuple(replace(v, lower=-1e30) for v in shm.states),
    reference_step=rates,
    steps=None,
    rates=True,
)
