"""Calibration of a model that is nothing like HBV: all methods, parameters fixed and freed, other steps than a day."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import has_kernel
from models.toy import toy

import hybridsolve as hs
from hybridsolve import cli
from hybridsolve.calibration import forward, report
from hybridsolve.calibration.fit import calibrate, check_arguments
from hybridsolve.calibration.objective import Objective
from hybridsolve.calibration.search import starting_points
from hybridsolve.calibration.simulate_calibrated import simulate_calibrated
from hybridsolve.calibration.space import search_space
from hybridsolve.calibration.windows import window
from hybridsolve.data import write_netcdf
from hybridsolve.data.units import unit_at
from hybridsolve.routing.gauge import simulate_to_gauge
from hybridsolve.solve.sensitivity import normal_equations

pytestmark = pytest.mark.filterwarnings("ignore:after the warm-up", "ignore:the data begin", "ignore:flow does not")
DAYS, HOURS = 86_400, 10_800
PLACES = {"capacity": 0.1, "shape": 0.4, "leak": 0.3, "k": 0.6, "kx": 0.5, "lag": 0.4}  # of the truth in the ranges


@pytest.fixture(scope="module", autouse=True)
def registered():
    before = dict(hs.models.MODELS)
    hs.models.register(toy)
    yield
    hs.models.MODELS.clear()
    hs.models.MODELS.update(before)


def made(step=DAYS, n=120, pumping=0.0):
    """Two basins whose flow is the toy's own, run twice over the same weather as the warm-up does; and the truth."""
    random = np.random.default_rng(3)
    depth = dict(units=unit_at("mm d-1", step))
    share = step / DAYS
    series = {
        "rainfall": share * random.gamma(0.5, 25.0, (n, 2)),
        "demand": share * (2 + random.random((n, 2))),
    }
    truth = toy.parameters_from_unit({name: torch.full((2, 1), u, dtype=torch.float64) for name, u in PLACES.items()})
    forcing = {name: torch.from_numpy(np.concatenate([x, x])) for name, x in series.items()}
    inputs = {"slope": torch.tensor([0.05, 0.3], dtype=torch.float64)}
    run = simulate_to_gauge(
        toy,
        forcing,
        truth | {"pumping": torch.full((1, 1), pumping, dtype=torch.float64)},
        inputs=inputs,
        step=step,
        backend="reference",
    )
    coords = {"time": pd.date_range("2001-01-01", periods=n, freq=f"{step}s"), "basin": ["a", "b"]}
    data = xr.Dataset({name: (("time", "basin"), x, depth) for name, x in series.items()}, coords)
    data["qobs"] = (("time", "basin"), run.fluxes["discharge"].numpy()[n:], depth)
    data["slope"] = ("basin", inputs["slope"].numpy(), dict(units="1"))
    return data, {name: x[:, 0].numpy() for name, x in truth.items()}


def period(data):
    return ":".join(str(day)[:10] for day in data["time"].values[[0, -1]])


def fit(data, **changes):
    arguments = dict(train=period(data), starts=4, progress=False, backend="reference") | changes
    return calibrate(data, toy, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, steps, least", [("lm", 20, 0.9999), ("gradient", 300, 0.9999), ("evolution", 200, 0.9999)]
)
def test_every_method_finds_the_flow_that_the_model_made(method, steps, least):
    if not has_kernel(toy, toy.parameter_names):
        pytest.skip("minutes by the oracle")
    data, truth = made()
    result = fit(data, method=method, steps=steps, backend="auto")
    assert (result["nse"].sel(period="train", member="best") > least).all()
    assert list(result["parameter"].values) == list(PLACES)
    assert (result["pumping"] == 0).all() and result.attrs["fixed"] == "pumping=0.0"
    assert not {name for name in result.attrs if name.endswith("_method")}
    assert result["flow"].attrs["units"] == "mm d-1"
    # The drain and the exchange of a basin can stand for each other, and to the gradient capacity and shape do as well.
    known = ("leak", "lag") if method == "gradient" else ("capacity", "shape", "leak", "lag")
    for name in known:
        np.testing.assert_allclose(result[name].values[:, 0], truth[name], rtol=0.02, err_msg=name)
    if method == "lm":
        np.testing.assert_allclose(result["k"].values[1, 0], truth["k"][1], rtol=0.02)


@pytest.mark.slow
def test_the_gradient_takes_the_same_steps_by_the_oracle():
    if not has_kernel(toy, toy.parameter_names):
        pytest.skip("there is nothing to compare the oracle with")
    data, _ = made()
    kernels, oracle = (fit(data, method="gradient", steps=3, backend=backend) for backend in ("auto", "reference"))
    for name in PLACES:
        np.testing.assert_allclose(kernels[name], oracle[name], rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_at_three_hours_parameters_are_those_of_a_day():
    data, truth = made(HOURS)
    space = search_space(toy)
    objective = Objective(space, window(data, toy, period(data), 0, "reference"), "nse")
    at_truth = torch.tensor(list(PLACES.values()), dtype=torch.float64)[:, None, None].expand(-1, 2, 1)
    with torch.no_grad():
        assert (objective(at_truth) < 1e-20).all()
    result = fit(data, steps=6)
    assert (result["nse"].sel(period="train", member="best") > 0.9).all()
    assert result["flow"].attrs["units"] == result["obs"].attrs["units"] == "mm/(3 h)"
    assert result["k"].attrs["units"] == "d-1"
    assert result["sensitivity"].attrs["units"] == "mm/(3 h)"
    flow = simulate_calibrated(result, data, fluxes=["discharge", "level"], backend="reference")
    np.testing.assert_allclose(flow["discharge"], result["flow"].sel(member="best"), atol=1e-6)
    assert flow["discharge"].attrs["units"] == "mm/(3 h)" and flow["level"].attrs["units"] == "mm"
    with pytest.raises(ValueError, match="input 'slope' must lie in .* found 7 in basin b"):
        simulate_calibrated(result, data.assign(slope=("basin", [0.1, 7.0])), backend="reference")
    with pytest.raises(ValueError, match="input 'slope' must be a variable of the data with one number for each basin"):
        fit(data.drop_vars("slope"))


def test_time_counts_in_time():
    """A warm-up of years and the year that is run twice, at three hours."""
    n = 3 * 365 * 8
    time = pd.date_range("2001-01-01", periods=n, freq="3h")
    zeros = (("time", "basin"), np.zeros((n, 1)), {"units": "mm/(3 h)"})
    data = xr.Dataset({name: zeros for name in ("rainfall", "demand", "qobs")}, {"time": time, "basin": ["a"]})
    data["slope"] = ("basin", [0.1])
    long = window(data, toy, "2003-06-01:2003-06-30", 1)
    assert (long.n_warmup, long.spun_up, long.step) == (2922, False, HOURS) and len(long.obs) == 2922 + 30 * 8
    short = window(data, toy, "2001-03-01:2002-03-31", 1)
    assert short.spun_up and short.n_warmup == 365 * 8 + 59 * 8


@pytest.mark.slow
def test_parameters_are_fixed_and_freed():
    data, truth = made(pumping=0.5)
    fixed = {"lag": float(truth["lag"][0]), "shape": float(truth["shape"][0])}
    result = fit(data, steps=10, fixed=fixed, free=["pumping"])
    assert list(result["parameter"].values) == ["capacity", "leak", "k", "kx", "pumping"]
    assert (result["lag"] == fixed["lag"]).all() and "; fixed shape=" in report.text(result)
    assert (result["nse"].sel(period="train", member="best") > 0.99).all()
    assert (result["pumping"].values[:, 0] > 0.05).all()  # its default is 0


@pytest.mark.slow
def test_a_narrower_range_is_searched():
    """Whatever is found lies in it, of a log scale too, and what lies at its ends is at a bound."""
    data, truth = made()
    leak, capacity = float(truth["leak"][0]), float(truth["capacity"][0])
    narrow = {"leak": (leak * 1.2, leak * 1.3), "capacity": (capacity / 2, capacity * 2)}
    result = fit(data, steps=10, ranges=narrow)
    for name, (lower, upper) in narrow.items():
        found = result[name]
        assert (found >= lower * (1 - 1e-6)).all() and (found <= upper * (1 + 1e-6)).all()
        assert found.attrs["valid_min"] == lower and found.attrs["valid_max"] == upper
    assert result["at_bound"].sel(parameter="leak").any()
    assert f"; ranges leak={leak * 1.2:g}:{leak * 1.3:g}, capacity=" in report.text(result)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(fixed={"fog": 1.0}), "fixed names 'fog', which is no parameter of model toy; expected any of capacity"),
        (dict(free=["fog"]), "free names 'fog'"),
        (dict(free="lag"), r"free must be a list of parameters' names; found 'lag'"),
        (dict(fixed=["lag"]), "fixed must map parameters' names to values"),
        (dict(fixed={"lag": 9.0}), r"fixed parameter 'lag' must lie in \[0, 3\] 1; found 9.0"),
        (dict(fixed={"lag": float("nan")}), "fixed parameter 'lag' must lie in .* found nan"),
        (dict(fixed={"lag": True}), "fixed parameter 'lag' must lie in .* found True"),
        (dict(ranges={"fog": (0, 1)}), "ranges names 'fog', which is no parameter of model toy"),
        (dict(ranges={"pumping": (0, 1)}), "ranges must be of parameters that are searched; found 'pumping'"),
        (dict(ranges={"lag": (1, 0)}), r"range of 'lag' must lie in \[0, 3\] 1, the lower bound first; found 1 to 0"),
        (dict(ranges={"lag": (1, 9)}), r"range of 'lag' must lie in \[0, 3\] .* found 1 to 9"),
        (dict(ranges={"lag": 1.0}), r"range of 'lag' must be two numbers; found 1.0: write \(lower, upper\)"),
        (dict(ranges=["lag"]), "ranges must map parameters' names to pairs of bounds"),
        (dict(fixed={"lag": 1.0}, free=["lag"]), "'lag' must be fixed or free; found it in both"),
        (dict(fixed=dict(capacity=50, shape=1, leak=1, k=0.1, kx=0.01, lag=1)), "all parameters .* are fixed"),
        (dict(backend="abacus"), "unknown backend 'abacus'"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_the_data(changes, message):
    with pytest.raises(ValueError, match=message):
        check_arguments(toy, train="2001-01-01:2001-02-01", **changes)


def test_an_optional_parameter_is_searched_where_it_is_freed():
    model = hs.models.get("hbv10")
    (optional,) = model.optional_parameter_names
    assert optional not in search_space(model).every_name
    freed = search_space(model, free=[optional])
    assert optional in freed.names and freed.names[-2:] == model.routing_parameter_names
    assert search_space(model, fixed={optional: 1.5}).values(torch.zeros(14, 1, 1))[optional].item() == 1.5


def test_what_a_table_fixes_by_default_is_not_searched():
    """Snow-17's depletion curve and its threshold of snowfall, SAC-SMA's SIDE, RIVA and RSERV; each can be freed."""
    model = hs.models.get("snow17+sacsma")
    space = search_space(model)
    curve = (0.05, 0.15, 0.26, 0.45, 0.5, 0.56, 0.61, 0.65, 0.69, 0.82, 1.0)
    fixed = {f"adc_{i}": x for i, x in enumerate(curve, 1)} | dict(snof=4.8, side=0.0, riva=0.0, rserv=0.3)
    assert space.fixed == fixed and not set(fixed) & set(space.names)
    assert len(space.names) + len(fixed) == len(model.every_parameter)
    values = space.values(torch.full((len(space.names), 2, 3), 0.5))
    assert {name: values[name].item() for name in fixed} == pytest.approx(fixed)
    freed = search_space(model, fixed={"rserv": 0.1}, free=["side", "adc_3"])
    _, settings = check_arguments(model, train="2001-01-01:2001-02-01", backend="reference")
    assert "rserv=0.3" in settings["fixed"] and "side=0.0" in settings["fixed"]
    assert {"side", "adc_3"} <= set(freed.names) and freed.fixed["rserv"] == 0.1 and "side" not in freed.fixed


def test_normal_equations_on_a_log_scale_are_those_of_differences():
    data, _ = made(n=40)
    space = search_space(toy)
    objective = Objective(space, window(data, toy, period(data), 0, "reference"), "nse_sqrt")
    points = starting_points(len(space.free), 2, 2, 5, torch.float64)
    with torch.no_grad():
        matrix, half, cost = objective.normal_equations(points)
        torch.testing.assert_close(cost, objective(points))
        for i in range(len(space.free)):
            step = torch.zeros_like(points)
            step[i] = 1e-6
            difference = (objective(points + step) - objective(points - step)) / 2e-6
            torch.testing.assert_close(2 * half[..., i], difference, rtol=1e-4, atol=1e-6)
    assert (torch.linalg.eigvalsh(matrix) > -1e-10).all()


def test_forward_mode_through_the_reference_agrees_with_the_kernels():
    model = hs.models.get("hbv11p")
    draw = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    forcing = {"prcp": 20 * rand(30, 2), "tmean": 10 * rand(30, 2) - 3, "pet": 3 * rand(30, 2)}
    space = search_space(model)
    values = space.values(0.2 + 0.6 * rand(16, 2, 3))
    weight = (rand(30, 2) < 0.7).double()
    given = (model, forcing, values, rand(30, 2), weight)
    shift = rand(2) + 0.1
    options = dict(transform="logarithm", shift=shift)
    found = forward.normal_equations(*given, names=space.names, backend="reference", **options)
    expected = normal_equations(*given, **options)
    assert found.names == expected.names
    for name in ("matrix", "gradient", "cost"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-9)


def test_files_in_and_out(tmp_path, capsys):
    data, _ = made()
    result = fit(data, steps=3, method="evolution", starts=2)
    written = report.write(result, tmp_path, command="test")
    assert {"calibration.nc", "parameters.png", "sensitivity.png", "hydrograph.png"} <= {p.name for p in written}
    stored = xr.load_dataset(tmp_path / "calibration.nc")
    again = simulate_calibrated(stored, data, backend="reference")
    np.testing.assert_allclose(again["discharge"], result["flow"].sel(member="best"), rtol=1e-5, atol=1e-6)
    write_netcdf(data, tmp_path / "d.nc")
    assert cli.main(["models", "toy"]) == 0
    said = capsys.readouterr().out
    for text in ("log scale", "fixed", "default 0", "slope", "outflow discharge", "4 slots"):
        assert text in said
    command = ["calibrate", str(tmp_path / "d.nc"), "--model", "toy", "--train", period(data), "--backend", "reference"]
    command += ["--out", str(tmp_path / "run")]
    assert cli.main([*command, "--fix", "fog=1"]) == 2
    assert "fixed names 'fog'" in capsys.readouterr().err
    assert cli.main([*command, "--range", "lag=1"]) == 2
    assert "--range lag must be LOW:HIGH; found '1'" in capsys.readouterr().err
    assert cli.main([*command, "--range", "lag=1:9"]) == 2
    assert "the range of 'lag' must lie in [0, 3]" in capsys.readouterr().err
    short = [
        *command,
        "--method",
        "evolution",
        "--starts",
        "2",
        "--steps",
        "2",
        "--fix",
        "lag=1.5",
        "--free",
        "pumping",
    ]
    assert cli.main(short) == 0
    out = str(tmp_path / "sim.nc")
    parameters = str(tmp_path / "run" / "calibration.nc")
    assert cli.main(["simulate", parameters, str(tmp_path / "d.nc"), "--backend", "reference", "--out", out]) == 0
    with xr.open_dataset(out) as made_, xr.open_dataset(tmp_path / "run" / "streamflow.nc") as written:
        expected = written["flow"].sel(member="best")
        np.testing.assert_allclose(made_["discharge"], expected, rtol=1e-4, atol=1e-5)
        assert made_["discharge"].attrs["long_name"] == "flow at the gauge"
    with xr.open_dataset(parameters) as stored:
        assert (stored["lag"] == 1.5).all() and "pumping" in stored["parameter"].values


def test_a_model_that_nobody_registered_is_known_by_its_name_afterwards():
    own = replace(toy, name="own")
    check_arguments(own, train="2001-01-01:2001-02-01", backend="reference")
    assert hs.models.get("own") is own
    with pytest.raises(ValueError, match="must be the registered one of its name, .* another definition of 'toy'"):
        check_arguments(replace(toy, title="Toy again"), train="2001-01-01:2001-02-01")
