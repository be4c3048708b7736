"""Factors of evapotranspiration and of snow before any model: what they multiply, their gradients, and calibration."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import hybridsolve as hs
from hybridsolve import cli
from hybridsolve.calibration import report
from hybridsolve.calibration.fit import calibrate, check_arguments
from hybridsolve.calibration.simulate_calibrated import simulate_calibrated
from hybridsolve.calibration.space import search_space
from hybridsolve.climate import with_climate
from hybridsolve.data import write_netcdf
from hybridsolve.data.units import unit_at

pytestmark = pytest.mark.filterwarnings("ignore:after the warm-up", "ignore:the data begin", "ignore:flow does not")
SNOWY = ["cemaneige+gr4j", "cemaneige_hysteresis_hydrotel+hymod", "cemaneige-2+gr6j", "degreeday+xinanjiang",
         "hbv10", "hbv11p", "hbv20", "shm", "exphydro", "exphydro_hard"]  # fmt: skip
DAYS = 60


def given(model, seed=1):
    """Weather of two basins about 0 degC, inputs, and parameters in the middle of their ranges, float64."""
    draw = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    warmth = 6 * rand(DAYS, 2) - 3
    forcing = dict(prcp=20 * rand(DAYS, 2) ** 3, tmean=warmth, tmin=warmth - 3, tmax=warmth + 3, pet=3 * rand(DAYS, 2))
    forcing |= {v.name: torch.full((DAYS, 1), 6.0).double() for v in model.forcings if v.name.endswith("_lapse")}
    inputs = {v.name: 300 + 100 * rand(2) for v in model.inputs}
    unit = {v.name: torch.full((1, 1), 0.45, dtype=torch.float64) for v in model.parameters}
    return {v.name: forcing[v.name] for v in model.forcings}, inputs, model.parameters_from_unit(unit)


def run(model, forcing, inputs, parameters, backend="reference"):
    return hs.simulate(
        model, forcing, parameters, inputs=inputs or None, fluxes=model.flux_names, components="each", backend=backend
    )


@pytest.mark.parametrize("name", ["gr4j", "sacsma", *SNOWY])
def test_the_factor_multiplies_evapotranspiration(name):
    model, with_factor = hs.models.get(name), hs.models.get(f"pet_factor+{name}")
    forcing, inputs, parameters = given(model)
    found = run(with_factor, forcing, inputs, parameters | {"pet_factor": torch.full((1, 1), 1.25).double()})
    expected = run(model, forcing | {"pet": 1.25 * forcing["pet"]}, inputs, parameters)
    for flux in model.flux_names:
        assert torch.equal(found.fluxes[flux], expected.fluxes[flux]), flux


@pytest.mark.parametrize("name", SNOWY)
def test_the_factor_multiplies_what_falls_as_snow(name):
    model, with_factor = hs.models.get(name), hs.models.get(f"snow_factor+{name}")
    forcing, inputs, parameters = given(model)
    factor = lambda x: {"snow_factor": torch.full((1, 1), x).double()}  # noqa: E731
    plain, one = run(model, forcing, inputs, parameters), run(with_factor, forcing, inputs, parameters | factor(1.0))
    more = run(with_factor, forcing, inputs, parameters | factor(1.5))
    for flux in model.flux_names:
        assert torch.equal(plain.fluxes[flux], one.fluxes[flux]), flux
    assert (plain.fluxes["snowfall"] > 0).any() and (plain.fluxes["rain"] > 0).any()
    torch.testing.assert_close(more.fluxes["snowfall"], 1.5 * plain.fluxes["snowfall"], rtol=1e-12, atol=0)
    assert torch.equal(more.fluxes["rain"], plain.fluxes["rain"])
    torch.testing.assert_close(more.fluxes["catch"], 0.5 * plain.fluxes["snowfall"], rtol=1e-12, atol=1e-14)
    series = forcing | more.fluxes
    balance, k = with_factor.balance, {n: x[:, None] for n, x in inputs.items()}
    p = parameters | factor(1.5)
    start = hs.solve.check.start_of
    state = {n: start(with_factor, n, x, p["snow_factor"], (2, 1)) for n, x in with_factor.initial_state(p).items()}
    state |= {line.name: torch.zeros(line.slots - 1, 2, 1).double() for line in with_factor.lines}
    store = lambda s: (  # noqa: E731
        balance.storage(s, k, p) if balance.storage else sum(s[v.name] for v in with_factor.states if v.unit == "mm")
    )
    total = lambda names: sum(series[n].reshape(DAYS, 2, -1).sum(0) for n in names)  # noqa: E731
    gained = total(balance.gains) - total(balance.losses)
    # HBV's floors of empty stores, 1e-5 mm, make water that is no flux in 1.0 and 1.1p.
    torch.testing.assert_close(
        gained, store(more.final_state) - store(state), rtol=1e-9, atol=1e-3 if "hbv" in name else 1e-9
    )


def test_kernels_and_gradients_of_both():
    model = hs.models.get("pet_factor+snow_factor+shm")
    forcing, inputs, parameters = given(model)
    leaves = {name: x.clone().requires_grad_(True) for name, x in parameters.items()}
    grads = {}
    for backend in ("cpu", "reference"):
        flow = run(model, forcing, inputs, leaves, backend).fluxes["streamflow"]
        grads[backend] = flow, *torch.autograd.grad((flow * flow).sum(), list(leaves.values()))
    for ours, oracle in zip(grads["cpu"], grads["reference"], strict=True):
        torch.testing.assert_close(ours, oracle, rtol=1e-9, atol=1e-9)
    by_name = dict(zip(leaves, grads["cpu"][1:], strict=True))
    assert by_name["pet_factor"] < 0 < by_name["snow_factor"]


def test_the_snowfall_of_a_year_is_as_measured():
    draw, time = np.random.default_rng(0), pd.date_range("2001-01-01", periods=365)
    series = {"prcp": draw.gamma(0.5, 5.0, (365, 2)), "tmean": draw.normal(0, 4, (365, 2)), "pet": np.ones((365, 2))}
    data = xr.Dataset({name: (("time", "basin"), x) for name, x in series.items()}, {"time": time, "basin": ["a", "b"]})
    plain, factored = (with_climate(data, hs.models.get(name), "2001-01-01:2001-12-31")["annual_snowfall"]
                       for name in ("cemaneige+gr4j", "snow_factor+cemaneige+gr4j"))  # fmt: skip
    np.testing.assert_array_equal(plain, factored)


@pytest.mark.parametrize(
    "name, message",
    [
        ("pet_factor+cemaneige", "'pet_factor.cemaneige' must be of a model with the forcing 'pet'; found 'cemaneige'"),
        ("snow_factor+gr4j", "'snow_factor.gr4j' must be .* found 'gr4j', which has prcp, pet: put a snow routine"),
        ("snow_factor+snow17+sacsma", "found 'snow17.sacsma', which has 'scf', which is that factor"),
        ("pet_factor+snow_factor+pet_factor+shm", "must have 'pet_factor' once; found it in"),
    ],
)
def test_what_a_factor_cannot_reach_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        hs.models.get(name)


def test_factors_are_fixed_freed_and_narrowed():
    model = hs.models.get("shm")
    assert search_space(model).model is model
    space = search_space(model, free=["pet_factor"], ranges={"pet_factor": (0.9, 1.1)})
    assert space.model is hs.models.get("pet_factor+shm") and space.names == (*model.parameter_names, "pet_factor")
    assert (space.free[-1].lower, space.free[-1].upper) == (0.9, 1.1)
    space = search_space(model, fixed={"snow_factor": 1.3}, free=["pet_factor"])
    assert space.model.name == "pet_factor+snow_factor+shm" and space.fixed == {"snow_factor": 1.3}
    period = dict(train="2001-01-01:2001-02-01")
    _, settings = check_arguments(model, **period, free=["snow_factor", "pet_factor"], backend="reference")
    assert settings["free_factors"] == "pet_factor, snow_factor" and settings["model"] == "pet_factor+snow_factor+shm"
    _, settings = check_arguments(model, **period, fixed={"pet_factor": 1.2}, backend="reference")
    assert "free_factors" not in settings and settings["fixed"] == "pet_factor=1.2"
    for options, message in (
        (dict(ranges={"pet_factor": (0.9, 1.1)}), "ranges names 'pet_factor', which is no parameter of model shm"),
        (dict(fixed={"pet_factor": 11.0}), r"fixed parameter 'pet_factor' must lie in \[0, 10\] 1; found 11"),
        (dict(free=["pet_factor"], ranges={"pet_factor": (1, 20)}), r"range of 'pet_factor' must lie in \[0, 10\]"),
    ):
        with pytest.raises(ValueError, match=message):
            search_space(model, **options)
    with pytest.raises(ValueError, match=r"'snow_factor\+gr4j' must be of a model whose snow"):
        search_space(hs.models.get("gr4j"), free=["snow_factor"])


def test_a_factor_is_found_and_every_row_of_scores_says_so(tmp_path, capsys):
    """Flow that GR4J made with a quarter more evapotranspiration than the data have."""
    draw, time = np.random.default_rng(3), pd.date_range("2001-01-01", periods=500)
    series = {"prcp": draw.gamma(0.5, 10.0, (500, 2)), "pet": 2 + draw.random((500, 2))}
    model = hs.models.get("gr4j")
    truth = model.parameters_from_unit({n: torch.full((2, 1), 0.5, dtype=torch.float64) for n in model.parameter_names})
    forcing = {name: torch.from_numpy(np.concatenate([x[:365], x])) for name, x in series.items()}
    flow = hs.simulate(model, forcing | {"pet": 1.25 * forcing["pet"]}, truth).fluxes["streamflow"][365:]
    series["qobs"] = flow.numpy()
    depth = dict(units=unit_at("mm d-1", 86400))
    dims = ("time", "basin")
    data = xr.Dataset({n: (dims, x, depth) for n, x in series.items()}, {"time": time, "basin": ["a", "b"]})
    known = {n: float(truth[n][0]) for n in ("x2", "x3", "x4")}
    train = "2001-01-01:2002-05-15"
    result = calibrate(data, "gr4j", train=train, free=["pet_factor"], fixed=known, starts=4, steps=25, progress=False)
    assert (result["nse"].sel(member="best", period="train") > 0.9999).all()
    np.testing.assert_allclose(result["pet_factor"][:, 0], 1.25, rtol=0.02)
    assert "; free factors pet_factor" in report.text(result)
    again = simulate_calibrated(result, data)
    np.testing.assert_allclose(again["streamflow"], result["flow"].sel(member="best"), rtol=1e-6, atol=1e-8)
    write_netcdf(data, tmp_path / "d.nc")
    command = [
        "calibrate",
        str(tmp_path / "d.nc"),
        "--model",
        "gr4j",
        "--train",
        train,
        "--steps",
        "2",
        "--starts",
        "2",
    ]
    command += ["--fix", "x3=50", "--out", str(tmp_path / "run")]
    assert cli.main([*command, "--free", "pet_factor", "--range", "pet_factor=0.9:1.1"]) == 0
    table = pd.read_csv(tmp_path / "run" / "scores_best.csv")
    assert (table["free_factors"] == "pet_factor").all()
    with xr.open_dataset(tmp_path / "run" / "calibration.nc") as stored:
        assert stored.attrs["model"] == "pet_factor+gr4j" and (stored["pet_factor"] <= 1.1).all()
    assert cli.main([*command, "--overwrite"]) == 0
    assert (pd.read_csv(tmp_path / "run" / "scores_best.csv")["free_factors"] == "none").all()
