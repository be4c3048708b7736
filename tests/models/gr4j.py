"""GR4J (Perrin et al. 2003, J. Hydrol. 279:275), a trial of the model compiler: two stores and two unit hydrographs.

One step of a day; s = S/x1, w = tanh of a net amount over x1, at most 13:

    (1) Pn = [P - E]+,  En = [E - P]+;  Ps = x1 (1 - s^2) w / (1 + s w),  Es = S (2 - s) w / (1 + (1 - s) w)
    (2) S <- S + Ps - Es;  Perc = S (1 - (1 + (4 S / (9 x1))^4)^(-1/4));  S <- S - Perc
    (3) Pr = Pn - Ps + Perc; 0.9 Pr goes into the first hydrograph, 0.1 Pr into the second; Q9 and Q1 come out
    (4) F = x2 (R/x3)^3.5, with R of the day before
    (5) R <- [R + Q9 + F]+;  Qr = R (1 - (1 + (R/x3)^4)^(-1/4));  R <- R - Qr
    (6) Qd = [Q1 + F]+;  Q = Qr + Qd

The ordinates are differences of SH1(t) = min(t/x4, 1)^2.5, and of SH2, half of that up to x4 and its mirror up to 2 x4.
"""

from __future__ import annotations

from hybridsolve.models.primitives import maximum, minimum, relu, select, sqrt, tanh
from hybridsolve.spec import Balance, DelayLine, Forcing, ModelSpec, Parameter, State, Variable

from .examples import Example as Generic
from .examples import pick

SLOTS = 20  # of the first hydrograph; the second has twice as many


def to_five_halves(x):
    """x^2.5, 0 at 0 to the bit, where `power` is not."""
    return x * x * sqrt(x)


def first(k, p):
    """Ordinates of the first hydrograph."""
    sums = [0.0] + [to_five_halves(minimum(t / p["x4"], 1.0)) for t in range(1, SLOTS + 1)]
    return [after - before for before, after in zip(sums, sums[1:], strict=False)]


def second(k, p):
    """Ordinates of the second."""
    sums = [0.0]
    for t in range(1, 2 * SLOTS + 1):
        x = t / p["x4"]
        rising = x <= 1.0
        part = 0.5 * to_five_halves(select(rising, x, relu(2 - x)))
        sums.append(select(rising, part, 1 - part))
    return [after - before for before, after in zip(sums, sums[1:], strict=False)]


def outflow_share(x):
    """1 - (1 + x^4)^(-1/4)"""
    return 1 - 1 / sqrt(sqrt(1 + x**4))


def reference_step(f, k, p, s):
    """One day; see the equations above."""
    x1 = p["x1"]
    net_rain = relu(f["prcp"] - f["pet"])
    net_demand = relu(f["pet"] - f["prcp"])
    filled = s["production"] / x1
    wet = tanh(minimum(net_rain / x1, 13.0))
    dry = tanh(minimum(net_demand / x1, 13.0))
    stored = x1 * (1 - filled * filled) * wet / (1 + filled * wet)
    evaporated = s["production"] * (2 - filled) * dry / (1 + (1 - filled) * dry)
    production = relu(s["production"] + (stored - evaporated))
    percolation = production * outflow_share(production / x1 * (4 / 9))
    production = production - percolation
    effective = percolation + (net_rain - stored)

    slow = 0.9 * effective
    fast = 0.1 * effective
    q9 = s["uh1"] + p["uh1"] * slow
    q1 = s["uh2"] + p["uh2"] * fast

    level = s["routing"] / p["x3"]
    wanted = p["x2"] * (level * to_five_halves(level))
    routing = s["routing"] + q9
    exchange = maximum(wanted, -routing) + maximum(wanted, -q1)
    routing = relu(routing + wanted)
    qr = routing * outflow_share(routing / p["x3"])
    routing = routing - qr
    qd = relu(q1 + wanted)
    fluxes = dict(
        streamflow=qr + qd,
        qr=qr,
        qd=qd,
        aet=evaporated + minimum(f["prcp"], f["pet"]),
        exchange=exchange,
        percolation=percolation,
    )
    return dict(production=production, routing=routing, uh1=slow, uh2=fast), fluxes


gr4j = ModelSpec(
    name="gr4j",
    title="GR4J",
    source="Perrin et al. 2003, doi 10.1016/S0022-1694(03)00225-7",
    forcings=(
        Forcing("prcp", "mm d-1", "precipitation", 0.0, 1e5, transform="log"),
        Forcing("pet", "mm d-1", "potential evapotranspiration", 0.0, 1e3),
    ),
    parameters=(
        Parameter("x1", "mm", "capacity of the production store", 100.0, 1200.0, scale="log"),
        Parameter("x2", "mm d-1", "exchange with the groundwater", -5.0, 3.0),
        Parameter("x3", "mm", "capacity of the routing store", 20.0, 300.0, scale="log"),
        Parameter("x4", "d", "time base of the first unit hydrograph", 0.5, 15.0),
    ),
    states=(
        State("production", "mm", "water in the production store", 0.0, 1e30, initial=lambda p: 0.3 * p["x1"],
              wet=lambda p: p["x1"]),
        State("routing", "mm", "water in the routing store", 0.0, 1e30, initial=lambda p: 0.5 * p["x3"],
              wet=lambda p: p["x3"]),
    ),
    lines=(
        DelayLine("uh1", "mm", "water in the first unit hydrograph", SLOTS, first),
        DelayLine("uh2", "mm", "water in the second unit hydrograph", 2 * SLOTS, second),
    ),
    fluxes=(
        Variable("streamflow", "mm d-1", "flow of the river"),
        Variable("qr", "mm d-1", "flow out of the routing store"),
        Variable("qd", "mm d-1", "direct flow"),
        Variable("aet", "mm d-1", "actual evapotranspiration"),
        Variable("exchange", "mm d-1", "water gained from the groundwater, of either sign"),
        Variable("percolation", "mm d-1", "flow out of the production store"),
    ),
    reference_step=reference_step,
    outflow="streamflow",
    balance=Balance(
        gains=("prcp", "exchange"),
        losses=("streamflow", "aet"),
        storage=lambda state, inputs, parameters: (
            state["production"] + state["routing"] + state["uh1"].sum(0) + state["uh2"].sum(0)
        ),
    ),
)  # fmt: skip


class Example(Generic):
    """Ties: rain that is the demand, an empty store, no exchange, a hydrograph of whole days."""

    def ties(self, x):
        T, B, C = x.sizes
        x.forcing["prcp"] = pick([0, 0, 1, 2, 16], T, B, seed=1)
        x.forcing["pet"] = pick([0, 1, 2], T, B, seed=2)
        for i, (name, values) in enumerate(dict(x1=[128, 256], x2=[-2, 0, 0, 1], x3=[32, 64], x4=[1, 2, 2.5]).items()):
            x.parameters[name] = pick(values, B, C, seed=3 + i)
        x.initial_state["production"] = x.parameters["x1"] * pick([0, 0.5, 1], B, C, seed=8)
        x.initial_state["routing"] = x.parameters["x3"] * pick([0, 0.5, 1], B, C, seed=9)
        for name in ("uh1", "uh2"):
            x.initial_state[name] = x.initial_state[name] * pick([0, 1], B, C, seed=10)
