"""Work on a cluster: the same bits as without, workers that are killed, and what is refused before it begins."""

import functools
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import hybridsolve as hs
from hybridsolve import cli, cluster
from hybridsolve.calibration import blocks
from hybridsolve.cluster import connected, spread
from hybridsolve.data import write_netcdf
from hybridsolve.data.files import locked

distributed = pytest.importorskip("distributed")
kills = pytest.mark.skipif(not os.environ.get("HYBRIDSOLVE_TEST_KILLS"), reason="minutes: HYBRIDSOLVE_TEST_KILLS=1")


@pytest.fixture(scope="module")
def client():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dask.system.CPU_COUNT", 2)
        with connected("local") as client:
            yield client


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data():
    """Twelve basins, two years, whose flow follows rain."""
    numbers = np.random.default_rng(0)
    time = np.arange("2000-01-01", "2002-01-01", dtype="datetime64[D]").astype("datetime64[ns]")
    shape = (len(time), 12)
    rain = numbers.gamma(0.4, 8.0, shape)
    flow = np.stack([np.convolve(r, 0.5 * 0.85 ** np.arange(60) * 0.15, "full")[: len(r)] for r in rain.T], 1)
    warm = 8 - 9 * np.cos(2 * np.pi * np.arange(shape[0]) / 365.25)[:, None] + numbers.normal(0, 2, shape)
    series = {"prcp": (rain, "mm d-1"), "tmean": (warm, "degC"), "pet": (np.clip(warm / 5, 0, None), "mm d-1")}
    series["qobs"] = (flow, "mm d-1")
    ds = xr.Dataset(coords={"time": time, "basin": [f"b{i}" for i in range(12)]})
    for name, (values, unit) in series.items():
        ds[name] = (("time", "basin"), values.astype(np.float32), {"units": unit})
    return ds


def run(data, **changes):
    given = dict(train="2001-01-01:2001-12-31", starts=3, steps=4, warmup_years=1, progress=False)
    return hs.calibrate(data, **(given | changes))


pytestmark = [
    pytest.mark.filterwarnings("ignore:after the warm-up"),
    pytest.mark.filterwarnings("ignore:flow does not respond"),
]


# --- Parts ---------------------------------------------------------------------------------------------------------


def squared(x):
    if x < 0:
        raise ValueError(f"{x} is no part")
    time.sleep(0.02)
    return x * x, os.getpid(), torch.get_num_threads()


def test_parts_are_done_once_each_by_all_workers(client):
    n = 40
    found = dict(spread(squared, iter(range(n)), client))
    assert [found[i][0] for i in range(n)] == [i * i for i in range(n)]
    assert len({pid for _, pid, _ in found.values()} - {os.getpid()}) == 2
    assert {threads for *_, threads in found.values()} == {1}
    assert list(spread(squared, [2, 3])) == [(0, (4, os.getpid(), 1)), (1, (9, os.getpid(), 1))]


def test_an_error_of_a_part_ends_the_work(client):
    for where in (client, None):
        with pytest.raises(ValueError, match="-1 is no part"):
            list(spread(squared, [*range(9), -1, *range(30)], where))
    assert dict(spread(squared, [5], client))[0][0] == 25  # the workers go on with other work


def test_parts_are_taken_as_workers_become_free(client):
    taken = []
    found = spread(squared, (taken.append(i) or i for i in range(100, 1000)), client)
    next(found)
    assert len(taken) <= 5
    found.close()


def dies_once(place):
    folder, i = place
    mark = Path(folder) / str(i)
    first = not mark.exists()
    with mark.open("a") as file:
        file.write("x")
    if i == 3 and first:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return i


def test_a_worker_that_dies_costs_its_part(client, tmp_path):
    found = dict(spread(dies_once, [(tmp_path, i) for i in range(12)], client))
    assert found == {i: i for i in range(12)}
    assert (tmp_path / "3").read_text() == "xx"
    client.wait_for_workers(2, timeout=30)


@kills
def test_a_part_that_kills_workers_is_named(client, monkeypatch):
    monkeypatch.setattr(cluster, "RETRIES", 0)
    with pytest.raises(RuntimeError, match="workers die time after time, the last with part . of the work"):
        list(spread(lambda i: os.kill(os.getpid(), signal.SIGKILL) if i == 1 else i, range(3), client))
    client.wait_for_workers(2, timeout=60)


def test_a_worker_of_another_version_is_refused():
    with pytest.raises(ValueError, match="must have hybridsolve 0.0.1, as the caller has"):
        cluster._on_worker(squared, 1, "0.0.1")


# --- Where ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked, message",
    [
        ("tcp://127.0.0.1:9", "must be a scheduler that answers, found none at tcp://127.0.0.1:9"),
        ("somewhere", "a scheduler's address such as tcp://10.0.0.1:8786, found 'somewhere'"),
        (4, "a cluster or client of Dask, found int"),
    ],
)
def test_what_is_no_cluster_is_refused(asked, message, monkeypatch):
    monkeypatch.setattr(cluster, "WAIT", 0.3)
    with pytest.raises(ValueError, match=message), connected(asked):
        pass


def test_the_command_line_refuses_it_before_the_data_are_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "WAIT", 0.3)
    monkeypatch.setattr(cli, "open_data", None)
    arguments = ["calibrate", "nothing.nc", "--train", "2000-01-01:2001-01-01", "--out", str(tmp_path / "o")]
    assert cli.main([*arguments, "--dask", "127.0.0.1:9"]) == 2
    assert "cluster must be a scheduler that answers" in capsys.readouterr().err


def test_a_client_and_a_cluster_are_taken_and_left_open(client):
    with connected(client) as same, connected(client.cluster) as other:
        assert same is client and len(other.nthreads()) == 2
    assert client.status == "running"


def test_one_worker_for_each_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = lambda: [w["env"]["CUDA_VISIBLE_DEVICES"] for w in cluster.workers_of_this_machine(True)]  # noqa: E731
    assert seen() == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert seen() == ["5", "7"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="must find one, found none"):
        seen()


@pytest.mark.parametrize(
    "asked, n_cards, expected",
    [
        ("cpu", 0, "cpu"), ("cpu", 4, "cpu"), ("cpu", None, "cpu"), ("auto", 0, "cpu"), ("auto", 2, "cuda"),
        ("cuda", 1, "cuda"), ("cuda", None, "cuda"),
    ],
)  # fmt: skip
def test_the_device_of_work(asked, n_cards, expected):
    assert cluster.device_of(asked, n_cards) == expected


@pytest.mark.parametrize(
    "asked, n_cards, message",
    [("cuda", 0, "found no GPU; take cpu"), ("auto", None, "found auto; say what"), ("gpu", 1, "auto, cpu or cuda")],
)
def test_a_device_that_is_not_there_is_refused(asked, n_cards, message):
    with pytest.raises(ValueError, match=message):
        cluster.device_of(asked, n_cards)


# --- Calibration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"method": "evolution"}, {"method": "gradient", "loss": "kge"}])
def test_a_cluster_gives_the_bits_of_this_process(data, client, monkeypatch, changes):
    monkeypatch.setattr(blocks, "basins_of_a_block", lambda *of: 5)
    xr.testing.assert_identical(run(data, cluster=client, **changes), run(data, **changes))


def test_blocks_are_small_but_not_too_small_for_threads():
    at_most = functools.partial(blocks.basins_of_a_block, 10**6)
    assert at_most(4000, 10) == 62  # by their bytes
    assert at_most(35_000, 10) == 51  # by their cells
    assert at_most(3_000_000, 10) == 2 and at_most(10**8, 64) == 1  # at most
    assert blocks.basins_of_a_block(2000, 731, 10) == 167  # twelve blocks, which two workers share evenly
    assert blocks.basins_of_a_block(100, 731, 10) == 51  # by their cells again


def test_many_starts_are_searches_of_their_own(data, client, monkeypatch):
    monkeypatch.setattr(blocks, "STARTS", 3)
    found = run(data, starts=8, cluster=client)
    xr.testing.assert_identical(found, run(data, starts=8))
    assert (np.diff(found["train_loss"].values, axis=1) >= 0).all()
    values = np.stack([found[name].values[0] for name in found["parameter"].values])
    assert np.unique(values, axis=1).shape[1] == 8
    first = run(data, starts=3)
    assert (found["train_loss"].values[:, 0] <= first["train_loss"].values[:, 0]).all(), (
        "its first group is that search"
    )


class Killed(Exception):
    pass


@pytest.mark.parametrize("cluster_first", [True, False])
def test_an_interrupted_one_repeats_no_finished_basin(data, client, monkeypatch, tmp_path, cluster_first):
    monkeypatch.setattr(blocks, "basins_of_a_block", lambda *of: 3)
    whole, keep, kept = run(data), blocks.Checkpoint.keep, []

    def dies(self, block, found):
        if len(kept) == 2:
            raise Killed
        kept.append(block)
        keep(self, block, found)

    checkpoint = tmp_path / "checkpoint.pt"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(blocks.Checkpoint, "keep", dies)
        run(data, checkpoint=checkpoint, cluster=client if cluster_first else None)
    assert sorted(p.name for p in (tmp_path / "checkpoint.blocks").iterdir()) == sorted(f"{i}.pt" for i in kept)
    again = []
    monkeypatch.setattr(blocks.Checkpoint, "keep", lambda self, i, found: (again.append(i), keep(self, i, found)))
    resumed = run(data, checkpoint=checkpoint, resume=True, cluster=None if cluster_first else client)
    xr.testing.assert_identical(resumed, whole)
    assert sorted(kept + again) == [0, 1, 2, 3]
    run(data, seed=1, checkpoint=checkpoint)  # anew: what another calibration has found is not taken
    xr.testing.assert_identical(run(data, seed=1, checkpoint=checkpoint, resume=True), run(data, seed=1))
    with pytest.raises(ValueError, match="is of another calibration"):
        run(data, checkpoint=checkpoint, resume=True)


@kills
def test_twenty_kills_of_workers_cost_no_bit(data, client, monkeypatch):
    from distributed.core import Status

    monkeypatch.setattr(blocks, "basins_of_a_block", lambda *of: 1)
    numbers, killed, keep = random.Random(0), [], blocks.Checkpoint.keep

    def kills(self, block, found):
        # Not those that begin: Dask gives a worker up whose process ends before it has begun.
        processes = [nanny.process for nanny in client.cluster.workers.values() if nanny.process]
        pids = [process.pid for process in processes if process.status is Status.running]
        if block % 2 and pids and len(killed) < 20:
            pid = numbers.choice(pids)
            time.sleep(numbers.uniform(0, 0.3))
            with suppress(ProcessLookupError):  # killed before, and no other in its place yet
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        keep(self, block, found)

    long = dict(starts=16, steps=8)
    whole = run(data, **long)
    monkeypatch.setattr(blocks.Checkpoint, "keep", kills)
    while len(killed) < 20:
        xr.testing.assert_identical(run(data, **long, cluster=client), whole)
    client.wait_for_workers(2, timeout=60)


@kills
def test_twenty_kills_of_a_calibration_cost_no_bit(data, tmp_path):
    """By SIGKILL, at random while it searches block by block; each time --resume goes on."""
    write_netcdf(data, tmp_path / "data.nc")
    program = "import sys; from hybridsolve.calibration import blocks; blocks.basins_of_a_block = lambda *of: 1; "
    program += "from hybridsolve.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-W", "ignore", "-c", program, "calibrate", str(tmp_path / "data.nc"), "--threads", "1"]
    command += ["--train", "2001-01-01:2001-12-31", "--warmup-years", "1", "--starts", "16", "--steps", "30"]
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert subprocess.run([*command, "--out", str(tmp_path / "whole")], **quiet).returncode == 0
    numbers, checkpoint = random.Random(0), tmp_path / "out" / "checkpoint.pt"
    for killed in range(20):
        process = subprocess.Popen([*command, "--out", str(tmp_path / "out"), *["--resume"] * (killed > 0)], **quiet)
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
            time.sleep(0.005)
        time.sleep(numbers.uniform(0, 0.02))
        process.kill()
        process.wait()
    assert subprocess.run([*command, "--out", str(tmp_path / "out"), "--resume"], **quiet).returncode == 0
    found, expected = (xr.load_dataset(tmp_path / name / "calibration.nc") for name in ("out", "whole"))
    xr.testing.assert_equal(found, expected)


def test_a_lock_dies_with_its_process(tmp_path):
    hold = "with locked(sys.argv[1]): print(1, flush=True); time.sleep(60)"
    code = f"import sys, time; from hybridsolve.data.files import locked\n{hold}"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline()
    with pytest.raises(ValueError, match=f"is in use by process {holder.pid}"), locked(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with locked(tmp_path):
        pass


# --- The documentation ---------------------------------------------------------------------------------------------


def documented():
    text = (Path(__file__).parents[1] / "docs" / "cluster.md").read_text()
    return [block.split("```")[0] for block in text.split("```python\n")[1:]]


def test_the_example_for_slurm_runs_on_a_local_cluster(data, client, tmp_path, monkeypatch):
    jobqueue = pytest.importorskip("dask_jobqueue")
    asked = []

    class Local:
        def __init__(self, **options):
            asked.append(options)

        def __getattr__(self, name):
            return getattr(client.cluster, name)

        def adapt(self, maximum_jobs):
            asked.append(maximum_jobs)

        def close(self):
            asked.append("closed")

    script = documented()[0].replace("1999-10-01:2008-09-30", "2001-01-01:2001-12-31")
    script = script.replace("starts=16,", "starts=16, steps=2,")
    monkeypatch.chdir(tmp_path)
    data.to_netcdf("basins.nc")
    with monkeypatch.context() as patch:
        patch.setattr(jobqueue, "SLURMCluster", Local)
        patch.setattr(blocks, "basins_of_a_block", lambda *of: 3)
        exec(compile(script, "cluster.md", "exec"), {"__name__": "__main__"})
    assert xr.open_dataset("calibration.nc").sizes["start"] == 16 and asked[1:] == [20, "closed"]
    job = jobqueue.SLURMCluster(**asked[0])
    lines = job.job_script()
    job.close()
    for line in (
        "#SBATCH -p normal",
        "#SBATCH --cpus-per-task=16",
        "#SBATCH -t 04:00:00",
        "--nthreads 1",
        "--nworkers 16",
    ):
        assert line in lines


def test_the_example_of_own_work_runs(capsys):
    script = documented()[1].replace('connected("local")', "connected(None)")
    exec(compile(script, "cluster.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.splitlines()[-1] == "99 9801"


def test_the_example_of_lazy_data_runs(tmp_path, monkeypatch):
    pytest.importorskip("zarr")
    monkeypatch.chdir(tmp_path)
    hs.scale.synthetic_continent("continent.zarr", 5, period=("2001-01-01", "2001-01-31"))
    exec(compile(documented()[2], "cluster.md", "exec"), {})
    assert xr.open_zarr("flow.zarr")["aet"].shape == (31, 5)
