"""Potential evapotranspiration."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import golden
from foreign import YEARS, one_sentence, textbook, toy

from hybridsolve import data


@pytest.mark.parametrize("method", sorted(set(data.PET_METHODS) - {"oudin-airgr"}))
def test_pet_equals_the_textbook_formula(method):
    ds = toy(n_basin=70, dtype="float64")  # more than one block of basins
    rng = np.random.default_rng(1)
    srad = ds.prcp.copy(data=rng.uniform(5, 250, ds.prcp.shape))
    found = data.potential_evapotranspiration(
        method,
        tmean=ds.tmean,
        tmin=ds.tmin,
        tmax=ds.tmax,
        srad=srad,
        elevation=ds.elev_mean,
        lat_degrees=ds.lat,
    )
    assert found.dims == ("time", "basin") and found.dtype == np.float64
    assert found.attrs["units"] == "mm d-1" and found.attrs["method"] == method
    for b in (0, 41, 69):  # south, north, and beyond the first block
        one = ds.isel(basin=b)
        expected = textbook(
            method,
            YEARS,
            *(one[n].values for n in ("tmean", "tmin", "tmax")),
            float(one.lat),
            srad=srad.values[:, b],
            elevation=float(one.elev_mean),
        )
        # pyet rounds the solar constant: 118.08 MJ m-2 d-1 is 1440 x 0.0820
        np.testing.assert_allclose(found.values[:, b], expected, rtol=1e-8, atol=1e-10)
        assert expected.max() > 0.5


def test_pet_of_a_day_printed_in_fao56():
    # FAO-56, example 8: 3 September at 20 S has Ra = 32.2 MJ m-2 d-1
    day = xr.DataArray([20.0], dims="time", coords={"time": pd.DatetimeIndex(["2001-09-03"])})
    pet = data.potential_evapotranspiration("oudin", tmean=day, lat_degrees=-20.0)
    assert pet.dims == ("time",)
    assert float(pet[0]) == pytest.approx(32.2 / (2.501 - 0.002361 * 20) * 25 / 100, rel=2e-3)


def test_oudins_formula_as_airgr_has_it():
    file, temperature = golden("shared_airgr_gr4j"), golden("shared_nws_snow17_sacsma")["tmean"]
    days = pd.DatetimeIndex([str(x)[:10] for x in file["date"]])
    tmean = xr.DataArray(temperature, dims=("time", "basin"), coords={"time": days})
    found = data.potential_evapotranspiration("oudin-airgr", tmean=tmean, lat_degrees=file["lat_deg"])
    np.testing.assert_allclose(found, file["pet_mm_d"], rtol=0, atol=1e-12)
    assert found.attrs["method"] == "oudin-airgr" and found.attrs["comment"].startswith("computed here; negative")
    tmean[5, 1] = np.nan
    gap = data.potential_evapotranspiration("oudin-airgr", tmean=tmean, lat_degrees=file["lat_deg"]).isnull()
    assert gap[5, 1] and int(gap.sum()) == 1


def test_pet_from_net_radiation_and_clipping():
    ds = toy(dtype="float64")
    rnet = ds.prcp.copy(data=np.linspace(-60, 180, ds.prcp.size).reshape(ds.prcp.shape))
    found = data.potential_evapotranspiration(
        "priestley-taylor", tmean=ds.tmean, rnet=rnet, elevation=ds.elev_mean, lat_degrees=ds.lat
    )
    expected = textbook(
        "priestley-taylor",
        YEARS,
        ds.tmean.values[:, 1],
        None,
        None,
        0.0,
        rnet=rnet.values[:, 1],
        elevation=float(ds.elev_mean[1]),
    )
    np.testing.assert_allclose(found.values[:, 1], expected, rtol=1e-10)
    assert float(found.min()) == 0.0 and int((found == 0).sum()) > 100


@pytest.mark.parametrize("method", sorted(data.PET_METHODS))
def test_pet_keeps_a_missing_day_missing(method):
    ds = toy(dtype="float64")
    tmean = ds.tmean.copy()
    tmean[7, 1] = np.nan
    found = data.potential_evapotranspiration(
        method,
        tmean=tmean,
        tmin=ds.tmin,
        tmax=ds.tmax,
        srad=ds.prcp * 0 + 150,
        elevation=ds.elev_mean,
        lat_degrees=ds.lat,
    )
    assert np.isnan(found.values[7, 1]) and int(found.isnull().sum()) == 1


def test_pet_refuses():
    ds = toy(dtype="float64")
    call = data.potential_evapotranspiration
    t = {"tmean": ds.tmean, "tmin": ds.tmin, "tmax": ds.tmax}
    with pytest.raises(
        ValueError, match="one of hargreaves, oudin, oudin-airgr, priestley-taylor, found 'penman'"
    ) as e:
        call("penman", **t, lat_degrees=ds.lat)
    one_sentence(e)
    with pytest.raises(ValueError, match="tmin is needed for pet method 'hargreaves'") as e:
        call("hargreaves", tmean=ds.tmean, lat_degrees=ds.lat)
    with pytest.raises(ValueError, match="srad is needed"):
        call("priestley-taylor", **t, lat_degrees=ds.lat)
    with pytest.raises(ValueError, match="-90..90 degrees, found 100 in basin 00000002"):
        call("oudin", **t, lat_degrees=[1, 100, 2])
    with pytest.raises(ValueError, match="lat_degrees must be finite"):
        call("oudin", **t, lat_degrees=[1, np.nan, 2])
    with pytest.raises(ValueError, match=r"tmax must not be below tmin.*basin 00000001 on 1999-10-01 \(2193 such"):
        call("hargreaves", tmean=ds.tmean, tmin=ds.tmax, tmax=ds.tmin, lat_degrees=ds.lat)
    with pytest.raises(ValueError, match="same basin coordinate"):
        call("hargreaves", tmean=ds.tmean, tmin=ds.tmin.isel(basin=[2, 1, 0]), tmax=ds.tmax, lat_degrees=1)
    with pytest.raises(ValueError, match="tmean must be an xarray.DataArray"):
        call("oudin", tmean=ds.tmean.values, lat_degrees=ds.lat)
