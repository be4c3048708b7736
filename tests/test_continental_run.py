"""`hybridsolve run`: the numbers of one run, whatever the cut; restart, appending, ensembles, rivers, refusals."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import hybridsolve as hs
from hybridsolve import cli
from hybridsolve.routing.files import open_network
from hybridsolve.routing.gauge import simulate_to_gauge

pytest.importorskip("zarr", reason="zarr is not installed: pip install hybridsolve[scale]")
from hybridsolve.scale.continental import run  # noqa: E402
from hybridsolve.scale.cut import make_plan  # noqa: E402
from hybridsolve.scale.journal import Journal  # noqa: E402
from hybridsolve.scale.store import consolidate, open_run, segments  # noqa: E402

MODEL, N, T = "hbv11p", 60, 120


@pytest.fixture(scope="module")
def continent(tmp_path_factory):
    """A folder with a forcing of 120 days (all.zarr), its first 90 (some.zarr), parameters and rivers."""
    folder = tmp_path_factory.mktemp("continent")
    common = dict(model=MODEL, chunks={"time": 25, "basin": 16})
    hs.scale.synthetic_continent(folder / "all.zarr", N, period=("2000-10-01", "2001-01-28"), **common)
    hs.scale.synthetic_continent(folder / "some.zarr", N, period=("2000-10-01", "2000-12-29"), network=False, **common)
    with xr.open_zarr(folder / "all.zarr") as ds:
        hs.scale.synthetic_parameters(ds.load(), MODEL).to_netcdf(folder / "parameters.nc")
    return folder


def settings(continent, out, **more):
    return dict(forcing=str(continent / "all.zarr"), parameters=str(continent / "parameters.nc"), out=str(out), **more)


def forcing_of(path):
    with xr.open_zarr(path) as ds:
        return {v.name: torch.as_tensor(ds[v.name].values) for v in hs.models.get(MODEL).forcings}


def in_one(continent, members=None, fluxes=None):
    """The series of one call over all of the forcing."""
    with xr.open_dataset(continent / "parameters.nc") as ds:
        parameters = {name: torch.as_tensor(ds[name].values)[:, None] for name in ds.data_vars}
    return simulate_to_gauge(MODEL, forcing_of(continent / "all.zarr"), parameters, fluxes=fluxes).fluxes


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    "cut", [dict(), dict(window=25, block=16), dict(window=7, block=60), dict(window=120, block=9)]
)
def test_the_numbers_are_those_of_one_run(continent, tmp_path, cut):
    run(settings(continent, tmp_path / "out", fluxes=["streamflow", "swe"], **cut), progress=False)
    found, expected = open_run(tmp_path / "out").load(), in_one(continent, fluxes=["streamflow", "swe"])
    for name in ("streamflow", "swe"):
        np.testing.assert_array_equal(found[name].values, expected[name].numpy())
    assert found["streamflow"].attrs["units"] == "mm d-1" and found.attrs["complete"] == 1
    with xr.open_zarr(continent / "all.zarr") as ds:
        assert (found["time"].values == ds["time"].values).all()
        assert [str(b) for b in found["basin"].values] == [str(b) for b in ds["basin"].values]


@pytest.mark.parametrize("store", ["float32-compressed", "packed", "float16"])
def test_what_is_packed_is_unpacked(continent, tmp_path, store):
    hs.scale.synthetic_continent(
        tmp_path / "packed.zarr", N, period=("2000-10-01", "2001-01-28"), model=MODEL, store=store
    )
    given = settings(continent, tmp_path / "out") | dict(forcing=str(tmp_path / "packed.zarr"))
    run(given, progress=False)
    with xr.open_zarr(tmp_path / "packed.zarr") as ds:  # by xarray's own unpacking
        data = ds.load().astype("float32")
    with xr.open_dataset(continent / "parameters.nc") as ds:
        parameters = {name: torch.as_tensor(ds[name].values)[:, None] for name in ds.data_vars}
    x = {v.name: torch.as_tensor(data[v.name].values) for v in hs.models.get(MODEL).forcings}
    expected = simulate_to_gauge(MODEL, x, parameters).fluxes["streamflow"].numpy()
    np.testing.assert_allclose(open_run(tmp_path / "out")["streamflow"].values, expected, rtol=1e-4, atol=1e-6)


def test_units_are_converted_and_files_follow_one_another(continent, tmp_path):
    with xr.open_zarr(continent / "all.zarr") as ds:
        data = ds.load()
    data["tmean"] = (data["tmean"] + 273.15).assign_attrs(data["tmean"].attrs, units="K")
    data["prcp"] = (data["prcp"] / 86400).assign_attrs(data["prcp"].attrs, units="kg m-2 s-1")
    data.isel(time=slice(50)).to_netcdf(tmp_path / "a1.nc")
    data.isel(time=slice(50, None)).to_netcdf(tmp_path / "a2.nc")
    run(settings(continent, tmp_path / "out") | dict(forcing=str(tmp_path / "a*.nc")), progress=False)
    found = open_run(tmp_path / "out")["streamflow"].values
    np.testing.assert_allclose(found, in_one(continent)["streamflow"].numpy(), rtol=2e-2, atol=1e-3)


def test_chosen_basins_and_parts(continent, tmp_path):
    expected = in_one(continent)["streamflow"].numpy()
    with xr.open_zarr(continent / "all.zarr") as ds:
        ids = [str(b) for b in ds["basin"].values]
    run(settings(continent, tmp_path / "some", basins=f"{ids[40]},{ids[3]}", block=16, window=50), progress=False)
    found = open_run(tmp_path / "some")["streamflow"]
    assert [str(b) for b in found["basin"].values] == [ids[3], ids[40]]
    np.testing.assert_array_equal(found.values, expected[:, [3, 40]])
    run(settings(continent, tmp_path / "parts", parts=3, block=16), progress=False)
    np.testing.assert_array_equal(open_run(tmp_path / "parts")["streamflow"].values, expected)


def test_an_ensemble_of_parameters_and_of_forcing(continent, tmp_path):
    with xr.open_dataset(continent / "parameters.nc") as ds:
        one = ds.load()
    other = one.assign(fc=one["fc"] * 0.9 + 10)
    xr.concat([one, other], "member", data_vars="all").to_netcdf(tmp_path / "members.nc")
    given = settings(continent, tmp_path / "out", window=50, block=16, fluxes=["streamflow", "swe"])
    run(given | dict(parameters=str(tmp_path / "members.nc")), progress=False)
    found = open_run(tmp_path / "out")
    assert found["streamflow"].dims == ("time", "member", "basin") and found.sizes["member"] == 2
    expected = in_one(continent)["streamflow"].numpy()
    np.testing.assert_array_equal(found["streamflow"].values[:, 0], expected)
    assert not np.array_equal(found["streamflow"].values[:, 1], expected)

    with xr.open_zarr(continent / "all.zarr") as ds:
        data = ds.load()
    warmer = data.assign(tmean=(data["tmean"] + 2).assign_attrs(data["tmean"].attrs))
    both = xr.concat([data, warmer], "member", data_vars=["prcp", "tmean", "pet"])
    both.to_netcdf(tmp_path / "forcing.nc")
    run(
        settings(continent, tmp_path / "f", window=50, block=16) | dict(forcing=str(tmp_path / "forcing.nc")),
        progress=False,
    )
    found = open_run(tmp_path / "f")["streamflow"]
    assert found.dims == ("time", "member", "basin")
    np.testing.assert_array_equal(found.values[:, 0], expected)
    assert not np.array_equal(found.values[:, 1], expected)


def test_rivers(continent, tmp_path):
    network = str(continent / "all.network.nc")
    given = settings(continent, tmp_path / "out", rivers=dict(network=network, dt=7200.0), window=50, block=16)
    run(given, progress=False)
    rivers = open_network(network)
    with xr.open_dataset(continent / "parameters.nc") as ds:
        parameters = {name: torch.as_tensor(ds[name].values)[:, None] for name in ds.data_vars}
        basins = [int(b) for b in ds["basin"].values]
    x = forcing_of(continent / "all.zarr")
    whole = hs.routing.simulate_rivers(
        MODEL, x, parameters, rivers, catchment=range(N), reach=basins, dt=7200.0,
        area=torch.as_tensor(rivers.attribute("area")[rivers.index(basins)]).float(),
    )  # fmt: skip
    found = open_run(tmp_path / "out", ".rivers")
    assert found["discharge"].shape == (T * 12, N)
    np.testing.assert_array_equal(found["discharge"].values, whole.discharge.numpy())
    some = ",".join(map(str, rivers.ids[[5, 2]]))
    run(settings(continent, tmp_path / "g", rivers=dict(network=network, dt=7200.0, gauges=some)), progress=False)
    at = open_run(tmp_path / "g", ".rivers")["discharge"]
    np.testing.assert_array_equal(at.values, found["discharge"].values[:, [5, 2]])


def test_days_are_appended(continent, tmp_path):
    given = settings(continent, tmp_path / "out", window=25, block=16)
    first = given | dict(forcing=str(continent / "some.zarr"))
    run(first, progress=False)
    before = files(tmp_path / "out" / "0000.zarr")
    with pytest.raises(ValueError, match="append the rest by --continue"):
        run(given, progress=False)
    run(given, further=True, progress=False)
    assert files(tmp_path / "out" / "0000.zarr") == before and len(segments(tmp_path / "out")) == 2
    expected = in_one(continent)["streamflow"].numpy()
    np.testing.assert_array_equal(open_run(tmp_path / "out")["streamflow"].values, expected)
    joined = consolidate(tmp_path / "out", tmp_path / "joined.zarr")
    with xr.open_zarr(joined) as ds:
        np.testing.assert_array_equal(ds["streamflow"].values, expected)
        assert (np.diff(ds["time"].values) == np.timedelta64(1, "D")).all()
    assert "nothing was done" in run(given, progress=False)
    with pytest.raises(ValueError, match="must have steps after"):
        run(given, further=True, progress=False)


@pytest.mark.parametrize("lines", [0, 1, 3])
def test_a_killed_run_goes_on_to_the_same_bits(continent, tmp_path, lines):
    given = settings(continent, tmp_path / "out", window=25, block=16, fluxes=["streamflow", "swe"])
    run(given, progress=False)
    whole, kept = files(tmp_path / "out" / "0000.zarr"), {p.name for p in (tmp_path / "out").iterdir()}
    # As a kill leaves it: later windows half there, half a line of the journal, a file that zarr has not renamed.
    journal, done = Journal(tmp_path / "out", 0), []
    done = journal.lines()
    shutil.rmtree(tmp_path / "out")
    killed_after(given, tmp_path / "out", lines)
    assert run(given, progress=False)
    assert files(tmp_path / "out" / "0000.zarr") == whole
    assert journal.lines() == done
    assert {p.name for p in (tmp_path / "out").iterdir()} == kept


def killed_after(given, out, lines):
    """A run that has stopped after some lines of its journal, with the debris of the next window."""
    from hybridsolve.scale import part

    class Killed(BaseException):
        pass

    finish, count = part.Journal.finish, [0]

    def dies(self, *args):
        if count[0] == lines:
            raise Killed
        count[0] += 1
        finish(self, *args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(part.Journal, "finish", dies)
        run(given, progress=False)
    with open(out / "journal-0000.jsonl", "ab") as file:
        file.write(b'{"segment": 0, "ste')
    (out / "0000.zarr" / "streamflow" / "c" / "0").mkdir(parents=True, exist_ok=True)
    (out / "0000.zarr" / "streamflow" / "c" / "0" / "0.abc.partial").write_bytes(b"half")
    (out / "state-0000-0000-00000025.npz.tmp-1").write_bytes(b"half")
    (out / "0000.rivers.zarr.tmp-1").mkdir()


@pytest.mark.nightly
def test_twenty_kills(continent, tmp_path):
    """Killed again and again at random, by SIGKILL; each time the store opens, and in the end its bits are the same."""
    rivers = dict(network=str(continent / "all.network.nc"), dt=21600.0, local_days=5)
    pack = {"swe": dict(dtype="int16", scale_factor=0.1)}
    given = settings(continent, tmp_path / "whole", window=3, block=9, fluxes=["streamflow", "swe"])
    given |= dict(rivers=rivers, pack=pack)
    run(given, progress=False)
    (tmp_path / "config.yaml").write_text(json.dumps(given | dict(out=str(tmp_path / "out"))))
    command = [sys.executable, "-m", "hybridsolve", "run", str(tmp_path / "config.yaml")]
    random = np.random.default_rng(0)
    journal, killed = Journal(tmp_path / "out", 0), 0
    while killed < 20:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        target = len(journal.lines()) + int(random.integers(1, 3))
        while len(journal.lines()) < target and process.poll() is None:
            time.sleep(0.002)
        time.sleep(float(random.uniform(0, 0.05)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
        if segments(tmp_path / "out"):
            open_run(tmp_path / "out").close()
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    for kind in ("", ".rivers", ".days"):
        name = f"0000{kind}.zarr"
        assert files(tmp_path / "out" / name) == files(tmp_path / "whole" / name)


def test_a_full_disk(continent, tmp_path):
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
    run_it = "from hybridsolve.cli import main; sys.exit(main(sys.argv[1:]))"
    (tmp_path / "config.yaml").write_text(json.dumps(settings(continent, tmp_path / "out", window=100)))
    command = ["run", str(tmp_path / "config.yaml")]
    failed = subprocess.run([sys.executable, "-c", limit + run_it, *command], capture_output=True, text=True)
    assert failed.returncode == 2 and "found none (File too large); free some" in failed.stderr, failed.stderr
    assert cli.main(command) == 0
    np.testing.assert_array_equal(
        open_run(tmp_path / "out")["streamflow"].values, in_one(continent)["streamflow"].numpy()
    )


def test_the_command(continent, tmp_path, capsys):
    options = ["--forcing", str(continent / "all.zarr"), "--parameters", str(continent / "parameters.nc")]
    options += ["--out", str(tmp_path / "out"), "--fluxes", "streamflow,swe", "--set", "window=50"]
    assert cli.main(["run", *options, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "60 basins x 120 steps" in said and "GB of arrays" in said and "to compute" in said
    assert not (tmp_path / "out").exists()
    assert cli.main(["run", *options]) == 0 and "waiting for input" in capsys.readouterr().out
    assert cli.main(["consolidate", str(tmp_path / "out"), str(tmp_path / "one.zarr")]) == 0
    with xr.open_zarr(tmp_path / "one.zarr") as ds:
        np.testing.assert_array_equal(ds["streamflow"].values, in_one(continent)["streamflow"].numpy())


def changed(what, continent, tmp_path):
    """Settings that a run in out/ must refuse, as `what` says."""
    given = settings(continent, tmp_path / "out", window=50)
    with xr.open_zarr(continent / "all.zarr") as ds:
        data = ds.load()
    with xr.open_dataset(continent / "parameters.nc") as ds:
        parameters = ds.load()
    drop_encoding(data)
    if what == "a gap":
        data = data.isel(time=[*range(50), *range(51, T)])
    if what == "an overlap":
        data = data.isel(time=[*range(50), *range(48, T)])
    if what == "another unit":
        data["prcp"].attrs["units"] = "W m-2"
    if what == "no unit":
        del data["prcp"].attrs["units"]
    if what == "no variable":
        data = data.drop_vars("pet")
    if what == "a missing value":
        data["tmean"][60, 7] = np.nan
    if what == "other basins":
        parameters = parameters.isel(basin=slice(1, None))
    if what == "another calendar":
        data = data.drop_vars("time_bnds", errors="ignore").convert_calendar("360_day", align_on="date")
        data["time"].encoding.clear()
    if what in ("a missing chunk", "another version"):
        shutil.copytree(continent / "all.zarr", tmp_path / "f.zarr")
        if what == "a missing chunk":
            (tmp_path / "f.zarr" / "prcp" / "c" / "1" / "1").unlink()
    else:
        data.to_zarr(tmp_path / "f.zarr", zarr_format=3, consolidated=False)
    parameters.to_netcdf(tmp_path / "p.nc")
    return given | dict(forcing=str(tmp_path / "f.zarr"), parameters=str(tmp_path / "p.nc"))


def drop_encoding(data):
    for name in data.variables:
        data[name].encoding = {}


@pytest.mark.parametrize(
    "what, says",
    [
        ("a gap", "gaps|absent|missing"),
        ("an overlap", "sorted|duplicates"),
        ("another unit", "W m-2"),
        ("no unit", "no unit"),
        ("no variable", "pet"),
        ("a missing value", "basin .* on 2000-11-30"),
        ("other basins", "have no parameters"),
        ("another calendar", "calendar"),
        ("a missing chunk", "chunks written"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_bad_input_is_refused(continent, tmp_path, what, says):
    with pytest.raises(ValueError, match=says):
        run(changed(what, continent, tmp_path), progress=False)


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(model="hbv10"), "the model of the run"),
        (dict(fluxes=["swe"]), "the outputs of the run"),
        (dict(period="2000-11-01:2001-01-28"), "the forcing must hold"),
    ],
)
def test_another_run_in_the_folder_is_refused(continent, tmp_path, change, says):
    given = settings(continent, tmp_path / "out", window=50)
    run(given, progress=False)
    with pytest.raises(ValueError, match=says):
        run(given | change, progress=False)
    with xr.open_dataset(continent / "parameters.nc") as ds:
        ds.load().assign(fc=ds["fc"] * 0.9 + 10).to_netcdf(tmp_path / "p.nc")
    with pytest.raises(ValueError, match="the parameters of the run"):
        run(given | dict(parameters=str(tmp_path / "p.nc")), progress=False)


def test_another_past_is_refused(continent, tmp_path):
    given = settings(continent, tmp_path / "out", window=50)
    run(given | dict(forcing=str(continent / "some.zarr")), progress=False)
    with xr.open_zarr(continent / "all.zarr") as ds:
        data = ds.load()
    drop_encoding(data)
    data["prcp"][80, 5] += 1
    data.to_zarr(tmp_path / "other.zarr", zarr_format=3, consolidated=False)
    with pytest.raises(ValueError, match="another prcp"):
        run(given | dict(forcing=str(tmp_path / "other.zarr")), further=True, progress=False)


def test_settings_are_refused_in_a_sentence(continent, tmp_path, capsys):
    (tmp_path / "other").touch()
    with xr.open_dataset(continent / "parameters.nc") as ds:
        wrong = ds.load()
    wrong["fc"][50] = -5
    wrong.to_netcdf(tmp_path / "wrong.nc")
    for change, says in (
        (dict(forcing="nowhere.zarr"), "does not exist"),
        (dict(parameters=str(tmp_path / "wrong.nc")), f"'fc' must lie in .* in basin {wrong['basin'].values[50]} "),
        (dict(colour=1), "'colour' is unknown"),
        (dict(trained="x.pt"), "one of parameters and trained"),
        (dict(fluxes=["nothing"]), "nothing"),
        (dict(memory=1e-6), "memory must hold"),
        (dict(out=str(continent / "all.zarr")), "must not be"),
        (dict(out=str(continent / "all.zarr" / "run")), "a folder apart from forcing"),
        (dict(rivers=dict(network="none.nc")), "does not exist"),
        (dict(out=str(continent)), "a folder apart from forcing"),
        (dict(out=str(tmp_path)), "must be empty"),
        (dict(parts=2, basins="1"), "has one part"),
    ):
        with pytest.raises((ValueError, OSError), match=says):
            run(settings(continent, tmp_path / "out") | change, progress=False)
    with pytest.raises(ValueError, match="none; run without --continue"):
        run(settings(continent, tmp_path / "out"), further=True, progress=False)


def test_the_page_runs(tmp_path, monkeypatch):
    page = Path(__file__).parents[1] / "docs" / "continental-runs.md"
    code = page.read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code, found)
    assert found["flow"].shape == (731, 500) and found["discharge"].shape == (731 * 24, 3)


def test_a_plan_fits_its_memory():
    sizes = dict(n_steps=3650, n_basins=180_000, n_forcings=3, n_outputs=1, state_rows=20, chunk=(365, 4096))
    plan = make_plan(**sizes, memory=2e9)
    assert plan.memory <= 2e9 and plan.block % 4096 == 0 and plan.window == 365
    assert sum(b.stop - b.start for b in plan.blocks) == 180_000
    small = make_plan(**sizes, memory=3e8)
    assert small.memory <= 3e8 and small.block <= plan.block
    with pytest.raises(ValueError, match="memory must hold"):
        make_plan(**sizes, memory=1e6)


def test_a_run_computes_on_its_device(continent, tmp_path, monkeypatch):
    """All that the model is given is on the device; a tensor without data stands for one on a card."""
    from hybridsolve.scale import part
    from hybridsolve.scale.config import read_config
    from hybridsolve.scale.setup import make_setup

    given = make_setup(read_config(settings(continent, tmp_path / "out")))
    rows, cols = slice(0, 9), slice(0, N)
    forcing = given.source.read(rows, cols)
    _, state = part.compute(given, forcing, cols, rows, None)
    assert "hydrograph" in state
    seen = []

    class Seen(Exception):
        pass

    def simulated(model, forcing, parameters, *, initial_state, memory, **options):
        seen.extend([*forcing.values(), *parameters.values(), *initial_state.values(), memory])
        raise Seen

    monkeypatch.setattr(part, "simulate_to_gauge", simulated)
    for device in ("cpu", "meta"):
        seen.clear()
        there = replace(given, config=given.config.model_copy(update={"device": device}))
        with pytest.raises(Seen):
            part.compute(there, forcing, cols, rows, state)
        assert len(seen) > 20 and {x.device.type for x in seen} == {device}


def test_workers_are_asked_for_a_gpu_each(continent, tmp_path, monkeypatch):
    from hybridsolve.scale import continental

    asked = []

    class Asked(Exception):
        pass

    def connected(cluster, *, gpus):
        asked.append(gpus)
        raise Asked

    monkeypatch.setattr(continental, "connected", connected)
    for device, cards in (("cuda", 2), ("auto", 2), ("auto", 0), ("cpu", 2)):
        monkeypatch.setattr(continental, "cards", lambda n=cards: n)
        with pytest.raises(Asked):
            run(settings(continent, tmp_path / "out", device=device), cluster="local")
    assert asked == [True, True, False, False]


def test_no_gpu_is_said_in_a_sentence(continent, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    given = settings(continent, tmp_path / "out", device="cuda")
    (tmp_path / "run.yaml").write_text(json.dumps(given))
    assert cli.main(["run", str(tmp_path / "run.yaml")]) == 2
    assert "device cuda must be a GPU that torch can use, found no GPU; take cpu" in capsys.readouterr().err
    assert cli.main(["run", str(tmp_path / "run.yaml"), "--device", "auto", "--dry-run"]) == 0
    assert ", on cpu" in capsys.readouterr().out
    with pytest.raises(ValueError, match="found auto; say what they have"):
        run(given | dict(device="auto"), cluster="tcp://127.0.0.1:9")
    said = run(given, cluster="tcp://127.0.0.1:9", dry_run=True)
    assert ", on cuda" in said and "the GPUs are those of workers elsewhere" in said


def test_parts_run_on_workers(continent, tmp_path):
    distributed = pytest.importorskip(
        "distributed", reason="distributed is not installed: pip install hybridsolve[scale]"
    )
    given = settings(continent, tmp_path / "out", parts=3, block=16, window=50)
    with distributed.Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        run(given, cluster=client, progress=False)
    np.testing.assert_array_equal(
        open_run(tmp_path / "out")["streamflow"].values, in_one(continent)["streamflow"].numpy()
    )
