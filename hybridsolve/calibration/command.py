"""The command `hybridsolve calibrate`; what needs torch is imported where it runs."""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

from .. import models
from ..arguments import pairs, pairs_of_bounds
from ..data.options import files_read, open_data


def run_calibrate(arguments: argparse.Namespace) -> None:
    """Calibrate the model that the arguments name, or several and compare them."""
    import torch

    from ..cluster import connected
    from ..data.files import locked, refuse_overwriting
    from . import report
    from .fit import calibrate, check_arguments

    folder = Path(arguments.out)
    settings = ("train", "validation", "test", "loss", "method", "starts", "steps", "ensemble", "warmup_years", "seed")
    options = {name: getattr(arguments, name) for name in (*settings, "allow_overlap", "free", "backend")}
    options["fixed"] = pairs(arguments.fix, "--fix")
    options["ranges"] = pairs_of_bounds(arguments.range, "--range")
    if arguments.resume and arguments.overwrite:
        raise ValueError("--resume goes on with a run and --overwrite replaces it; give one of them.")
    if "," in arguments.model:
        return _several(arguments, folder, options)
    if arguments.member is not None:
        raise ValueError("--member is of several models that are compared; leave it out, or name more by --model A,B.")
    model = models.get(arguments.model)
    check_arguments(model, **options)
    refuse_overwriting({f"{name} of --out": folder / name for name in report.FILES}, files_read(arguments))
    again = dict(resume=arguments.resume, overwrite=arguments.overwrite)
    report.refuse_other_run(folder, **again)
    with connected(arguments.dask) as client:  # an error before the data are read
        data = open_data(arguments, model)
        if arguments.hydrograph is not None:
            report.check_basin(arguments.hydrograph, data["basin"].values)
        references = report.read_references(arguments.reference, data["basin"].values)
        began = time.perf_counter()
        with locked(folder):
            report.refuse_other_run(folder, **again)  # another run may have begun while the data were read
            result = calibrate(
                data,
                model,
                **options,
                skip_unusable=arguments.skip_unusable,
                checkpoint=folder / "checkpoint.pt",
                resume=arguments.resume,
                cluster=client,
            )
            print(report.text(result))
            print(f"calibrated and scored in {time.perf_counter() - began:.0f} s on {torch.get_num_threads()} threads")
            written = report.write(
                result, folder, basin=arguments.hydrograph, references=references, command=arguments.command_line
            )
    print("wrote " + ", ".join(str(path) for path in written))


def _several(arguments: argparse.Namespace, folder: Path, options: dict) -> None:
    from ..cluster import connected
    from ..data.files import locked, refuse_overwriting
    from . import comparison_report, report
    from .structures import calibrate_structures, check_structures

    names, again = arguments.model.split(","), dict(resume=arguments.resume, overwrite=arguments.overwrite)
    member = "best" if arguments.member is None else arguments.member
    found = check_structures(names, folder, member=member, **again, **options)
    outputs = {f"{name} of --out": folder / name for name in comparison_report.FILES}
    outputs |= {f"{m.name}/{name} of --out": folder / m.name / name for m in found for name in report.FILES}
    refuse_overwriting(outputs, files_read(arguments))
    comparison_report.refuse_other_comparison(folder, **again)

    def opened(model: models.ModelSpec) -> Any:
        data = open_data(arguments, model)
        if arguments.hydrograph is not None:
            report.check_basin(arguments.hydrograph, data["basin"].values)
        report.read_references(arguments.reference, data["basin"].values)
        return data

    with connected(arguments.dask) as client, locked(folder):
        result = calibrate_structures(
            opened,
            found,
            folder=folder,
            member=member,
            **again,
            **options,
            skip_unusable=arguments.skip_unusable,
            cluster=client,
            write=partial(
                report.write,
                basin=arguments.hydrograph,
                references=arguments.reference,
                command=arguments.command_line,
            ),
        )
        print(comparison_report.text(result))
        written = comparison_report.write(result, folder, command=arguments.command_line)
    print("wrote " + ", ".join(str(path) for path in written) + f", and each model's in a folder of {folder}")
