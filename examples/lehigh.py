"""The Lehigh in Pennsylvania, cut out of the USGS National Hydrologic Model that the package pywatershed carries (CC0).

The package is read but not imported: `pip install --no-deps pywatershed`.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import xarray as xr

from hybridsolve.data import potential_evapotranspiration


def lehigh(gauge: str = "01454700") -> xr.Dataset:
    """The Lehigh above Glendon, Pennsylvania, 1979 and 1980, in SI units: rivers, weather of their units, gauges.

    Raises
    ------
    FileNotFoundError
        If pywatershed is not installed.
    """
    if (package := find_spec("pywatershed")) is None:
        raise FileNotFoundError("the Lehigh's data need pywatershed; found none: pip install --no-deps pywatershed.")
    folder = Path(package.origin).parent / "data" / "drb_2yr"
    read = lambda name: xr.load_dataset(folder / f"{name}.nc", engine="netcdf4")  # noqa: E731
    segment, unit, channel = read("parameters_dis_seg"), read("parameters_dis_hru"), read("parameters_PRMSChannel")
    down, at = segment.tosegment.values - 1, segment.poi_gage_segment.values - 1
    inside = np.zeros(len(down), bool)
    inside[at[segment.poi_gage_id.values == gauge]] = True
    while (more := ~inside & (down >= 0) & inside[down]).any():
        inside |= more
    rows = np.flatnonzero(inside)
    ids, to = segment.nhm_seg.values, np.where(inside[down] & (down >= 0), segment.nhm_seg.values[down], 0)
    # PRMS counts segments from 1, and 0 is out. The width is seg_width at the bankful depth seg_depth.
    drains = channel.hru_segment.values - 1
    units = np.flatnonzero((drains >= 0) & inside[drains])
    low, high = ((read(name)[name].values[:, units] - 32) / 1.8 for name in ("tmin", "tmax"))
    time = read("prcp").time.values
    series = {
        name: xr.DataArray(x, dims=("time", "basin"), coords={"time": time})
        for name, x in (("tmin", low), ("tmax", high))
    }
    series["tmean"] = (low + high) / 2 + 0 * series["tmin"]
    pet = potential_evapotranspiration("hargreaves", **series, lat_degrees=unit.hru_lat.values[units])
    # A reach lies where its units do, one without any where the next one below does.
    weight = np.bincount(drains[units], unit.hru_area.values[units], len(down))
    place = {}
    for name in ("lat", "lon"):
        sums = np.bincount(drains[units], (unit.hru_area * unit[f"hru_{name}"]).values[units], len(down))
        place[name] = np.divide(sums, weight, out=np.full(len(down), np.nan), where=weight > 0)
        while (bare := inside & np.isnan(place[name])).any():
            place[name][bare] = place[name][down[bare]]
    observed = read("drb_2yr_gage_poi_obs").sel(poi_id=segment.poi_gage_id.values)
    whole = np.flatnonzero(inside[at] & observed.discharge.notnull().all("time").values)
    reach = {
        "to": (to[rows], "1", "id of the reach that it flows to, 0 out of the network"),
        "length": (segment.seg_length.values[rows], "m", "length"),
        "slope": (segment.seg_slope.values[rows], "1", "slope"),
        "n": (channel.mann_n.values[rows], "s m-1/3", "Manning's roughness"),
        "width": (segment.seg_width.values[rows], "m", "width at the bankful depth"),
        "depth": (segment.seg_depth.values[rows], "m", "bankful depth"),
        "lat": (place["lat"][rows], "degrees_north", "latitude"),
        "lon": (place["lon"][rows], "degrees_east", "longitude"),
    }
    weather = {
        "prcp": (25.4 * read("prcp").prcp.values[:, units], "mm d-1", "precipitation"),
        "tmean": (series["tmean"].values, "degC", "mean air temperature"),
        "pet": (pet.values, "mm d-1", "potential evapotranspiration by Hargreaves"),
    }
    return xr.Dataset(
        {
            **{k: ("reach", x, {"units": u, "long_name": t}) for k, (x, u, t) in reach.items()},
            **{k: (("time", "basin"), x, {"units": u, "long_name": t}) for k, (x, u, t) in weather.items()},
            "area": ("basin", unit.hru_area.values[units] * 4046.856, {"units": "m2"}),  # of acres
            "drains_to": ("basin", ids[drains[units]], {"long_name": "id of the reach"}),
            "gauge_reach": ("gauge", ids[at[whole]], {"long_name": "id of the reach"}),
            "gauge_area": ("gauge", observed.drainage_area.values[whole] * 2.59e6, {"units": "m2"}),  # of square miles
            "gauge_name": ("gauge", observed.poi_name.values[whole]),
            "discharge": (("time", "gauge"), (observed.discharge.values[whole].T * 0.3048**3).astype(np.float32),
                          {"units": "m3 s-1"}),
        },
        {"time": time, "reach": ids[rows], "basin": units + 1, "gauge": segment.poi_gage_id.values[whole]},
        dict(title="The Lehigh above Glendon, 1979 and 1980", license="CC0",
             source="USGS National Hydrologic Model, in the package pywatershed 2.0.4 (drb_2yr)"),
    )  # fmt: skip
