"""The options of the command line that name and open data; what they need is imported where data are opened."""

from __future__ import annotations

import argparse
import os


def add_data_arguments(parser: argparse.ArgumentParser, *, methods: bool = True) -> None:
    """Add the argument `data` and its options, those of methods too unless a configuration has them."""
    parser.add_argument(
        "data",
        help="NetCDF or CSV file, folder of CSV files (one a basin), Caravan folder, the CAMELS pack, or 'fulda'",
    )
    parser.add_argument("--basins", help="file with one basin id a line, or ids joined by commas (default: all)")
    parser.add_argument(
        "--names",
        metavar="NAME=VARIABLE,...",
        help="what the data's variables are, where their names do not say it: prcp=pr,tmean=tas[K],qobs=Q[mm sum]",
    )
    parser.add_argument(
        "--day-ends",
        metavar="HH:MM",
        help="of a file without time bounds: 09:00 if each day runs from 09:00 of its date to 09:00 of the next, "
        "'stamp' if it ends at its stamp, 'stamp+09:00' if nine hours after (default: the calendar day)",
    )
    parser.add_argument("--utc-offset", type=float, metavar="HOURS", help="of the data's clock, ahead of UTC")
    if methods:
        parser.add_argument(
            "--pet",
            help="potential evapotranspiration: hargreaves, oudin, oudin-airgr or priestley-taylor "
            "(default: what the data hold, else the reader's own)",
        )


def add_other_method(parser: argparse.ArgumentParser) -> None:
    """Add the option by which data made by another method than those of the calibration are taken."""
    parser.add_argument(
        "--allow-other-method",
        "--allow-other-pet",
        action="store_true",
        help="take a forcing made by another method, such as another formula of potential evapotranspiration, than "
        "that of the calibration, and say so",
    )


def open_data(arguments: argparse.Namespace, model=None, config=None):
    """The dataset that the arguments name, with the forcings of a model; what they leave open is as a config has it."""
    from . import open_dataset

    basins = arguments.basins
    if basins is not None and not os.path.isfile(basins):
        basins = [b.strip() for b in basins.split(",") if b.strip()]
    return open_dataset(
        arguments.data,
        basins=basins,
        pet=getattr(arguments, "pet", None) or (None if config is None else config.pet),
        names=arguments.names,
        day_ends=arguments.day_ends,
        utc_offset=arguments.utc_offset,
        model=model,
    )


def files_read(arguments: argparse.Namespace, **more) -> dict[str, str]:
    """The files that a command reads, by the arguments that name them."""
    named = {"the data": arguments.data, "--basins": arguments.basins, **more}
    named |= {f"--reference {file}": file for file in getattr(arguments, "reference", ())}
    return {name: path for name, path in named.items() if path and os.path.exists(path)}
