# %% [markdown]
# # A river network to gauges
#
# Rain on 66 units, HBV, unit hydrograph, 42 reaches by Muskingum-Cunge at hourly steps, fifteen gauges: the Lehigh
# above Glendon, Pennsylvania. One gradient goes from the gauges to everything upstream, and fits one set of
# parameters and a factor on Manning's n. The data are those of the USGS National Hydrologic Model (CC0);
# `examples/delaware.py` does the same for the whole Delaware.

# %%
import sys

import numpy as np
import torch
from matplotlib.figure import Figure

import hybridsolve as hs
from hybridsolve.routing import RiverNetwork, simulate_rivers

sys.path.insert(0, "examples")
from lehigh import lehigh

data = lehigh()
width = dict(p=data["width"] / data["depth"] ** 0.3, q=0.3 + 0 * data["width"])  # p depth^q
local = data["area"].groupby(data["drains_to"]).sum().reindex(drains_to=data["reach"].values, fill_value=0.0)
attributes = {name: data[name].values for name in ("n", "slope", "length", "lat", "lon")}
attributes |= {name: x.values for name, x in width.items()} | {"area": local.values}
network = RiverNetwork.from_ids(data["reach"].values, data["to"].values, **attributes)
network

# %%
at = network.index(data["gauge_reach"].values)
area = network.upstream_area()[at]
fits = np.abs(area / data["gauge_area"].values - 1) < 0.1  # where the map and the gauge mean the same basin
fits &= np.isin(np.arange(len(at)), np.unique(at, return_index=True)[1])  # one gauge a reach
gauges = data.isel(gauge=np.flatnonzero(fits))
observed = torch.from_numpy(gauges["discharge"].values)
print(gauges.sizes["gauge"], "gauges:", ", ".join(gauges["gauge_name"].values[:4].astype(str)), "...")

# %% [markdown]
# ## Fit
#
# April to December 1979 is learned from, 1980 is not. The stores fill before.

# %%
train, test = slice(90, 365), slice(365, 731)
model = hs.models.get("hbv10")
names = [*model.parameter_names, "route_a", "route_b"]
free = torch.zeros(len(names) + 1, requires_grad=True)  # in the middle of the bounds
forcing = {name: torch.from_numpy(data[name].values.astype(np.float32)) for name in model.forcing_names}
pairs = dict(
    catchment=range(data.sizes["basin"]), reach=data["drains_to"].values, area=torch.tensor(data["area"].values).float()
)


def run(gauges_of):
    parameters = model.parameters_from_unit(dict(zip(names, free[:-1].sigmoid().reshape(-1, 1, 1), strict=True)))
    rough = {"n": torch.from_numpy(network.attributes["n"]).float() * free[-1].exp()}
    return simulate_rivers(model, forcing, parameters, network, rough, **pairs, gauges=gauges_of)


def nse(flow, days):
    error = (flow - observed)[days].square().sum(0)
    return 1 - error / (observed[days] - observed[days].mean(0)).square().sum(0)


optimiser = torch.optim.Adam([free], lr=0.15)
for step in range(21):
    flow = run(gauges["gauge_reach"].values).discharge.reshape(data.sizes["time"], 24, -1).mean(1)  # daily means, m3/s
    if step % 10 == 0:
        scores = nse(flow, train).median(), nse(flow, test).median()
        print(f"step {step}: median NSE {scores[0]:.3f} in 1979, {scores[1]:.3f} in 1980")
    optimiser.zero_grad()
    (1 - nse(flow, train)).mean().backward()
    optimiser.step()
print(f"Manning's n times {free[-1].exp():.2f}")

# %% [markdown]
# ## The flood of March 1980, hour by hour along the rivers

# %%
with torch.no_grad():
    everywhere = run(network.ids).discharge
outlet = network.index(gauges["gauge_reach"].values)[gauges["gauge_area"].argmax().item()]
peak = 24 * 365 + int(everywhere[24 * 365 :, outlet].argmax())
hs.plot.network_map(network, everywhere[peak].numpy(), gauges=gauges["gauge_reach"].values)

# %%
main = [int(np.argmax(network.upstream_area()))]  # from the outlet up along the larger branch
while (above := np.flatnonzero(network.downstream == main[-1])).size:
    main.append(int(above[network.upstream_area()[above].argmax()]))
hours = slice(peak - 60, peak + 48)
figure = Figure(figsize=(9, 4), layout="constrained")
axes = figure.subplots()
for i, reach in enumerate(main[::-1][:: max(1, len(main) // 6)]):
    shade = str(round(0.75 * (1 - i / 7), 2))
    axes.plot(range(-60, 48), everywhere[hours, reach], color=shade, lw=1 + 0.35 * i,
              label=f"{network.upstream_area()[reach] / 1e6:,.0f} km2")  # fmt: skip
axes.set(xlabel="hours from the peak at the outlet", ylabel="discharge (m3/s)")
axes.legend(frameon=False, title="drained above", loc="upper left", bbox_to_anchor=(1, 1))
axes.set_title("A flood wave on its way down the Lehigh", loc="left")
figure

# %%
largest = int(gauges["gauge_area"].argmax())
hs.plot.hydrograph(
    data["time"].values[90:],
    observed[90:, largest].numpy(),
    flow.detach()[90:, largest].numpy(),
    title=str(gauges["gauge_name"].values[largest]),
    score_text=f"NSE {nse(flow, train)[largest]:.2f} in 1979, {nse(flow, test)[largest]:.2f} in 1980",
    unit="m³/s",
)

# %% [markdown]
# ## Where does the water of the outlet come from?
#
# The gradient of the outlet's flood with respect to the rain of every unit and day is one backward pass: what a
# millimetre more, there and then, would have added to the peak.

# %%
forcing["prcp"].requires_grad_()
run(network.ids[[outlet]]).discharge[peak].sum().backward()
share = forcing["prcp"].grad[: peak // 24 + 1]
days = share.sum(1).flip(0)[:120]
figure = Figure(figsize=(8, 3.4), layout="constrained")
axes = figure.subplots()
axes.fill_between(range(120), days, step="mid", color="#0072B2")
axes.set(xlabel="days before the peak", ylabel="m3/s at the outlet a mm of rain", xlim=(0, 119), ylim=(0, None))
axes.set_title("What a millimetre more on the whole basin would have added to the peak", loc="left")
figure
