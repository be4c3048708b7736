"""The commands `hybridsolve run` and `hybridsolve consolidate`; what needs torch is imported where one runs."""

from __future__ import annotations

import argparse
from typing import Any

OPTIONS = (
    ("forcing", "a Zarr store, a NetCDF file, or a pattern of files that follow one another in time"),
    ("parameters", "a NetCDF file or Zarr store of parameters by basin, such as calibration.nc"),
    ("trained", "instead: trained.pt of `hybridsolve train`, of a network that sees attributes alone"),
    ("out", "folder of the run: its stores, its journal and its states"),
    ("model", "default: the one that the parameters name"),
    ("member", "best or ensemble, of the starts of a calibration (default: best)"),
    ("names", "what the forcing's variables are, as NAME=VARIABLE[unit],..."),
    ("period", "FROM:TO (default: all of the forcing)"),
    ("fluxes", "fluxes and states to keep, joined by commas (default: the model's outflow)"),
    ("basins", "keep these alone: ids joined by commas, or a file with one a line"),
    ("network", "route along these rivers: a file of RiverNetwork.save or a RouteLink file"),
    ("scheme", "of the rivers: todini, ddr, muskingum or accumulate"),
    ("dt", "step of the rivers, s"),
    ("gauges", "reaches whose discharge is kept: ids joined by commas, or a file (default: all)"),
    ("local-days", "also the discharge's means of days of a clock ahead of UTC, in hours, or 'longitude'"),
    ("memory", "GB that the arrays of the run may take (default: 2)"),
    ("parts", "ranges of basins that run on their own, with --dask"),
    ("device", "cpu, cuda, or auto for a GPU where there is one (default: cpu)"),
    ("backend", "auto, cpu, triton, cuda or reference"),
)
RIVERS = {"network", "scheme", "dt", "gauges", "local_days"}
NUMBERS = {"dt": float, "memory": float, "parts": int}


def run_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", nargs="?", help="YAML file of the options below; those of the command line come first")
    for name, meaning in OPTIONS:
        sub.add_argument(f"--{name}", help=meaning, type=NUMBERS.get(name, str))
    sub.add_argument("--compress", action="store_true", default=None, help="compress what is written")
    sub.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any key of the settings, such as rivers.dt=900"
    )
    sub.add_argument(
        "--continue",
        dest="further",
        action="store_true",
        help="append the days that the forcing has gained to a finished run, from its last state",
    )
    sub.add_argument("--dask", metavar="local|ADDRESS", help="run the parts on Dask workers (default: in this process)")
    sub.add_argument(
        "--verify", action="store_true", help="compare all forcing that the run has read so far, not its last window"
    )
    sub.add_argument("--dry-run", action="store_true", help="check everything, print the plan and stop")


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the YAML file and the options say together."""
    from pathlib import Path

    from ..configuration import read_yaml

    values: dict[str, Any] = {}
    if arguments.config is not None:
        path = Path(arguments.config)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist, expected a YAML file of a run's settings; check the path.")
        values = read_yaml(path.read_bytes(), str(path)) or {}
        if not isinstance(values, dict):
            raise ValueError(f"{path} must be a mapping of keys to values; found {type(values).__name__}: correct it.")
    for name, _ in (*OPTIONS, ("compress", "")):
        name = name.replace("-", "_")
        given = getattr(arguments, name)
        if given is None:
            continue
        if name in RIVERS:
            values["rivers"] = {**(values.get("rivers") or {}), name: given}
        else:
            values[name] = given.split(",") if name == "fluxes" else given
    if arguments.parameters is not None:
        values.pop("trained", None)
    elif arguments.trained is not None:
        values.pop("parameters", None)
    return values


def run(arguments: argparse.Namespace) -> None:
    from .continental import run

    text = run(
        settings(arguments),
        arguments.set,
        further=arguments.further,
        cluster=arguments.dask,
        dry_run=arguments.dry_run,
        verify=arguments.verify,
    )
    print(text)


def consolidate_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folder", help="of `hybridsolve run`")
    sub.add_argument("out", help="the joined store, which must be new")
    kind = sub.add_mutually_exclusive_group()
    kind.add_argument("--rivers", action="store_true", help="join the discharge of reaches instead")
    kind.add_argument("--days", action="store_true", help="join its means of local days instead")


def consolidate(arguments: argparse.Namespace) -> None:
    from .store import consolidate

    kind = ".rivers" if arguments.rivers else ".days" if arguments.days else ""
    print(f"wrote {consolidate(arguments.folder, arguments.out, kind)}")
