"""The daily models of the GR family: GR4J (Perrin et al. 2003), GR5J (Le Moine 2008), GR6J (Pushpalatha et al. 2011).

One step of a day; S the production store, R the routing store, X the exponential store; s = S/x1, w = tanh of a net
amount over x1, at most 13:

    (1) Pn = [P - E]+,  En = [E - P]+;  Ps = x1 (1 - s^2) w / (1 + s w),  Es = S (2 - s) w / (1 + (1 - s) w)
    (2) S <- S + Ps - Es;  Perc = S (1 - (1 + (4 S / (9 x1))^4)^(-1/4));  S <- S - Perc
    (3) Pr = Pn - Ps + Perc; GR4J and GR6J: 0.9 Pr goes into the first unit hydrograph and 0.1 Pr into the second; Q9
        and Q1 come out. GR5J: all of Pr goes into the second, of which 0.9 are Q9 and 0.1 are Q1
    (4) F = x2 (R/x3)^3.5 in GR4J, x2 (R/x3 - x5) in the others, with R of the day before
    (5) R <- [R + Q9 + F]+, in GR6J [R + 0.6 Q9 + F]+;  Qr = R (1 - (1 + (R/x3)^4)^(-1/4));  R <- R - Qr
    (6) GR6J: X <- X + 0.4 Q9 + F;  X <- X - Qrexp, with a = X/x6
        Qrexp = x6 e^a (a < -7), x6 ln(1 + e^a), X + x6 e^-a (a > 7), abs(a) in the exponents at most 33
    (7) Qd = [Q1 + F]+;  Q = Qr + Qrexp + Qd

The ordinates of the hydrographs are differences of SH1(t) = min(t/x4, 1)^2.5, and of SH2, half of that up to x4 and its
mirror up to 2 x4. x4 is any real number, and the gradient to it is exact; at a whole x4 the ordinates of the first have
a kink, and the gradient is that from below.

What differs between programs:

* The floors of (5) and (7) take part of F where a store or Q1 is emptied; the flux `exchange` is what was really
  gained, so that the balance closes. It acts on both branches, and in GR6J on the exponential store in full.
* The three pieces of Qrexp are airGR's. They join within 4e-7 x6, so that the softplus itself would be off by as much
  in a day, and by several times that in a dry season.
* The constants are exact; airGR's 0.9, 0.4 and 0.1 are those of single precision, up to 2.4e-6 mm/d apart.
* A production store above x1, which only a varying x1 or a start can make, is taken as full in (1).
* Lengths of the hydrographs: 20 and 40 days, as airGR. x4 up to 15 days is calibrated, up to 20 is run.
* The hourly models are others (another percolation, another exponent of the hydrographs), and are not here.

Checked against airGR 1.7.6 with its constants in double precision, and GR4J against RRMPG too, within 1e-9 mm.
"""

from __future__ import annotations

from dataclasses import replace

from ..spec import Balance, DelayLine, ModelSpec, Parameter, State, Variable
from .forcings import PET, PRCP
from .primitives import exp, maximum, minimum, relu, select, softplus, sqrt, tanh

SLOTS = 20  # of the first hydrograph; the second has twice as many
WIDE = "wider than the 80 % intervals of Perrin et al. 2003, doi 10.1016/S0022-1694(03)00225-7"
PUSHPALATHA = "Pushpalatha et al. 2011, doi 10.1016/j.jhydrol.2011.09.034"


def to_five_halves(x):
    """x^2.5, 0 at 0 to the bit, where `power` is not."""
    return x * x * sqrt(x)


def first(k, p):
    """Ordinates of the first hydrograph."""
    sums = [0.0] + [to_five_halves(minimum(t / p["x4"], 1.0)) for t in range(1, SLOTS + 1)]
    return [after - before for before, after in zip(sums, sums[1:], strict=False)]


def second(k, p):
    """Ordinates of the second hydrograph."""
    sums = [0.0]
    for t in range(1, 2 * SLOTS + 1):
        x = t / p["x4"]
        rising = x <= 1.0
        part = 0.5 * to_five_halves(select(rising, x, relu(2 - x)))
        sums.append(select(rising, part, 1 - part))
    return [after - before for before, after in zip(sums, sums[1:], strict=False)]


def share_of(x):
    """1 - (1 + x^4)^(-1/4), without cancellation at small x."""
    fourth = x**4
    root = sqrt(1 + fourth)
    fourth_root = sqrt(root)
    return fourth / (fourth_root * (1 + fourth_root) * (1 + root))


def production(f, p, s):
    """Equations (1) to (3): the store, the fluxes so far, and the water that is routed."""
    x1 = p["x1"]
    net_rain = relu(f["prcp"] - f["pet"])
    net_demand = relu(f["pet"] - f["prcp"])
    filled = minimum(s["production"] / x1, 1.0)
    wet = tanh(minimum(net_rain / x1, 13.0))
    dry = tanh(minimum(net_demand / x1, 13.0))
    stored = x1 * (1 - filled * filled) * wet / (1 + filled * wet)
    evaporated = minimum(s["production"] * (2 - filled) * dry / (1 + (1 - filled) * dry), s["production"])
    store = s["production"] + (stored - evaporated)
    percolation = store * share_of(store / x1 * (4 / 9))
    fluxes = dict(aet=evaporated + minimum(f["prcp"], f["pet"]), percolation=percolation)
    return store - percolation, fluxes, percolation + (net_rain - stored)


def routing(p, store, q1, arriving, wanted):
    """Equations (5) and (7): the routing store, and the fluxes that come of it and of the direct branch."""
    filled = store + arriving
    level = relu(filled + wanted)
    qr = level * share_of(level / p["x3"])
    qd = relu(q1 + wanted)
    exchange = maximum(wanted, -filled) + maximum(wanted, -q1)
    return level - qr, dict(qr=qr, qd=qd, exchange=exchange, streamflow=qr + qd, q1=q1)


def step_of_gr4j(f, k, p, s):
    """One day of GR4J; see the equations above."""
    store, fluxes, effective = production(f, p, s)
    slow, fast = 0.9 * effective, 0.1 * effective
    q9, q1 = s["uh1"] + p["uh1"] * slow, s["uh2"] + p["uh2"] * fast
    level = s["routing"] / p["x3"]
    left, routed = routing(p, s["routing"], q1, q9, p["x2"] * (level * to_five_halves(level)))
    return dict(production=store, routing=left, uh1=slow, uh2=fast), {**fluxes, **routed, "q9": q9}


def step_of_gr5j(f, k, p, s):
    """One day of GR5J; see the equations above."""
    store, fluxes, effective = production(f, p, s)
    arriving = s["uh2"] + p["uh2"] * effective
    q9, q1 = 0.9 * arriving, 0.1 * arriving
    wanted = p["x2"] * (s["routing"] / p["x3"] - p["x5"])
    left, routed = routing(p, s["routing"], q1, q9, wanted)
    return dict(production=store, routing=left, uh2=effective), {**fluxes, **routed, "q9": q9}


def step_of_gr6j(f, k, p, s):
    """One day of GR6J; see the equations above."""
    store, fluxes, effective = production(f, p, s)
    slow, fast = 0.9 * effective, 0.1 * effective
    q9, q1 = s["uh1"] + p["uh1"] * slow, s["uh2"] + p["uh2"] * fast
    wanted = p["x2"] * (s["routing"] / p["x3"] - p["x5"])
    left, routed = routing(p, s["routing"], q1, 0.6 * q9, wanted)
    exponential = s["exponential"] + 0.4 * q9 + wanted
    level = exponential / p["x6"]
    tail = p["x6"] * exp(-minimum(maximum(level, -level), 33.0))
    middle = p["x6"] * softplus(level)
    qrexp = select(level >= -7.0, select(level <= 7.0, middle, exponential + tail), tail)
    routed["exchange"] = routed["exchange"] + wanted
    routed["streamflow"] = routed["streamflow"] + qrexp
    state = dict(production=store, routing=left, exponential=exponential - qrexp, uh1=slow, uh2=fast)
    return state, {**fluxes, **routed, "q9": q9, "qrexp": qrexp}


def stored(state, inputs, parameters):
    """mm in the stores and on their way."""
    lines = sum(state[name].sum(0) for name in ("uh1", "uh2") if name in state)
    return sum(state[name] for name in ("production", "routing", "exponential") if name in state) + lines


X1 = Parameter(
    "x1", "mm", "capacity of the production store", 1.0, 3000.0, WIDE, scale="log", allowed=(0.01, 1e5)
)  # fmt: skip
X2 = Parameter("x2", "mm d-1", "exchange with the groundwater", -15.0, 15.0, WIDE, allowed=(-1e3, 1e3))
X3 = Parameter("x3", "mm", "capacity of the routing store", 1.0, 1000.0, WIDE, scale="log", allowed=(0.01, 1e5))
X4 = Parameter("x4", "d", "time base of the first unit hydrograph", 0.5, 15.0, WIDE, allowed=(0.01, SLOTS))
X5 = Parameter("x5", "1", "level of the routing store at which the exchange changes its sign", -1.0, 2.0,
               PUSHPALATHA, allowed=(-10.0, 10.0))  # fmt: skip
X6 = Parameter("x6", "mm", "scale of the exponential store", 0.05, 60.0, PUSHPALATHA, scale="log", allowed=(0.01, 1e3))
PRODUCTION = State("production", "mm", "water in the production store", 0.0, 1e30,
                   initial=lambda p: 0.3 * p["x1"], wet=lambda p: p["x1"])  # fmt: skip
ROUTING = State("routing", "mm", "water in the routing store", 0.0, 1e30,
                initial=lambda p: 0.5 * p["x3"], wet=lambda p: p["x3"])  # fmt: skip
EXPONENTIAL = State("exponential", "mm", "water in the exponential store, of either sign", -1e30, 1e30,
                    initial=0.0, wet=lambda p: p["x6"])  # fmt: skip
UH1 = DelayLine("uh1", "mm", "water in the first unit hydrograph", SLOTS, first)
UH2 = DelayLine("uh2", "mm", "water in the second unit hydrograph", 2 * SLOTS, second)
FLUXES = (
    Variable("streamflow", "mm d-1", "flow of the river"),
    Variable("qr", "mm d-1", "flow out of the routing store"),
    Variable("qd", "mm d-1", "direct flow"),
    Variable("q9", "mm d-1", "water that reaches the routing store, and in GR6J the exponential one"),
    Variable("q1", "mm d-1", "water that reaches the direct branch"),
    Variable("aet", "mm d-1", "actual evapotranspiration"),
    Variable("exchange", "mm d-1", "water gained from the groundwater, of either sign"),
    Variable("percolation", "mm d-1", "flow out of the production store"),
)

gr4j = ModelSpec(
    name="gr4j",
    title="GR4J",
    source="Perrin et al. 2003, doi 10.1016/S0022-1694(03)00225-7",
    forcings=(PRCP, PET),
    parameters=(X1, X2, X3, X4),
    states=(PRODUCTION, ROUTING),
    lines=(UH1, UH2),
    fluxes=FLUXES,
    reference_step=step_of_gr4j,
    outflow="streamflow",
    balance=Balance(gains=("prcp", "exchange"), losses=("streamflow", "aet"), storage=stored),
)
gr5j = replace(
    gr4j,
    name="gr5j",
    title="GR5J",
    source="Le Moine 2008, thesis, Université Pierre et Marie Curie",
    parameters=(X1, X2, X3, X4, X5),
    lines=(UH2,),
    reference_step=step_of_gr5j,
)
gr6j = replace(
    gr4j,
    name="gr6j",
    title="GR6J",
    source=PUSHPALATHA,
    parameters=(X1, X2, X3, X4, X5, X6),
    states=(PRODUCTION, ROUTING, EXPONENTIAL),
    fluxes=FLUXES + (Variable("qrexp", "mm d-1", "flow out of the exponential store"),),
    reference_step=step_of_gr6j,
)
