"""The Delaware from rain to gauge: HBV on 765 catchments, unit hydrograph, 456 river segments, learned end to end.

One set of parameters for the whole basin, and a factor on Manning's n of all rivers, are fitted by gradient to the
gauges' discharge of April to December 1979 and tested on 1980. Two minutes on two cores. The data are those of the USGS
National Hydrologic Model in the package pywatershed (CC0), which is read but not imported:

    pip install --no-deps pywatershed && python examples/delaware.py
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import hybridsolve as hs
from hybridsolve import plot
from hybridsolve.data import potential_evapotranspiration
from hybridsolve.routing import RiverNetwork, simulate_rivers

TRAIN, TEST = slice(90, 365), slice(365, 731)  # days from 1979-01-01; the stores fill before
if (package := find_spec("pywatershed")) is None:
    raise SystemExit("the package pywatershed is not installed; run: pip install --no-deps pywatershed")
folder = Path(package.origin).parent / "data" / "drb_2yr"
read = lambda name: xr.load_dataset(folder / f"{name}.nc", engine="netcdf4")  # noqa: E731
segment, unit, channel = read("parameters_dis_seg"), read("parameters_dis_hru"), read("parameters_PRMSChannel")

# Rivers. PRMS counts segments from 1, and 0 is out. The width is seg_width at the bankful depth seg_depth.
drains = channel.hru_segment.values - 1
catchment = np.flatnonzero(drains >= 0)
area = unit.hru_area.values[catchment] * 4046.856  # acres to m2
p, q = segment.seg_width / segment.seg_depth**0.3, 0.3 + 0 * segment.seg_width
local = np.bincount(drains[catchment], area, len(p))
attributes = dict(n=channel.mann_n, slope=segment.seg_slope, length=segment.seg_length, p=p, q=q, area=local)
ids = segment.nhm_seg.values
network = RiverNetwork.from_downstream(segment.tosegment.values - 1, ids, **attributes)
pairs = dict(catchment=catchment, reach=ids[drains[catchment]], area=torch.from_numpy(area).float())

# Weather: inches and degrees Fahrenheit.
low, high = ((read(name)[name].rename(nhm_id="basin") - 32) / 1.8 for name in ("tmin", "tmax"))
mean = (low + high) / 2
pet = potential_evapotranspiration("hargreaves", tmean=mean, tmin=low, tmax=high, lat_degrees=unit.hru_lat.values)
forcing = {"prcp": 25.4 * read("prcp").prcp, "tmean": mean, "pet": pet}
forcing = {name: torch.from_numpy(x.values.astype(np.float32)) for name, x in forcing.items()}

# Gauges without a gap whose area is that of the rivers above their segment; one a segment.
gauge = read("drb_2yr_gage_poi_obs").sel(poi_id=segment.poi_gage_id.values)
at = network.index(ids[segment.poi_gage_segment.values - 1])
upstream = network.upstream_area()
fits = np.abs(upstream[at] / (gauge.drainage_area.values * 2.59e6) - 1) < 0.1
fits &= gauge.discharge.notnull().all("time").values
at, rows = np.unique(at[fits], return_index=True)
gauge = gauge.isel(poi_id=np.flatnonzero(fits)[rows])
observed = torch.from_numpy(gauge.discharge.values.T * np.float32(0.3048**3))  # cubic feet to m3

model = hs.models.get("hbv10")
names = [*model.parameter_names, "route_a", "route_b"]
free = torch.zeros(len(names) + 1, requires_grad=True)  # in the middle of the bounds
optimiser = torch.optim.Adam([free], lr=0.1)
for step in range(61):
    parameters = model.parameters_from_unit(dict(zip(names, free[:-1].sigmoid().reshape(-1, 1, 1), strict=True)))
    rough = {"n": torch.from_numpy(network.attributes["n"]).float() * free[-1].exp()}
    run = simulate_rivers(model, forcing, parameters, network, rough, **pairs, gauges=network.ids[at])
    flow = run.discharge.reshape(-1, 24, len(at)).mean(1)  # daily means, m3/s
    train, test = (
        1 - (flow - observed)[t].square().sum(0) / (observed[t] - observed[t].mean(0)).square().sum(0)
        for t in (TRAIN, TEST)
    )
    if step % 10 == 0:
        print(f"step {step}: median NSE of {len(at)} gauges {train.median():.3f} in 1979, {test.median():.3f} in 1980")
    optimiser.zero_grad()
    (1 - train).clamp(max=5).mean().backward()  # a gauge below a reservoir must not rule
    optimiser.step()

largest = int(upstream[at].argmax())
flow, seen = (x.detach()[:, largest] * 86.4e6 / upstream[at[largest]] for x in (flow, observed))  # mm/d
figure = plot.hydrograph(gauge.time.values, seen, flow, title=str(gauge.poi_name.values[largest]))
print("wrote", plot.save(figure, "delaware.png"))
