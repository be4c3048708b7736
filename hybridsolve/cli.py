"""The command line: hybridsolve info | demo | calibrate | train | simulate | route."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
import warnings
from pathlib import Path

import torch

from . import __version__, backends, models


def main(argv: list[str] | None = None) -> int:
    """Run a command; an error in what was asked is one sentence on stderr and exit status 2."""
    arguments = _parser().parse_args(argv)
    arguments.command_line = shlex.join(["hybridsolve", *(sys.argv[1:] if argv is None else argv)])
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
    try:
        arguments.run(arguments)
    except (ValueError, OSError, RuntimeError, ArithmeticError) as error:
        print(f"hybridsolve {arguments.name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"hybridsolve {arguments.name}: stopped; what was finished is kept.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hybridsolve", description="Differentiable hydrology: simulate, calibrate, train and route."
    )
    parser.add_argument("--version", action="version", version=f"hybridsolve {__version__}")
    commands = parser.add_subparsers(dest="name", required=True)

    def command(name, run, help):
        sub = commands.add_parser(name, help=help, description=help)
        sub.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's)")
        sub.set_defaults(run=run)
        return sub

    command("info", _info, "list models, parameters, backends and what this build can do")

    sub = command("demo", _demo, "calibrate a real catchment from packaged data, then time 1,000 synthetic ones")
    sub.add_argument("--out", default="hybridsolve-demo", help="folder for results (default: %(default)s)")

    def data_arguments(sub, pet=True):
        sub.add_argument(
            "data",
            help="NetCDF or CSV file, folder of CSV files (one a basin), Caravan folder, the CAMELS pack, or 'fulda'",
        )
        sub.add_argument("--basins", help="file with one basin id a line, or ids joined by commas (default: all)")
        sub.add_argument(
            "--names",
            metavar="NAME=VARIABLE,...",
            help="what the data's variables are, where their names do not say it: prcp=pr,tmean=tas[K],qobs=Q[mm sum]",
        )
        sub.add_argument(
            "--day-ends",
            metavar="HH:MM",
            help="of a file without time bounds: 09:00 if each day runs from 09:00 of its date to 09:00 of the next, "
            "'stamp' if it ends at its stamp, 'stamp+09:00' if nine hours after (default: the calendar day)",
        )
        sub.add_argument("--utc-offset", type=float, metavar="HOURS", help="of the data's clock, ahead of UTC")
        if not pet:
            return
        sub.add_argument(
            "--pet",
            help="potential evapotranspiration: hargreaves, oudin or priestley-taylor "
            "(default: what the data hold, else the reader's own)",
        )

    def fit_arguments(sub, out, reference):
        sub.add_argument(
            "--skip-unusable", action="store_true", help="leave out basins without observations in training"
        )
        sub.add_argument(
            "--reference",
            action="append",
            default=[],
            metavar="CSV",
            help=f"scores of another model (columns basin, nse) {reference}",
        )
        sub.add_argument("--out", default=out, help="folder for results (default: %(default)s)")
        sub.add_argument("--resume", action="store_true", help="go on from a run that was stopped")

    sub = command("calibrate", _calibrate, "calibrate all catchments of a data set, with scores and figures")
    data_arguments(sub)
    sub.add_argument("--model", default="hbv11p", help="one of " + ", ".join(models.names()))
    sub.add_argument("--train", required=True, metavar="FROM:TO", help="for example 1999-10-01:2008-09-30")
    sub.add_argument("--validation", metavar="FROM:TO")
    sub.add_argument("--test", metavar="FROM:TO", help="scored once, at the end; every look is logged")
    sub.add_argument("--loss", default="nse", help="nse, kge, nse_sqrt or nse_log (default: %(default)s)")
    sub.add_argument("--method", default="lm", help="lm, gradient or evolution (default: %(default)s)")
    sub.add_argument("--starts", type=int, default=10, help="starts of every basin (default: %(default)s)")
    sub.add_argument("--steps", type=int, help="of the method (default: 40 of lm, 300 of gradient, 250 of evolution)")
    sub.add_argument("--ensemble", type=int, help="starts whose flows are averaged (default: 4)")
    sub.add_argument("--warmup-years", type=float, default=3.0, help="before each period (default: %(default)s)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--hydrograph", metavar="BASIN", help="basin to draw (default: the one of median score)")
    fit_arguments(sub, "calibration", "to draw beside, labelled")

    sub = command("train", _train, "train a network in front of a model on many basins, test it, and report")
    sub.add_argument("config", help="YAML file, or a recipe: mlp-static, dhbv10, dhbv11p, lstm")
    data_arguments(sub, pet=False)
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a value in place of the config's, such as batch.days=730 (may be repeated)",
    )
    sub.add_argument(
        "--experiment",
        default="temporal",
        help="temporal, pub (ungauged basins) or pur (ungauged regions) (default: %(default)s)",
    )
    sub.add_argument("--folds", type=int, default=10, help="of pub and pur (default: %(default)s)")
    sub.add_argument("--seeds", help="joined by commas: one training each, flows averaged (default: the config's)")
    sub.add_argument("--accelerator", default="auto", help="auto, cpu or gpu (default: %(default)s)")
    sub.add_argument("--devices", type=int, default=1, help="of the accelerator (default: %(default)s)")
    sub.add_argument("--log", default="csv", help="csv or tensorboard (default: %(default)s)")
    fit_arguments(sub, "training", "of the run's own periods")

    sub = command("simulate", _simulate, "run calibrated parameters, or a trained model, over a period")
    sub.add_argument("parameters", nargs="?", help="calibration.nc of `hybridsolve calibrate`")
    sub.add_argument("--trained", metavar="FILE", help="instead: trained.pt of `hybridsolve train`, for any basins")
    data_arguments(sub)
    sub.add_argument("--period", metavar="FROM:TO", help="default: all of the data")
    sub.add_argument("--member", default="best", help="best or ensemble (default: %(default)s)")
    sub.add_argument("--fluxes", default="streamflow", help="joined by commas; streamflow is routed, the rest are not")
    sub.add_argument("--warmup-years", type=float, help="default: 3, or what a trained model was tested with")
    sub.add_argument("--out", default="simulation.nc", help="NetCDF file (default: %(default)s)")

    sub = command("route", _route, "route lateral inflow through a river network to discharge")
    sub.add_argument(
        "inflow", help="NetCDF file with lateral_inflow(time, reach) in m3 s-1; time is the interval's begin"
    )
    sub.add_argument("network", help="file of RiverNetwork.save, or RouteLink.nc of the National Water Model")
    sub.add_argument("--dt", type=float, default=3600.0, help="seconds of a step (default: %(default)g)")
    sub.add_argument("--scheme", default="todini", help="todini, ddr, muskingum or accumulate (default: %(default)s)")
    sub.add_argument("--gauges", help="ids joined by commas, or a file with one a line (default: all reaches)")
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a channel parameter for all reaches, such as n=0.05, in place of the network's",
    )
    sub.add_argument("--hydraulics", action="store_true", help="also write depth, top width and velocity")
    sub.add_argument("--restart", metavar="FILE", help="start from the state that --write-restart has written")
    sub.add_argument("--write-restart", metavar="FILE", help="write the state after the last step")
    sub.add_argument("--map", metavar="PNG", help="draw the mean discharge along the network (needs lon and lat)")
    sub.add_argument("--out", default="discharge.nc", help="NetCDF file (default: %(default)s)")
    return parser


def _open(arguments, pet):
    from .data import open_dataset

    basins = arguments.basins
    if basins and not Path(basins).is_file():
        basins = [b.strip() for b in basins.split(",") if b.strip()]
    return open_dataset(
        arguments.data,
        basins=basins or None,
        pet=pet,
        names=arguments.names,
        day_ends=arguments.day_ends,
        utc_offset=arguments.utc_offset,
    )


def _info(_) -> None:
    print(
        f"hybridsolve {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads"
    )
    print("\nBackends")
    for name, state in backends.describe().items():
        print(f"  {name:10} {state}")
    for model in models.MODELS.values():
        print(f"\nModel {model.name}: {model.title} ({model.source})")
        tables = {
            "forcing": model.forcings,
            "parameter": model.parameters,
            "optional": model.optional_parameters,
            "routing": model.routing_parameters,
            "state": model.states,
            "flux": model.fluxes,
        }
        for kind, rows in tables.items():
            for v in rows:
                bounds = f"[{v.lower:g}, {v.upper:g}]" if kind in ("parameter", "optional", "routing") else ""
                print(f"  {kind:10} {v.name:13} {v.unit:18} {bounds:16} {v.meaning}")


def _calibrate(arguments) -> None:
    from .learn import report
    from .learn.calibration import calibrate

    data = _open(arguments, arguments.pet)
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    result = calibrate(
        data,
        arguments.model,
        train=arguments.train,
        validation=arguments.validation,
        test=arguments.test,
        loss=arguments.loss,
        method=arguments.method,
        starts=arguments.starts,
        steps=arguments.steps,
        ensemble=arguments.ensemble,
        warmup_years=arguments.warmup_years,
        skip_unusable=arguments.skip_unusable,
        seed=arguments.seed,
        checkpoint=folder / "checkpoint.pt",
        resume=arguments.resume,
    )
    print(report.text(result))
    print(f"calibrated and scored in {time.perf_counter() - began:.0f} s on {torch.get_num_threads()} threads")
    written = report.write(
        result, folder, basin=arguments.hydrograph, references=arguments.reference, command=arguments.command_line
    )
    print("wrote " + ", ".join(str(path) for path in written))


def _train(arguments) -> None:
    import logging

    from .data.files import refuse_overwriting
    from .learn import training_report
    from .learn.config import read_config
    from .learn.experiments import experiment

    logging.getLogger("hybridsolve").setLevel(logging.INFO)
    logging.getLogger("hybridsolve").addHandler(logging.StreamHandler())
    config = read_config(arguments.config, arguments.set)
    outputs = {f"{name} of --out": Path(arguments.out) / name for name in training_report.FILES}
    inputs = {f"--reference {file}": file for file in arguments.reference}
    inputs |= {"config": arguments.config, "data": arguments.data, "--basins": arguments.basins}
    inputs = {name: path for name, path in inputs.items() if path and Path(path).is_file()}
    refuse_overwriting({"--out": arguments.out} | outputs, inputs)
    references = arguments.reference, config.periods.train, config.periods.test
    training_report.check_references(*references)
    seeds = arguments.seeds and [_number(int, s, "--seeds") for s in arguments.seeds.split(",")]
    data = _open(arguments, config.pet)
    training_report.check_references(*references, data["basin"].values)
    began = time.perf_counter()
    result = experiment(
        data,
        config,
        out=arguments.out,
        kind=arguments.experiment,
        folds=arguments.folds,
        seeds=seeds,
        resume=arguments.resume,
        skip_unusable=arguments.skip_unusable,
        accelerator=arguments.accelerator,
        devices=arguments.devices,
        log=arguments.log,
    )
    if result is None:  # a helper process of a training on several devices
        return
    print(training_report.text(result))
    print(f"trained and tested in {time.perf_counter() - began:.0f} s on {torch.get_num_threads()} threads")
    written = training_report.write_experiment(
        result, arguments.out, references=arguments.reference, command=arguments.command_line
    )
    print(f"wrote {len(written)} files in {arguments.out}; begin with report.md")


def _simulate(arguments) -> None:
    from .data import write_netcdf

    fluxes = [f.strip() for f in arguments.fluxes.split(",") if f.strip()]
    if (arguments.parameters is None) == (arguments.trained is None):
        raise ValueError("simulate needs either calibration.nc before the data or --trained FILE: give one of them.")
    run = _simulate_trained if arguments.trained else _simulate_calibrated
    print(f"wrote {write_netcdf(run(arguments, fluxes), arguments.out, command=arguments.command_line)}")


def _simulate_trained(arguments, fluxes):
    from .learn.trained import Trained

    if arguments.member != "best" or arguments.warmup_years is not None:
        raise ValueError("--member and --warmup-years belong to calibrated parameters: leave them out with --trained.")
    trained = Trained.load(arguments.trained)
    return trained.predict(_open(arguments, arguments.pet or trained.config.pet), arguments.period, fluxes)


def _simulate_calibrated(arguments, fluxes):
    import xarray as xr

    from .learn.evaluation import simulate_calibrated

    path = Path(arguments.parameters)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected calibration.nc of `hybridsolve calibrate`.")
    with xr.open_dataset(path) as stored:
        parameters = stored.load()
    return simulate_calibrated(
        parameters,
        _open(arguments, arguments.pet),
        period=arguments.period,
        member=arguments.member,
        fluxes=fluxes,
        warmup_years=3.0 if arguments.warmup_years is None else arguments.warmup_years,
    )


def _route(arguments) -> None:
    from .data.files import refuse_overwriting
    from .routing.files import read_gauges, route_file

    gauges = None if arguments.gauges is None else read_gauges(arguments.gauges, "--gauges")
    outputs = {"--out": arguments.out, "--write-restart": arguments.write_restart, "--map": arguments.map}
    refuse_overwriting(outputs, {"--gauges": arguments.gauges if os.path.isfile(arguments.gauges or "") else None})
    constants = {}
    for name, _, value in (pair.partition("=") for pair in arguments.set):
        if name in constants:
            raise ValueError(f"--set must give {name} once; found it twice: leave one of them out.")
        constants[name] = _number(float, value, f"--set {name}")
    written = route_file(
        arguments.inflow,
        arguments.network,
        arguments.out,
        dt=arguments.dt,
        scheme=arguments.scheme,
        gauges=gauges,
        constants=constants,
        hydraulic=arguments.hydraulics,
        restart=arguments.restart,
        write_restart=arguments.write_restart,
        map_file=arguments.map,
        command=arguments.command_line,
    )
    print("wrote " + ", ".join(str(path) for path in written))


def _number(kind, text: str, what: str):
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{what} must be {'a whole number' if kind is int else 'a number'}; found '{text}'.") from None


def _demo(arguments) -> None:
    from . import demo

    demo.run(Path(arguments.out), arguments.command_line)


if __name__ == "__main__":
    sys.exit(main())
