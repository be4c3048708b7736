"""The model library against numbers of published programs on real catchments: ../shared/golden says which and how.

Kernels are held against the plain loop, which runs here, elsewhere. Where a step is long the loop takes the first year
by day, and all four every night.
"""

import os

import numpy as np
import pytest
import torch
from conftest import golden

import hybridsolve as hs
from hybridsolve.models import snow17_point
from hybridsolve.models.xinanjiang import as_published
from hybridsolve.routing.gauge import simulate_to_gauge
from hybridsolve.solve.ordinates import ordinates

ALL_DAYS = os.environ.get("HYBRIDSOLVE_TEST_MODELS") == "all"
FORCING = {"prcp": "prcp_mm_d", "pet": "pet_mm_d", "tmean": "tmean"}


class File:
    """The numbers of one file as tensors, and its runs as basins of ours."""

    def __init__(self, name):
        self.text = golden(name)
        self.numbers = {n: torch.from_numpy(x) for n, x in self.text.items() if x.dtype.kind in "fi"}

    def __getitem__(self, name):
        return self.numbers[name]

    @property
    def runs(self):
        return self["basin_of_run"].long()

    def forcing(self, model, runs=None, **other):
        """``[T, run]``; `other` names what stands in place of the usual."""
        names = {n: FORCING[n] for n in model.forcing_names} | other
        basins = self.runs if runs is None else self.runs[runs]
        return {n: self[name][:, basins] for n, name in names.items()}


def simulate(model, forcing, parameters, state, short=False, **options):
    """All outputs ``[T, run]``, of a year by day if the run is to be short."""
    run = hs.simulate(
        model,
        {n: x[: None if ALL_DAYS or not short else 365] for n, x in forcing.items()},
        {n: x[:, None] for n, x in parameters.items()},
        initial_state={n: x[..., None] for n, x in state.items()},
        fluxes=model.output_names,
        components="each",
        backend="reference",
        **options,
    )
    return {n: x[..., 0] for n, x in run.fluxes.items()}


def assert_near(found, expected, tolerance):
    """Largest difference, mm or mm/d, of every series; a tensor of tolerances is by run."""
    for name, x in expected.items():
        error = (found[name].detach() - x[: len(found[name])]).abs().amax(0)
        assert (error <= tolerance).all(), f"{name}: {error.max():.3g} off in run {int(error.argmax())}"


def gr_of(name, file):
    """Model, forcing, parameters and start of a file of the GR family."""
    model = hs.models.get(name)
    parameters = dict(zip(model.parameter_names, file["params"].T, strict=True))
    state = {"production": file["init_prod_mm"], "routing": file["init_rout_mm"]}
    for line in model.lines:
        state[line.name] = file[f"init_{line.name}_mm"].T[1:]  # slot 1 is released already
    if name == "gr6j":
        state["exponential"] = file["init_exp_mm"]
    return model, file.forcing(model), parameters, state


GR = {
    "streamflow": "flux/Qsim",
    "aet": "flux/AE",
    "exchange": "flux/AExch",
    "percolation": "flux/Perc",
    "q9": "flux/Q9",
    "q1": "flux/Q1",
    "qr": "flux/QR",
    "qd": "flux/QD",
    "production": "state/prod",
    "routing": "state/rout",
}


@pytest.mark.parametrize("name", ("gr4j", "gr5j", "gr6j"))
def test_gr(name):
    file = File(f"shared_airgr_{name}")
    found = simulate(*gr_of(name, file))
    names = GR | ({"qrexp": "flux/QRExp", "exponential": "state/exp"} if name == "gr6j" else {})
    assert_near(found, {n: file[key] for n, key in names.items()}, 1e-9)


def test_gr4j_of_its_authors():
    """RRMPG, which agrees with the authors' spreadsheet."""
    file, model = File("rrmpg_gr4j"), hs.models.get("gr4j")
    parameters = {n: x[None] for n, x in zip(model.parameter_names, file["params"], strict=True)}
    state = {line.name: torch.zeros(line.slots - 1, 1, dtype=torch.float64) for line in model.lines}
    state["production"] = file["s_init_frac"] * parameters["x1"]
    state["routing"] = file["r_init_frac"] * parameters["x3"]
    found = simulate(model, {"prcp": file["prec"][:, None], "pet": file["etp"][:, None]}, parameters, state)
    names = {"streamflow": "qsim", "production": "s_store", "routing": "r_store"}
    assert_near(found, {n: file[key][:, None] for n, key in names.items()}, 1e-9)


def compare_gradients(found, file, group, columns, key="grad_params"):
    """d loss / d parameter, where the finite differences are good to 1e-6."""
    expected, error = file[f"{group}/{key}"], file[f"{group}/err"]
    usable = error <= 1e-6 * expected.abs()
    assert usable.double().mean() > 0.7
    for name, i in columns.items():
        good = usable[:, i]
        if not good.any():
            continue
        off, size = ((x.abs())[good] for x in (found[name] - expected[:, i], expected[:, i]))
        allowed = 10 * error[:, i][good] + 1e-8 * size + 1e-9 * size.max()
        assert (off <= allowed).all(), f"{name}: {off.max():.3g} off"


@pytest.mark.nightly
@pytest.mark.parametrize("name", ("gr4j", "gr5j", "gr6j"))
def test_gradients_of_gr(name):
    differences = File("shared_fd_gradients")
    model, forcing, parameters, state = gr_of(name, File(f"shared_airgr_{name}"))
    parameters = {n: x.clone().requires_grad_() for n, x in parameters.items()}
    flow = simulate(model, forcing, parameters, state)["streamflow"]
    loss = (differences[f"{name}/weight"][:, None] * flow).sum()
    found = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    compare_gradients(found, differences, name, {n: i for i, n in enumerate(model.parameter_names)})


def test_hymod():
    file, model = File("shared_spotpy_hymod"), hs.models.get("hymod")
    parameters = dict(zip(model.parameter_names, file["params"].T, strict=True))
    found = simulate(model, file.forcing(model), parameters, {})
    names = dict(streamflow="flux/q", slowflow="flux/qs", quickflow="flux/qq", soil="state/x_loss")
    names |= dict(slow="state/x_slow", quick1="state/xq1", quick2="state/xq2", quick3="state/xq3")
    effective = {"effective": file["flux/er1"] + file["flux/er2"]}
    assert_near(found, {n: file[key] for n, key in names.items()} | effective, 1e-9)


def test_hymod_delayed():
    """Behind the program's own snow; values and gradients."""
    file, model = File("shared_herman_hymod"), hs.models.get("hymod_delayed")
    columns = dict(cmax=7, b=6, alpha=5, ks=0, kq=1, kv=8)
    parameters = {n: file["params"][:, i].clone().requires_grad_() for n, i in columns.items()}
    height, *tanks = file["init"].T[[0, 1, 3, 4, 5]]
    state = dict(zip(("slow", "quick1", "quick2", "quick3"), tanks, strict=True))
    mean = parameters["cmax"] / (1 + parameters["b"])
    state["soil"] = mean * (1 - (1 - height / parameters["cmax"]) ** (1 + parameters["b"]))
    forcing = {"prcp": file["flux/effPrecip"], "pet": file.forcing(model)["pet"]}
    found = simulate(model, forcing, parameters, state)
    names = dict(streamflow="flux/Q", slowflow="flux/Qs", quickflow="flux/Qq", effective="flux/OV", aet="flux/AE")
    names |= dict(soil="state/XCuz", slow="state/Xs", quick1="state/Xq1", quick2="state/Xq2", quick3="state/Xq3")
    assert_near(found, {n: file[key] for n, key in names.items()}, 1e-9)

    differences = File("shared_fd_gradients")
    loss = (differences["herman_hymod/weight"][:, None] * found["streamflow"]).sum()
    gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    compare_gradients(gradients, differences, "herman_hymod", columns)


def test_exphydro():
    """States of P-RNN, whose fluxes are those of the state after the step, and are not compared."""
    file, model = File("shared_exphydro"), hs.models.get("exphydro")
    names = dict(f=0, smax=1, qmax=2, df=3, tmax=4, tmin=5)
    parameters = {n: file["params"][:, i] for n, i in names.items()}
    found = simulate(model, file.forcing(model, pet="pet_hamon_mm_d"), parameters, {})
    assert_near(found, {"snow": file["prnn/state/S0"], "soil": file["prnn/state/S1"]}, 1e-9)


@pytest.mark.parametrize("name, kind", (("exphydro", "smooth"), ("exphydro_hard", "hard")))
def test_fluxes_of_exphydro(name, kind):
    """Of one step, near the thresholds."""
    file, model = File("shared_exphydro"), hs.models.get(name)
    parameters = {n: file["rhs/params"][:, i] for i, n in enumerate(model.parameter_names)}
    forcing = {"prcp": file["rhs/P"][None], "tmean": file["rhs/T"][None], "pet": file["rhs/pet"][None]}
    found = simulate(model, forcing, parameters, {"snow": file["rhs/S0"], "soil": file["rhs/S1"]})
    expected = file[f"rhs/{kind}_Ps_Pr_M_ET_Qb_Qs"].T[:, None]
    names = ("snowfall", "rain", "melt", "aet", "baseflow", "spill")
    assert_near(found, dict(zip(names, expected, strict=True)), 1e-12)


def test_shm():
    """Parameters that vary by day; values, and gradients to all of them and the forcing."""
    file, model = File("shared_neuralhydrology_shm"), hs.models.get("shm")
    raw = file["lstm_out_raw"].transpose(0, 1).clone().requires_grad_()
    x = file["x_P_PET_Tmin_Tmax"].transpose(0, 1).clone().requires_grad_()
    lower, upper = file["bounds"].T
    parameters = (lower + torch.sigmoid(raw) * (upper - lower)).unbind(-1)
    run = hs.simulate(
        model,
        {"prcp": x[..., 0], "pet": x[..., 1], "tmean": (x[..., 2] + x[..., 3]) / 2},
        {str(n): p[..., None] for n, p in zip(file.text["param_names"], parameters, strict=True)},
        initial_state={
            str(n): s.expand(4, 1) for n, s in zip(file.text["state_names"], file["init_states"], strict=True)
        },
        fluxes=model.output_names,
        backend="reference",
    ).fluxes
    expected = {n: file[f"state/{n}"].T for n in model.state_names} | {"streamflow": file["y_hat"][..., 0].T}
    assert_near(run, expected, 1e-9)
    loss = (file["loss_weight"][..., 0].T * run["streamflow"]).sum()
    assert abs(float(loss.detach()) - float(file["loss"])) < 1e-9 * float(file["loss"])
    d_raw, d_x = torch.autograd.grad(loss, (raw, x))
    # By design apart: torch splits the gradient of min(snowpack, 0) where there is no snow; so on dry days of frost.
    tied = (x[..., 0] == 0) & (x[..., 2] + x[..., 3] < 0)
    assert 0 < tied.sum() < tied.numel() / 4
    d_x[..., 0][tied] = file["grad_x"].transpose(0, 1)[..., 0][tied]
    for found, key in ((d_raw, "grad_raw"), (d_x, "grad_x")):
        published = file[key].transpose(0, 1)
        for i in range(published.shape[-1]):
            error = (found[..., i] - published[..., i]).abs().max()
            assert error <= 1e-9 * published[..., i].abs().max(), f"{key} {i}: {error:.3g} off"


def xinanjiang_of(file, book):
    """Runs of a book whose runoff is not cut in pieces, their forcing, parameters and start; and where flow is routed
    by lag and recession."""
    of_kind = (file.text["source_book"] == book) & (file.text["source_type"] == "sources")
    runs = torch.from_numpy(of_kind).nonzero()[:, 0]
    model = hs.models.get("xinanjiang" if book == "HF" else "xinanjiang_eh")
    p = {n: file["params"][runs, i].clone() for i, n in enumerate(model.parameter_names)}
    routed = torch.from_numpy(file.text["routing"] == "CSL")[runs]
    p["cs"][~routed] = p["lag"][~routed] = 0  # shape and scale of another hydrograph, which is not compared
    state = {n: 0.5 * p[m] for n, m in (("wu", "um"), ("wl", "lm"), ("wd", "dm"), ("s", "sm"))}
    state |= {n: 0.1 * p[m] / (1 - p[m]) for n, m in (("vi", "ci"), ("vg", "cg"))}  # qi = qg = 0.1 mm/d
    # hydromodel gives the first days' flow as it enters the channel; a delay line that holds it gives the same.
    flow, delay = file["flux/q"][:, runs], torch.zeros(11, len(runs), dtype=torch.float64)
    for i, days in enumerate(p["lag"].int().tolist()):
        before = torch.cat([flow.new_zeros(1), flow[:, i]])[:days]
        delay[:days, i] = (flow[:days, i] - p["cs"][i] * before) / (1 - p["cs"][i])
    return runs, model, file.forcing(model, runs), p, state | {"delay": delay}, routed


XINANJIANG = dict(runoff="flux/r", surface="flux/rs", interflow="flux/ri", groundwater="flux/rg")
XINANJIANG |= {n: f"state/{n}" for n in ("wu", "wl", "wd", "s", "fr")}


@pytest.mark.parametrize("book", ("HF", "EH"))
def test_xinanjiang_as_published(book):
    file = File("shared_hydromodel_xaj")
    runs, model, forcing, parameters, state, routed = xinanjiang_of(file, book)
    found = simulate(as_published(model), forcing, parameters, state, short=True)
    assert_near(found, {n: file[key][:, runs] for n, key in XINANJIANG.items()}, 1e-9)
    assert routed.any()
    flow = {"streamflow": found["streamflow"][:, routed]}
    assert_near(flow, {"streamflow": file["flux/q"][:, runs[routed]]}, 1e-9)


@pytest.mark.parametrize("book", ("HF", "EH"))
def test_xinanjiang_conserves_what_the_published_program_loses(book):
    """By design apart: what hydromodel cuts off runs off here, a hundred-thousandth of a mm of the soil in a day."""
    file = File("shared_hydromodel_xaj")
    runs, model, forcing, parameters, state, _ = xinanjiang_of(file, book)
    ours = simulate(model, forcing, parameters, state, short=True)
    theirs = simulate(as_published(model), forcing, parameters, state, short=True)
    dry = theirs["made"].amax(0) > 1e-9  # where hydromodel's deep layer evaporates what it does not have
    assert_near({n: ours[n][:, ~dry] for n in ours}, {n: theirs[n][:, ~dry] for n in ("wu", "wl", "wd")}, 1e-9)
    assert_near({"r": ours["runoff"][:, ~dry]}, {"r": theirs["runoff"][:, ~dry]}, 1.1e-5)
    assert (theirs["made"].sum(0) < -1e-5).any()
    assert (ours["surface"].sum(0) > theirs["surface"].sum(0) - 1e-3).all()


HBV = dict(streamflow="streamflow_no_rout", q0="srflow_no_rout", q1="ssflow_no_rout", q2="gwflow_no_rout")
HBV |= dict(aet="AET_hydro", swe="SWE", recharge="recharge", excess="excs", infiltration="tosoil")
HBV |= dict(percolation="percolation", capillary="capillary", evapfactor="evapfactor")


@pytest.mark.parametrize("kind", ("static", "dynamic"))
def test_hbv20(kind):
    """States, fluxes routed and not, loss and gradients; three components."""
    file, model = File(f"shared_hydrodl2_hbv20_{kind}_routed"), hs.models.get("hbv20")
    leaves = {n: file[n].clone().requires_grad_() for n in ("par_static01", "par_dynamic01", "forcing_P_T_PET")}
    fixed, moving, forcing = leaves.values()
    unit = {}
    for of, names in ((fixed, file.text["static_names"]), (moving, file.text["dynamic_names"])):
        for i, name in enumerate(names):
            unit[name.removeprefix("par").lower()] = of[..., 3 * i : 3 * i + 3]
    unit |= {"route_a": fixed[:, -2], "route_b": fixed[:, -1]}
    given = model.parameters_from_unit(unit)
    run = hs.simulate(
        model,
        dict(zip(model.forcing_names, forcing.unbind(-1), strict=True)),
        {n: given[n] for n in model.parameter_names},
        inputs={"area_km2": file["area_km2"], "elev_mean": file["elevation_m"]},
        initial_state={n: torch.full((4, 3), 0.001, dtype=torch.float64) for n in model.state_names},
        fluxes=model.output_names,
        components="each",
        backend="reference",
    ).fluxes
    mean = {n: x.mean(-1) for n, x in run.items()}
    routed = {n: hs.unit_hydrograph(mean[n], given["route_a"], given["route_b"]) for n in ("streamflow", "q0", "q2")}
    for name in model.state_names:
        assert_near({"s": run[name].flatten(1)}, {"s": file[f"state/{name.upper()}"].flatten(1)}, 1e-9)
    assert_near(mean, {n: file[f"flux/{key}"][..., 0] for n, key in HBV.items()}, 1e-9)
    names = dict(streamflow="streamflow", q0="srflow", q2="gwflow")
    assert_near(routed, {n: file[f"flux/{key}"][..., 0] for n, key in names.items()}, 1e-9)

    series = {"streamflow": routed["streamflow"], "AET_hydro": mean["aet"], "SWE": mean["swe"]}
    loss = sum((file[f"loss_weight/{n}"][..., 0] * x).sum() for n, x in series.items())
    assert abs(float(loss.detach()) - float(file["loss"])) < 1e-9 * abs(float(file["loss"]))
    wanted = {f"grad_{n}": x for n, x in leaves.items() if x.numel()}
    wanted["grad_forcing"] = wanted.pop("grad_forcing_P_T_PET")
    found = dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))
    # By design apart: torch splits the gradient of a minimum at a tie, which dry days of frost meet.
    prcp, tmean = file["forcing_P_T_PET"][..., 0], file["forcing_P_T_PET"][..., 1]
    tt = torch.where(file["elevation_m"] >= 2000, 4.0, given["tt"].detach().amax(-1))
    tied = (prcp == 0) & (tmean < tt)
    found["grad_forcing"][..., 0][tied] = file["grad_forcing"][..., 0][tied]
    for key, x in found.items():
        assert (x - file[key]).abs().max() <= 1e-9 * file[key].abs().max(), key


def cemaneige_of(case, file, runs):
    """Model, forcing, parameters, inputs and start of runs of CemaNeige on one basin."""
    key, hysteresis = f"case{case}/", runs[0].startswith("hyst")
    rule = "_hydrotel" if str(file.text[key + "solid_fraction_rule"]) == "Hydrotel" else ""
    front = hs.models.get(f"cemaneige{'_hysteresis' if hysteresis else ''}{rule}")
    model = hs.models.layered(front, int(file[key + "n_layers"]), scaled=bool(file[key + "precip_scale"]))
    table = {tuple(day): i for i, day in enumerate(file["gradT_month_day"].tolist())}
    days = [table[int(day[5:7]), int(day[8:10])] for day in map(str, file.text["date"])]
    lapse = file["gradT_degC_per_100m_by_day366"][days]
    columns = {str(name).lower(): i for i, name in enumerate(file.text["gradT_columns"])}
    forcing = {"prcp": file[key + "prcp_mm_d"], "pet": file[key + "pet_mm_d"]}
    for name in ("tmean", "tmin", "tmax"):
        forcing |= {name: file[key + name], f"{name}_lapse": 10 * lapse[:, columns[name]]}
    snowfall = file[key + "mean_annual_solid_mm"]
    inputs = {"annual_snowfall": snowfall, "elev_mean": file[key + "z_input_m"]}
    inputs |= {f"elev_layer_{i + 1}": z for i, z in enumerate(file[key + "z_layers_m"])}
    p = torch.stack([file[f"{key}{run}/params"] for run in runs])
    start = torch.stack([file[f"{key}{run}/init"] for run in runs])  # run, layer, store
    layers = range(start.shape[1])
    state = {f"{n}_{i + 1}": start[:, i, j] for i in layers for j, n in enumerate(("snow", "thermal"))}
    if hysteresis:
        peaks = start[:, :, 3] / (p[:, 3:] * snowfall)
        state |= {f"peak_{i + 1}": torch.where(peaks[:, i] > 0, peaks[:, i], 1.0) for i in layers}
    return (
        model,
        {n: x[:, None] for n, x in forcing.items()},
        dict(zip(front.parameter_names, p.T, strict=True)),
        {n: x.double()[None] for n, x in inputs.items()},
        state,
    )


@pytest.mark.parametrize("case", range(5))
@pytest.mark.parametrize("runs", (("std0", "std1", "std2"), ("hyst0", "hyst1")), ids=("standard", "hysteresis"))
def test_cemaneige(case, runs):
    """Layers and catchment: five of Hydrotel's rule, three and five of USACE's, five unscaled, one without snow."""
    file, key = File("shared_airgr_cemaneige"), f"case{case}/"
    model, forcing, parameters, inputs, state = cemaneige_of(case, file, runs)
    forcing = {n: forcing[n] for n in model.forcing_names}
    found = simulate(model, forcing, parameters, state, inputs=inputs, short=True)

    def published(name):
        return torch.stack([file[f"{key}{run}/{name}"] for run in runs], 1)  # day, run, layer

    names = {"snow": "SnowPack", "thermal": "ThermalState"}
    expected = {f"{n}_{i + 1}": published(k)[..., i] for n, k in names.items() for i in range(len(inputs) - 2)}
    expected |= {"liquid": published("catchment_liquid_mm_d"), "melt": published("Melt").mean(-1)}
    if case != 4:  # where there is no snow airGR's share is 1
        expected["covered"] = published("Gratio").mean(-1)
    assert_near(found, expected, 1e-9)
    if ALL_DAYS:  # the annual snowfall is that of these very days
        assert (365.25 * found["snowfall"].mean(0) - inputs["annual_snowfall"]).abs().max() < 1e-9


@pytest.mark.parametrize(
    "case, name",
    [
        pytest.param(case, name, marks=() if case == 4 or name == "gr6j" else pytest.mark.nightly)
        for case in (0, 2, 4)
        for name in ("gr4j", "gr5j", "gr6j")
    ],
)
def test_cemaneige_before_gr(case, name):
    file, key = File("shared_airgr_cemaneige"), f"case{case}/std0/"
    front, forcing, parameters, inputs, state = cemaneige_of(case, file, ("std0",))
    model = hs.models.join(front, hs.models.get(name))
    p = file[f"{key}{name}/params"]
    parameters |= {n: x[None] for n, x in zip(hs.models.get(name).parameter_names, p, strict=True)}
    forcing = {n: forcing[n] for n in model.forcing_names}
    found = simulate(model, forcing, parameters, state, inputs=inputs, short=True)
    names = dict(streamflow="Qsim", production="prod", routing="rout")
    assert_near(found, {n: file[f"{key}{name}/{k}"][:, None] for n, k in names.items()}, 1e-9)


def snow17_point_of(file):
    """Forcing, inputs, parameters and start of the runs of the point variant."""
    forcing = {n: file[FORCING[n]][:, file.runs] for n in ("prcp", "tmean")}
    forcing["day_of_year"] = file["doy"][:, None].double()
    columns = {str(n).lower(): i for i, n in enumerate(file.text["snow_param_names"])}
    model = hs.models.get("snow17_point")
    parameters = {n: file["snow_params"][:, columns[n]] for n in model.parameter_names}
    return forcing, parameters, {"elev_mean": file["elev_m"][file.runs]}


def test_snow17_at_a_point():
    """By design apart: sacsmaR's pack makes water. With its line the flow is its own; without it there is less."""
    file, model = File("shared_sacsmaR_snow17point"), hs.models.get("snow17_point")
    forcing, parameters, inputs = snow17_point_of(file)
    published = snow17_point.as_published()
    theirs = simulate(published, forcing, parameters, {}, inputs=inputs)
    assert_near(theirs, {"liquid": file["rain_plus_melt_mm_d"]}, 1e-9)
    ours = simulate(model, forcing, parameters, {}, inputs=inputs)
    made, stored = theirs["made"].sum(0), theirs["swe"][-1] - ours["swe"][-1]
    assert (made > 20).any() and (made >= 0).all()
    more = theirs["liquid"].sum(0) - ours["liquid"].sum(0)
    assert (more + stored - made).abs().max() < 1e-8


SAC = dict(streamflow="TCI", impervious="ROIMP", direct="SDRO", surface="SSUR", interflow="SIF", supplemental="BFS")
SAC |= dict(primary="BFP", aet="TET")


def sacsma_of(file, runs=slice(None)):
    """Forcing, parameters and start of runs of the National Weather Service's program, behind its own snow."""
    model = hs.models.get("sacsma")
    names = [str(n).lower() for n in file.text["sac_param_names"]]
    parameters = dict(zip(names, file["sac_params"][runs].T, strict=True))
    state = dict(zip(model.state_names, file["init_sac_state"][runs].T, strict=True))
    forcing = {"prcp": file["rain_plus_melt_mm_d"][:, runs], "pet": file["pet_mm_d"][:, file.runs[runs]]}
    return model, forcing, parameters, state


def test_sacsma():
    file = File("shared_nws_snow17_sacsma")
    model, forcing, parameters, state = sacsma_of(file)
    found = simulate(model, forcing, parameters, state, short=True)
    expected = {n: file[f"flux/{key}"] for n, key in SAC.items()}
    expected |= dict(zip(model.state_names, file["sac_state"].unbind(-1), strict=True))
    assert_near(found, expected | {"parts": file["second/ninc"]}, 1e-9)


def test_the_hydrograph_of_sacsma():
    file = File("shared_nws_snow17_sacsma")
    model, forcing, parameters, state = sacsma_of(file)
    parameters |= dict(zip(model.routing_parameter_names, file["uh_shape_scale_d"].T, strict=True))
    days = 120
    flow = simulate_to_gauge(
        model,
        {n: x[:days] for n, x in forcing.items()},
        {n: x[:, None] for n, x in parameters.items()},
        initial_state={n: x[:, None] for n, x in state.items()},
        backend="reference",
    ).fluxes["streamflow"]
    assert_near({"q": flow}, {"q": file["routed_mm_d"]}, 1e-9)
    found = ordinates(model.routing, {n: parameters[n] for n in model.routing_parameter_names})
    assert (found - file["uh_ordinates"].T[: len(found)]).abs().max() < 1e-14


@pytest.mark.nightly
def test_gradients_of_sacsma():
    differences, file = File("shared_fd_gradients"), File("shared_nws_snow17_sacsma")
    model, forcing, parameters, state = sacsma_of(file, differences["sac/run"])
    parameters = {n: x.clone().requires_grad_() for n, x in parameters.items()}
    flow = simulate(model, forcing, parameters, state)["streamflow"]
    loss = (differences["sac/weight"][:, None] * flow).sum()
    found = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    columns = {n: i for i, n in enumerate(parameters)}
    compare_gradients(found, differences, "sac", columns, "grad_params_of_TCI")


SNOW17 = dict(we="WE", neg="NEGHS", lq="LIQW", ti="TINDEX", acc="ACCMAX", sb="SB", sba="SBAESC", sbw="SBWS")
SNOW17 |= dict(sto="STORGE", ex_1="EXLAG1")


def snow_days(dates):
    """Days since 21 March as the National Weather Service counts them."""
    found = []
    for text in map(str, dates):
        date = np.datetime64(text[:10])
        year = int(text[:4])
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        later = leap and date >= np.datetime64(f"{year}-03-01")
        day = int((date - np.datetime64(f"{year}-01-01")).astype(int)) + 1 - later  # of a year of 365 days
        found.append(day - 80 if day + later >= 80 else 365 + later - (80 - day))
    return torch.tensor(found, dtype=torch.float64)[:, None]


def snow17_of(file, runs=slice(None)):
    model, basins = hs.models.get("snow17"), file.runs[runs]
    forcing = {n: file[FORCING[n]][:, basins] for n in ("prcp", "tmean")} | {"snow_day": snow_days(file.text["date"])}
    parameters = {
        str(n).lower(): x for n, x in zip(file.text["snow_param_names"], file["snow_params"][runs].T, strict=True)
    }
    parameters |= {f"adc_{i + 1}": x for i, x in enumerate(file["snow_adc"][runs].T)} | {"snof": file["snof_mm"][runs]}
    names = [str(n) for n in file.text["snow_state_names"]]
    state = {n: file["init_snow_state"][runs][:, names.index(key)] for n, key in SNOW17.items()}
    inputs = {"elev_mean": file["elev_m"][basins], "lat": file["lat_deg"][runs]}
    return model, forcing, parameters, state, inputs, names


def test_snow17():
    file = File("shared_nws_snow17_sacsma")
    model, forcing, parameters, state, inputs, names = snow17_of(file)
    found = simulate(model, forcing, parameters, state, inputs=inputs, short=True)
    expected = {n: file["snow_state"][..., names.index(key)] for n, key in SNOW17.items()}
    expected |= {"liquid": file["rain_plus_melt_mm_d"], "swe": file["swe_total_mm"]}
    assert_near(found, expected, 1e-9)


@pytest.mark.nightly
def test_gradients_of_snow17():
    differences, file = File("shared_fd_gradients"), File("shared_nws_snow17_sacsma")
    model, forcing, parameters, state, inputs, _ = snow17_of(file, differences["sac/run"])
    columns = {str(n).lower(): i for i, n in enumerate(file.text["snow_param_names"])}
    parameters = {n: x.clone().requires_grad_() for n, x in parameters.items()}
    flow = simulate(model, forcing, parameters, state, inputs=inputs)["liquid"]
    loss = (differences["sac/weight"][:, None] * flow).sum()
    values = [parameters[n] for n in columns]
    found = dict(zip(columns, torch.autograd.grad(loss, values, materialize_grads=True), strict=True))
    # By design apart: on days of T = MBASE melt begins, and central differences give half of the gradient on that side.
    begins = (forcing["tmean"] == parameters["mbase"]).any(0)
    assert begins.any() and not begins.all()
    found["mbase"][begins] = differences["snow17/grad_params_of_rain_plus_melt"][:, columns["mbase"]][begins]
    compare_gradients(found, differences, "snow17", columns, "grad_params_of_rain_plus_melt")
