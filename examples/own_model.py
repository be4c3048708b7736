# %% [markdown]
# # A model of one's own
#
# Two equations become kernels, an adjoint, a calibration and a comparison with a published model. The step is written
# on functions that have decided gradients at ties and empty stores; the kernels are compiled when the model is first
# run.
#
# Water in the soil evaporates by its wetness and drains by a power of it; what drains goes to a groundwater store,
# which empties by a fraction of itself; the rain that the soil has no room for runs off through a quick store. Snow
# is CemaNeige's, put before it by name.

# %%
import numpy as np
import torch

import hybridsolve as hs
from hybridsolve.models.primitives import minimum, power, relu
from hybridsolve.spec import Balance, Forcing, Parameter, State, Variable


@hs.models.define(
    name="three_stores",
    title="Soil, quick flow and groundwater",
    source="this page",
    forcings=(
        Forcing("prcp", "mm d-1", "precipitation", 0.0, 1e5, transform="log"),
        Forcing("pet", "mm d-1", "potential evapotranspiration", 0.0, 1e3),
    ),
    parameters=(
        Parameter("m", "mm", "capacity of the soil", 20.0, 800.0, scale="log"),
        Parameter("d", "mm d-1", "drainage of a full soil", 0.5, 50.0, scale="log", step="rate"),
        Parameter("b", "1", "how drainage falls with wetness", 1.0, 10.0),
        Parameter("kq", "d-1", "share of the quick store that leaves in a day", 0.05, 0.9, step="fraction"),
        Parameter("k", "d-1", "share of the groundwater that does", 0.002, 0.5, scale="log", step="fraction"),
    ),
    states=(
        State("soil", "mm", "water in the soil", 0.0, 1e30, initial=lambda p: 0.5 * p["m"], wet=lambda p: p["m"]),
        State("quick", "mm", "water on its way", 0.0, 1e30, initial=0.0, wet=20.0),
        State("ground", "mm", "groundwater", 0.0, 1e30, initial=10.0, wet=100.0),
    ),
    fluxes=(
        Variable("flow", "mm d-1", "quick flow and baseflow"),
        Variable("base", "mm d-1", "baseflow"),
        Variable("aet", "mm d-1", "actual evapotranspiration"),
    ),
    outflow="flow",
    balance=Balance(gains=("prcp",), losses=("flow", "aet")),
    steps=None,
)
def three_stores(f, k, p, s):
    wetness = s["soil"] / p["m"]
    aet = minimum(s["soil"], f["pet"] * minimum(wetness, 1.0))
    drainage = minimum(s["soil"] - aet, p["d"] * power(wetness, p["b"]))
    soil = s["soil"] + (f["prcp"] - aet - drainage)
    runoff = relu(soil - p["m"])
    quick = s["quick"] + runoff
    fast = p["kq"] * quick
    ground = s["ground"] + drainage
    base = p["k"] * ground
    state = dict(soil=soil - runoff, quick=quick - fast, ground=ground - base)
    return state, dict(flow=fast + base, base=base, aet=aet)


# %% [markdown]
# ## Is it right?
#
# Water is conserved, and the compiled gradient is the one of the step on plain torch, to rounding:

# %%
data = hs.data.read_camels(basins="examples/basins_40.txt", period="1999-10-01:2006-09-30", pet="hargreaves").isel(
    basin=slice(0, 40, 2)
)
forcing = {name: torch.from_numpy(data[name].values[:730]).double() for name in three_stores.forcing_names}
unit = {v.name: torch.full((data.sizes["basin"], 1), 0.5).double().requires_grad_() for v in three_stores.parameters}
gradients = []
for backend in ("auto", "reference"):
    flow = hs.simulate(three_stores, forcing, three_stores.parameters_from_unit(unit), backend=backend).fluxes["flow"]
    gradients.append(torch.cat(torch.autograd.grad(flow.log1p().sum(), list(unit.values()))))
print("largest difference of gradients:", float((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max()))

# %% [markdown]
# ## Is it good?
#
# Beside GR4J, both behind the same snow, in twenty basins:

# %%
periods = dict(train="2000-10-01:2003-09-30", test="2003-10-01:2006-09-30")
results = {
    name: hs.calibrate(data, name, **periods, warmup_years=1, starts=4, steps=20, progress=False)
    for name in ("cemaneige+three_stores", "cemaneige+gr4j")
}
hs.plot.score_distribution({name: r["nse"].sel(period="test", member="best").values for name, r in results.items()})

# %%
result = results["cemaneige+three_stores"]
nse = result["nse"].sel(period="test", member="best")
at = int(np.argsort(nse.values)[nse.size // 2])
river = result.isel(basin=at).sel(time=slice("2003-10-01", "2005-09-30"))
hs.plot.hydrograph(
    river["time"].values,
    river["obs"].values,
    river["flow"].sel(member="best").values,
    title=f"Basin {data['basin'].values[at]}, of median score",
    score_text=f"NSE {float(nse[at]):.2f} in the test",
)
