"""Xinanjiang (Zhao 1992) of three sources: the text-book form, with water conserved, lag and route.

One step of a day; the stores are per pervious area, WM = UM + LM + DM the sum of capacities, Wmm = WM (1 + B):

    (1) Ep = K PET;  eu = min(Ep, wu + P);  x = Ep - eu
        wl >= C LM: el = min(x wl/LM, wl), ed = 0; else el = min(C x, wl), ed = min(C x - el, wd)
        pe = [P - eu]+;  rim = IM pe, of the impervious area
    (2) w0 = wu + wl + wd;  u = (1 - w0/WM)^(1/(1+B));  r = pe - WM (u^(1+B) - [u - pe/Wmm]+^(1+B))
    (3) pe - r fills wu, then wl, then wd; eu - P, el, ed leave them; what they cannot hold joins r
    (4) fr' = r/pe and s' = min(fr s/fr', SMF) where r > 0, else fr and s
        HF: SMF = SM, Smax = SM (1 + EX);  EH: Smax = SM (1 + EX) (1 - (1 - fr')^(1/EX)), SMF = Smax / (1 + EX)
        v = (1 - s'/SMF)^(1/(1+EX));  s'' = s' + SMF (v^(1+EX) - [v - pe/Smax]+^(1+EX)) where r > 0, else s'
        rs = r - fr' (s'' - s') + (fr s - fr' s');  ri = KI s'' fr';  rg = KG s'' fr';  s <- s'' (1 - KI - KG)
    (5) qi = (1 - CI) (vi + (1 - IM) ri);  vi <- CI (vi + (1 - IM) ri);  the same with CG of rg
    (6) qt = (1 - IM) rs + rim + qi + qg enters a delay of L steps, L whole;  Q = (1 - CS) (vc + what leaves it)

KI and KG are scaled so that their sum is 1 - 1e-5 where it is 1 or more. The stores vi, vg and vc hold the water of the
linear reservoirs, qi CI / (1 - CI) and so on in the published form, which keeps the flow.

Equations (2) and (4) are the text-books', written so that they are exact without rain and have finite slopes at full
stores. Of a little rain r/pe is taken as the series 1 - u^B (1 - B q/2 (1 + (1 - B) q/3 (1 + (2 - B) q/4 ..))) in
q = pe/(u Wmm), and r as that share of pe: of the difference in (2) rounding would be left; and so is Smax of a small
share in (4). What differs between programs, and what `as_published` restores:

* hydromodel takes ed from wd beyond what it has, and clips: that makes water. Here ed <- min(ed, wd).
* It cuts w0 at WM - 1e-5 and clips the stores, and cuts s' and s'' at SMF: that loses water. Here the surplus joins r
  and rs; and without runoff s' is s. The flux `made` is what these lines make or lose, which closes their balance.
* In the first L days it takes the flow as qt, without (6).

`xinanjiang` is HF (Hydrologic Forecasting), `xinanjiang_eh` is EH (Engineering Hydrology). The variant that cuts a
day's runoff in pieces of 5 mm is not here: the number of pieces is that of the wettest basin of the batch. Nor is
Muskingum routing after the lag: route the flow by `hybridsolve.routing`.

Checked against hydromodel 0.4.0: within 1e-9 mm as published, and apart from it by what it cuts off.
"""

from __future__ import annotations

from dataclasses import replace

from ..spec import Balance, DelayLine, ModelSpec, Parameter, State, Variable
from .forcings import PET, PRCP
from .primitives import maximum, minimum, power, relu, select

SLOTS = 12  # of the delay: up to 11 steps
CUT = 1e-5  # what the published form keeps from a full soil, mm, and from KI + KG = 1
LITTLE = 1 / 32  # up to which series stand for differences of 1; the first term left out is below 1e-14
LEAST = 1e-12  # mm of runoff, and share of the area with free water or without: what divides is no less
HYDROMODEL = "as hydromodel has it"


def delays(k, p):
    """Ordinates of the delay: 1 at the whole part of the lag."""
    one = 1 + 0 * p["lag"]
    return [select((p["lag"] >= float(n)) & ~(p["lag"] >= float(n + 1)), one, 0.0) for n in range(SLOTS)]


def evaporation(f, p, s, published):
    """Equation (1): of the rain, what leaves each layer, and the net rain."""
    demand = p["k"] * f["pet"]
    of_rain = minimum(demand, f["prcp"])
    lacking = relu(demand - f["prcp"])
    of_wu = minimum(lacking, s["wu"])
    left = lacking - of_wu
    moist = s["wl"] >= p["c"] * p["lm"]
    rate = left * (s["wl"] / p["lm"])
    el = select(moist, rate if published else minimum(rate, s["wl"]), minimum(p["c"] * left, s["wl"]))
    ed = select(moist, 0.0, p["c"] * left - el)
    losses = dict(wu=of_wu, wl=el, wd=ed if published else minimum(ed, s["wd"]))
    return of_rain, losses, f["prcp"] - of_rain


def series(q, b, above):
    """1 + (1 - b) q/(2 + above) (1 + (2 - b) q/(3 + above) (..)), to the sixth power of q."""
    more = 1.0
    for n in range(6, 0, -1):
        more = 1 + (n - b) * q / (n + 1 + above) * more
    return more


def share_of_little(left, q, b):
    """Equation (2): r/pe for a small q = pe/(u Wmm)."""
    dry = power(left, b)
    return relu(1 - dry + dry * (b * q / 2) * series(q, b, 1))


def spread_over(share, ex):
    """1 - (1 - share)^(1/EX) of equation (4)."""
    small = ~(share >= LITTLE)
    part = select(small, share, 0.0)
    return select(small, part / ex * series(part, 1 / ex, 0), 1 - power(maximum(1 - share, LEAST), 1 / ex))


def layers(f, p, s, published):
    """Equations (1) to (3): the layers, runoff, its share of a little rain, net rain, evaporation, what clips make."""
    of_rain, losses, net = evaporation(f, p, s, published)
    whole = p["um"] + p["lm"] + p["dm"]
    full = s["wu"] + s["wl"] + s["wd"]
    if published:
        full = minimum(full, whole - CUT)
    left = power(1 - full / whole, 1 / (1 + p["b"]))
    rise = net / (whole * (1 + p["b"]))
    little = ~(rise >= LITTLE * left)
    wet = share_of_little(left, select(little, rise / select(little, left, 1.0), 0.0), p["b"])
    difference = power(left, 1 + p["b"]) - power(relu(left - rise), 1 + p["b"])
    runoff = select(little, wet * net, relu(net - whole * difference))
    state, rest, clipped = {}, net - runoff, 0.0
    evaporated = of_rain + losses["wu"] + losses["wl"] + losses["wd"]
    for name, capacity in (("wu", "um"), ("wl", "lm"), ("wd", "dm")):
        dried = s[name] - losses[name]
        if published:
            dried, below = relu(dried), dried
            clipped = clipped + (dried - below)
        filled, most = dried + rest, maximum(p[capacity], dried)
        state[name], rest = minimum(filled, most), relu(filled - most)
    if published:
        return state, runoff, (little, wet), net, evaporated, clipped - rest
    return state, runoff + rest, (little, wet), net, evaporated, None


def free_water(p, s, runoff, of_little, net, book, published):
    """Equation (4): the free water and its share of the area, the three kinds of runoff, and what clips make."""
    raining = runoff >= LEAST
    little, wet = of_little
    wet = select(little, wet, minimum(runoff / select(raining & ~little, net, 1.0), 1.0))
    share = select(raining, wet, maximum(s["fr"], LEAST))
    capacity = p["sm"]
    if book == "EH":
        capacity = capacity * spread_over(share, p["ex"])
    largest = capacity * (1 + p["ex"])
    held = s["fr"] * s["s"]
    before = minimum(held / share, capacity)
    share = select(raining, share, s["fr"])
    lost = held - share * before
    if not published:
        before, lost = select(raining, before, s["s"]), select(raining, lost, 0.0)
    left = power(1 - before / capacity, 1 / (1 + p["ex"]))
    after = relu(left - net / largest)
    added = select(raining, relu(capacity * (power(left, 1 + p["ex"]) - power(after, 1 + p["ex"]))), 0.0)
    surface = relu(runoff - share * added)
    free = before + added
    both = p["ki"] + p["kg"]
    scale = select(both >= 1.0, (1 - CUT) / maximum(both, 1.0), 1.0)
    ki, kg = p["ki"] * scale, p["kg"] * scale
    state = dict(s=free * (1 - ki - kg), fr=share)
    if not published:
        surface = surface + lost
    return state, surface, ki * free * share, kg * free * share, -lost


def step_with(book, published=False):
    """The step of one of the text-books' forms."""

    def step(f, k, p, s):
        """One day; see the equations above."""
        state, runoff, of_little, net, evaporated, clipped = layers(f, p, s, published)
        free, rs, ri, rg, cut = free_water(p, s, runoff, of_little, net, book, published)
        pervious = 1 - p["im"]
        interflow = s["vi"] + pervious * ri
        groundwater = s["vg"] + pervious * rg
        vi, vg = p["ci"] * interflow, p["cg"] * groundwater
        total = pervious * rs + p["im"] * net + (interflow - vi) + (groundwater - vg)
        channel = s["vc"] + (s["delay"] + p["delay"] * total)
        vc = p["cs"] * channel
        fluxes = dict(
            streamflow=channel - vc,
            aet=pervious * evaporated + p["im"] * (f["prcp"] - net),
            runoff=runoff,
            surface=rs,
            interflow=ri,
            groundwater=rg,
            total=total,
        )
        if published:
            fluxes["made"] = pervious * (clipped + cut)
        return {**state, **free, "vi": vi, "vg": vg, "vc": vc, "delay": total}, fluxes

    return step


def stored(state, inputs, parameters):
    """mm in all stores and on their way."""
    soil = state["wu"] + state["wl"] + state["wd"] + state["fr"] * state["s"]
    return (1 - parameters["im"]) * soil + state["vi"] + state["vg"] + state["vc"] + state["delay"].sum(0)


def flow_of(name):
    """The store of a linear reservoir that gives 0.1 mm/d."""
    return lambda p: 0.1 * p[name] / (1 - p[name])


def half_of(name):
    return lambda p: 0.5 * p[name]


def all_of(name):
    return lambda p: p[name]


BALANCE = Balance(gains=("prcp",), losses=("streamflow", "aet"), storage=stored)
xinanjiang = ModelSpec(
    name="xinanjiang",
    title="Xinanjiang of three sources (Hydrologic Forecasting)",
    source="Zhao 1992, doi 10.1016/0022-1694(92)90096-E",
    forcings=(PRCP, PET),
    parameters=(
        Parameter("k", "1", "potential evapotranspiration, as a share of the forcing", 0.1, 1.0, HYDROMODEL,
                  allowed=(0.0, 3.0)),
        Parameter("b", "1", "spread of the tension water's capacities", 0.1, 0.4, HYDROMODEL, allowed=(0.0, 10.0)),
        Parameter("im", "1", "impervious share of the area", 0.01, 0.1, HYDROMODEL, allowed=(0.0, 1.0)),
        Parameter("um", "mm", "capacity of the upper layer", 1.0, 20.0, HYDROMODEL + ", from 0", allowed=(0.0, 1e3)),
        Parameter("lm", "mm", "capacity of the lower layer", 60.0, 90.0, HYDROMODEL, allowed=(1.0, 1e3)),
        Parameter("dm", "mm", "capacity of the deep layer", 60.0, 120.0, HYDROMODEL, allowed=(0.0, 1e3)),
        Parameter("c", "1", "evaporation of the deep layer", 0.0, 0.2, HYDROMODEL, allowed=(0.0, 1.0)),
        Parameter("sm", "mm", "capacity of the free water", 1.0, 100.0, HYDROMODEL, scale="log", allowed=(0.1, 1e4)),
        Parameter("ex", "1", "spread of the free water's capacities", 1.0, 1.5, HYDROMODEL, allowed=(0.1, 10.0)),
        Parameter("ki", "d-1", "share of the free water that becomes interflow", 0.0, 0.7, HYDROMODEL,
                  allowed=(0.0, 1.0)),
        Parameter("kg", "d-1", "share of the free water that becomes groundwater", 0.0, 0.7, HYDROMODEL,
                  allowed=(0.0, 1.0)),
        Parameter("cs", "1", "recession of the channel, what stays in a day", 0.0, 0.99, HYDROMODEL + ", to 1",
                  allowed=(0.0, 1.0)),
        Parameter("lag", "d", "delay of the channel, of which the whole part counts: it has no gradient", 1.0, 10.0,
                  HYDROMODEL, allowed=(0.0, SLOTS - 1.0)),
        Parameter("ci", "1", "recession of the interflow, what stays in a day", 0.0, 0.9, HYDROMODEL,
                  allowed=(0.0, 0.9999)),
        Parameter("cg", "1", "recession of the groundwater, what stays in a day", 0.98, 0.998, HYDROMODEL,
                  allowed=(0.0, 0.9999)),
    ),
    states=(
        State("wu", "mm", "tension water of the upper layer", 0.0, 1e30, initial=half_of("um"), wet=all_of("um")),
        State("wl", "mm", "tension water of the lower layer", 0.0, 1e30, initial=half_of("lm"), wet=all_of("lm")),
        State("wd", "mm", "tension water of the deep layer", 0.0, 1e30, initial=half_of("dm"), wet=all_of("dm")),
        State("s", "mm", "free water where there is any", 0.0, 1e30, initial=half_of("sm"), wet=all_of("sm")),
        State("fr", "1", "share of the area with free water", 0.0, 1.0, initial=0.1, wet=1.0),
        State("vi", "mm", "interflow on its way", 0.0, 1e30, initial=flow_of("ci"), wet=50.0),
        State("vg", "mm", "groundwater on its way", 0.0, 1e30, initial=flow_of("cg"), wet=200.0),
        State("vc", "mm", "water in the channel", 0.0, 1e30, initial=0.0, wet=20.0),
    ),
    lines=(DelayLine("delay", "mm", "water that waits for the channel", SLOTS, delays),),
    fluxes=(
        Variable("streamflow", "mm d-1", "flow of the river"),
        Variable("aet", "mm d-1", "actual evapotranspiration"),
        Variable("runoff", "mm d-1", "runoff of the pervious area, per area of it"),
        Variable("surface", "mm d-1", "surface runoff, per pervious area"),
        Variable("interflow", "mm d-1", "free water that becomes interflow, per pervious area"),
        Variable("groundwater", "mm d-1", "free water that becomes groundwater, per pervious area"),
        Variable("total", "mm d-1", "inflow of the channel"),
    ),
    reference_step=step_with("HF"),
    outflow="streamflow",
    balance=BALANCE,
)  # fmt: skip
xinanjiang_eh = replace(
    xinanjiang,
    name="xinanjiang_eh",
    title="Xinanjiang of three sources (Engineering Hydrology)",
    reference_step=step_with("EH"),
)


def as_published(model: ModelSpec) -> ModelSpec:
    """One of the two models with the lines of hydromodel that make and lose water, which its flux `made` shows.

    It is not registered: `hybridsolve.models.register` does that.
    """
    book = "EH" if model is xinanjiang_eh else "HF"
    return replace(
        model,
        name=f"{model.name}_published",
        fluxes=model.fluxes + (Variable("made", "mm d-1", "water that cuts at full and empty stores make"),),
        reference_step=step_with(book, published=True),
        balance=replace(BALANCE, gains=("prcp", "made")),
    )
