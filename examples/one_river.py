# %% [markdown]
# # One river
#
# Ten years of the Fulda at Grebenau, Germany (2,976 km2): calibrate, look at what came out, and ask the gradient which
# parameter matters when. The data come with the package spotpy (the extra `demo`); `hs.data.open_dataset("mine.csv")`
# reads a file of your own.

# %%
import numpy as np
import torch
from matplotlib.figure import Figure

import hybridsolve as hs

data = hs.data.open_dataset("fulda")
data

# %% [markdown]
# ## Calibrate
#
# Ten starts are searched at once, by derivatives along all parameters that one run carries forward. `test` is scored
# once, at the end.

# %%
periods = dict(train="1981-01-01:1985-12-31", test="1986-01-01:1988-12-31")
result = hs.calibrate(data, "hbv11p", **periods, warmup_years=2, progress=False)
result[["nse", "kge", "pbias"]].sel(member="best").to_dataframe()[["nse", "kge", "pbias"]].round(3)

# %%
river = result.isel(basin=0).sel(time=slice("1986-01-01", "1987-12-31"))
hs.plot.hydrograph(
    river["time"].values,
    river["obs"].values,
    river["flow"].sel(member="best").values,
    precipitation=data["prcp"].isel(basin=0).sel(time=river["time"]).values,
    title="Fulda at Grebenau, years of the test",
    score_text=f"NSE {float(result['nse'].sel(period='test', member='best')[0]):.2f}",
    spread=(river["flow_lowest"].values, river["flow_highest"].values),
)

# %% [markdown]
# Low flows are seen where flow is ranked rather than dated:

# %%
test = result.sel(time=slice("1986-01-01", "1988-12-31"))
hs.plot.flow_duration(test["flow"].sel(member="best").values, test["obs"].values)

# %% [markdown]
# ## Which parameter matters when
#
# `hs.jacobian` gives the flow and its derivative with respect to every parameter in one pass. Over the range of the
# parameter, so that they compare:

# %%
model = hs.models.get("hbv11p")
best = {v.name: torch.tensor(result[v.name].values[:, :1]).float() for v in model.every_parameter}  # [basin, 1]
forcing = {name: torch.from_numpy(data[name].values) for name in model.forcing_names}
flow, slopes = hs.jacobian(model, forcing, best)
ranges = {v.name: v.upper - v.lower for v in model.every_parameter}
moved = {name: (slope.squeeze() * ranges[name]).numpy() for name, slope in slopes.items()}
strongest = sorted(moved, key=lambda name: -np.abs(moved[name][1096:]).mean())[:5]

figure = Figure(figsize=(10, 5.2), layout="constrained")
rows = figure.subplots(len(strongest), 1, sharex=True)
year = slice(1096, 1096 + 365)
for axes, name in zip(rows, strongest, strict=True):
    axes.fill_between(data["time"].values[year], moved[name][year], color="#0072B2", lw=0)
    axes.axhline(0, color="black", lw=0.6)
    axes.set_ylabel(name, rotation=0, ha="right", va="center")
    axes.spines[["top", "right"]].set_visible(False)
rows[0].set_title("What the flow of 1982 would gain, mm/d, over the range of each parameter", loc="left")
figure

# %% [markdown]
# ## What the data say of the parameters
#
# Standard errors are those of the linearised problem at the best start: large where flow does not tell a parameter.

# %%
errors = result["standard_error"].isel(basin=0).to_series()
values = [float(result[name][0, 0]) for name in errors.index]
units = {v.name: v.unit for v in model.every_parameter}
for name, value, error in zip(errors.index, values, errors, strict=True):
    print(f"{name:8} {value:9.3f} ± {error:.3f} {units[name]}")
