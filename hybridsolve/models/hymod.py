"""HyMOD (Boyle 2001): a soil of capacities spread as a power (Moore 1985), three quick tanks in series and a slow one.

One step of a day. The soil holds S; its capacities go up to cmax, M = cmax / (1 + b) on the mean:

    (1) u = (1 - S/M)^(1/(1+b)), the share of cmax that is left where the soil is deepest
        I = M (u^(1+b) - [u - P/cmax]+^(1+b)), what infiltrates;  R = P - I, the effective rain;  W = S + I; what is
        above M, where cmax or b vary, joins R
    (2) ET = min(W, PET W/M);  S <- W - ET
    (3) slow: x <- x + (1 - alpha) R, less what flows out; quick: alpha R into the first of three tanks, and what flows
        out of one into the next on the same day

The published timings differ in (3). In `hymod` (spotpy, hydromodel) a tank's outflow is k of its content with the day's
inflow, (x + in) k. In `hymod_delayed` (Herman, Kollat) it is k of the content of the day before, x k, so that each tank
delays by a day; and PET is multiplied by kv.

Both programs compute R in two parts, the rain above cmax and the rest, whose sum this is; and neither closes: they
report PET W/M where the soil has less. ET here is what the soil gives. I is written so that it is 0 to the bit without
rain, and so that the slope of W at a full soil is finite, where those of the published parts are not. MARRMoT solves
HyMOD in continuous time and with another exponent: other numbers.

Checked within 1e-9 mm: `hymod` against spotpy 1.6.7, `hymod_delayed` against Herman's program.
"""

from __future__ import annotations

from dataclasses import replace

from ..spec import Balance, ModelSpec, Parameter, State, Variable
from .forcings import PET, PRCP
from .primitives import minimum, power, relu

HYDROMODEL = "as hydromodel and spotpy have them"
TANKS = ("quick1", "quick2", "quick3")


def soil_of(f, p, s, demand):
    """Equations (1) and (2): the store, the effective rain and what evaporates."""
    mean = p["cmax"] / (1 + p["b"])
    left = power(1 - s["soil"] / mean, 1 / (1 + p["b"]))
    after = relu(left - f["prcp"] / p["cmax"])
    infiltration = minimum(mean * (power(left, 1 + p["b"]) - power(after, 1 + p["b"])), f["prcp"])
    filled = s["soil"] + infiltration
    wet = minimum(filled, mean)
    aet = minimum(demand * (wet / mean), wet)
    return wet - aet, f["prcp"] - infiltration + relu(filled - mean), aet


def step_with(timing):
    """The step with one of the two timings: ``(content, inflow, k) -> outflow``."""

    def step(f, k, p, s):
        """One day; see the equations above."""
        soil, effective, aet = soil_of(f, p, s, p["kv"] * f["pet"] if "kv" in p else f["pet"])
        arriving = (1 - p["alpha"]) * effective
        qs = timing(s["slow"], arriving, p["ks"])
        state = dict(soil=soil, slow=s["slow"] + arriving - qs)
        flow = p["alpha"] * effective
        for tank in TANKS:
            qq = timing(s[tank], flow, p["kq"])
            state[tank] = s[tank] + flow - qq
            flow = qq
        return state, dict(streamflow=qs + qq, quickflow=qq, slowflow=qs, aet=aet, effective=effective)

    return step


hymod = ModelSpec(
    name="hymod",
    title="HyMOD",
    source="Boyle 2001, thesis, University of Arizona; Moore 1985, doi 10.1080/02626668509490989",
    forcings=(PRCP, PET),
    parameters=(
        Parameter("cmax", "mm", "largest capacity of the soil", 1.0, 500.0, HYDROMODEL, allowed=(0.1, 1e5)),
        Parameter("b", "1", "spread of the soil's capacities", 0.1, 2.0, HYDROMODEL, allowed=(0.0, 10.0)),
        Parameter("alpha", "1", "share of the effective rain that runs off quickly", 0.1, 0.99, HYDROMODEL,
                  allowed=(0.0, 1.0)),
        Parameter("ks", "d-1", "recession of the slow tank", 0.001, 0.1, HYDROMODEL, allowed=(0.0, 1.0)),
        Parameter("kq", "d-1", "recession of each quick tank", 0.1, 0.99, HYDROMODEL, allowed=(0.0, 1.0)),
    ),
    states=(
        State("soil", "mm", "water in the soil", 0.0, 1e30, initial=0.0, wet=lambda p: p["cmax"] / (1 + p["b"])),
        State("slow", "mm", "water in the slow tank", 0.0, 1e30, initial=0.0, wet=200.0),
        *(State(tank, "mm", f"water in quick tank {n}", 0.0, 1e30, initial=0.0, wet=20.0)
          for n, tank in enumerate(TANKS, 1)),
    ),
    fluxes=(
        Variable("streamflow", "mm d-1", "flow of the river"),
        Variable("quickflow", "mm d-1", "flow out of the last quick tank"),
        Variable("slowflow", "mm d-1", "flow out of the slow tank"),
        Variable("aet", "mm d-1", "actual evapotranspiration"),
        Variable("effective", "mm d-1", "rain that the soil does not hold"),
    ),
    reference_step=step_with(lambda content, inflow, k: k * (content + inflow)),
    outflow="streamflow",
    balance=Balance(gains=("prcp",), losses=("streamflow", "aet")),
)  # fmt: skip
hymod_delayed = replace(
    hymod,
    name="hymod_delayed",
    title="HyMOD, each tank a day later",
    parameters=hymod.parameters
    + (Parameter("kv", "1", "factor of the potential evapotranspiration", 0.0, 2.0, "as Herman has it", default=1.0),),
    reference_step=step_with(lambda content, inflow, k: k * content),
)
