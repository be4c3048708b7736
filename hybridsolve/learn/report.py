"""What a calibration leaves in a folder: parameters, flows, scores, figures, and a log of looks at the test score."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from .. import models, plot
from ..data.netcdf import write_netcdf, write_text_atomic
from ..data.times import carry_days
from . import metrics
from .evaluation import MEMBERS, scores_table

FLOWS = ["flow", "flow_lowest", "flow_highest", "obs"]  # apart from the parameters, which are small


def write(
    result: xr.Dataset, folder: str | Path, *, basin: str | None = None, references=(), command=None
) -> list[Path]:
    """Write a calibration's result.

    Parameters
    ----------
    result : xarray.Dataset
        Of `hybridsolve.calibrate`.
    folder : path
        Made if absent; files there are replaced, each only when its successor is complete.
    basin : str, optional
        Whose hydrograph is drawn; the basin of median score if left out.
    references : sequence of path
        CSV files with columns `basin` and `nse` of other models, drawn dashed beside ours. Their periods and forcing
        are their own, and the figure says so.
    command : str, optional
        Recorded as provenance.

    Returns
    -------
    list of Path
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    seed = int(result.attrs["seed"])
    flows = carry_days(result[FLOWS].assign_attrs(result.attrs), result)
    written = [
        write_netcdf(result.drop_dims("time"), folder / "calibration.nc", command=command, seed=seed),
        write_netcdf(flows, folder / "streamflow.nc", command=command, seed=seed),
    ]
    for member in MEMBERS:
        table = scores_table(result, member)
        written.append(write_text_atomic(folder / f"scores_{member}.csv", table.to_csv(float_format="%.5f")))
    written += [
        plot.save(figure, folder / f"{name}.png") for name, figure in figures(result, basin, references).items()
    ]
    if "test" in result["period"].values:
        scores = {m: result.sel(period="test", member=m) for m in MEMBERS}
        log_test_look(scores, folder / "test_looks.log", command or "hybridsolve.calibrate()")
    return [path for path in written if path]


def figures(result: xr.Dataset, basin: str | None = None, references=()) -> dict:
    """The figures of a calibration by name; arguments as `write`."""
    model = models.get(result.attrs["model"])
    periods = list(result["period"].values)
    last = periods[-1]
    series = {
        f"{member}, {period}": result["nse"].sel(period=period, member=member).values
        for period in periods
        for member in MEMBERS
    }
    made = {"scores": plot.score_distribution(series, "NSE", _references(result, references) or None)}
    nse = result["nse"].sel(period=last, member="best").values
    if "lat" in result.coords and "lon" in result.coords:
        made["map"] = plot.score_map(result["lat"].values, result["lon"].values, nse, f"NSE, {last}")
    if result.sizes["start"] > 1:
        train = result["nse_start"].sel(period="train").values
        made["starts"] = plot.start_spread(train, np.zeros(len(train), dtype=int), "training NSE")
    names = [str(n) for n in result["parameter"].values]
    rows = [model.variable(n) for n in names]
    made["parameters"] = plot.parameter_bounds(
        np.stack([result[n].values[:, 0] for n in names], 1),
        [v.lower for v in rows],
        [v.upper for v in rows],
        [f"{v.name} ({v.unit})" for v in rows],
        result["at_bound"].values[:, :, 0].T == 1,
    )
    span = np.array([v.upper - v.lower for v in rows])
    made["standard_errors"] = plot.standard_errors(result["standard_error"].values.T / span, names)
    made["sensitivity"] = plot.sensitivity_by_month(result["sensitivity"].values, names)
    made["hydrograph"] = _hydrograph(result, last, nse, basin)
    return made


def _references(result: xr.Dataset, files) -> dict[str, np.ndarray]:
    out = {}
    for file in files:
        table = pd.read_csv(file, dtype={"basin": str})
        if not {"basin", "nse"} <= set(table.columns):
            raise ValueError(f"{file} must have the columns basin and nse; found {', '.join(table.columns)}.")
        shared = table.set_index("basin")["nse"].reindex(result["basin"].values.astype(str))
        out[f"{Path(file).stem} (own period and forcing)"] = shared.to_numpy(float)
    return out


def _hydrograph(result: xr.Dataset, period: str, nse: np.ndarray, basin: str | None):
    ids = result["basin"].values.astype(str)
    if basin is None:
        order = np.argsort(np.where(np.isnan(nse), -np.inf, nse))
        at = int(order[len(order) // 2])
    elif str(basin) in ids:
        at = int(np.flatnonzero(ids == str(basin))[0])
    else:
        raise ValueError(f"basin '{basin}' is not in the result; expected one of {', '.join(ids[:5])}, ...")
    first, last = result.attrs[f"{period}_period"].split(":")
    flow = result["flow"].isel(basin=at).sel(time=slice(first, last))
    days = slice(0, min(3 * 366, flow.sizes["time"]))
    shown = result[["flow", "obs", "flow_lowest", "flow_highest"]].isel(basin=at).sel(time=flow["time"][days])
    return plot.hydrograph(
        shown["time"].values,
        shown["obs"].values,
        shown["flow"].sel(member="best").values,
        title=f"Basin {ids[at]}, {period} period",
        score_text=f"NSE {nse[at]:.2f} over the {period} period",
        spread=(shown["flow_lowest"].values, shown["flow_highest"].values)
        if result.attrs["ensemble_size"] > 1
        else None,
    )


def log_test_look(scores: Mapping[str, Mapping], path: Path, command: str) -> None:
    """Add a line each time test scores are computed: who looks often chooses by the test, knowingly or not.

    `scores` are of each member, as `median_line` takes them.
    """
    medians = ", ".join(f"{m} {medians_of(s)['nse']['median']:.4f}" for m, s in scores.items())
    before = path.read_text() if path.exists() else ""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_text_atomic(path, f"{before}{now} median test NSE: {medians}; {command}\n")


SCORES = {"nse": "NSE", "kge": "KGE", "pbias": "bias %", "fhv": "FHV %", "flv": "FLV %"}


def medians_of(scores: Mapping) -> dict[str, dict]:
    """`metrics.summary` of the scores that reports show, of a dataset or mapping of scores ``[B]``."""
    names = [*SCORES, "n_valid", "n_nonfinite"]
    return metrics.summary({name: np.asarray(scores[name]) for name in names if name in scores})


def median_line(label: str, scores: Mapping | None = None) -> str:
    """A line of medians, with the basins that failed and those not scored; without scores, the heads of its columns.

    `scores` is a dataset or mapping of scores ``[B]``, with `n_valid` and `n_nonfinite`, by which failed basins, which
    rank last, are told from those that have nothing to be scored by, which are left out.
    """
    if scores is None:
        return f"{label:22}" + "".join(f"{head:>9}" for head in (*SCORES.values(), "failed")) + f"{'not scored':>12}"
    s = medians_of(scores)
    counts = f"{s['nse']['n_failed']:9d}{s['nse']['n_unscored']:12d}"
    return f"{label:22}" + "".join(f"{s[n]['median']:9.3f}" for n in SCORES) + counts


def text(result: xr.Dataset) -> str:
    """The result in a few lines: medians over all basins that can be scored, the others counted beside them."""
    a = result.attrs
    lines = [
        f"{models.get(a['model']).title}, {result.sizes['basin']} basins, {a['starts']} starts, {a['method']}, loss "
        f"{a['loss']}, PET {a['pet_method']}, ensemble of {a['ensemble_size']}",
        median_line(""),
    ]
    for period in result["period"].values:
        for member in MEMBERS:
            lines.append(median_line(f"{period:12}{member}", result.sel(period=period, member=member)))
    bound = result["at_bound"].isel(start=0)
    share = bound.mean("basin").values
    lines.append(
        "at a bound (share of basins): "
        + ", ".join(f"{n} {x:.0%}" for n, x in zip(result["parameter"].values, share, strict=True) if x > 0.05)
    )
    return "\n".join(lines)
