"""A model of two stores and a delay line that nobody should use: as different from HBV as another model may be.

Equations of one step, in this order; ``dt`` is the step's length in days. Minimum and maximum give the gradient to the
first operand at a tie, ``[x]+`` passes it at 0, as everywhere here.

Once where nothing varies by step (`prepare`):

    (0) drain     = k min(10 slope, 1)
        dryness   = 1 / capacity

Each step:

    (1) wetness     = min(soil dryness, 1)
    (2) evaporation = min(soil, demand wetness^shape)
        soil_1      = soil - evaporation + rainfall
    (3) overflow    = [soil_1 - capacity]+
        soil_2      = min(capacity, soil_1)
    (4) percolation = min(soil_2, leak)
        soil        = soil_2 - percolation
    (5) arriving    = M_0 + w_0 overflow                     the delay line; overflow goes into it
    (6) exchange    = -kx level
        level_1     = level + exchange + percolation
    (7) pumped      = min(level_1 - BOTTOM, pumping dt)
        level_2     = max(level_1 - pumped, BOTTOM)
    (8) baseflow    = drain [level_2]+
        level_3     = level_2 - baseflow
    (9) spill       = [level_3 - TOP]+
        level       = min(TOP, level_3)
   (10) discharge   = arriving + baseflow + spill

The ordinates of the delay line share a step's overflow between the two whole steps beside `lag`:
``w_j = [1 - [j - lag]+ - [lag - j]+]+`` for j = 0 .. 3.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from hybridsolve.models.primitives import maximum, minimum, power, relu, select
from hybridsolve.spec import Balance, DelayLine, Forcing, ModelSpec, Parameter, Signature, State, Variable

from .examples import Example as Generic
from .examples import pick

BOTTOM, TOP = -50.0, 500.0  # mm, what `level` stays between
SLOTS = 4


def prepare(k, p):
    """Equation (0)."""
    return {"drain": p["k"] * minimum(10 * k["slope"], 1.0), "dryness": 1 / p["capacity"]}


def ordinates(k, p):
    """SLOTS of them; their sum is 1."""
    return [relu(1 - relu(j - p["lag"]) - relu(p["lag"] - j)) for j in range(SLOTS)]


def reference_step(f, k, p, s):
    """One step; see the equations above."""
    wetness = minimum(s["soil"] * p["dryness"], 1.0)
    evaporation = minimum(s["soil"], f["demand"] * power(wetness, p["shape"]))
    soil = s["soil"] - evaporation + f["rainfall"]
    overflow = relu(soil - p["capacity"])
    soil = minimum(p["capacity"], soil)
    percolation = minimum(soil, p["leak"])
    soil = soil - percolation
    arriving = s["channel"] + p["channel"] * overflow

    exchange = -p["kx"] * s["level"]
    level = s["level"] + exchange + percolation
    pumped = minimum(level - BOTTOM, p["pumping"] * k["dt"])
    level = maximum(level - pumped, BOTTOM)
    baseflow = p["drain"] * relu(level)
    level = level - baseflow
    spill = relu(level - TOP)
    level = select(level >= TOP, TOP, level)  # the constant at a tie, where the spill has the gradient

    state = dict(soil=soil, level=level, channel=overflow)
    fluxes = dict(
        evaporation=evaporation,
        overflow=overflow,
        percolation=percolation,
        discharge=arriving + baseflow + spill,
        exchange=exchange,
        pumped=pumped,
        baseflow=baseflow,
    )
    return state, fluxes


toy = ModelSpec(
    name="toy",
    title="Toy: two stores and a delay line, for the tests",
    source="these tests",
    forcings=(
        Forcing("rainfall", "mm d-1", "rain", 0.0, 1e4, transform="log"),
        Forcing("demand", "mm d-1", "evaporation of a wet soil", 0.0, 1e3),
    ),
    inputs=(Variable("slope", "1", "slope of the basin, which slows the baseflow below 0.1", 0.0, 1.0),),
    parameters=(
        Parameter("capacity", "mm", "what the soil holds", 20.0, 500.0),
        Parameter("shape", "1", "shape of evaporation against wetness", 0.5, 3.0),
        Parameter("leak", "mm d-1", "largest percolation", 0.1, 10.0, step="rate"),
        Parameter("k", "d-1", "recession of the groundwater", 0.01, 0.5, step="fraction"),
        Parameter("kx", "d-1", "exchange with a neighbour at level 0", 1e-4, 0.1, scale="log", step="fraction"),
        Parameter("lag", "1", "delay of the overflow, in steps", 0.0, SLOTS - 1.0),
        Parameter("pumping", "mm d-1", "groundwater that is pumped away", 0.0, 5.0, default=0.0, free=False),
    ),
    states=(
        State(
            "soil",
            "mm",
            "water in the soil",
            0.0,
            1e30,
            initial=lambda p: 0.5 * p["capacity"],
            wet=lambda p: p["capacity"],
        ),
        State("level", "mm", "groundwater above the river", BOTTOM, TOP, initial=0.0, wet=100.0),
    ),
    lines=(DelayLine("channel", "mm", "overflow on its way", SLOTS, ordinates),),
    fluxes=(
        Variable("evaporation", "mm d-1", "evaporation"),
        Variable("overflow", "mm d-1", "rain that the soil does not hold"),
        Variable("percolation", "mm d-1", "from the soil to the groundwater"),
        Variable("discharge", "mm d-1", "flow of the river"),
        Variable("exchange", "mm d-1", "groundwater from the neighbour, of either sign"),
        Variable("pumped", "mm d-1", "groundwater pumped away"),
        Variable("baseflow", "mm d-1", "groundwater that flows into the river"),
    ),
    reference_step=reference_step,
    prepare=prepare,
    outflow="discharge",
    routing=None,
    balance=Balance(
        gains=("rainfall", "exchange"),
        losses=("evaporation", "pumped", "discharge"),
        storage=lambda state, inputs, parameters: state["soil"] + state["level"] + state["channel"].sum(0),
    ),
    signatures=(Signature("evaporated", "1", "share of the rain that evaporates", of="evaporation", over="rainfall"),),
    steps=None,
    triton="models.toy_triton",
)


def rates(f, k, p, s):
    """The same two stores at once, mm/d; the overflow is not delayed, and what a store cannot hold leaves in a day."""
    soil, level = relu(s["soil"]), s["level"]
    evaporation = minimum(soil, f["demand"] * power(minimum(soil * p["dryness"], 1.0), p["shape"]))
    overflow = relu(soil - p["capacity"])
    percolation = minimum(soil, p["leak"])
    exchange = -p["kx"] * level
    pumped = minimum(relu(level - BOTTOM), p["pumping"])
    baseflow = p["drain"] * relu(level)
    spill = relu(level - TOP)
    slopes = dict(
        soil=f["rainfall"] - evaporation - overflow - percolation,
        level=percolation + exchange - pumped - baseflow - spill,
    )
    fluxes = dict(evaporation=evaporation, overflow=overflow, percolation=percolation)
    fluxes |= dict(discharge=overflow + baseflow + spill, exchange=exchange, pumped=pumped, baseflow=baseflow)
    return slopes, fluxes


toy_rates = replace(
    toy,
    parameters=tuple(replace(v, step="none") for v in toy.parameters if v.name != "lag"),
    states=tuple(replace(v, lower=-1e30, upper=1e30) for v in toy.states),
    lines=(),
    reference_step=rates,
    balance=replace(toy.balance, storage=None),
    triton=None,
    rates=True,
)


class Example(Generic):
    """On its grid the level meets the bottom and the top, the river's height, and what is pumped."""

    rounding = 100 * TOP * 2.0**-24  # a full soil spills the rounding of all the days on which it filled

    def exact(self):
        return self.percolation, self.recession

    def percolation(self, x):
        """A soil that lasts percolates at its rate."""
        for series in x.forcing.values():
            series.zero_()
        x.parameters["capacity"].fill_(500.0)
        x.initial_state["soil"].fill_(400.0)
        return "soil", "percolation"

    def recession(self, x):
        """Without percolation the level loses two fractions in turn, and one of them where it is below the river; a
        gentle slope would slow the hour's fraction as the day's."""
        for series in (*x.forcing.values(), x.initial_state["soil"], x.parameters["pumping"]):
            series.zero_()
        x.inputs["slope"].fill_(0.5)
        return ("level",)

    def ties(self, x):
        T, B, C = x.sizes
        x.forcing["rainfall"] = pick([0, 0, 0, 8, 16], T, B, seed=1)
        x.forcing["demand"] = pick([0, 0, 1, 2], T, B, seed=2)
        x.inputs["slope"] = pick([0, 0.1, 0.1, 1], B, seed=3)
        grid = {
            "capacity": [64, 128],
            "shape": [1, 2],
            "leak": [500 / 512, 1, 2],
            "k": [0.25, 0.5],
            "kx": [1 / 512, 0.02],
            "lag": [0, 0.5, 1, 3],
            "pumping": [0, 1, 2],
        }
        for i, (name, values) in enumerate(grid.items()):
            if name in x.parameters:
                x.parameters[name] = pick(values, B, C, seed=4 + i)
        x.initial_state["soil"] = x.parameters["capacity"] * pick([0, 0.5, 1], B, C, seed=11)
        x.initial_state["level"] = pick([BOTTOM, BOTTOM, 0, 0, 16, TOP, TOP], B, C, seed=12)
        # In the first basin what percolates keeps the level at the top, in the second pumping keeps it at the bottom.
        for basin, (kx, leak, pumping, level) in enumerate([(1 / 512, 500 / 512, 0, TOP), (0.02, 1, 2, BOTTOM)][:B]):
            for name, value in dict(kx=kx, leak=leak, pumping=pumping).items():
                x.parameters[name][basin] = value
            x.initial_state["level"][basin] = level
            x.initial_state["soil"][basin] = x.parameters["capacity"][basin]
        x.inputs["slope"][0] = 0
        # The third is dry at first, with an empty soil or one that percolates to its last drop, and the level at 0.
        for series in x.forcing.values():
            series[:3, 2:3] = 0
        x.parameters["pumping"][2:3] = x.initial_state["level"][2:3] = 0
        x.initial_state["soil"][2:3] = x.parameters["leak"][2:3] * (torch.arange(C) % 2)
        if x.model.lines:
            x.initial_state["channel"] = x.initial_state["channel"].round()
