"""The files of a comparison of models: all numbers, tables, figures, and a report in Markdown."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pandas as pd
import xarray as xr

from .. import plot
from .._extras import MissingPackage, needed_for
from ..data.files import refuse_file, write_text_atomic
from ..data.netcdf import write_netcdf
from ..score import metrics
from ..score.summary import SCORES, log_test_scores, median_line, medians_of
from .comparison import BENCHMARKS, TIE

FIGURES = ("wins", "scores")
FILES = (
    *(
        "comparison.nc",
        "combined_flow.nc",
        "scores.csv",
        "basins.csv",
        "differences.csv",
        "report.md",
        "report.html",
        "test_looks.log",
    ),
    *(f"{name}.png" for name in FIGURES),
)


def refuse_other_comparison(folder: str | Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Raise if a folder holds files that a comparison would replace, unless that is asked for."""
    folder = Path(folder)
    refuse_file(folder)
    held = [name for name in FILES if (folder / name).exists()]
    if held and not (resume or overwrite):
        raise ValueError(
            f"{folder} holds another comparison or run ({', '.join(held[:3])}{', ...' if len(held) > 3 else ''}); go "
            "on with it by --resume, name another folder, or replace what is there with --overwrite."
        )


def write(result: xr.Dataset, folder: str | Path, *, command: str | None = None) -> list[Path]:
    """Write a comparison: first all numbers, then the figures, of which one that cannot be drawn is a warning.

    Parameters
    ----------
    result : xarray.Dataset
        Of `compare_structures`.
    folder : path
        Made if absent; files there are replaced, each only when its successor is complete.
    command : str, optional
        Recorded as provenance.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = result.drop_dims("time", errors="ignore")
    flows = result[["flow", "obs"]].assign_attrs(result.attrs)
    seed = int(result.attrs["seed"])
    written = [
        write_netcdf(numbers, folder / "comparison.nc", command=command, seed=seed),
        write_netcdf(flows, folder / "combined_flow.nc", command=command, seed=seed),
    ]
    for name, table in tables(result).items():
        written.append(write_text_atomic(folder / f"{name}.csv", table.to_csv(float_format="%.5f", index=False)))
    if "test" in result["period"].values:
        scores = {str(c): _scores(result, "test", c) for c in result["compared"].values}
        log_test_scores(scores, folder / "test_looks.log", command or "hybridsolve.calibrate_structures()")
    report = folder / "report.md"
    written.append(write_text_atomic(report, _markdown(result, [], command)))
    try:
        with needed_for("a figure"):
            from ..plot.page import write_page
            from ..plot.style import draw
    except MissingPackage as error:
        warnings.warn(f"no figure is drawn, all numbers are written: {error}", stacklevel=2)
        return written
    drawn = draw(figures(result), folder)
    write_text_atomic(report, _markdown(result, [path.stem for path in drawn], command))
    title = str(result.attrs["title"])
    return [*written, *drawn, write_page(folder / "report.html", title, text(result), drawn, result.attrs)]


def tables(result: xr.Dataset) -> dict[str, pd.DataFrame]:
    """The tables by name: scores of every basin, candidate and period; what is chosen in it; differences of NSE."""
    scores = result[list(metrics.NAMES)].to_dataframe(dim_order=["basin", "candidate", "period"]).reset_index()
    basins = pd.DataFrame({"basin": result["basin"].values, "chosen": result["choice"].values})
    for name in result["model"].values:
        basins[f"weight_{name}"] = result["weight"].sel(model=name).values
    basins["winner"] = result["winner"].values
    rows = []
    for a, b in combinations(result["compared"].values, 2):
        pair = {name: result[name].sel(compared=a, other=b).values for name in _DIFFERENCES}
        rows.append(pd.DataFrame({"basin": result["basin"].values, "candidate": a, "less": b, **pair}))
    return {
        "scores": scores[["basin", "candidate", "period", *metrics.NAMES]],
        "basins": basins,
        "differences": pd.concat(rows),
    }


_DIFFERENCES = ("difference", "difference_lower", "difference_upper")


def wins(result: xr.Dataset) -> xr.DataArray:
    """In how many basins each row is ahead of each column: where the interval of their difference lies above 0."""
    return (result["difference_lower"] > 0).sum("basin")


def figures(result: xr.Dataset) -> dict[str, Callable]:
    """The figures by name, each as a function that makes it."""
    last = result["period"].values[-1]
    fitted = result.isel(basin=~result["left_out"].values)
    nse = {str(c): fitted["nse"].sel(period=last, candidate=c).values for c in result["candidate"].values}
    known = {name: nse.pop(name) for name in BENCHMARKS}
    made: dict[str, Callable] = {}
    if "lat" in result.coords and "lon" in result.coords:
        at = result["lat"].values, result["lon"].values
        made["wins"] = functools.partial(plot.winner_map, *at, result["winner"].values, list(result["model"].values))
    made["scores"] = functools.partial(plot.score_distribution, nse, f"{last} NSE", known)
    return made


def text(result: xr.Dataset) -> str:
    """The comparison in a few lines: medians over all basins that can be scored, the best single model, and wins."""
    a, last = result.attrs, result["period"].values[-1]
    lines = [f"{a['title']}: {_basins(result)}, member {a['member']}"]
    for period in result["period"].values:
        lines.append(median_line(period))
        lines += [median_line(f"  {c}", _scores(result, period, c)) for c in result["candidate"].values]
    lines.append(f"best single model by {a['chosen_by']}: {a['best_single']}; {_win_text(result, last)}")
    return "\n".join(lines)


def _scores(result: xr.Dataset, period: str, candidate: str) -> xr.Dataset:
    """Scores ``[B]`` of the basins that were not left out."""
    return result[list(metrics.NAMES)].sel(period=period, candidate=candidate).isel(basin=~result["left_out"].values)


def _basins(result: xr.Dataset) -> str:
    left_out = int(result["left_out"].sum())
    return f"{result.sizes['basin'] - left_out} basins{f' ({left_out} left out)' if left_out else ''}"


def _win_text(result: xr.Dataset, last: str) -> str:
    counts = [f"{name} {(result['winner'] == name).sum().item()}" for name in [*result["model"].values, TIE]]
    return f"ahead of all others over {last} (basins): {', '.join(counts)}"


def _markdown(result: xr.Dataset, drawn: list[str], command: str | None) -> str:
    a, last = result.attrs, result["period"].values[-1]
    periods = ", ".join(f"{p} {a[f'{p}_period']}" for p in result["period"].values)
    pet = "".join(f", {name.removesuffix('_method')} by {x}" for name, x in a.items() if name.endswith("_method"))
    lines = [f"# {a['title']}", "", f"{_basins(result)}{pet}; {periods}. Loss {a['loss']}, {a['starts']} starts."]
    lines += [f"Made by `{command}`.", ""] if command else [""]
    lines += [f"{a['overlap']}.", ""] if "overlap" in a else []
    for period in result["period"].values:
        lines += [
            f"## Scores, {period}",
            "",
            f"| | {' | '.join(SCORES.values())} | failed | not scored |",
            "|" + "---|" * 8,
        ]
        for candidate in result["candidate"].values:
            s = medians_of(_scores(result, period, candidate))
            row = " | ".join(f"{s[name]['median']:.3f}" for name in SCORES)
            lines.append(f"| {candidate} | {row} | {s['nse']['n_failed']} | {s['nse']['n_unscored']} |")
        lines.append("")
    lines += [
        "Medians over basins. `mean` has equal weights; `weighted` has those of least squared error over all periods "
        f"but the test, each basin for itself; `chosen` is each basin's best model by {a['chosen_by']}, by which the "
        f"best single model is {a['best_single']}. `climatology` is the mean of each calendar day in training, "
        "`persistence` the flow of the step before; both are scored where they are known.",
        "",
        f"## Wins, {last}",
        "",
        f"Basins in which the row is ahead of the column: where the {a['level']:.0%} interval of their difference of "
        "NSE, by drawing years with replacement, lies above 0. The others are ties.",
        "",
    ]
    counts = wins(result)
    names = list(map(str, result["compared"].values))
    lines += [f"| | {' | '.join(names)} |", "|" + "---|" * (len(names) + 1)]
    lines += [f"| {n} | {' | '.join('' if m == n else str(counts.sel(compared=n, other=m).item()) for m in names)} |"
              for n in names]  # fmt: skip
    lines += ["", _win_text(result, last).capitalize() + ".", "", "## Choices and weights", ""]
    lines += ["| model | chosen in | median weight | weight 0 in |", "|" + "---|" * 4]
    for name in result["model"].values:
        weight = result["weight"].sel(model=name)
        n = (result["choice"] == name).sum().item(), (weight == 0).sum().item()
        lines.append(f"| {name} | {n[0]} | {float(weight.median()):.2f} | {n[1]} |")
    lines += ["", "## Figures", ""] + [f"![{name}]({name}.png)" for name in drawn] if drawn else []
    if a["citation"]:
        lines += ["", f"Data and models: {a['citation']}."]
    return "\n".join(lines) + "\n"
