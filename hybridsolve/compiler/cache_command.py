"""The command `hybridsolve cache`: what was compiled for models at first use."""

from __future__ import annotations

import argparse
import time

from . import cache


def cache_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--clear", action="store_true", help="remove all of it; what is needed again is compiled again")


def run_cache(arguments: argparse.Namespace) -> None:
    place = cache.folder()
    if arguments.clear:
        print(f"removed {cache.clear()} libraries from {place}")
        return
    found = cache.entries()
    size = sum(path.stat().st_size for path, _ in found) / 1e6
    print(f"{place}: {len(found)} libraries, {size:.1f} MB")
    for path, about in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
        print(f"  {path.name}  {path.stat().st_size / 1e6:5.1f} MB  {when}  {about}")
