"""What an experiment leaves in a folder: series and scores as NetCDF, a table, figures, and a report in Markdown."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from .. import models, plot
from ..data.files import write_text_atomic
from ..data.netcdf import write_netcdf
from ..data.steps import rows_of_days
from ..plot.page import write_page
from ..plot.style import draw
from ..score import metrics
from ..score.references import read_reference
from ..score.summary import SCORES, log_test_scores, median_line, medians_of
from ..spec import Signature
from .diagnostics import BALANCE
from .inputs import methods_text
from .published import PUBLISHED
from .trained import METHOD

FILES = ("experiment.nc", "scores.csv", "report.md", "report.html", "test_looks.log")  # besides the figures
OWN_SPLIT = ("1980-10-01:1995-09-30", "1995-10-01:2008-12-31")  # of the reference scores, cut to the days of CAMELS-US


def write_experiment(result: xr.Dataset, folder: str | Path, *, references=(), command=None) -> list[Path]:
    """Write an experiment's result: numbers first, then figures, of which one that cannot be drawn is a warning.

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
        If references are given to a run on another split, or are no such tables.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    theirs = check_references(
        references, result.attrs["train_period"], result.attrs["test_period"], result["basin"].values
    )
    table = pd.DataFrame({n: result[n].values[-1] for n in SCORES}, index=result["basin"].values.astype(str))
    written = [
        write_netcdf(result, folder / "experiment.nc", command=command),
        write_text_atomic(folder / "scores.csv", table.rename_axis("basin").to_csv(float_format="%.5f")),
        write_text_atomic(folder / "report.md", _markdown(result, theirs, [], command)),
    ]
    log_test_scores(
        {str(m): result.sel(member=m) for m in result["member"].values},
        folder / "test_looks.log",
        command or "hybridsolve.experiment()",
    )
    figures = draw(figure_makers(result, theirs), folder)
    drawn = [path.stem for path in figures]
    write_text_atomic(folder / "report.md", _markdown(result, theirs, drawn, command))
    title = f"{result.attrs['config']}: {result.attrs['kind']}"
    return [*written, *figures, write_page(folder / "report.html", title, text(result), figures, result.attrs)]


def check_references(files, train: str, test: str | None, basins=None) -> dict[str, np.ndarray]:
    """The scores of other models by label, for these basins.

    Raises
    ------
    FileNotFoundError, ValueError
        Unless the files are there, with these basins, and the periods are those of the reference scores.
    """
    if files and (train, test) != OWN_SPLIT:
        raise ValueError(
            f"the reference scores belong to a training over {OWN_SPLIT[0]} and a test over {OWN_SPLIT[1]}; found "
            f"{train} and {test}: set periods.train and periods.test so, or leave them out."
        )
    for file in files:
        if not Path(file).is_file():
            raise FileNotFoundError(f"{file} does not exist; expected a CSV with the columns basin and nse.")
    if basins is None:
        return {}
    return {f"{Path(file).stem} (NLDAS, to 2010-09)": read_reference(file, basins) for file in files}


def text(result: xr.Dataset) -> str:
    """Medians over all basins that can be scored, failures ranked last; those that cannot are counted apart."""
    a = result.attrs
    lines = [
        f"{a['config']}, model {a['model']}, {a['kind']}, {result.sizes['basin']} basins, {_folds(a)}, "
        f"{_methods(a)}, train {a['train_period']}, test {a['test_period']}",
        median_line(""),
    ]
    for member in result["member"].values:
        lines.append(median_line(str(member), result.sel(member=member)))
    if BALANCE in result:
        lines.append(f"water balance: at most {_left(result):.1e} of the water gained is left")
    return "\n".join(lines)


def _methods(attributes) -> str:
    """By which methods the forcing was made."""
    return methods_text({k.removesuffix(METHOD): x for k, x in attributes.items() if k.endswith(METHOD)})


def _folds(attributes) -> str:
    """How many folds there are, and which of them were held out where it was not each."""
    n, held = attributes["n_folds"], attributes["folds_held_out"]
    return f"{n} fold(s)" + ("" if len(held.split(", ")) == n else f" of which {held} held out")


def _left(result: xr.Dataset) -> float:
    """The largest error of the water balance over the basins that gained water."""
    return float(np.abs(result[BALANCE]).max())


def _signatures(result: xr.Dataset) -> list[Signature]:
    """The model's signatures that the result has."""
    model = result.attrs["model"]
    return [s for s in (() if model == "none" else models.get(model).signatures) if s.name in result]


def _compared(result: xr.Dataset) -> list[tuple[Signature, np.ndarray, np.ndarray]]:
    """The signatures that were observed, with simulated and observed values."""
    found = [(s, f"observed_{s.observed}") for s in _signatures(result)]
    return [(s, result[s.name].values, result[name].values) for s, name in found if name in result]


def figure_makers(result: xr.Dataset, references=None) -> dict[str, Callable]:
    """The figures of an experiment by name, each a function without arguments that draws it."""
    make = functools.partial
    apart = {str(m): metrics.unscored(result.sel(member=m)) for m in result["member"].values}
    last = str(result["member"].values[-1])
    nse = result["nse"].sel(member=last).values
    runs = {m: result["nse"].sel(member=m).values[~left] for m, left in apart.items()}
    makers: dict[str, Callable] = {
        "scores": make(plot.score_distribution, runs, "NSE", references or None),
        "flow_duration": make(plot.flow_duration, result["flow"].values, result["obs"].values),
    }
    if "lat" in result.coords and "lon" in result.coords:
        at = result["lat"].values, result["lon"].values
        makers["map"] = make(plot.score_map, *at, nse, "NSE", unscored=apart[last])
        for name in [n for n in map(str, result.data_vars) if n.startswith("parameter_")]:
            label = name.removeprefix("parameter_")
            makers[name] = make(plot.score_map, *at, result[name].values, label, result[name].attrs["units"])
    for signature, simulated, observed in _compared(result):
        label = signature.meaning.split(":")[0]
        makers[signature.name] = make(plot.against, observed, simulated, label)
    for name in [n for n in map(str, result.data_vars) if n.startswith("learned_")]:
        makers[name] = make(_learned_flux, result, name)
    makers["hydrograph"] = make(_hydrograph, result, nse, apart[last])
    return makers


def _learned_flux(result: xr.Dataset, name: str):
    """A flux of a network inside the step, against what that sees."""
    kind, x = name.removeprefix("learned_"), result[name]
    seen = [v for n, v in result.data_vars.items() if str(n).startswith(f"seen_{x.attrs['network']}_")]
    formula = result.get(f"formula_{kind}")
    return plot.learned_flux(
        {v.attrs["long_name"]: v.values.ravel() for v in seen},
        x.values.ravel(),
        None if formula is None else formula.values.ravel(),
        kind.removeprefix(f"{x.attrs['network']}_"),
        x.attrs["long_name"],
        x.attrs["units"],
    )


def _hydrograph(result: xr.Dataset, nse: np.ndarray, unscored: np.ndarray):
    """The hydrograph of the basin of median score."""
    order = [b for b in np.argsort(np.where(np.isnan(nse), -np.inf, nse)) if not unscored[b]]
    if not order:
        raise ValueError("no basin has a score")
    at = int(order[len(order) // 2])
    rows = slice(0, min(rows_of_days(result, 3 * 366), result.sizes["time"]))
    return plot.hydrograph(
        result["time"].values[rows],
        result["obs"].values[rows, at],
        result["flow"].values[rows, at],
        title=f"Basin {result['basin'].values[at]}, of median score",
        score_text=f"NSE {nse[at]:.2f} over the test period",
    )


def _markdown(result: xr.Dataset, references: dict, figures: list[str], command) -> str:
    a, n = result.attrs, result.sizes["basin"]
    kinds = dict(temporal="test in time", pub="ungauged basins", pur="ungauged regions")
    title = f"{a['config']}: {kinds[a['kind']]}"
    forcing = "Maurer" if "Maurer" in a["forcing"] else a["forcing"]
    seeds = a["seeds"].split(", ")
    lines = [f"# {title}", ""]
    lines += [
        f"{n} basins, model {a['model']}, {a['forcing']}; {_methods(a)}. Training {a['train_period']}, "
        f"model choice {a['validation_period']}, test {a['test_period']}; {_folds(a)}, seeds {a['seeds']}."
    ]
    lines += [f"Made by `{command}`.", ""] if command else [""]
    lines += ["| run | NSE | KGE | bias % | FHV % | FLV % | failed | not scored |", "|" + "---|" * 8]
    for member in result["member"].values:
        s = medians_of(result.sel(member=member))
        row = " | ".join(f"{s[name]['median']:.3f}" for name in SCORES)
        lines.append(f"| {member} | {row} | {s['nse']['n_failed']} | {s['nse']['n_unscored']} |")
    lines += [
        "",
        "Medians over all basins with observations in the test period; one that failed ranks last.",
        "",
        "## Beside published scores",
        "",
    ]
    lines += ["| model | basins | forcing | training | test | ensemble | median NSE | source |", "|" + "---|" * 8]
    ours = f"{a['config']}, {kinds[a['kind']]}"
    for member in result["member"].values:
        size = len(seeds) if member == "ensemble" else 1
        median = medians_of(result.sel(member=member))["nse"]["median"]
        periods = f"{a['train_period']} | {a['test_period']}"
        lines.append(f"| **{ours}** | {n} | {forcing} | {periods} | {size} | **{median:.3f}** | this run, {member} |")
    for label, nse in references.items():
        lines.append(
            f"| {label} | {np.isfinite(nse).sum()} | NLDAS | 1980-10..1995-09 | 1995-10..2010-09 | see file | "
            f"{np.nanmedian(nse):.3f} | reference scores |"
        )
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in PUBLISHED]
    lines += ["", "Scores compare only where basins, forcing, periods and ensemble size do.", ""]
    signatures = _signatures(result)
    if signatures or BALANCE in result:
        lines += ["## What was not trained on", ""]
    for x in (result[s.name] for s in signatures):
        unit = "" if x.attrs["units"] == "1" else f" {x.attrs['units']}"
        lines.append(f"- {x.attrs['long_name']}: median {float(x.median()):.3g}{unit}")
    for s, x, y in _compared(result):
        good = np.isfinite(x) & np.isfinite(y)
        if good.sum() > 1:
            lines.append(f"- correlation with the observed {s.observed}: {np.corrcoef(x[good], y[good])[0, 1]:.3f}")
    if BALANCE in result:
        lines.append(f"- water balance: at most {_left(result):.1e} of what a basin gains is neither gone nor stored")
    lines += ["", "## Figures", ""] + [f"![{name}]({name}.png)" for name in figures]
    if a["citation"]:
        lines += ["", f"Data: {a['citation']}."]
    if a["model"] != "none":
        lines += ["", f"Model: {models.get(a['model']).title}, {models.get(a['model']).source}."]
    return "\n".join(lines) + "\n"
