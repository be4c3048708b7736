# %% [markdown]
# # Ungauged basins with a network
#
# One network reads what is known of every basin and gives the parameters of HBV; the gradient of the loss comes back
# through HBV into the network. What it has learned is then asked of basins that it has never seen the flow of: two-fold
# cross-validation over space. Beside it stands a network that is asked of the same basins in another time.
#
# 40 basins are few for this (the README has 531), and the network is small: it takes seconds.

# %%
import tempfile

import numpy as np
from matplotlib.figure import Figure

import hybridsolve as hs

data = hs.data.read_camels(basins="examples/basins_40.txt", period="1999-10-01:2006-09-30", pet="hargreaves")
config = dict(
    name="small",
    model="hbv11p",
    components=4,
    network=dict(kind="mlp", hidden=[32], dropout=0.2),
    attributes=["aridity", "p_mean", "p_seasonality", "frac_snow", "elev_mean", "slope_mean", "frac_forest", "lai_max"]
    + ["soil_depth_pelletier", "soil_porosity", "soil_conductivity", "clay_frac", "geol_permeability"],
    periods=dict(train="2000-10-01:2003-09-30", test="2004-10-01:2006-09-30"),
    batch=dict(basins=20, days=730, warmup=365),
    loss="nse_batch",
    optimiser=dict(name="adamw", learning_rate=0.01, schedule="cosine"),
    epochs=2,
    steps_per_epoch=20,
)

# %%
folder = tempfile.mkdtemp()
options = dict(accelerator="cpu", progress=False)
gauged = hs.experiment(data, config, out=f"{folder}/gauged", **options)
ungauged = hs.experiment(data, config, out=f"{folder}/ungauged", kind="pub", folds=2, **options)
curves = {
    "trained on these basins": gauged["nse"].isel(member=-1).values,
    "never seen: two folds": ungauged["nse"].isel(member=-1).values,
}
hs.plot.score_distribution(curves)

# %% [markdown]
# ## What the network made of the attributes
#
# A learned parameter is a map. Field capacity, the mean of the four components, by the first training:

# %%
trained = hs.Trained.load(f"{folder}/gauged/seed0/trained.pt")
fc = trained.parameters(data)["fc"].mean("component")
hs.plot.score_map(data["lat"].values, data["lon"].values, fc.values, "fc", "mm")

# %% [markdown]
# ## A basin that nobody has gauged
#
# The ungauged basin of median score, with its observed flow, which was used for nothing but this figure:

# %%
nse = ungauged["nse"].isel(member=-1)
at = int(np.argsort(nse.values)[nse.size // 2])
basin = ungauged.isel(basin=at)
hs.plot.hydrograph(
    basin["time"].values,
    basin["obs"].values,
    basin["flow"].values,
    title=f"Basin {basin['basin'].item()}, held out",
    score_text=f"NSE {float(nse[at]):.2f}",
)

# %% [markdown]
# ## Water is conserved, whatever was learned
#
# The network gives parameters, the model moves the water: runoff ratios of ungauged basins against those observed.

# %%
rain = data["prcp"].sel(time=ungauged["time"]).mean("time")
figure = Figure(figsize=(5, 4.6), layout="constrained")
axes = figure.subplots()
axes.plot([0, 1.2], [0, 1.2], color="grey", lw=1, ls=":")
axes.scatter(ungauged["obs"].mean("time") / rain, ungauged["flow"].mean("time") / rain, s=26, c="#0072B2", ec="white")
axes.set(xlabel="observed runoff ratio (–)", ylabel="of ungauged basins (–)", xlim=(0, 1.2), ylim=(0, 1.2))
figure
