"""Models side by side on the 531 CAMELS basins: `python -m benchmarks.model_scores --out FOLDER` calibrates every model
of the library that gives a flow, one after another, and prints the README's table.

Periods, starts and method are those of the README: training 1999-10-01..2008-09-30, starts ranked with
1980-10-01..1989-09-30, test 1989-10-01..1999-09-30, ten starts, three years of warm-up. Every finished model is a row
of `scores.csv` in the folder; one that was stopped goes on from its checkpoint, and its row has no seconds, since they
would not be those of one run. CAMELS-US has no hypsometric curves: snow routines have one layer at the mean elevation.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import xarray as xr

from hybridsolve import calibrate, models
from hybridsolve.bench.report import markdown
from hybridsolve.data import open_dataset
from hybridsolve.data.camels import data_dir
from hybridsolve.score import metrics
from hybridsolve.spec import DAY

from . import record

PERIODS = dict(train="1999-10-01:2008-09-30", validation="1980-10-01:1989-09-30", test="1989-10-01:1999-09-30")
JOINED = tuple(f"cemaneige+{body}" for body in ("gr4j", "gr5j", "gr6j", "hymod", "xinanjiang"))
JOINED += tuple(f"snow17+{body}" for body in ("xinanjiang", "hymod", "sacsma"))
FRONT = "liquid"  # what a snow routine calls its outflow
MEDIANS = ("train_nse", "test_nse", "test_kge", "test_nse_ensemble", "test_kge_ensemble")
COLUMNS = (
    *"date machine cores isa torch python threads model pet".split(),
    *"free_factors loss method starts steps basins failed".split(),
    *MEDIANS,
    *("seconds", "seconds_per_basin"),
)


def calibratable() -> tuple[str, ...]:
    """Models that give a flow at steps of a day, alone and behind a snow routine; the slowest last."""
    alone = [m.name for m in models.MODELS.values() if m.outflow != FRONT and (m.steps is None or DAY in m.steps)]
    return tuple(sorted((*alone, *JOINED), key=lambda name: "sacsma" in name))


def row_of(name: str, data: xr.Dataset, folder: Path, options: dict) -> dict:
    """Calibrate one model, from its checkpoint if there is one, and give its row."""
    checkpoint = folder / f"{'+'.join((*options['free'], name))}.pt"
    resume = checkpoint.exists()
    began = time.perf_counter()
    result = calibrate(data, name, checkpoint=checkpoint, resume=resume, **options)
    seconds = time.perf_counter() - began
    medians, failed = {}, 0
    for period in result["period"].values:
        for member, suffix in (("best", ""), ("ensemble", "_ensemble")):
            scores = {n: result[n].sel(period=period, member=member).values for n in metrics.NAMES}
            found = metrics.summary(scores)
            medians |= {f"{period}_{n}{suffix}": f"{found[n]['median']:.4f}" for n in ("nse", "kge")}
            failed = max(failed, found["nse"]["n_failed"])
    n = result.sizes["basin"]
    said = dict(pet=result.attrs.get("pet_method", ""), free_factors=result.attrs.get("free_factors", "none"))
    said |= {key: result.attrs[key] for key in ("loss", "method", "starts")} | dict(steps=result.attrs["steps_taken"])
    timed = dict(seconds="", seconds_per_basin="")
    if not resume:
        timed = dict(seconds=f"{seconds:.1f}", seconds_per_basin=f"{seconds / n:.4f}")
    said |= dict(model=name, threads=torch.get_num_threads(), basins=n, failed=failed)
    return record.about() | said | {key: medians.get(key, "") for key in MEDIANS} | timed


def table(rows: Sequence[dict]) -> str:
    """The README's table, and the machines it was made on."""
    header = ["`--model`", "free factors", "s a basin", "train NSE", "test NSE", "test KGE", "test NSE, mean of four"]
    keys = ("free_factors", "seconds_per_basin", "train_nse", "test_nse", "test_kge", "test_nse_ensemble")
    short = lambda x: f"{float(x):.3f}" if x.replace(".", "").isdigit() else x  # noqa: E731
    body = [[f"`{r['model']}`", *(short(str(r[key])) for key in keys)] for r in rows]
    machines = {
        f"{r['machine']}, {r['threads']} threads, {r['isa']}; {r['basins']} basins, PET {r['pet']}" for r in rows
    }
    return "\n".join([markdown(header, body), "", *sorted(machines)])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and scores.csv")
    parser.add_argument("--models", nargs="*", help="default: every one that gives a flow")
    parser.add_argument("--basins", default=None, help="file of ids, or ids joined by commas (default: the 531)")
    parser.add_argument("--pet", default="oudin-airgr")
    parser.add_argument("--free", nargs="*", default=[], help="parameters to search besides, such as pet_factor")
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--warmup-years", type=float, default=3.0)
    parser.add_argument("--data", default=None, help="as for calibrate (default: the CAMELS pack)")
    for period, default in PERIODS.items():
        parser.add_argument(f"--{period}", default=default)
    given = parser.parse_args(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "scores.csv"
    rows = list(csv.DictReader(file.open(newline=""))) if file.exists() else []
    basins = given.basins if given.basins or given.data else (data_dir() / "basins_531.txt").read_text().split()
    if isinstance(basins, str):
        basins = Path(basins).read_text().split() if Path(basins).is_file() else basins.split(",")
    options = dict(starts=given.starts, steps=given.steps, warmup_years=given.warmup_years, free=given.free)
    options |= {period: getattr(given, period) for period in PERIODS}
    factors = ", ".join(name for name in models.FACTORS if name in given.free) or "none"
    for name in given.models or calibratable():
        if any((row["model"], row["free_factors"]) == (name, factors) for row in rows):
            continue
        data = open_dataset(
            given.data or data_dir() / "camels_us_671.nc", basins=basins, pet=given.pet or None, model=models.get(name)
        )
        rows.append(row_of(name, data, given.out, options))
        record.write(rows, "model_scores", str(file), COLUMNS)
        print(f"{name}: test NSE {rows[-1]['test_nse']}, {rows[-1]['seconds'] or 'resumed, no'} s", file=sys.stderr)
    print(table(rows))


if __name__ == "__main__":
    main()
