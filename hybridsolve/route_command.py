"""The command `hybridsolve route`; what needs torch is imported where it runs."""

from __future__ import annotations

import argparse
import os

from .arguments import pairs


def route_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "inflow", help="NetCDF file with lateral_inflow(time, reach) in m3 s-1; time is the interval's begin"
    )
    sub.add_argument("network", help="file of RiverNetwork.save, RouteLink.nc, or NextGen hydrofabric (.gpkg)")
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
    sub.add_argument(
        "--local-days", metavar="HOURS", help="also the means of days of a clock ahead of UTC, or 'longitude'"
    )
    sub.add_argument("--hydraulics", action="store_true", help="also write depth, top width and velocity")
    sub.add_argument("--restart", metavar="FILE", help="start from the state that --write-restart has written")
    sub.add_argument("--write-restart", metavar="FILE", help="write the state after the last step")
    sub.add_argument("--map", metavar="PNG", help="draw the mean discharge along the network (needs lon and lat)")
    sub.add_argument("--out", default="discharge.nc", help="NetCDF file (default: %(default)s)")


def route(arguments: argparse.Namespace) -> None:
    from .data.files import refuse_overwriting
    from .routing.files import read_gauges, route_file

    gauges = None if arguments.gauges is None else read_gauges(arguments.gauges, "--gauges")
    outputs = {"--out": arguments.out, "--write-restart": arguments.write_restart, "--map": arguments.map}
    refuse_overwriting(outputs, {"--gauges": arguments.gauges if os.path.isfile(arguments.gauges or "") else None})
    written = route_file(
        arguments.inflow,
        arguments.network,
        arguments.out,
        dt=arguments.dt,
        scheme=arguments.scheme,
        gauges=gauges,
        constants=pairs(arguments.set, "--set"),
        hydraulic=arguments.hydraulics,
        local_days=arguments.local_days,
        restart=arguments.restart,
        write_restart=arguments.write_restart,
        map_file=arguments.map,
        command=arguments.command_line,
    )
    print("wrote " + ", ".join(str(path) for path in written))
