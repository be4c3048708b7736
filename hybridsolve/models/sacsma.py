"""SAC-SMA, the Sacramento soil moisture accounting (Burnash 1995), as the National Weather Service runs it.

One step of dt days; ut and uf tension and free water of the upper zone, lt, ls and lp tension, supplemental and primary
free water of the lower one, ad water of the area that becomes impervious; P rain and melt, Ep the demand, and
z(x) = x, 0 where that is below 1e-5 mm:

     (1) E1 = min(Ep ut/UZTWM, ut), ut <- ut - E1;  where that was all of ut: E2 = min(Ep - E1, uf), uf <- uf - E2;
         red = Ep - E1 - E2
     (2) unless uf was emptied by (1), where ut/UZTWM < uf/UZFWM both get (ut + uf)/(UZTWM + UZFWM);  ut, uf <- z
     (3) E3 = min(red lt/(UZTWM + LZTWM), lt), lt <- lt - E3
     (4) with saved = RSERV (LZFPM + LZFSM), rl = (lt + lp + ls - saved)/(LZTWM + LZFPM + LZFSM - saved): where
         lt/LZTWM < rl free water fills lt to that, from ls and then lp;  lt <- z
     (5) E5 = min(E1 + (red + E2)(ad - E1 - ut)/(UZTWM + LZTWM), ad), of either sign, ad <- ad - E5
     (6) tw = [P + ut - UZTWM]+, ut <- min(ut + P, UZTWM), ad <- ad + P - tw
     (7) n = floor(1 + 0.2 (uf + tw)) sub-steps, each with p = tw/n and the shares du = 1 - (1 - UZK)^(dt/n), dp and ds:
         a. addro = p [(ad - ut)/LZTWM]+^2
         b. baseflow of lp and ls, all of a store that it leaves with 1e-4 mm or less
         c. where p + uf <= 0.01: uf <- uf + p, and on with h
         d. percolation (LZFPM dp + LZFSM ds)(uf/UZFWM)(1 + ZPERC defr^REXP), at most uf and what the lower zone holds,
            which lacks the share defr of its capacity
         e. interflow of uf
         f. of the percolation 1 - PFREE fills lt; the rest goes to ls and lp by their emptiness, and back to lt where
            both are full
         g. p + uf above UZFWM is surface runoff, on ad's area less what ran off there already; else uf <- uf + p
         h. ad gets the rest of p; above UZTWM + LZTWM it joins addro;  ad <- z
     (8) per unit of the basin, with PAREA = 1 - ADIMP - PCTIM: runoff P PCTIM, addro ADIMP, surface runoff, interflow,
         and of the baseflow 1/(1 + SIDE); the stream evaporates RIVA (Ep - E1 - E2 - E3), at most all of it;
         ad <- max(ad, ut)

The number of sub-steps jumps with the state, and the flow with it: there is no gradient to it. More than 64, 315 mm of
water in the upper zone, are refused with step and cell; to a search the flow is no number then.

The flow is routed by a gamma unit hydrograph of 40 days, whose ordinates are taken at the ends of steps and cut where
the log of the density is below -8.

What differs between programs: the NOAA-OWP version drops z, and skips (2) for good once the upper zone was emptied;
sacsmaR skips it also where E2 met the demand. In (7d) defr is at least 0, and in (7f) two full stores share alike. The
flux `floors` is what z and max(ad, ut) make and take, `unseen` the baseflow that leaves the basin unseen.

Checked against the National Weather Service's program, in double precision, within 1e-9 mm.
"""

from __future__ import annotations

from ..spec import Balance, Hydrograph, ModelSpec, Parameter, State, Variable
from .forcings import PET, PRCP
from .primitives import floor, maximum, minimum, power, relu, repeat, select

MOST = 64  # sub-steps
DROP = 1e-5  # mm, less water than which a store has none
LAST = 1e-4  # mm, less water than which a store of baseflow gives all
THIN = 0.01  # mm, water of the upper zone that does not percolate
NEWMAN = "as Newman et al. 2015 route it, doi 10.5194/hess-19-209-2015"
PRACTICE = "as the National Weather Service calibrates it"


def dropped(x):
    """x, and 0 where that is less than `DROP`."""
    return select(x >= DROP, x, 0.0)


def evaporation(p, s, demand):
    """Equations (1) to (5): the stores, what evaporates, and what the floors take."""
    ut, uf, lt, ls, lp, ad = (s[name] for name in ("uztwc", "uzfwc", "lztwc", "lzfsc", "lzfpc", "adimc"))
    wanted = demand * (ut / p["uztwm"])
    all_of_it = ~(wanted <= ut)
    e1 = minimum(wanted, ut)
    ut = ut - e1
    lacking = demand - e1
    e2 = select(all_of_it, minimum(lacking, uf), 0.0)
    skipped = all_of_it & ~(uf >= lacking)
    uf = uf - e2
    red = lacking - e2
    ratio = (ut + uf) / (p["uztwm"] + p["uzfwm"])
    shared = ~(ut / p["uztwm"] >= uf / p["uzfwm"]) & ~skipped
    ut, uf = select(shared, p["uztwm"] * ratio, ut), select(shared, p["uzfwm"] * ratio, uf)
    kept_t, kept_f = dropped(ut), dropped(uf)
    floors = (kept_t - ut) + (kept_f - uf)
    ut, uf = kept_t, kept_f

    e3 = minimum(red * (lt / (p["uztwm"] + p["lztwm"])), lt)
    lt = lt - e3
    saved = p["rserv"] * (p["lzfpm"] + p["lzfsm"])
    ratio = (lt + lp + ls - saved) / (p["lztwm"] + p["lzfpm"] + p["lzfsm"] - saved)
    filling = relu(ratio - lt / p["lztwm"]) * p["lztwm"]
    lt = lt + filling
    of_lp = relu(filling - ls)
    ls, lp = relu(ls - filling), lp - of_lp
    kept_t = dropped(lt)
    floors = floors + (kept_t - lt)

    e5 = minimum(e1 + (red + e2) * ((ad - e1 - ut) / (p["uztwm"] + p["lztwm"])), ad)
    return dict(ut=ut, uf=uf, lt=kept_t, ls=ls, lp=lp, ad=ad - e5), e1 + e2 + e3, e5, floors


def baseflow(store, share):
    """What a store of baseflow gives in a sub-step, and what it keeps."""
    flow = store * share
    last = store - flow <= LAST
    return select(last, store, flow), select(last, 0.0, store - flow)


def sub_step(p, ut, rain, share_u, share_p, share_s):
    """The function of one of the sub-steps of equation (7)."""
    lower = p["lztwm"] + p["lzfpm"] + p["lzfsm"]
    strength = p["lzfpm"] * share_p + p["lzfsm"] * share_s

    def once(now):
        wetness = relu((now["ad"] - ut) / p["lztwm"])
        direct = rain * wetness * wetness
        bfp, lp = baseflow(now["lp"], share_p)
        bfs, ls = baseflow(now["ls"], share_s)
        thin = rain + now["uf"] <= THIN

        held = now["lt"] + lp + ls
        deficiency = relu(1 - held / lower)
        curve = 1 + p["zperc"] * power(deficiency, p["rexp"])
        percolation = minimum(strength * (now["uf"] / p["uzfwm"]) * curve, now["uf"])
        percolation = select(thin, 0.0, relu(percolation - relu(held + percolation - lower)))
        uf = now["uf"] - percolation
        interflow = select(thin, 0.0, uf * share_u)
        uf = uf - interflow

        filled = now["lt"] + percolation * (1 - p["pfree"])
        lt = minimum(filled, p["lztwm"])
        free = percolation * p["pfree"] + (filled - lt)
        empty_p, empty_s = relu(1 - lp / p["lzfpm"]), relu(1 - ls / p["lzfsm"])
        part = 2 * (p["lzfpm"] / (p["lzfpm"] + p["lzfsm"])) * (empty_p / maximum(empty_p + empty_s, 1e-12))
        supplied = minimum(ls + free * (1 - minimum(part, 1.0)), p["lzfsm"])
        primary = lp + (free - (supplied - ls))
        excess = relu(primary - p["lzfpm"])

        uf = uf + rain
        surface = select(thin, 0.0, relu(uf - p["uzfwm"]))
        over = surface * (1 - wetness * wetness)
        ad = now["ad"] + (rain - direct - over)
        more = relu(ad - (p["uztwm"] + p["lztwm"]))
        kept = dropped(ad - more)
        return dict(
            uf=uf - surface,
            lt=lt + excess,
            ls=supplied,
            lp=primary - excess,
            ad=kept,
            direct=now["direct"] + (direct + more),
            surface=now["surface"] + surface,
            over=now["over"] + over,
            interflow=now["interflow"] + interflow,
            bfs=now["bfs"] + bfs,
            bfp=now["bfp"] + bfp,
            floors=now["floors"] + (kept - (ad - more)),
        )

    return once


def reference_step(f, k, p, s):
    """One step; see the equations above."""
    rain, demand = f["prcp"], f["pet"]
    now, evaporated, e5, floors = evaporation(p, s, demand)
    excess = relu(rain + now["ut"] - p["uztwm"])
    ut = now.pop("ut") + rain - excess
    now["ad"] = now["ad"] + (rain - excess)
    n = floor(1 + 0.2 * (now["uf"] + excess))
    h = k["dt"] / n
    shares = (1 - power(1 - p[name], h) for name in ("uzk", "lzpk", "lzsk"))
    zero = 0 * rain
    sums = dict.fromkeys(("direct", "surface", "over", "interflow", "bfs", "bfp", "floors"), zero)
    end = repeat(n, MOST, sub_step(p, ut, excess / n, *shares), now | sums)

    pervious = 1 - p["adimp"] - p["pctim"]
    kept = maximum(end["ad"], ut)
    parts = dict(
        impervious=rain * p["pctim"],
        direct=p["adimp"] * end["direct"],
        surface=pervious * end["surface"] + p["adimp"] * end["over"],
        interflow=pervious * end["interflow"],
        supplemental=pervious * end["bfs"] / (1 + p["side"]),
        primary=pervious * end["bfp"] / (1 + p["side"]),
    )
    baseflow = parts["supplemental"] + parts["primary"]
    total = parts["impervious"] + parts["direct"] + parts["surface"] + parts["interflow"] + baseflow
    flow = relu(total - p["riva"] * (demand - evaporated))
    state = dict(uztwc=ut, uzfwc=end["uf"], lztwc=end["lt"], lzfsc=end["ls"], lzfpc=end["lp"], adimc=kept)
    return state, dict(
        parts,
        streamflow=flow,
        aet=pervious * evaporated + (total - flow) + p["adimp"] * e5,
        unseen=p["side"] * baseflow,
        floors=pervious * floors + p["adimp"] * (end["floors"] + (kept - end["ad"])),
        parts=n,
    )


def stored(state, inputs, parameters):
    """mm over the basin."""
    pervious = 1 - parameters["adimp"] - parameters["pctim"]
    water = state["uztwc"] + state["uzfwc"] + state["lztwc"] + state["lzfsc"] + state["lzfpc"]
    return pervious * water + parameters["adimp"] * state["adimc"]


def half_of(*names):
    return lambda p: 0.5 * sum(p[name] for name in names)


def all_of(*names):
    return lambda p: sum(p[name] for name in names)


sacsma = ModelSpec(
    name="sacsma",
    title="SAC-SMA",
    source="Burnash 1995, The NWS river forecast system: catchment modeling",
    forcings=(PRCP, PET),
    parameters=(
        Parameter("uztwm", "mm", "capacity of the upper tension water", 10.0, 300.0, PRACTICE, allowed=(0.1, 1e4)),
        Parameter("uzfwm", "mm", "capacity of the upper free water", 1.0, 150.0, PRACTICE, allowed=(0.1, 1e4)),
        Parameter("uzk", "d-1", "interflow's share of the upper free water", 0.15, 0.75, PRACTICE, allowed=(0.0, 1.0)),
        Parameter("pctim", "1", "impervious share of the area", 0.0, 0.1, PRACTICE, allowed=(0.0, 1.0)),
        Parameter("adimp", "1", "share of the area that becomes impervious when it is wet", 0.0, 0.4, PRACTICE,
                  allowed=(0.0, 1.0)),
        Parameter("riva", "1", "share of the area with plants on the stream", 0.0, 0.2, PRACTICE, default=0.0,
                  free=False, allowed=(0.0, 1.0)),
        Parameter("zperc", "1", "percolation of a dry lower zone over that of a wet one", 1.0, 350.0, PRACTICE,
                  scale="log", allowed=(0.0, 1e4)),
        Parameter("rexp", "1", "shape of the percolation", 1.0, 5.0, PRACTICE, allowed=(0.0, 10.0)),
        Parameter("lztwm", "mm", "capacity of the lower tension water", 1.0, 500.0, PRACTICE, allowed=(0.1, 1e4)),
        Parameter("lzfsm", "mm", "capacity of the supplemental free water", 1.0, 1000.0, PRACTICE, scale="log",
                  allowed=(0.1, 1e4)),
        Parameter("lzfpm", "mm", "capacity of the primary free water", 1.0, 1000.0, PRACTICE, scale="log",
                  allowed=(0.1, 1e4)),
        Parameter("lzsk", "d-1", "supplemental baseflow's share", 0.01, 0.25, PRACTICE, scale="log",
                  allowed=(0.0, 1.0)),
        Parameter("lzpk", "d-1", "primary baseflow's share", 0.001, 0.05, PRACTICE, scale="log", allowed=(0.0, 1.0)),
        Parameter("pfree", "1", "share of the percolation that is free water", 0.0, 0.8, PRACTICE, allowed=(0.0, 1.0)),
        Parameter("side", "1", "baseflow that leaves the basin unseen, over what is seen", 0.0, 0.5, PRACTICE,
                  default=0.0, free=False, allowed=(-0.9, 10.0)),
        Parameter("rserv", "1", "share of the lower free water that plants do not reach", 0.0, 0.4, PRACTICE,
                  default=0.3, free=False, allowed=(0.0, 0.99)),
    ),
    states=(
        State("uztwc", "mm", "upper tension water", 0.0, 1e30, initial=half_of("uztwm"), wet=all_of("uztwm")),
        State("uzfwc", "mm", "upper free water", 0.0, 1e30, initial=0.0, wet=all_of("uzfwm")),
        State("lztwc", "mm", "lower tension water", 0.0, 1e30, initial=half_of("lztwm"), wet=all_of("lztwm")),
        State("lzfsc", "mm", "supplemental free water", 0.0, 1e30, initial=half_of("lzfsm"), wet=all_of("lzfsm")),
        State("lzfpc", "mm", "primary free water", 0.0, 1e30, initial=half_of("lzfpm"), wet=all_of("lzfpm")),
        State("adimc", "mm", "water of the area that becomes impervious", 0.0, 1e30,
              initial=half_of("uztwm", "lztwm"), wet=all_of("uztwm", "lztwm")),
    ),
    fluxes=(
        Variable("streamflow", "mm d-1", "flow of the river"),
        Variable("impervious", "mm d-1", "runoff of the impervious area"),
        Variable("direct", "mm d-1", "runoff of the area that becomes impervious"),
        Variable("surface", "mm d-1", "surface runoff"),
        Variable("interflow", "mm d-1", "interflow"),
        Variable("supplemental", "mm d-1", "supplemental baseflow"),
        Variable("primary", "mm d-1", "primary baseflow"),
        Variable("aet", "mm d-1", "actual evapotranspiration"),
        Variable("unseen", "mm d-1", "baseflow that leaves the basin unseen"),
        Variable("floors", "mm d-1", "water that floors of stores make, below 0 where they take it"),
        Variable("parts", "1", "sub-steps"),
    ),
    reference_step=reference_step,
    outflow="streamflow",
    routing=Hydrograph(
        "nash",
        (
            Parameter("uh_shape", "1", "shape of the gamma unit hydrograph", 1.0, 5.0, NEWMAN),
            Parameter("uh_scale", "d", "scale of the gamma unit hydrograph", 0.1, 4.0, NEWMAN),
        ),
        days=40.0,
        at="end",
        cut=-8.0,
    ),
    balance=Balance(gains=("prcp", "floors"), losses=("streamflow", "aet", "unseen"), storage=stored),
    steps=(3600, 10800, 21600, 86400),
)  # fmt: skip
