"""The files of a calibration: parameters, flows, scores, figures, and a log of the readings of the test score."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from .. import models
from .._extras import MissingPackage, needed_for
from ..data.files import refuse_file, write_text_atomic
from ..data.ids import spelled_as
from ..data.netcdf import write_netcdf
from ..data.steps import rows_of_days
from ..data.times import carry_days
from ..score import metrics
from ..score.references import read_reference
from ..score.summary import log_test_scores, median_line
from .evaluate import MEMBERS, scores_table
from .space import slope

if TYPE_CHECKING:  # loaded where a figure is drawn
    from matplotlib.figure import Figure

FLOWS = ["flow", "flow_lowest", "flow_highest", "obs"]  # apart from the parameters, which are small
FIGURES = ("scores", "map", "starts", "parameters", "standard_errors", "sensitivity", "hydrograph")
FILES = (
    *("checkpoint.pt", "calibration.nc", "streamflow.nc", "test_looks.log"),
    *(f"scores_{member}.csv" for member in MEMBERS),
    *(f"{name}.png" for name in FIGURES),
    "report.html",
)


def refuse_other_run(folder: str | Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Raise if a folder holds files that a calibration would replace, unless that is asked for.

    A run that is resumed must have left its checkpoint there, which `calibrate` then compares.
    """
    folder = Path(folder)
    refuse_file(folder)
    held = [name for name in FILES if (folder / name).exists()]
    if overwrite or not held or (resume and "checkpoint.pt" in held):
        return
    remedy = "go on with it by --resume, " if "checkpoint.pt" in held else ""
    raise ValueError(
        f"{folder} holds another run ({', '.join(held[:3])}{', ...' if len(held) > 3 else ''}); {remedy}name another "
        "folder, or replace what is there with --overwrite."
    )


def write(
    result: xr.Dataset,
    folder: str | Path,
    *,
    basin: str | None = None,
    references: Sequence[str | Path] | Mapping[str, np.ndarray] = (),
    command: str | None = None,
) -> list[Path]:
    """Write a calibration's result: first all numbers, then the figures.

    Parameters
    ----------
    result : xarray.Dataset
        Of `hybridsolve.calibrate`.
    folder : path
        Made if absent; files there are replaced, each only when its successor is complete.
    basin : str, optional
        Whose hydrograph is drawn; the basin of median score if left out.
    references : sequence of path, or mapping of `read_references`
        CSV files with columns `basin` and `nse` of other models, drawn dashed beside ours. Their periods and forcing
        are their own, and the figure says so.
    command : str, optional
        Recorded as provenance.

    Returns
    -------
    list of Path
        Without the figures that could not be drawn, each of which is a warning.

    Raises
    ------
    ValueError
        If `basin` or a reference does not fit; then nothing is written.
    """
    ids = result["basin"].values.astype(str)
    if basin is not None:
        check_basin(basin, ids)
    references = references if isinstance(references, Mapping) else read_references(references, ids)
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
    if "test" in result["period"].values:
        scores = {m: _fitted(result).sel(period="test", member=m) for m in MEMBERS}
        log_test_scores(scores, folder / "test_looks.log", command or "hybridsolve.calibrate()")
    try:
        with needed_for("a figure"):
            from ..plot.page import write_page
            from ..plot.style import draw
    except MissingPackage as error:
        warnings.warn(f"no figure is drawn, all numbers are written: {error}", stacklevel=2)
        return written
    drawn = draw(figures(result, basin, references), folder)
    title = str(result.attrs["title"])
    return [*written, *drawn, write_page(folder / "report.html", title, text(result), drawn, result.attrs)]


def figures(result: xr.Dataset, basin: str | None = None, references: Mapping | None = None) -> dict[str, Callable]:
    """The figures of a calibration by name, each as a function that makes it."""
    from .. import plot

    model, fitted = models.get(result.attrs["model"]), _fitted(result)
    periods = list(result["period"].values)
    last = periods[-1]
    nse = result["nse"].sel(period=last, member="best").values
    names = [str(n) for n in result["parameter"].values]
    table = {v.name: v for v in model.every_parameter}
    searched = {n: fitted[n].attrs for n in names}
    rows = [replace(table[n], lower=a["valid_min"], upper=a["valid_max"]) for n, a in searched.items()]
    best_values = np.stack([fitted[n].values[:, 0] for n in names])
    slopes = np.stack([slope(v, x) * np.ones_like(x) for v, x in zip(rows, best_values, strict=True)])
    title = f"NSE, {last}" + (" (overlap of periods allowed)" if "overlap" in result.attrs else "")

    def scores() -> Figure:
        series = {
            f"{member}, {period}": fitted["nse"].sel(period=period, member=member).values
            for period in periods
            for member in MEMBERS
        }
        return plot.score_distribution(series, "NSE", references or None)

    def starts() -> Figure:
        train = fitted["nse_start"].sel(period="train").values
        return plot.start_spread(train, np.zeros(len(train), dtype=int), "training NSE")

    def parameters() -> Figure:
        return plot.parameter_bounds(
            best_values.T,
            [v.lower for v in rows],
            [v.upper for v in rows],
            [f"{v.name} ({v.unit})" for v in rows],
            fitted["at_bound"].values[:, :, 0].T == 1,
            log=[v.scale == "log" for v in rows],
        )

    made = {"scores": scores}
    if "lat" in result.coords and "lon" in result.coords:
        best = fitted.sel(period=last, member="best")
        at = fitted["lat"].values, fitted["lon"].values
        made["map"] = lambda: plot.score_map(*at, best["nse"].values, title, unscored=metrics.unscored(best))
    if result.sizes["start"] > 1:
        made["starts"] = starts
    return made | {
        "parameters": parameters,
        "standard_errors": lambda: plot.standard_errors((fitted["standard_error"].values / slopes).T, names),
        "sensitivity": lambda: plot.sensitivity_by_month(
            fitted["sensitivity"].values, names, fitted["sensitivity"].attrs["units"]
        ),
        "hydrograph": lambda: _hydrograph(result, last, nse, basin),
    }


def check_basin(basin: str, ids: Iterable[str]) -> None:
    """Raise unless a basin is among the ids."""
    ids = [str(b) for b in ids]
    if str(basin) not in ids:
        other = spelled_as(str(basin), ids)
        hint = f"write it as there, '{other}'" if other else f"name one such as {', '.join(ids[:3])}"
        raise ValueError(f"basin '{basin}' of the hydrograph is not among the {len(ids)} of the run; {hint}.")


def read_references(files: Iterable[str | Path], ids: Sequence[str] | np.ndarray) -> dict[str, np.ndarray]:
    """NSE ``[B]`` of other models by label, matched to basin ids; arguments and errors of `read_reference`."""
    out = {}
    for file in files:
        stem, note = Path(file).stem, "(own period and forcing)"
        label = f"{stem} {note}" if f"{stem} {note}" not in out else f"{file} {note}"
        out[label] = read_reference(file, ids)
    return out


def _hydrograph(result: xr.Dataset, period: str, nse: np.ndarray, basin: str | None) -> Figure:
    from .. import plot

    ids = result["basin"].values.astype(str)
    if basin is None:
        at = median_basin(nse)
    else:
        at = int(np.flatnonzero(ids == str(basin))[0])
    first, last = result.attrs[f"{period}_period"].split(":")
    flow = result["flow"].isel(basin=at).sel(time=slice(first, last))
    shown = slice(0, min(rows_of_days(result, 3 * 366), flow.sizes["time"]))
    shown = result[["flow", "obs", "flow_lowest", "flow_highest"]].isel(basin=at).sel(time=flow["time"][shown])
    return plot.hydrograph(
        shown["time"].values,
        shown["obs"].values,
        shown["flow"].sel(member="best").values,
        title=f"Basin {ids[at]}, {period} period",
        score_text=f"NSE {nse[at]:.2f} over the {period} period" if np.isfinite(nse[at]) else "not scored",
        spread=(shown["flow_lowest"].values, shown["flow_highest"].values)
        if result.attrs["ensemble_size"] > 1
        else None,
        unit=result["flow"].attrs["units"],
    )


def median_basin(scores: np.ndarray) -> int:
    """The basin of median score among those that have one; the first where none has."""
    scored = np.flatnonzero(np.isfinite(scores))
    return int(scored[np.argsort(scores[scored], kind="stable")[len(scored) // 2]]) if len(scored) else 0


def _fitted(result: xr.Dataset) -> xr.Dataset:
    """The result without the basins that were left out on request, which are no failures."""
    kept = result["train_loss"].notnull().any("start").values
    return result.drop_dims("time", errors="ignore").isel(basin=kept)


def text(result: xr.Dataset) -> str:
    """The result in a few lines: medians over all basins that can be scored, the others counted beside them."""
    a, fitted = result.attrs, _fitted(result)
    left_out = result.sizes["basin"] - fitted.sizes["basin"]
    model = models.get(a["model"])
    methods = (f"{name} by {a[key]}, " for name in model.forcing_names if (key := f"{name}_method") in a)
    lines = [
        f"{model.title}, {fitted.sizes['basin']} basins{f' ({left_out} left out)' if left_out else ''}, "
        f"{a['starts']} starts, {a['method']}, {a['steps_taken']} of {a['steps']} steps, loss {a['loss']}, "
        f"{''.join(methods)}ensemble of {a['ensemble_size']}"
        + "".join(f"; {what.replace('_', ' ')} {a[what]}" for what in ("fixed", "ranges", "free_factors") if what in a)
        + (f"; {a['overlap']}" if "overlap" in a else ""),
        median_line(""),
    ]
    for period in result["period"].values:
        for member in MEMBERS:
            lines.append(median_line(f"{period:12}{member}", fitted.sel(period=period, member=member)))
    bound = fitted["at_bound"].isel(start=0)
    share = bound.mean("basin").values
    lines.append(
        "at a bound (share of basins): "
        + ", ".join(f"{n} {x:.0%}" for n, x in zip(result["parameter"].values, share, strict=True) if x > 0.05)
    )
    return "\n".join(lines)
