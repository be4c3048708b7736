# PYTHON_ARGCOMPLETE_OK
"""The command line: hybridsolve info | models | demo | calibrate | train | simulate | run | consolidate | grid | route
| cache | bench.

torch and whatever needs it are imported where a command runs: help and usage errors come at once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
import sys
import threading
import time
import traceback
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

from . import __version__, models
from ._extras import MissingPackage, installed, needed_for
from .arguments import MOST_DEVICES, integer, number
from .bench.command import bench, bench_arguments
from .calibration.command import run_calibrate
from .compiler.cache_command import cache_arguments, run_cache
from .data.grid_command import add_grid_arguments, run_grid
from .data.options import add_data_arguments, add_other_method, files_read, open_data
from .listing import listed, overview
from .pages import write_pages
from .route_command import route, route_arguments
from .scale import command

MOST_THREADS = 1024
# Errors in what was asked, or of the installation.
REFUSALS = (ValueError, OSError, RuntimeError, ArithmeticError, MemoryError, MissingPackage)
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
DRAWING = ("demo", "calibrate", "train", "route", "bench")  # commands that draw


def main(argv: list[str] | None = None) -> int:
    """Run a command and give its exit status.

    0; 2 for an error in what was asked and 1 for a fault of this package, each one sentence on stderr; 130 after
    Ctrl-C, 143 after SIGTERM; 141 where the reader of the output has closed it. HYBRIDSOLVE_TRACEBACK=1 shows where an
    error is raised.
    """
    try:
        try:
            return _status(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        with suppress(OSError, ValueError):  # discards what is still buffered, which would raise again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _status(argv: list[str] | None) -> int:
    name = "hybridsolve"
    with _signals() as caught, _notes():
        try:
            parser = _parser()
            if "_ARGCOMPLETE" in os.environ:
                import argcomplete

                argcomplete.autocomplete(parser)
            arguments, rest = parser.parse_known_args(argv)
            name = f"hybridsolve {arguments.name}"
            if rest:  # which argparse would lay to the parser around the command's
                raise ValueError(f"unrecognized arguments: {shlex.join(rest)}; see {name} --help.")
            _expand(arguments)
            arguments.command_line = shlex.join(["hybridsolve", *(sys.argv[1:] if argv is None else argv)])
            if arguments.threads is not None:
                import torch

                torch.set_num_threads(integer("--threads", arguments.threads, 1, MOST_THREADS))
            with needed_for("this command"):
                for file in arguments.define:
                    models.load(file)
                with _style(getattr(arguments, "style", None)):
                    arguments.run(arguments)
            return 0
        except BrokenPipeError:
            raise
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if not caught and code not in STOPPED:  # raised by argparse
                return code
            failure, status = end, 128 + caught[0] if caught else code
        except KeyboardInterrupt as end:
            failure, status = end, 128 + (caught[0] if caught else signal.SIGINT)
        except Exception as error:
            failure, status = error, 2 if isinstance(error, REFUSALS) else 1
    if os.environ.get("HYBRIDSOLVE_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exception(failure)
    print(f"{name}: {_sentence(failure, status)}", file=sys.stderr)
    return status


def _expand(arguments: argparse.Namespace) -> None:
    """Expand ~ in paths, which shells do not in ``--out=~/x``, and refuse empty ones."""
    positional = ("data", "config", "parameters", "inflow", "network")
    for name in (
        *positional,
        "out",
        "trained",
        "basins",
        "gauges",
        "restart",
        "write_restart",
        "map",
        "polygons",
        "weights",
    ):
        given = getattr(arguments, name, None)
        if given == "" and name not in ("basins", "gauges"):
            what = name if name in positional else f"--{name.replace('_', '-')}"
            raise ValueError(f"{what} must not be empty, found ''; name a file or folder.")
        if given is not None:
            setattr(arguments, name, os.path.expanduser(given))


def _sentence(failure: BaseException, status: int) -> str:
    """The sentence on stderr that says why a command ended."""
    if status in STOPPED:
        return "stopped; what was finished is kept."
    text = " ".join(str(failure).split())
    if isinstance(failure, OSError) and failure.strerror and failure.filename is not None:  # raised by the system
        return f"{failure.filename} could not be used ({failure.strerror}); check the path and its permissions."
    if status == 2:
        return text or type(failure).__name__
    here = str(Path(__file__).parent)
    places = [f for f in traceback.extract_tb(failure.__traceback__) if f.filename.startswith(here)]
    place = f"{Path(places[-1].filename).relative_to(here)}:{places[-1].lineno}" if places else "an unknown place"
    return (
        f"a fault of hybridsolve itself, {type(failure).__name__}: {text}, at {place}; report it, "
        "HYBRIDSOLVE_TRACEBACK=1 shows all."
    )


@contextmanager
def _signals():
    """Let Ctrl-C and SIGTERM both raise KeyboardInterrupt; gives the list of the numbers caught."""
    caught: list[int] = []

    def stop(number, _):
        caught.append(number)
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # set so by `nohup` and shells
                before[number] = signal.signal(number, stop)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _notes():
    """Print warnings and the package's log on stderr, each once, without the deprecations of libraries."""
    import logging

    said = set()

    def show(message, category, *_):
        text = " ".join(str(message).split())
        if (
            not issubclass(category, DeprecationWarning | PendingDeprecationWarning | FutureWarning)
            and text not in said
        ):
            said.add(text)
            print(f"note: {text}", file=sys.stderr)

    logger, handler = logging.getLogger("hybridsolve"), logging.StreamHandler(sys.stderr)
    level = logger.level
    if not os.environ.get("HYBRIDSOLVE_LOG"):  # which has a handler already
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def _style(style: str | None):
    """Draw in a style of matplotlib, if one is asked for."""
    if style is None:
        yield
        return
    from .plot import in_style

    with in_style(style):
        yield


def _styles(**_) -> list[str]:
    import matplotlib.style

    return matplotlib.style.available


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help.\n")


def _among(action: argparse.Action, *values: str) -> None:
    """Set the values that a shell completes the option to."""
    action.completer = lambda **_: values  # type: ignore[attr-defined]  # which argcomplete reads


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hybridsolve",
        description="Differentiable hydrology: simulate, calibrate, train and route.",
        epilog="HYBRIDSOLVE_LOG=debug, info, warning or error: what is compiled, chosen and finished, on stderr.",
    )
    parser.add_argument("--version", action="version", version=f"hybridsolve {__version__}")
    commands = parser.add_subparsers(dest="name", metavar="COMMAND", required=True)
    table = {
        "info": (_info_arguments, _info, "list models, backends and what this build can do"),
        "models": (_models_arguments, _models, "list models with their tables of variables"),
        "demo": (
            _demo_arguments,
            _demo,
            "calibrate a real catchment from packaged data, then time 1,000 synthetic ones",
        ),
        "calibrate": (
            _calibrate_arguments,
            run_calibrate,
            "calibrate all catchments of a data set, with scores and figures",
        ),
        "train": (_train_arguments, _train, "train a network in front of a model on many basins, test it, and report"),
        "simulate": (_simulate_arguments, _simulate, "run calibrated parameters, or a trained model, over a period"),
        "run": (command.run_arguments, command.run, "run a model over a continent, from a store on disk to a store"),
        "consolidate": (
            command.consolidate_arguments,
            command.consolidate,
            "join what a run has appended into one store",
        ),
        "grid": (add_grid_arguments, run_grid, "forcing of basins from gridded files and polygons"),
        "cache": (cache_arguments, run_cache, "show or clear the kernels that were compiled for models"),
        "route": (route_arguments, route, "route lateral inflow through a river network to discharge"),
        "bench": (bench_arguments, bench, "measure this machine: speed, memory, other programs, and the ceilings"),
    }
    for name, (arguments, run, help) in table.items():
        sub = commands.add_parser(name, help=help, description=help)
        sub.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
        sub.add_argument("--define", action="append", default=[], metavar="FILE", help="Python file of own models")
        sub.set_defaults(run=run)
        arguments(sub)
        if name in DRAWING:
            style = sub.add_argument(
                "--style", metavar="NAME|FILE", help="of matplotlib, for figures: grayscale, for one"
            )
            style.completer = _styles  # type: ignore[attr-defined]  # which argcomplete reads
    return parser


def _info_arguments(sub) -> None:
    sub.add_argument("--json", action="store_true", help="for programs, and for reports of faults")


def _models_arguments(sub) -> None:
    _among(sub.add_argument("models", nargs="*", metavar="MODEL", help="default: all"), *models.names())
    sub.add_argument("--pages", metavar="FOLDER", help="write a page in Markdown for each instead")


def _demo_arguments(sub) -> None:
    sub.add_argument("--out", default="hybridsolve-demo", help="folder for results (default: %(default)s)")
    _overwrite_argument(sub)


def _backend_argument(sub) -> None:
    backend = sub.add_argument("--backend", default="auto", help="auto, cpu or reference (default: %(default)s)")
    _among(backend, "auto", "cpu", "reference")


def _overwrite_argument(sub) -> None:
    sub.add_argument("--overwrite", action="store_true", help="replace another run that the folder holds")


def _fit_arguments(sub, out, reference) -> None:
    sub.add_argument(
        "--skip-unusable",
        action="store_true",
        help="leave out basins with gaps in the forcing or without observations in training",
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
    _overwrite_argument(sub)


def _calibrate_arguments(sub) -> None:
    add_data_arguments(sub)
    model = sub.add_argument(
        "--model",
        default=models.DEFAULT,
        help=f"{', '.join(models.names())}, two joined by + as a snow routine before a model, or a Python file that "
        "defines one; several, joined by commas, are compared and averaged (default: %(default)s)",
    )
    _among(model, *models.names())
    sub.add_argument("--train", required=True, metavar="FROM:TO", help="for example 1999-10-01:2008-09-30")
    sub.add_argument("--validation", metavar="FROM:TO")
    sub.add_argument("--test", metavar="FROM:TO", help="scored once, at the end; every use is logged")
    loss = sub.add_argument(
        "--loss",
        default="nse",
        help="nse, kge, nse_sqrt, nse_log, or a weighted sum of scores of q, sqrt q, log q or 1/q such as "
        "'0.5*kge(q)+0.5*kge(sqrt q)' (default: %(default)s)",
    )
    _among(loss, "nse", "kge", "nse_sqrt", "nse_log")
    method = sub.add_argument("--method", default="lm", help="lm, gradient or evolution (default: %(default)s)")
    _among(method, "lm", "gradient", "evolution")
    sub.add_argument("--starts", type=int, default=10, help="starts of every basin (default: %(default)s)")
    sub.add_argument("--steps", type=int, help="at most (default: 40 of lm, 300 of gradient, 250 of evolution)")
    sub.add_argument("--ensemble", type=int, help="starts whose flows are averaged (default: 4)")
    sub.add_argument("--warmup-years", type=float, default=3.0, help="before each period (default: %(default)s)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument(
        "--fix", action="append", default=[], metavar="NAME=VALUE", help="a parameter that is not calibrated"
    )
    sub.add_argument(
        "--range", action="append", default=[], metavar="NAME=LOW:HIGH", help="bounds to search a parameter within"
    )
    sub.add_argument(
        "--free",
        action="append",
        default=[],
        metavar="NAME",
        help="a parameter to calibrate that the model fixes at its default, or has as an optional one; of any model "
        + " and ".join(models.factors.FACTORS),
    )
    member = sub.add_argument("--member", help="of several models: average best or ensemble flows (default: best)")
    _among(member, "best", "ensemble")
    _backend_argument(sub)
    sub.add_argument(
        "--dask",
        metavar="local|ADDRESS",
        help="search on Dask workers: one a core of this machine, or those of a scheduler (default: in this process)",
    )
    sub.add_argument("--allow-overlap", action="store_true", help="take periods that share days, and say so")
    sub.add_argument("--hydrograph", metavar="BASIN", help="basin to draw (default: the one of median score)")
    _fit_arguments(sub, "calibration", "to draw beside, labelled")


def _train_arguments(sub) -> None:
    recipes = sorted(path.stem for path in (Path(__file__).parent / "recipes").glob("*.yaml"))
    _among(sub.add_argument("config", help="YAML file, or a recipe: " + ", ".join(recipes)), *recipes)
    add_data_arguments(sub, methods=False)
    model = sub.add_argument("--model", help="in place of the config's, as --set model=NAME; see hybridsolve models")
    _among(model, *models.names())
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
    sub.add_argument("--only-folds", help="joined by commas, from 0 on: hold these out alone (default: each in turn)")
    sub.add_argument("--seeds", help="joined by commas: one training each, flows averaged (default: the config's)")
    sub.add_argument("--accelerator", default="auto", help="auto, cpu or gpu (default: %(default)s)")
    sub.add_argument("--devices", type=int, default=1, help="of the accelerator (default: %(default)s)")
    sub.add_argument("--log", default="csv", help="csv or tensorboard (default: %(default)s)")
    _fit_arguments(sub, "training", "of the run's own periods")


def _simulate_arguments(sub) -> None:
    sub.add_argument("parameters", nargs="?", help="calibration.nc of `hybridsolve calibrate`")
    sub.add_argument("--trained", metavar="FILE", help="instead: trained.pt of `hybridsolve train`, for any basins")
    add_data_arguments(sub)
    sub.add_argument("--period", metavar="FROM:TO", help="default: all of the data")
    member = sub.add_argument("--member", default="best", help="best or ensemble (default: %(default)s)")
    _among(member, "best", "ensemble")
    sub.add_argument(
        "--fluxes",
        help="joined by commas (default: the model's outflow); the outflow is routed to the gauge, the rest are not",
    )
    sub.add_argument("--warmup-years", type=float, help="default: 3, or what a trained model was tested with")
    sub.add_argument("--skip-unusable", action="store_true", help="leave out basins with gaps in the forcing")
    add_other_method(sub)
    _backend_argument(sub)
    sub.add_argument("--out", default="simulation.nc", help="NetCDF file (default: %(default)s)")


def _info(arguments) -> None:
    import torch

    from .solve import backends

    environment = {name: value for name, value in os.environ.items() if name.startswith("HYBRIDSOLVE_")}
    if arguments.json:
        versions = dict(hybridsolve=__version__, torch=torch.__version__, python=platform.python_version())
        machine = dict(system=platform.platform(), processor=platform.machine(), threads=torch.get_num_threads())
        found = dict(versions=versions, machine=machine, backends=backends.describe(), models=list(models.MODELS))
        found |= dict(extras=installed(), environment=environment)
        print(json.dumps(found, indent=2))
        return
    print(
        f"hybridsolve {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads"
    )
    print("\nBackends")
    for name, state in backends.describe().items():
        print(f"  {name:10} {state}")
    print("\nExtras")
    for extra, lacking in installed().items():
        print(f"  {extra:12} {'lacks ' + ', '.join(lacking) if lacking else 'installed'}")
    if environment:
        print("\nEnvironment\n  " + "\n  ".join(f"{name}={value}" for name, value in environment.items()))
    print("\nModels (hybridsolve models NAME lists its variables)")
    for model in models.MODELS.values():
        print(f"  {overview(model)}")
    print("  and a snow routine before another by its name, in layers too: cemaneige+gr4j, cemaneige-3+gr4j")


def _models(arguments) -> None:
    wanted = [models.get(name) for name in arguments.models or models.names()]
    if arguments.pages is not None:
        print(f"wrote {len(write_pages(wanted, arguments.pages))} files in {arguments.pages}")
        return
    for model in wanted:
        print(f"\n{listed(model)}")
        if arguments.models:
            print(f"  {_balance(model)}")


def _balance(model) -> str:
    from .solve.trial import left_by_balance

    left = left_by_balance(model)
    if left is None:
        return "water balance: none in the table"
    if left < 1e-9:
        return "water balance: closed in a run over random weather"
    return (
        f"water balance: not closed; over random weather {left:.2g} of the water gained neither leaves nor is stored: "
        "correct the step, or `balance` in the table"
    )


def _train(arguments) -> None:
    import torch

    from .data.files import refuse_overwriting
    from .training import report as training_report
    from .training.config import read_config
    from .training.experiments import experiment

    model = [] if arguments.model is None else [f"model={arguments.model}"]
    config = read_config(arguments.config, [*arguments.set, *model])
    outputs = {f"{name} of --out": Path(arguments.out) / name for name in training_report.FILES}
    refuse_overwriting({"--out": arguments.out} | outputs, files_read(arguments, config=arguments.config))
    integer("--devices", arguments.devices, 1, MOST_DEVICES)
    integer("--folds", arguments.folds, 2)
    references = arguments.reference, config.periods.train, config.periods.test
    training_report.check_references(*references)
    seeds, only = (
        None if given is None else [number(int, s, option) for s in given.split(",")]
        for option, given in (("--seeds", arguments.seeds), ("--only-folds", arguments.only_folds))
    )
    data = open_data(arguments, config.process_model, config)
    training_report.check_references(*references, data["basin"].values)
    began = time.perf_counter()
    result = experiment(
        data,
        config,
        out=arguments.out,
        kind=arguments.experiment,
        folds=arguments.folds,
        only=only,
        seeds=seeds,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
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
    from .data.dataset import parse_period
    from .data.files import check_target, refuse_overwriting

    if (arguments.parameters is None) == (arguments.trained is None):
        raise ValueError("simulate needs either calibration.nc before the data or --trained FILE: give one of them.")
    fluxes = None if arguments.fluxes is None else [f.strip() for f in arguments.fluxes.split(",") if f.strip()]
    if fluxes is not None and (not fluxes or len(set(fluxes)) < len(fluxes)):
        raise ValueError(f"--fluxes must name one series or more, each once; found '{arguments.fluxes}': correct it.")
    if arguments.period is not None:
        parse_period(arguments.period)
    files = files_read(arguments, **{"the parameters": arguments.parameters, "--trained": arguments.trained})
    refuse_overwriting({"--out": arguments.out}, files)
    check_target("--out", arguments.out)
    run = _simulate_trained if arguments.trained else _simulate_calibrated
    print(f"wrote {write_netcdf(run(arguments, fluxes), arguments.out, command=arguments.command_line)}")


def _simulate_trained(arguments, fluxes):
    from .training.trained import Trained

    for name, given in (
        ("--member", arguments.member != "best"),
        ("--warmup-years", arguments.warmup_years is not None),
        ("--allow-other-method", arguments.allow_other_method),
        ("--backend", arguments.backend != "auto"),
    ):
        if given:
            raise ValueError(f"{name} belongs to calibrated parameters; leave it out with --trained.")
    trained = Trained.load(arguments.trained)
    data = open_data(arguments, trained.config.process_model, trained.config)
    return trained.predict(data, arguments.period, fluxes, skip_unusable=arguments.skip_unusable)


def _simulate_calibrated(arguments, fluxes):
    from .calibration.simulate_calibrated import check_request, simulate_calibrated
    from .data.netcdf import load_netcdf

    parameters = load_netcdf(arguments.parameters, "calibration.nc of `hybridsolve calibrate`")
    options = dict(
        period=arguments.period,
        member=arguments.member,
        fluxes=fluxes,
        warmup_years=3.0 if arguments.warmup_years is None else arguments.warmup_years,
    )
    model = check_request(parameters, **options, backend=arguments.backend)
    return simulate_calibrated(
        parameters,
        open_data(arguments, model),
        **options,
        skip_unusable=arguments.skip_unusable,
        allow_other_method=arguments.allow_other_method,
        backend=arguments.backend,
    )


def _demo(arguments) -> None:
    from . import demo

    demo.run(Path(arguments.out), arguments.command_line, overwrite=arguments.overwrite)


if __name__ == "__main__":
    sys.exit(main())
