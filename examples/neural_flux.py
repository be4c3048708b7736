# %% [markdown]
# # A neural flux
#
# Where nobody can write a process down, a network may stand in its place inside the step. Here it is HBV's
# evaporation: how much of the demand a soil of some wetness gives. Its weights are learned from streamflow alone,
# together with the other parameters of every basin, through the kernel's own adjoint.

# %%
from dataclasses import fields

import numpy as np
import torch
from matplotlib.figure import Figure

import hybridsolve as hs
from hybridsolve.models import hbv
from hybridsolve.models.primitives import mlp, sigmoid

table = {f.name: getattr(hs.models.get("hbv11p"), f.name) for f in fields(hs.models.get("hbv11p")) if f.init}
del table["reference_step"]
table["parameters"] = tuple(v for v in table["parameters"] if v.name not in ("lp", "betaet"))


def evaporation(p, sm):
    (allowed,) = mlp("evaporation", [sm / p["fc"]], hidden=(8,))
    return sigmoid(allowed)  # a share of the demand: water is conserved whatever the network says


@hs.models.define(**table | dict(name="hbv_learned", title="HBV 1.1p with learned evaporation", triton=None))
def hbv_learned(f, k, p, s):
    return hbv.reference_step(f, k, p, s, evapfactor=evaporation)


# %% [markdown]
# ## Learn it from the flow of sixteen rivers
#
# From wet ones to dry ones: one network for all, fourteen parameters for each.

# %%
data = hs.data.read_camels(basins="examples/basins_40.txt", period="1999-10-01:2002-09-30", pet="hargreaves")
data = data.isel(basin=np.argsort(data["aridity"].values)[4:36:2])
forcing = {name: torch.from_numpy(data[name].values) for name in hbv_learned.forcing_names}
obs = torch.from_numpy(data["qobs"].values)[365:]


def flow_of(model, raw, **networks):
    """Routed flow [T, B] of parameters before they are scaled to their bounds."""
    inside = {name: raw[name] for name in model.parameter_names}
    run = hs.simulate(model, forcing, inside, raw=True, **networks).fluxes["streamflow"]
    route = model.parameters_from_unit({v.name: raw[v.name].sigmoid() for v in model.routing_parameters})
    return hs.unit_hydrograph(run, a=route["route_a"][:, 0], b=route["route_b"][:, 0])[365:]


def fit(model, steps=200, network=None):
    """NSE of each basin, step by step."""
    raw = {v.name: torch.zeros(data.sizes["basin"], 1, requires_grad=True) for v in model.every_parameter}
    groups = [dict(params=list(raw.values()), lr=0.1)]
    groups += [] if network is None else [dict(params=list(network.parameters()), lr=0.03)]
    optimiser = torch.optim.Adam(groups)
    path = []
    for _ in range(steps):
        optimiser.zero_grad()
        weights = {} if network is None else dict(networks={"evaporation": network()})
        error = (flow_of(model, raw, **weights) - obs).square().sum(0) / (obs - obs.mean(0)).square().sum(0)
        error.mean().backward()
        optimiser.step()
        path.append((1 - error).detach())
    return raw, torch.stack(path)


torch.manual_seed(0)
network = hs.nn.FluxNetwork("hbv_learned")
_, learned = fit(hbv_learned, network=network)
raw, written = fit(hs.models.get("hbv11p"))
print(f"median NSE with the formula {written[-1].median():.3f}, with the network {learned[-1].median():.3f}")

# %% [markdown]
# ## What it learned
#
# A flux that is learned can be looked at: it is a curve. HBV's own formula has one for each basin's `lp` and `betaet`,
# here as calibrated beside it; one curve for all of them does nearly as well.

# %%
wetness = torch.linspace(0, 1, 101)
curve = network.chains[0](wetness[:, None]).sigmoid().detach().squeeze()
p = hs.models.get("hbv11p").parameters_from_unit({name: raw[name].detach().sigmoid() for name in ("lp", "betaet")})
formula = (wetness / p["lp"]).clip(0, 1) ** p["betaet"]

figure = Figure(figsize=(9, 4), layout="constrained")
left, right = figure.subplots(1, 2)
left.plot(wetness, formula.T, color="#999999", lw=0.9, ls="--")
left.plot([], [], color="#999999", lw=0.9, ls="--", label="HBV's formula, calibrated in each basin")
left.plot(wetness, curve, color="#D55E00", lw=2.6, label="network, one for all")
left.set(xlabel="soil moisture / field capacity (–)", ylabel="evaporation / demand (–)", ylim=(0, 1.25))
left.legend(frameon=False, loc="upper left")
right.plot(written.median(1).values, color="#999999", ls="--", lw=1.8, label="formula")
right.plot(learned.median(1).values, color="#D55E00", lw=1.8, label="network")
right.set(xlabel="step of the optimiser", ylabel="median NSE of 16 basins (–)", ylim=(0, 1))
right.legend(frameon=False, loc="lower right")
figure
