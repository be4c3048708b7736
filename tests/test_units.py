"""Units of gauges: their sum by area, its gradients, a calibration and a training that see the gauge's flow."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import hybridsolve as hs
from hybridsolve.calibration.fit import calibrate
from hybridsolve.calibration.objective import Objective
from hybridsolve.calibration.simulate_calibrated import simulate_calibrated
from hybridsolve.calibration.space import search_space
from hybridsolve.calibration.windows import window
from hybridsolve.routing.convolve import reference_convolve
from hybridsolve.routing.gauge import simulate_to_gauge
from hybridsolve.routing.units import Units, at_gauges, units_of
from hybridsolve.score import metrics
from hybridsolve.solve.ordinates import ordinates

pytestmark = pytest.mark.filterwarnings("ignore:after the warm-up")
MODEL = hs.models.get("hbv11p")
TRAIN = "2001-01-01:2002-06-30"
GAUGES, AREAS = ["A", "A", "A", "B", "C", "C"], [10.0, 30.0, 60.0, 5.0, 8.0, 2.0]


def values_of(n, seed=0, dtype=torch.float64, n_gauges=None):
    """Parameters of n units, the hydrograph's of so many gauges."""
    draw = torch.Generator().manual_seed(seed)
    names = MODEL.routing_parameter_names
    unit = {
        v.name: 0.2 + 0.6 * torch.rand(n_gauges or n if v.name in names else n, 1, generator=draw, dtype=dtype)
        for v in search_space(MODEL).free
    }
    return MODEL.parameters_from_unit(unit)


def weather(n, days=120, dtype=torch.float64, seed=1):
    draw = torch.Generator().manual_seed(seed)
    random = lambda: torch.rand(days, n, generator=draw, dtype=dtype)  # noqa: E731
    return {"prcp": 20 * (random() - 0.6).clamp(min=0), "tmean": 16 * random() - 5, "pet": 3 * random()}


RECOVERED = ("beta", "fc", "k1", "tt", "cfmax")


def truth():
    """Of two gauges, which differ in five parameters."""
    gauge = values_of(2, 3, torch.float32)
    return {name: x if name in RECOVERED else x[:1].expand(2, 1) for name, x in gauge.items()}


@functools.cache
def data():
    """Two gauges of three elevation zones each, whose flow is the model's own."""
    draw = np.random.default_rng(0)
    time = pd.date_range("2000-01-01", "2002-06-30")
    season = np.sin(2 * np.pi * (time.dayofyear.to_numpy() - 110) / 365.25)[:, None]
    height = np.array([0.0, 6.0, 12.0] * 2)
    units = Units.of(["G1"] * 3 + ["G2"] * 3, [20.0, 50, 30, 10, 10, 80])
    noise = draw.normal(0, 3, (len(time), 2)).repeat(3, 1)
    series = {
        "prcp": ("mm d-1", draw.gamma(0.4, 8.0, (len(time), 2)).repeat(3, 1) * (1 + height / 40)),
        "tmean": ("degC", 10 + 9 * season + noise - height),
        "pet": ("mm d-1", np.repeat(2 + 1.7 * season, 6, 1)),
    }
    ds = xr.Dataset(coords={"time": time, "basin": [f"z{i}" for i in range(6)]})
    for name, (unit, values) in series.items():
        ds[name] = (("time", "basin"), values.astype(np.float32), {"units": unit})
    gauge = truth()
    physics = {n: x if n in MODEL.routing_parameter_names else units.spread(x) for n, x in gauge.items()}
    forcing = {name: torch.from_numpy(ds[name].values) for name in MODEL.forcing_names}
    flow = simulate_to_gauge(MODEL, forcing, physics, units=units).fluxes[MODEL.outflow]
    ds["qobs"] = (("time", "basin"), units.spread(flow.T).T.numpy(), {"units": "mm d-1"})
    ds["area_km2"] = ("basin", np.array([20.0, 50, 30, 10, 10, 80]), {"units": "km2"})
    return ds.assign_coords(gauge=("basin", ["G1"] * 3 + ["G2"] * 3))


def fit(ds=None, **changes):
    arguments = dict(model=MODEL, train=TRAIN, starts=3, warmup_years=1, progress=False)
    return calibrate(data() if ds is None else ds, **(arguments | changes))


@pytest.mark.fast
def test_equal_units_are_one_basin():
    forcing, values = weather(1), values_of(1)
    one = simulate_to_gauge(MODEL, forcing, values).fluxes[MODEL.outflow]
    two = {name: x.expand(-1, 2).contiguous() for name, x in forcing.items()}
    run = simulate_to_gauge(MODEL, two, values, units=Units.of(["a", "a"], [3.0, 7.0]))
    torch.testing.assert_close(run.fluxes[MODEL.outflow], one, rtol=1e-14, atol=1e-14)


@pytest.mark.fast
def test_the_flow_at_the_gauge_is_the_sum_by_area_through_its_hydrograph():
    units, forcing, values = Units.of(GAUGES, AREAS), weather(6), values_of(6, n_gauges=3)
    run = simulate_to_gauge(MODEL, forcing, values, units=units, fluxes=[MODEL.outflow, "snowpack"])
    physics = {n: x for n, x in values.items() if n not in MODEL.routing_parameter_names}
    q = hs.simulate(MODEL, forcing, physics, fluxes=[MODEL.outflow]).fluxes[MODEL.outflow]
    matrix = torch.tensor([[0.1, 0.3, 0.6, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0.8, 0.2]], dtype=q.dtype)
    w = ordinates(MODEL.routing, {n: values[n][:, 0] for n in MODEL.routing_parameter_names}, 86_400)
    expected = reference_convolve(q @ matrix.T, w, q.new_zeros(len(w) - 1, 3))
    torch.testing.assert_close(run.fluxes[MODEL.outflow], expected, rtol=1e-12, atol=1e-12)
    assert run.fluxes["snowpack"].shape == (120, 6)
    each = simulate_to_gauge(MODEL, forcing, values, units=units, components="each").fluxes[MODEL.outflow]
    torch.testing.assert_close(each[..., 0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.fast
def test_gradients_are_the_oracles():
    units, forcing = Units.of(GAUGES, AREAS), weather(6, 60)
    weight = torch.rand(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    found = []
    for backend in ("cpu", "reference"):
        given = {n: x.clone().requires_grad_() for n, x in values_of(6, n_gauges=3).items()}
        run = simulate_to_gauge(MODEL, forcing, given, units=units, backend=backend)
        (run.fluxes[MODEL.outflow] * weight).sum().backward()
        found.append({n: x.grad for n, x in given.items()})
    for name, ours in found[0].items():
        torch.testing.assert_close(ours, found[1][name], rtol=1e-9, atol=1e-11, msg=name)
    q = torch.rand(5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(units.summed, q) and torch.autograd.gradgradcheck(units.summed, q)


@pytest.mark.fast
def test_windows_continue_each_other():
    units, forcing, values = Units.of(GAUGES, AREAS), weather(6), values_of(6, n_gauges=3)
    whole = simulate_to_gauge(MODEL, forcing, values, units=units).fluxes[MODEL.outflow]
    first = simulate_to_gauge(MODEL, {n: x[:50] for n, x in forcing.items()}, values, units=units)
    later = {n: x[50:] for n, x in forcing.items()}
    state = dict(initial_state=first.final_state, memory=first.memory)
    second = simulate_to_gauge(MODEL, later, values, units=units, **state)
    assert torch.equal(torch.cat([r.fluxes[MODEL.outflow] for r in (first, second)]), whole)


@pytest.mark.fast
def test_bits_do_not_depend_on_other_gauges_or_threads():
    draw = torch.Generator().manual_seed(0)
    units = Units.of(np.repeat([f"g{i}" for i in range(40)], np.arange(1, 41)), np.arange(1.0, 821))
    q = torch.rand(300, 820, generator=draw)
    whole = units.summed(q)
    some, rows = units.of_gauges([30, 2, 17])
    assert some.ids == ("g30", "g2", "g17") and len(rows) == 31 + 3 + 18
    assert torch.equal(some.summed(q[:, rows]), whole[:, [30, 2, 17]])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(units.summed(q), whole)
    finally:
        torch.set_num_threads(before)


@pytest.mark.fast
def test_bad_units_are_refused():
    for gauges, areas, message in (
        (["a", "b", "a"], [1, 1, 1], "units of a gauge must follow one another; found those of a apart"),
        (["a", "b"], [1, 0], "above 0 and finite; found 0 at gauge b"),
        (["a", "b"], [1], r"areas must be \[2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            Units.of(gauges, areas)
    with pytest.raises(ValueError, match="units are 6, found 5 on axis 1"):
        Units.of(GAUGES, AREAS).summed(torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"need their areas, the variable area_km2\(basin\)"):
        units_of(data().drop_vars("area_km2"))
    other = data().copy(deep=True)
    other["qobs"][7, 1] += 1
    with pytest.raises(ValueError, match="the same in all units of gauge G1; found another in z1"):
        units_of(other)
    assert units_of(data().drop_vars("gauge")) is None
    with pytest.raises(ValueError, match=r"must be \[3, 1\]"):
        simulate_to_gauge(MODEL, weather(6), values_of(6), units=Units.of(GAUGES, AREAS))


def test_the_normal_equations_are_those_of_the_flow_at_the_gauge():
    space, period = search_space(MODEL), window(data(), MODEL, TRAIN, 1)
    objective = Objective(space, period, "nse")
    points = torch.rand(len(space.free), 2, 3, generator=torch.Generator().manual_seed(2))
    matrix, gradient, cost = objective.normal_equations(points)
    leaf = points.clone().requires_grad_()
    loss = objective(leaf)
    loss.sum().backward()
    torch.testing.assert_close(2 * gradient.permute(2, 0, 1), leaf.grad, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(cost, loss.detach(), rtol=1e-4, atol=1e-5)
    alone = Objective(space, period.basins(np.array([1])), "nse").normal_equations(points[:, 1:])
    torch.testing.assert_close(alone[0], matrix[1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method, steps, least", [("lm", 25, 0.98), ("gradient", 50, 0.9), ("evolution", 50, 0.9)])
def test_a_calibration_finds_the_flow_of_three_zones(method, steps, least):
    result = fit(method=method, steps=steps)
    assert list(result["basin"].values) == ["G1", "G2"] and result["fc"].sizes == {"basin": 2, "start": 3}
    assert (result["nse"].sel(member="best") > least).all()


def test_a_calibration_recovers_the_parameters_of_three_zones():
    fixed = {name: float(x[0, 0]) for name, x in truth().items() if name not in RECOVERED}
    result = fit(steps=40, fixed=fixed)
    for name in RECOVERED:
        np.testing.assert_allclose(result[name][:, 0], truth()[name][:, 0], rtol=0.02, atol=0.02, err_msg=name)
    run = simulate_calibrated(result, data(), period=TRAIN, warmup_years=1, fluxes=[MODEL.outflow, "snowpack"])
    np.testing.assert_allclose(run[MODEL.outflow], result["flow"].sel(member="best"), rtol=1e-5, atol=1e-5)
    assert run["snowpack"].dims == ("time", "unit") and list(run["gauge"].values) == ["G1"] * 3 + ["G2"] * 3
    one = simulate_calibrated(result, data().isel(basin=slice(3, 6)), period=TRAIN, warmup_years=1)
    assert np.array_equal(one[MODEL.outflow][:, 0], run[MODEL.outflow].sel(basin="G2"))


def test_a_gauge_is_left_out_with_all_its_units():
    holed = data().copy(deep=True)
    holed["prcp"][400, 1] = np.nan
    with pytest.warns(UserWarning, match="3 of 6 basins are left out .z0, z1, z2"):
        result = fit(holed, steps=1, skip_unusable=True)
    assert result["train_loss"].isel(basin=0).isnull().all() and result["train_loss"].isel(basin=1).notnull().all()


@pytest.mark.fast
def test_the_dataset_at_gauges():
    ds = at_gauges(data(), units_of(data()))
    assert list(ds["basin"].values) == ["G1", "G2"] and list(ds["area_km2"].values) == [100, 100]
    np.testing.assert_allclose(ds["tmean"][:, 0], data()["tmean"].values[:, :3] @ [0.2, 0.5, 0.3], rtol=1e-4, atol=1e-4)


def zones():
    """Four gauges, each much as the first of `data`, with the height as attribute."""
    one = data().isel(basin=slice(0, 3))
    parts = []
    for g in range(4):
        part = one.copy(deep=True).assign_coords(basin=[f"g{g}z{z}" for z in range(3)], gauge=("basin", [f"g{g}"] * 3))
        part["tmean"] = part["tmean"] + np.float32(0.1 * g)
        parts.append(part.assign(height=("basin", [0.0, 0.5, 1.0], {"units": "km"})))
    return xr.concat(parts, "basin", data_vars="minimal").transpose("time", "basin")


def test_a_training_sees_the_flow_at_the_gauge(tmp_path):
    config = dict(
        name="zones",
        model="hbv11p",
        components=2,
        network=dict(kind="mlp", hidden=[4]),
        attributes=["height"],
        periods=dict(train="2000-06-01:2001-09-30", validation="2001-10-01:2002-06-30"),
        batch=dict(basins=3, days=240, warmup=120),
        loss="nse_batch",
        optimiser=dict(name="adam", learning_rate=0.05),
        epochs=4,
        steps_per_epoch=5,
    )
    ds = zones()
    trained = hs.train(ds, config, out=tmp_path, progress=False, accelerator="cpu")
    found = trained.predict(ds, "2001-10-01:2002-06-30", ["streamflow", "snowpack"])
    assert found["streamflow"].sizes == {"time": 273, "basin": 4} and found["snowpack"].dims == ("time", "unit")
    obs = at_gauges(ds, units_of(ds))["qobs"].sel(time=found["time"])
    assert (metrics.nse(found["streamflow"].values, obs.values) > 0.8).all()
    alone = trained.predict(ds.isel(basin=slice(6, 9)), "2001-10-01:2002-06-30")
    np.testing.assert_allclose(alone["streamflow"][:, 0], found["streamflow"][:, 2], rtol=1e-4, atol=1e-5)
    learned = trained.parameters(ds)
    assert learned.sizes["basin"] == 12 and not np.allclose(learned["fc"][0], learned["fc"][1], rtol=1e-3)


def test_parts_of_a_prediction_hold_whole_gauges(tmp_path, monkeypatch):
    from hybridsolve.training import trained as module
    from hybridsolve.training.config import read_config
    from hybridsolve.training.loop import fit_scaling

    config = read_config(
        dict(
            name="zones",
            model="hbv11p",
            components=2,
            network=dict(kind="mlp", hidden=[4]),
            attributes=["height"],
            periods=dict(train="2001-01-01:2001-12-31"),
            loss="nse_batch",
            epochs=1,
            steps_per_epoch=1,
        )
    )
    ds = zones()
    torch.manual_seed(0)
    trained = module.Trained.of(module.make_module(config), config, fit_scaling(ds, config), ds)
    whole = trained.predict(ds)
    for size in (2, 4, 7):
        monkeypatch.setattr(module, "CELL_STEPS", 2 * ds.sizes["time"] * size)
        parts = [len(part["attributes"]) for part in module.chunks(trained, ds, None)]
        assert all(n % 3 == 0 and n <= max(size, 3) for n in parts) and sum(parts) == 12
        np.testing.assert_allclose(trained.predict(ds)["streamflow"], whole["streamflow"], rtol=1e-5, atol=1e-6)
    plain = ds.drop_vars("gauge")
    monkeypatch.setattr(module, "CELL_STEPS", 2 * ds.sizes["time"] * 5)
    assert [len(part["attributes"]) for part in module.chunks(trained, plain, None)] == [5, 5, 2]
