"""The Basic Model Interface: the numbers of `simulate_to_gauge`, NextGen's names and units, warm states, refusals."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import yaml
from conftest import ROOT
from models.toy import toy

import hybridsolve as hs
from hybridsolve.routing.gauge import simulate_to_gauge

pytest.importorskip("bmipy", reason="the Basic Model Interface needs bmipy")
from hybridsolve.interop import bmi  # noqa: E402

HBV, HOUR, B, T = hs.models.get("hbv11p"), 3600, 3, 30
IDS = [f"cat-{i}" for i in range(B)]
RAIN, TEMPERATURE, DEMAND = list(bmi.STANDARD.values())
DEPTH = "land_surface_water__runoff_depth"
KELVIN = 273.15


def parameters(model=HBV, n=B):
    rng = np.random.default_rng(1)
    rows = [v for v in model.every_parameter if v.default is None and v not in model.optional_parameters]
    return {v.name: (v.lower + (v.upper - v.lower) * rng.uniform(0.2, 0.8, n)).tolist() for v in rows}


def settings(**changes):
    values = dict(model="hbv11p", ids=IDS, start="2020-01-01 00:00", step=HOUR, parameters=parameters())
    return {name: x for name, x in (values | changes).items() if x is not None}


def catchments(folder, **changes):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings(**changes)))
    found = bmi.Catchments()
    found.initialize(str(path))
    return found


def forcing(n=T, b=B, seed=0):
    """The table's units: mm of a step and degC."""
    rng = np.random.default_rng(seed)
    return {"prcp": rng.gamma(0.3, 2, (n, b)), "tmean": rng.normal(3, 6, (n, b)), "pet": rng.uniform(0, 0.2, (n, b))}


def as_nextgen(f, step=HOUR):
    """By NextGen's names, in mm h-1, K and m s-1."""
    return {RAIN: f["prcp"] * HOUR / step, TEMPERATURE: f["tmean"] + KELVIN, DEMAND: f["pet"] / 1000 / step}


def put(model, series, t):
    for name, x in series.items():
        model.set_value(name, x[t])


def got(model, name):
    return model.get_value(name, np.empty(model.get_value_ptr(name).size))


def truth(f, step=HOUR, fluxes=None, **options):
    f = {name: torch.tensor(x) for name, x in f.items()}
    p = {name: torch.tensor(x, dtype=torch.float64)[:, None] for name, x in parameters().items()}
    return simulate_to_gauge(HBV, f, p, step=step, fluxes=fluxes or HBV.output_names, **options)


@pytest.mark.parametrize("step", [HOUR, 3 * HOUR, 24 * HOUR])
def test_the_numbers_are_those_of_one_run(tmp_path, step):
    """Step by step in NextGen's units, against one run of all steps in the table's."""
    model, f = catchments(tmp_path, step=step, areas=[10.0, 20.0, 0.5]), forcing()
    assert model.get_input_var_names() == (RAIN, TEMPERATURE, DEMAND)
    assert [model.get_var_units(name) for name in model.get_input_var_names()] == ["mm h-1", "K", "m s-1"]
    run = truth(f, step)
    for t in range(T):
        put(model, as_nextgen(f, step), t)
        model.update()
        for name in HBV.output_names:
            np.testing.assert_allclose(got(model, name), run.fluxes[name][t], rtol=1e-8, atol=1e-10, err_msg=name)
        depth = run.fluxes["streamflow"][t].numpy() / 1000
        np.testing.assert_allclose(got(model, DEPTH), depth, rtol=1e-8, atol=1e-13)
        np.testing.assert_array_equal(got(model, "Q_OUT"), got(model, DEPTH))
        flow = depth * np.array([10e6, 20e6, 0.5e6]) / step
        np.testing.assert_allclose(got(model, "land_surface_water__runoff_volume_flux"), flow, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(got(model, "hydrograph_memory").reshape(-1, B), run.memory, rtol=1e-8, atol=1e-10)
    assert model.get_current_time() == T * step and model.get_time_step() == step


def calls(monkeypatch):
    made = []

    def counted(model, forcing, *rest, **options):
        made.append(len(next(iter(forcing.values()))))
        return simulate_to_gauge(model, forcing, *rest, **options)

    monkeypatch.setattr(bmi, "simulate_to_gauge", counted)
    return made


def test_many_steps_in_one_call_of_the_kernel(tmp_path, monkeypatch):
    """The same bits; `update_until` holds the inputs and gives the depth of all its steps."""
    f = as_nextgen(forcing())
    one, series, held, kept = (catchments(tmp_path, areas=[1.0] * B) for _ in range(4))
    depths, flows = [], []
    for t in range(T):
        put(one, f, t)
        one.update()
        depths.append(got(one, DEPTH))
        flows.append(got(one, bmi.FLOW))
    made = calls(monkeypatch)
    found = series.update_series(f, (DEPTH, "snowpack", bmi.FLOW))
    assert made == [T]
    np.testing.assert_array_equal(found[DEPTH], depths)
    np.testing.assert_array_equal(found[bmi.FLOW], flows)
    for name in (*one.get_input_var_names(), *HBV.output_names, "hydrograph_memory"):
        np.testing.assert_array_equal(got(series, name), got(one, name), err_msg=name)
    np.testing.assert_array_equal(found["snowpack"][-1], got(one, "snowpack"))
    assert series.get_current_time() == one.get_current_time()

    for model in (held, kept):
        put(model, f, 0)
    made.clear()
    held.update_until(5.0 * HOUR)
    assert made == [5]
    each = []
    for _ in range(5):
        kept.update()
        each.append(got(kept, DEPTH))
    np.testing.assert_allclose(got(held, DEPTH), np.sum(each, 0), rtol=1e-14)
    np.testing.assert_allclose(got(held, bmi.FLOW), np.sum(each, 0) * 1e6 / (5 * HOUR), rtol=1e-14)
    np.testing.assert_array_equal(got(held, "streamflow"), got(kept, "streamflow"))
    held.update_until(5.0 * HOUR)  # no step
    assert held.get_current_time() == 5 * HOUR and made == [5, *[1] * 5]


@pytest.mark.parametrize(
    ("name", "unit", "factor"),
    [
        ("APCP_surface", None, 1.0),  # kg m-2, the sum of a step
        ("RAINRATE", None, 1 / HOUR),
        ("precip_rate", None, 1 / HOUR),
        ("rainfall", "m s-1", 1e-3 / HOUR),
        ("rainfall", "kg m-2 s-1", 1 / HOUR),
        ("rainfall", "m3 s-1", np.array([2.0, 3.0, 4.0]) * 1e3 / HOUR),
    ],
)
def test_other_names_and_units_of_forcing(tmp_path, name, unit, factor):
    given = {"prcp": {"name": name} | ({"unit": unit} if unit else {}), "tmean": {"name": "TMP_2maboveground"}}
    model, f = catchments(tmp_path, forcing=given, areas=[2.0, 3.0, 4.0]), forcing()
    as_named = {name: f["prcp"] * factor, "TMP_2maboveground": f["tmean"] + KELVIN, DEMAND: f["pet"] / 1000 / HOUR}
    assert model.get_input_var_names() == tuple(as_named)
    found = model.update_series(as_named)[DEPTH]
    np.testing.assert_allclose(found, truth(f).fluxes["streamflow"] / 1000, rtol=1e-8, atol=1e-13)


def toy_settings():
    values = dict(model="toy", parameters=parameters(toy), inputs={"slope": [0.02, 0.05, 0.2]})
    return values | {"forcing": {v.name: {"name": v.name, "value": 1.0} for v in toy.forcings}}


@pytest.mark.parametrize("values", [{}, toy_settings()], ids=["hbv11p", "toy"])
def test_a_warm_state_continues_to_the_same_bits(tmp_path, values):
    """Of a model with a hydrograph and of one with a delay line and a static input; catchments matched by id."""
    file = tmp_path / "state.nc"
    whole, first = catchments(tmp_path, **values), catchments(tmp_path, write_state=str(file), **values)
    names = whole.get_input_var_names()
    series = as_nextgen(forcing()) if not values else {n: forcing(seed=i)["prcp"] for i, n in enumerate(names)}
    expected = whole.update_series(series)[DEPTH]
    first.update_series({name: x[:11] for name, x in series.items()})
    first.finalize()
    with xr.open_dataset(file) as stored:
        assert stored["time"].values == np.datetime64("2020-01-01T11:00")
        stored.load().isel(basin=[2, 0, 1]).to_netcdf(tmp_path / "turned.nc")
    for name in (file, tmp_path / "turned.nc"):
        second = catchments(tmp_path, start="2020-01-01 11:00", state=str(name), **values)
        found = second.update_series({name: x[11:] for name, x in series.items()})[DEPTH]
        np.testing.assert_array_equal(found, expected[11:])
    for name in second._stores:
        np.testing.assert_array_equal(got(second, name), got(whole, name), err_msg=name)
    # The same by hand, variable by variable.
    third, fourth = catchments(tmp_path, **values), catchments(tmp_path, **values)
    third.update_series({name: x[:11] for name, x in series.items()})
    for name in third._stores:
        fourth.set_value(name, got(third, name))
    found = fourth.update_series({name: x[11:] for name, x in series.items()})[DEPTH]
    np.testing.assert_array_equal(found, expected[11:])


def test_a_state_that_is_set_is_where_the_next_step_begins(tmp_path):
    model, f = catchments(tmp_path), forcing(1)
    assert (got(model, "sm") == 0.001).all()  # as the table has it
    model.set_value("sm", np.array([50.0, 60.0, 70.0]))
    model.set_value_at_indices("sm", np.array([1]), np.array([65.0]))
    assert model.get_value_at_indices("sm", np.empty(2), np.array([2, 1])).tolist() == [70, 65]
    pointer = model.get_value_ptr("sm")
    put(model, as_nextgen(f), 0)
    model.update()
    start = {v.name: torch.full((B, 1), 0.001, dtype=torch.float64) for v in HBV.states}
    start["sm"] = torch.tensor([[50.0], [65.0], [70.0]], dtype=torch.float64)
    expected = truth(f, initial_state=start).fluxes["sm"][0]
    np.testing.assert_allclose(got(model, "sm"), expected, rtol=1e-9)
    np.testing.assert_array_equal(pointer, got(model, "sm"))  # the array itself


def test_parameters_of_a_table_and_of_a_calibration(tmp_path):
    p, f = parameters(), as_nextgen(forcing())
    expected = catchments(tmp_path).update_series(f)[DEPTH]
    table = pd.DataFrame({"id": IDS, **p}).iloc[[2, 0, 1]]
    table.to_csv(tmp_path / "parameters.csv", index=False)
    model = catchments(tmp_path, parameters=str(tmp_path / "parameters.csv"))
    np.testing.assert_allclose(model.update_series(f)[DEPTH], expected, rtol=1e-12)  # decimals
    stored = xr.Dataset(
        {name: (("basin", "start"), np.stack([x, np.full(B, HBV.variable(name).lower)], 1)) for name, x in p.items()},
        coords={"basin": IDS},
        attrs={"model": "hbv11p", "ensemble_size": 2},
    )
    stored.isel(basin=[1, 2, 0]).to_netcdf(tmp_path / "calibration.nc")
    model = catchments(tmp_path, parameters=str(tmp_path / "calibration.nc"))
    np.testing.assert_array_equal(model.update_series(f)[DEPTH], expected)
    one = {name: x[1] for name, x in p.items()}  # numbers for all
    np.testing.assert_array_equal(catchments(tmp_path, parameters=one).update_series(f)[DEPTH][0, 1], expected[0, 1])


def test_time_grid_and_variables(tmp_path):
    model = catchments(tmp_path, end="2020-01-02")
    assert (model.get_start_time(), model.get_end_time(), model.get_time_units()) == (0, 86400, "s")
    assert catchments(tmp_path).get_end_time() == np.finfo(float).max
    assert model.get_grid_type(0) == "unstructured" and model.get_grid_rank(0) == 1 and model.get_grid_size(0) == B
    assert model.get_grid_x(0, np.empty(B)).tolist() == [0, 1, 2] and model.get_grid_node_count(0) == B
    assert model.get_grid_edge_count(0) == model.get_grid_face_count(0) == 0
    assert model.get_var_location("sm") == "node" and model.get_var_location("hydrograph_memory") == "none"
    assert model.get_var_type("sm") == "float64" and model.get_var_nbytes("sm") == 8 * B
    assert model.get_var_units("streamflow") == "mm h-1" and model.get_var_units("sm") == "mm"
    assert bmi.FLOW not in model.get_output_var_names()  # without areas
    assert np.isnan(got(model, DEPTH)).all()  # no step yet
    one = catchments(tmp_path, ids=["a"], parameters=parameters(n=1))
    assert one.get_grid_type(0) == "scalar" and one.get_grid_rank(0) == 0
    for name, more in (("shape", ()), ("spacing", ()), ("origin", ()), ("y", ()), ("z", ()), ("edge_nodes", ())):
        with pytest.raises(NotImplementedError, match="points without coordinates"):
            getattr(model, f"get_grid_{name}")(0, np.empty(1), *more)


def refusal(action, error=ValueError):
    with pytest.raises(error) as caught:
        action()
    said = str(caught.value)
    assert said.endswith(".") and not re.search(r"[.!?]\s|\n", said), said
    return said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(modle="hbv11p"), "the key 'modle' is unknown: remove or rename it"),
        (dict(model=None), "the key 'model' is missing: add it"),
        (dict(model="hbv99"), "unknown model 'hbv99'"),
        (dict(step=1.5), "the key 'step' does not fit"),
        (dict(step=7000), "runs at steps that divide a day; found 7000 s"),
        (dict(start="yesterday"), "must be a date such as 2020-01-31 06:00; found 'yesterday'"),
        (dict(end="2020-01-01"), "must lie a step or more after start"),
        (dict(ids=[]), "the key 'ids' does not fit"),
        (dict(ids=[7, 8, 9]), "should be a valid string; found 7"),
        (dict(ids=["a", "b", "a"]), "must be unique; found 'a' more than once"),
        (dict(areas=[1.0, 2.0]), "areas of {path} must be one number, or 3 as ids; found 2"),
        (dict(areas=[1.0, 2.0, 0.0]), "must be above 0 km2; found 0"),
        (dict(parameters={"fc": 100.0}), "parameters lacks 'beta'"),
        (dict(parameters=parameters() | {"fc": [1.0, 2.0]}), "fc of parameters of {path} must be one number, or 3"),
        (dict(parameters=parameters() | {"fc": 1e9}), "'fc'"),
        (dict(parameters=parameters() | {"magic": 1.0}), "parameters has 'magic', which hbv11p does not take"),
        (dict(inputs={"slope": 1.0}), "inputs has 'slope', which hbv11p does not take"),
        (dict(forcing={"rain": {"name": "RAINRATE"}}), "forcing of {path} has 'rain', which hbv11p does not take"),
        (dict(forcing={"prcp": {"name": "rainfall"}}), "must come with its unit"),
        (dict(forcing={"prcp": {"name": "rainfall", "unit": "K"}}), "found 'K'"),
        (dict(forcing={"tmean": {"name": "T", "unit": "mm h-1"}}), "must be in a unit of a temperature"),
        (dict(forcing={"prcp": {"name": "rainfall", "unit": "buckets"}}), "a unit that is not known, 'buckets'"),
        (dict(forcing={"prcp": {"name": "rainfall", "unit": "m3 s-1"}}), "needs areas in km2"),
        (dict(forcing={"prcp": {"name": "sm", "unit": "mm"}}), "the name 'sm' must belong to one variable"),
        (dict(write_state="nowhere/state.nc"), "the folder of write_state nowhere/state.nc must exist"),
    ],
)
def test_refused_configurations(tmp_path, changes, words):
    said = refusal(lambda: catchments(tmp_path, **changes), (ValueError, FileNotFoundError))
    assert words.format(path=tmp_path / "config.yaml") in said


def test_refused_files(tmp_path):
    said = refusal(lambda: bmi.Catchments().initialize(str(tmp_path / "none.yaml")), FileNotFoundError)
    assert "none.yaml does not exist, expected a configuration in YAML" in said
    (tmp_path / "bad.yaml").write_text("a: [")
    assert "is not YAML" in refusal(lambda: bmi.Catchments().initialize(str(tmp_path / "bad.yaml")))
    (tmp_path / "list.yaml").write_text("[1]")
    assert "must be a mapping of keys" in refusal(lambda: bmi.Catchments().initialize(str(tmp_path / "list.yaml")))
    table = tmp_path / "parameters.csv"
    assert "does not exist" in refusal(lambda: catchments(tmp_path, parameters=str(table)), FileNotFoundError)
    frame = pd.DataFrame({"id": IDS, **parameters()})
    frame[:2].to_csv(table, index=False)
    assert "found no cat-2: add them" in refusal(lambda: catchments(tmp_path, parameters=str(table)))
    frame.assign(fc=[1.0, np.nan, 2.0]).to_csv(table, index=False)
    assert "'fc' of" in refusal(lambda: catchments(tmp_path, parameters=str(table)))
    p10 = parameters(hs.models.get("hbv10"))
    other = xr.Dataset({n: (("basin", "start"), np.array(x)[:, None]) for n, x in p10.items()}, {"basin": IDS})
    other.assign_attrs(model="hbv10", ensemble_size=1).to_netcdf(tmp_path / "calibration.nc")
    said = refusal(lambda: catchments(tmp_path, parameters=str(tmp_path / "calibration.nc")))
    assert "must be of model hbv11p; found hbv10" in said


def test_refused_states(tmp_path):
    file = str(tmp_path / "state.nc")
    model = catchments(tmp_path)
    model.update_series(as_nextgen(forcing(2)))
    model.save_state(file)

    def at(**changes):
        return refusal(lambda: catchments(tmp_path, **({"start": "2020-01-01 02:00", "state": file} | changes)))

    ten = dict(model="hbv10", parameters=parameters(hs.models.get("hbv10")))
    assert "must be of the model 'hbv10' as it is defined here; found that of one with another name" in at(**ten)
    assert "must be a state of time 2020-01-01T00:00:00; found 2020-01-01T02:00:00" in at(start="2020-01-01")
    assert "must be a state of step 10800; found 3600" in at(step=3 * HOUR)
    assert "found no cat-9" in at(ids=["cat-9", "cat-1", "cat-2"])
    assert "write_state must not be state" in at(write_state=file)
    with xr.open_dataset(file) as stored:
        stored = stored.load()
    stored.drop_vars("sm").to_netcdf(tmp_path / "less.nc")
    assert "found no sm in it" in at(state=str(tmp_path / "less.nc"))
    stored.assign(sm=stored["sm"] * np.nan).to_netcdf(tmp_path / "gap.nc")
    assert "3 that are not" in at(state=str(tmp_path / "gap.nc"))
    xr.Dataset({"x": 1}).to_netcdf(tmp_path / "other.nc")
    assert "found no model, definition, step in it" in at(state=str(tmp_path / "other.nc"))
    (tmp_path / "text.nc").write_text("x")
    assert "could not be read as NetCDF" in at(state=str(tmp_path / "text.nc"))
    negative = stored.assign(sm=stored["sm"] * 0 - 1)
    negative.to_netcdf(tmp_path / "negative.nc")
    model = catchments(tmp_path, start="2020-01-01 02:00", state=str(tmp_path / "negative.nc"))
    assert "'sm' must be" in refusal(lambda: model.update_series(as_nextgen(forcing(1))))
    assert model.get_current_time() == 0  # nothing has moved


def test_refused_calls(tmp_path):
    with pytest.raises(ValueError, match="must be initialized first"):
        bmi.Catchments().update()
    assert bmi.Catchments().get_component_name() == "hybridsolve"
    model = catchments(tmp_path, end="2020-01-01 10:00")
    put(model, {name: x for name, x in as_nextgen(forcing(1)).items() if name != TEMPERATURE}, 0)
    assert f"input '{TEMPERATURE}' must be a finite number in every catchment; found none in cat-0" in refusal(
        model.update
    )
    put(model, as_nextgen(forcing(1)), 0)
    model.update_until(4 * HOUR)
    assert "must not go back from 14400 s; found 3600 s" in refusal(lambda: model.update_until(HOUR))
    assert "must be a multiple of the step of 3600 s" in refusal(lambda: model.update_until(4.5 * HOUR))
    assert "must not pass the end, 2020-01-01 10:00" in refusal(lambda: model.update_until(11 * HOUR))
    assert "is computed and cannot be set" in refusal(lambda: model.set_value("q0", np.zeros(B)))
    assert "unknown variable 'rain_rate'" in refusal(lambda: model.set_value("rain_rate", np.zeros(B)))
    assert "must be set to finite numbers; found nan" in refusal(lambda: model.set_value(RAIN, np.full(B, np.nan)))
    assert f"'{RAIN}' has 3 numbers; found 2 for 3 places" in refusal(lambda: model.set_value(RAIN, np.zeros(2)))
    said = refusal(lambda: model.set_value_at_indices(RAIN, np.array([-1]), np.zeros(1)))
    assert "give one for each, from 0 to 2" in said
    assert "has 3 numbers; found 1" in refusal(lambda: model.get_value("sm", np.empty(1)))
    assert "grid must be 0" in refusal(lambda: model.get_grid_size(1))
    assert "lies on no grid" in refusal(lambda: model.get_var_grid("hydrograph_memory"))
    f = as_nextgen(forcing(2))
    less = {name: x for name, x in f.items() if name != RAIN}
    assert "give each input, and no other" in refusal(lambda: model.update_series(less))
    assert "must be [2, 3], steps and catchments" in refusal(lambda: model.update_series(f | {RAIN: np.zeros((2, 2))}))
    assert "found 'flow': correct it" in refusal(lambda: model.update_series(f, ("flow",)))
    assert "prcp" in refusal(lambda: model.update_series(f | {RAIN: np.full((2, B), -1.0)}))
    assert model.get_current_time() == 4 * HOUR  # where it was
    model.finalize()
    assert "must be initialized first" in refusal(model.get_current_time)


def test_a_refused_configuration_leaves_nothing_half_made(tmp_path):
    model = catchments(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings(state="nowhere.nc")))
    refusal(lambda: model.initialize(str(tmp_path / "config.yaml")), FileNotFoundError)
    assert "must be initialized first" in refusal(model.update)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 3] if os.environ.get("HYBRIDSOLVE_TEST_MODELS") == "all" else [3])
def test_the_tester_of_the_interface_passes(tmp_path, n):
    pytest.importorskip("bmi_tester", reason="needs bmi-tester")
    first = zip(bmi.STANDARD.items(), (1.0, 280.0, 1e-8), strict=True)  # it sets no input before it updates
    given = {row: {"name": name, "value": value} for (row, name), value in first}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings(ids=IDS[:n], parameters=parameters(n=n), forcing=given)))
    # Its fixtures lie in a folder above its tests, which pytest finds from any working folder only if told so.
    options = {"PYTEST_ADDOPTS": "--confcutdir=/ -p no:cacheprovider", "PYTHONPATH": str(ROOT)}
    command = [str(Path(sys.executable).with_name("bmi-test")), "hybridsolve.interop.bmi:Catchments"]
    command += ["--root-dir", str(tmp_path), "--config-file", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"\d+ passed", done.stdout)) == 4, done.stdout  # its stages
