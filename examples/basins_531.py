# %% [markdown]
# # 531 basins
#
# Two models on all basins of a benchmark, side by side: distributions of scores, maps, which model wins where, and
# parameters that lie at a bound. Shown are 40 basins of CAMELS-US (Newman et al. 2015, Addor et al. 2017) and seven
# years; with all 531 and the periods of the benchmark the same lines take a minute: the README has the scores.

# %%
import numpy as np

import hybridsolve as hs

data = hs.data.read_camels(basins="examples/basins_40.txt", period="1999-10-01:2006-09-30", pet="hargreaves")
periods = dict(train="2001-10-01:2004-09-30", test="2004-10-01:2006-09-30")
print(data.attrs["title"])

# %%
results = {
    name: hs.calibrate(data, name, **periods, warmup_years=2, starts=3, steps=15, progress=False)
    for name in ("hbv11p", "cemaneige+gr4j")
}
scores = {name: result["nse"].sel(period="test", member="best") for name, result in results.items()}
for name, nse in scores.items():
    print(f"{name:15} median NSE {float(nse.median()):.3f}, worst {float(nse.min()):.2f}")

# %%
hs.plot.score_distribution({name: nse.values for name, nse in scores.items()})

# %%
hs.plot.score_map(data["lat"].values, data["lon"].values, scores["hbv11p"].values)

# %% [markdown]
# Two years are few: a model wins here where it is ahead by more than 0.05. `hs.compare_structures` draws the years anew
# instead (a bootstrap), and calls a tie what the years do not part.

# %%
ahead = scores["hbv11p"] - scores["cemaneige+gr4j"]
winner = np.where(ahead > 0.05, "hbv11p", np.where(ahead < -0.05, "cemaneige+gr4j", "tie"))
hs.plot.winner_map(data["lat"].values, data["lon"].values, winner, list(results))

# %% [markdown]
# ## Parameters at a bound
#
# A parameter that lies at its bound in many basins wants another range, or another model.

# %%
result = results["hbv11p"]
rows = [v for v in hs.models.get("hbv11p").every_parameter if v.name in result["parameter"]]
hs.plot.parameter_bounds(
    np.stack([result[v.name].isel(start=0).values for v in rows], 1),
    [v.lower for v in rows],
    [v.upper for v in rows],
    [f"{v.name} ({v.unit})" for v in rows],
    result["at_bound"].isel(start=0).transpose("basin", "parameter").values == 1,
    log=[v.scale == "log" for v in rows],
)
