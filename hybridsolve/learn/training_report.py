"""What an experiment leaves in a folder: series and scores as NetCDF, a table, figures, and a report in Markdown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from .. import models, plot
from ..data.netcdf import write_netcdf, write_text_atomic
from . import metrics
from .report import SCORES, log_test_look, median_line

# Published medians of NSE on CAMELS-US; (model, basins, forcing, training, test, ensemble size, median, source).
SHORT, LONG = ("1999-10..2008-09", "1989-10..1999-09"), ("1980-10..1995-09", "1995-10..2010-09")
PUBLISHED = (
    ("LSTM", 531, "Maurer", *SHORT, 1, 0.731, "Kratzert et al. 2019, HESS 23:5089"),
    ("LSTM", 531, "Maurer", *SHORT, 8, 0.758, "Kratzert et al. 2019, HESS 23:5089"),
    ("LSTM (hydroDL)", 531, "Daymet", *SHORT, 1, 0.74, "mhpi.github.io, benchmarks"),
    ("dHBV 1.0, beta and betaet by day", 671, "Daymet", *LONG, 1, 0.732, "Feng et al. 2022, WRR 58"),
    ("dHBV, static", 671, "Daymet", *LONG, 1, 0.69, "mhpi.github.io, benchmarks"),
    ("SAC-SMA", 671, "Daymet", *LONG, 1, 0.66, "mhpi.github.io, benchmarks"),
)
OWN_SPLIT = ("1980-10-01:1995-09-30", "1995-10-01:2008-12-31")  # of the reference scores, as far as these data go


def write_experiment(result: xr.Dataset, folder: str | Path, *, references=(), command=None) -> list[Path]:
    """Write an experiment's result.

    Parameters
    ----------
    result : xarray.Dataset
        Of `experiment`.
    folder : path
    references : sequence of path
        CSV files with columns `basin` and `nse` of other models; they enter the table and the figure if the run is on
        their own split, 1980-10..1995-09 and 1995-10..2008-12.
    command : str, optional
        Recorded as provenance.

    Raises
    ------
    ValueError
        If references are given to a run on another split.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    check_references(references, result.attrs["train_period"], result.attrs["test_period"])
    theirs = {f"{Path(file).stem} (NLDAS, to 2010-09)": _reference(result, file) for file in references}
    table = pd.DataFrame({n: result[n].values[-1] for n in SCORES}, index=result["basin"].values.astype(str))
    figures = make_figures(result, theirs)
    written = [
        write_netcdf(result, folder / "experiment.nc", command=command),
        write_text_atomic(folder / "scores.csv", table.rename_axis("basin").to_csv(float_format="%.5f")),
        *(plot.save(figure, folder / f"{name}.png") for name, figure in figures.items()),
        write_text_atomic(folder / "report.md", _markdown(result, theirs, list(figures), command)),
    ]
    log_test_look(
        {str(m): result["nse"].sel(member=m).values for m in result["member"].values},
        folder / "test_looks.log",
        command or "hybridsolve.learn.experiment()",
    )
    return written


def check_references(files, train: str, test: str) -> None:
    """Raise unless the files are there and the periods are those of the reference scores."""
    if files and (train, test) != OWN_SPLIT:
        raise ValueError(
            f"the reference scores belong to a training over {OWN_SPLIT[0]} and a test over {OWN_SPLIT[1]}; found "
            f"{train} and {test}: set periods.train and periods.test so, or leave them out."
        )
    for file in files:
        if not Path(file).is_file():
            raise FileNotFoundError(f"{file} does not exist; expected a CSV with the columns basin and nse.")


def text(result: xr.Dataset) -> str:
    """Medians over ALL basins, failures counted beside them."""
    a = result.attrs
    lines = [
        f"{a['config']}, {a['kind']}, {result.sizes['basin']} basins, {a['n_folds']} fold(s), PET {a['pet_method']}, "
        f"train {a['train_period']}, test {a['test_period']}",
        median_line(""),
    ]
    for member in result["member"].values:
        lines.append(median_line(str(member), {n: result[n].sel(member=member).values for n in SCORES}))
    if "balance" in result:
        lines.append(
            f"water balance: at most {np.abs(result['balance'].values).max():.1e} of the precipitation is left"
        )
    return "\n".join(lines)


def _medians(result, member):
    return metrics.summary({n: result[n].sel(member=member).values for n in SCORES})


def make_figures(result: xr.Dataset, references=None) -> dict:
    """The figures of an experiment by name."""
    members = [str(m) for m in result["member"].values]
    nse = {m: result["nse"].sel(member=m).values for m in members}
    last = nse[members[-1]]
    figures = {
        "scores": plot.score_distribution(nse, "NSE", references or None),
        "flow_duration": plot.flow_duration(result["flow"].values, result["obs"].values),
    }
    if "lat" in result.coords:
        figures["map"] = plot.score_map(result["lat"].values, result["lon"].values, last, "NSE")
        for name in [n for n in result.data_vars if n.startswith("parameter_")]:
            x = result[name]
            label = name.removeprefix("parameter_")
            at = result["lat"].values, result["lon"].values
            figures[name] = plot.score_map(*at, x.values, label, x.attrs["units"])
    for ours, theirs, label in (
        ("bfi", "baseflow_index", "baseflow index"),
        ("runoff", "runoff_ratio", "runoff ratio"),
    ):
        if ours in result and f"camels_{theirs}" in result:
            figures[ours] = plot.against(result[f"camels_{theirs}"].values, result[ours].values, label)
    order = np.argsort(np.where(np.isnan(last), -np.inf, last))
    at = int(order[len(order) // 2])
    days = slice(0, min(3 * 366, result.sizes["time"]))
    figures["hydrograph"] = plot.hydrograph(
        result["time"].values[days],
        result["obs"].values[days, at],
        result["flow"].values[days, at],
        title=f"Basin {result['basin'].values[at]}, of median score",
        score_text=f"NSE {last[at]:.2f} over the test period",
    )
    return figures


def _reference(result: xr.Dataset, file) -> np.ndarray:
    table = pd.read_csv(file, dtype={"basin": str})
    if not {"basin", "nse"} <= set(table.columns):
        raise ValueError(f"{file} must have the columns basin and nse; found {', '.join(table.columns)}.")
    return table.set_index("basin")["nse"].reindex(result["basin"].values.astype(str)).to_numpy(float)


def _markdown(result: xr.Dataset, references: dict, figures: list[str], command) -> str:
    a, n = result.attrs, result.sizes["basin"]
    kinds = dict(temporal="test in time", pub="ungauged basins", pur="ungauged regions")
    title = f"{a['config']}: {kinds[a['kind']]}"
    forcing = "Maurer" if "Maurer" in a["forcing"] else a["forcing"]
    seeds = a["seeds"].split(", ")
    lines = [f"# {title}", ""]
    lines += [
        f"{n} basins, {a['forcing']}; potential evapotranspiration: {a['pet_method']}. Training {a['train_period']}, "
        f"model choice {a['validation_period']}, test {a['test_period']}; {a['n_folds']} fold(s), seeds {a['seeds']}."
    ]
    lines += [f"Made by `{command}`.", ""] if command else [""]
    lines += ["| run | NSE | KGE | bias % | FHV % | FLV % | basins without score |", "|---|---|---|---|---|---|---|"]
    for member in result["member"].values:
        s = _medians(result, member)
        row = " | ".join(f"{s[name]['median']:.3f}" for name in SCORES)
        lines.append(f"| {member} | {row} | {s['nse']['n_nan']} |")
    lines += ["", "Medians over all basins.", "", "## Beside published scores", ""]
    lines += ["| model | basins | forcing | training | test | ensemble | median NSE | source |", "|" + "---|" * 8]
    ours = f"{a['config']}, {kinds[a['kind']]}"
    for member in result["member"].values:
        size = len(seeds) if member == "ensemble" else 1
        median = _medians(result, member)["nse"]["median"]
        periods = f"{a['train_period']} | {a['test_period']}"
        lines.append(f"| **{ours}** | {n} | {forcing} | {periods} | {size} | **{median:.3f}** | this run, {member} |")
    for label, nse in references.items():
        median = metrics.summary({"nse": nse})["nse"]
        lines.append(
            f"| {label} | {n - median['n_nan']} | NLDAS | 1980-10..1995-09 | 1995-10..2010-09 | see file | "
            f"{np.nanmedian(nse):.3f} | reference scores |"
        )
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in PUBLISHED]
    lines += ["", "Scores compare only where basins, forcing, periods and ensemble size do.", ""]
    if "balance" in result:
        lines += ["## What was not trained on", ""]
        for name in ("aet", "swe_max", "bfi", "runoff"):
            x = result[name]
            unit = "" if x.attrs["units"] == "1" else f" {x.attrs['units']}"
            lines.append(f"- {x.attrs['long_name']}: median {np.median(x.values):.3g}{unit}")
        for mine, theirs in (("bfi", "baseflow_index"), ("runoff", "runoff_ratio")):
            if f"camels_{theirs}" in result:
                x, y = result[mine].values, result[f"camels_{theirs}"].values
                good = np.isfinite(x) & np.isfinite(y)
                lines.append(f"- correlation with CAMELS' {theirs}: {np.corrcoef(x[good], y[good])[0, 1]:.3f}")
        left = np.abs(result["balance"].values).max()
        lines += [f"- water balance: at most {left:.1e} of a basin's precipitation is neither gone nor stored", ""]
    lines += ["## Figures", ""] + [f"![{name}]({name}.png)" for name in figures]
    if a["citation"]:
        lines += ["", f"Data: {a['citation']}."]
    if a["model"] != "none":
        lines += ["", f"Model: {models.get(a['model']).title}, {models.get(a['model']).source}."]
    return "\n".join(lines) + "\n"
