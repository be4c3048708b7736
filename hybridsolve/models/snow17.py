"""Snow-17 (Anderson 1973, 2006) over an area, as the National Weather Service runs it: snow before a runoff model.

One step of h hours, k = h/6. The pack: we ice, lq liquid water, neg heat deficit (mm of water that it would freeze), ti
temperature index, acc largest water equivalent of the season, sb, sba and sbw the line of new snow over a pack that had
melted in part; ex and sto water that leaves it, lagged and attenuated. SNOF, DAYGM are per day, MFMAX, MFMIN, UADJ, NMF
per 6 h; gm = DAYGM h/24, W = we + lq:

     (1) T <= PXTEMP: fall = SCF P, rain = 0, else rain = P.  Where snow falls: if W < sbw, sbw <- W + 0.75 fall where
         fall >= SNOF; else sbw <- sbw + 0.75 fall and, where fall >= SNOF and sb > W, sb <- W.  we <- we + fall;
         where W >= 3 sb: acc <- W;  hs = -min(T, 0) fall/160;  where fall > 1.5 h: ti <- min(T, 0)
     (2) we <= gm: all that there is leaves with the rain.  Else gs = gm, gw = (gm/we) lq at the ground
     (3) Mf = k ((MFMAX + MFMIN)/2 + (MFMAX - MFMIN)/2 sin(2 pi D/366)), D days since 21 March; from 54 degrees of
         latitude on k (MFMIN + (MFMAX - MFMIN) (1 + sin)/2 clip((X - 0.48)/0.22, 0, 1)), X a triangle over the year
         cn = NMF k Mf/(k MFMAX) (ti - min(T, 0));  ti <- min(ti + (1 - (1 - TIPM)^k)(T - ti), 0)
     (4) rain > 0.25 h: melt = [0.0612 h ((0.01 (T + 273))^4 - 55.55) + 8.5 UADJ k (0.9 es - 6.11)
                                + 0.004845 Pa UADJ k T + rm]+, rm = 0.0125 rain [T]+;  else melt = Mf [T - MBASE]+ + rm
     (5) the share c of the area under snow scales melt, cn, gs, gw; (1 - c) rain falls on bare ground
         acc <- max(acc, W), A = min(acc, SI).  W >= A: c = 1, sb = sbw = W.  W <= sb: c is the depletion curve's at
         W/A, sb <- W + SNOF, sbw <- W, sba <- c.  W >= sbw: c = 1.  Else c goes from sba to 1 as W from sb to sbw
     (6) melt >= we: all leaves.  Else we <- we - melt, w = melt and the rain on snow, neg <- clip(neg + cn + hs, 0,
         0.33 we): of w + lq what the pack cannot freeze or hold (PLWHC) is the excess e; where neg = 0: ti <- 0
     (7) e in N = max(floor((4 e)^0.3 + 0.5), 1) parts, lagged by 5.33 (1 - exp(-0.03 k we N/(e (i - 0.5)))) hours
     (8) attenuated: each hour R1 = 1/(1 + 5 exp(-500 (ex/h)/(25.4 c) / (we/(25.4 c))^1.3)) of sto and what is due
         leaves, all of it below 0.1 mm

The sum over the hours of (8) is taken in closed form. `snow17` lags by up to one step of 6 or 24 hours, `snow17_hourly`
by up to six of 1 or 3. SNOF is 0.2 mm/h as Anderson has it; drivers that never set it have 0. The flux `catch` is what
SCF adds to the snow that was measured. Branches of (1), (5) and N give no gradient to what they are made of: the flow
jumps there. Not here: updating by observed cover. The model at a point: `hybridsolve.models.snow17_point`.

Checked against the National Weather Service's program, in double precision, within 1e-9 mm.
"""

from __future__ import annotations

from dataclasses import replace

from ..spec import Balance, Forcing, ModelSpec, Parameter, State, Variable
from .forcings import PRCP, TMEAN
from .join import ELEVATION
from .primitives import clip, exp, floor, interpolate, maximum, minimum, power, relu, repeat, select, sin
from .snow17_point import PRACTICE, RIPE, snow17_point

PARTS = 40  # of the excess water, at most
CURVE = (0.05, 0.15, 0.26, 0.45, 0.5, 0.56, 0.61, 0.65, 0.69, 0.82, 1.0)
THIN = 1e-3  # mm of ice, less than which lets water pass as that
NORTH = 54.0  # degrees, from which on melt is slow in winter


def melt_factor(f, k, p, sixths):
    """Mf of equation (3)."""
    day = f["snow_day"]
    season = sin(2 * 3.1416 / 366 * day)
    spread = p["mfmax"] - p["mfmin"]
    x = select(day >= 92.0, select(day >= 275.0, day - 275, 275 - day), 91 + day) / 183
    winter = clip((x - 0.48) / 0.22, 0.0, 1.0)
    south = 0.5 * (p["mfmax"] + p["mfmin"]) + 0.5 * spread * season
    return sixths * select(k["lat"] >= NORTH, p["mfmin"] + spread * (0.5 + 0.5 * season) * winter, south)


def potential_melt(f, k, p, rain, factor, hours):
    """Equation (4)."""
    t = f["tmean"]
    by_rain = 0.0125 * rain * relu(t)
    vapour = 2.7489e8 * exp(-4278.63 / (t + 242.792))
    height = k["elev_mean"] / 100
    pressure = 33.86 * (29.9 - 0.335 * height + 0.00022 * power(height, 2.4))
    radiated = 0.0612 * hours * ((0.01 * (t + 273)) ** 4 - 55.55)
    wind = p["uadj"] * (hours / 6)
    exchanged = 8.5 * wind * (0.9 * vapour - 6.11) + 7.5 * 0.000646 * pressure * wind * t
    warm = factor * relu(t - p["mbase"]) + by_rain
    return select(rain <= 0.25 * hours, warm, relu(radiated + exchanged + by_rain))


def cover(p, water, s, snof):
    """The last of equation (5): the covered share, and acc, sb, sba and sbw."""
    most = maximum(s["acc"], water)
    whole = minimum(most, p["si"])
    full = water >= whole
    low = water <= s["sb"]
    curve = interpolate([p[f"adc_{i}"] for i in range(1, 12)], 10 * (water / select(full, 1.0 + 0 * water, whole)))
    rising = ~(water >= s["sbw"])
    rise = select(rising & ~low, s["sbw"] - s["sb"], 1.0)
    between = s["sba"] + (1 - s["sba"]) * ((water - s["sb"]) / rise)
    share = clip(select(full, 1.0, select(low, curve, select(rising, between, 1.0))), 0.05, 1.0)
    lines = dict(
        acc=most,
        sb=select(full, water, select(low, water + snof, s["sb"])),
        sbw=select(full | low, water, s["sbw"]),
        sba=select(low & ~full, share, s["sba"]),
    )
    return share, lines


def lagged(e, ice, hours, slots):
    """Equation (7): what of the excess is due in this step and the next ones."""
    slow = (e >= 0.1) & (ice >= 1.0)
    water = maximum(e, 0.1)
    n = select(slow, maximum(floor(power(4 * water, 0.3) + 0.5), 1.0), 0.0)

    def part(now):
        lag = 5.33 * (1 - exp(-minimum(0.03 * (hours / 6) * ice * n / (water * (now["i"] + 0.5)), 150.0)))
        place = lag / hours
        shares = {f"slot_{j}": now[f"slot_{j}"] + relu(1 - maximum(place - j, j - place)) for j in range(slots)}
        return dict(shares, i=now["i"] + 1)

    zero = 0 * e
    end = repeat(n, PARTS, part, dict(i=zero, **{f"slot_{j}": zero for j in range(slots)}))
    parts = maximum(n, 1.0)
    return [select(slow, end[f"slot_{j}"] / parts * e, e if j == 0 else 0.0) for j in range(slots)]


def attenuated(sto, due, ice, share, hours):
    """Equation (8): what leaves in this step, and what stays."""
    deep = power(maximum(ice, THIN) / (25.4 * share), 1.3)
    rate = 1 / (5 * exp(-minimum(500 * (due / hours) / (25.4 * share) / deep, 150.0)) + 1)
    stay = power(1 - rate, hours)
    left = sto * stay + (due / hours) * (1 - rate) * (1 - stay) / rate
    left = select((sto + due >= 0.1) & ~(left <= 0.001), left, 0.0)
    return sto + due - left, left


def step_with(slots):
    """The step of a pack whose water is lagged over so many steps, its own included."""
    names = [f"ex_{j}" for j in range(1, slots)]

    def step(f, k, p, s):
        """One step; see the equations above."""
        t, hours = f["tmean"], 24 * k["dt"]
        snof = p["snof"] * k["dt"]
        cold = minimum(t, 0.0)
        gauged = select(t <= p["pxtemp"], f["prcp"], 0.0)
        fall, rain = p["scf"] * gauged, f["prcp"] - gauged
        snows, enough = ~(fall <= 0.0), fall >= snof
        water = s["we"] + s["lq"]
        below = ~(water >= s["sbw"])
        raised = select(below, select(enough, water + 0.75 * fall, s["sbw"]), s["sbw"] + 0.75 * fall)
        sbw = select(snows, raised, s["sbw"])
        sb = select(snows & ~below & enough & ~(s["sb"] <= water), water, s["sb"])
        we = s["we"] + fall
        anew = snows & (we + s["lq"] >= 3 * sb)
        lines = dict(sb=sb, sbw=sbw, sba=s["sba"], acc=select(anew, we + s["lq"], s["acc"]))
        index = select(fall <= 1.5 * hours, s["ti"], cold)

        loss = p["daygm"] * k["dt"]
        thin = we <= loss
        gw = loss / select(thin, 1.0, we) * s["lq"]
        factor = melt_factor(f, k, p, hours / 6)
        change = p["nmf"] * (factor / p["mfmax"]) * (index - cold)
        index = minimum(index + (1 - power(1 - p["tipm"], hours / 6)) * (t - index), 0.0)
        share, lines = cover(p, we + s["lq"], lines, snof)
        melt = share * potential_melt(f, k, p, rain, factor, hours)
        change = maximum(share * change, -s["neg"])
        ground, held = share * (loss + gw), s["lq"] - share * gw
        ice = we - share * loss
        gone = thin | (ice <= melt)

        left = select(gone, 0.0, ice - melt)
        wet = melt + share * rain
        deficit = minimum(relu(s["neg"] + change - cold * fall / 160), 0.33 * left)
        capacity = p["plwhc"] * (left + deficit)
        ripe = wet + held >= (capacity + deficit) * RIPE
        freezes = wet >= deficit
        e = select(gone, 0.0, select(ripe, wet + held - capacity - deficit, 0.0))
        held = select(ripe, capacity, held + select(freezes, wet - deficit, 0.0))
        ice = left + select(ripe | freezes, deficit, wet)
        deficit = select(ripe | freezes, 0.0, deficit - wet)

        parts = lagged(e, ice, hours, slots)
        due = [s[name] + x for name, x in zip(names, parts, strict=False)] + parts[-1:]
        flow, sto = attenuated(s["sto"], due[0], ice, share, hours)
        waiting = s["sto"]
        for name in names:
            waiting = waiting + s[name]
        leaving = select(gone, we + s["lq"] + waiting + rain, flow + ground + (1 - share) * rain)
        _, lines = cover(p, ice + held, lines, snof)
        state = dict(we=ice, lq=held, neg=deficit, ti=select(deficit <= 0.0, 0.0, index), sto=sto, **lines)
        state |= dict(zip(names, due[1:], strict=True))
        state = {name: select(gone, 0.0, x) for name, x in state.items()}
        fluxes = dict(liquid=leaving, rain=rain, snowfall=fall, melt=minimum(melt, we), catch=fall - gauged)
        return state, dict(fluxes, covered=select(gone, 0.0, share), swe=stored(state, None, None))

    return step


def stored(state, inputs, parameters):
    """mm in the pack and on their way out of it."""
    lagging = sum(x for name, x in state.items() if name.startswith("ex_"))
    return state["we"] + state["lq"] + state["sto"] + lagging


def states(slots):
    return (
        State("we", "mm", "ice of the snowpack", 0.0, 1e30, initial=0.0, wet=100.0),
        State("lq", "mm", "liquid water of the snowpack", 0.0, 1e30),
        State("neg", "mm water", "heat deficit of the snowpack, as water that it would freeze", 0.0, 1e30),
        State("ti", "degC", "index of the snowpack's temperature", -150.0, 0.0),
        State("acc", "mm", "largest water equivalent since it began to pile up", 0.0, 1e30),
        State("sb", "mm", "water equivalent where new snow began", 0.0, 1e30),
        State("sba", "1", "covered share where new snow began", 0.0, 1.0),
        State("sbw", "mm", "water equivalent up to which new snow covers all", 0.0, 1e30),
        State("sto", "mm", "water that is attenuated", 0.0, 1e30),
        *(State(f"ex_{j}", "mm", f"lagged water, due in {j} steps", 0.0, 1e30) for j in range(1, slots)),
    )


snow17 = ModelSpec(
    name="snow17",
    title="Snow-17",
    source=snow17_point.source,
    forcings=(
        PRCP,
        TMEAN,
        Forcing("snow_day", "1", "days since 21 March, up to 286; -1 on 20 March of a leap year", -1.0, 366.0),
    ),
    inputs=(Variable("lat", "degrees_north", "latitude", -90.0, 90.0), ELEVATION),
    parameters=(
        *snow17_point.parameters,
        Parameter("si", "mm", "water equivalent above which snow covers all", 10.0, 2000.0, PRACTICE, scale="log",
                  allowed=(0.1, 1e5)),
        Parameter("snof", "mm d-1", "snowfall above which it covers what had melted", 0.0, 10.0,
                  "Anderson 1973, NOAA Technical Memorandum NWS HYDRO-17", default=4.8, free=False),
        *(Parameter(f"adc_{i}", "1", f"covered share at {i - 1} tenths of what covers all", 0.0, 1.0, PRACTICE,
                    default=x, free=False) for i, x in enumerate(CURVE, 1)),
    ),
    states=states(2),
    fluxes=(
        *(v for v in snow17_point.fluxes if v.name not in ("swe", "ground")),
        Variable("swe", "mm", "snow water equivalent, with the water on its way out"),
        Variable("covered", "1", "share of the area under snow"),
    ),
    reference_step=step_with(2),
    outflow="liquid",
    balance=Balance(gains=("prcp", "catch"), losses=("liquid",), storage=stored),
    steps=(21600, 86400),
)  # fmt: skip
snow17_hourly = replace(
    snow17,
    name="snow17_hourly",
    title="Snow-17 at short steps",
    states=states(7),
    reference_step=step_with(7),
    steps=(3600, 10800, 21600, 86400),
)
