"""The process of one implementation of one case: `python -m hybridsolve.bench.worker`.

It reads a request, a line of JSON, builds, passes the gate, measures its peak memory, and answers; then it runs
whatever mode each further line names and answers its seconds. All processors but as many as the case has threads are
closed to it, since some libraries take what they find.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import sys
import time
from typing import Any


def serve(lines: Any, answer: Any) -> None:
    """Answer requests until there are none."""
    from .cases import FORWARD, Case, cotangent
    from .gate import check
    from .implementations import IMPLEMENTATIONS

    request = json.loads(next(lines))
    case, implementation = Case(**request["case"]), IMPLEMENTATIONS[request["implementation"]]
    _take_processors(case.threads)
    runner = implementation.build(case)
    check(case, implementation, runner)
    given = runner.cotangent(cotangent(case)) if implementation.has_gradient else None

    def run(mode: str) -> float:
        start = time.perf_counter()
        if mode == FORWARD:
            runner.forward()
        else:
            runner.gradient(given)
        return time.perf_counter() - start

    runner.release()
    peaks = {mode: peak(lambda mode=mode: run(mode)) for mode in request["modes"]}
    answer(dict(version=runner.version, peaks=peaks))
    gc.disable()
    for line in lines:
        answer(run(line.strip()))


def _take_processors(threads: int) -> None:
    os.environ |= {"NUMBA_NUM_THREADS": str(threads), "JAX_ENABLE_X64": os.environ.get("JAX_ENABLE_X64", "0")}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    import torch

    torch.set_num_threads(threads)


def _footprint(which: str) -> float:
    """VmRSS or VmHWM in MiB."""
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith(which)).split()[1]) / 1024


def peak(work: Any) -> float | None:
    """MiB above the footprint before the call; None but on Linux with glibc, where the system lets it be measured."""
    if platform.libc_ver()[0] != "glibc" or not os.access("/proc/self/clear_refs", os.W_OK):
        work()
        return None
    gc.collect()
    # What earlier work has freed goes back to the system, or the call would reuse it unseen.
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # VmHWM starts again from VmRSS
    before = _footprint("VmRSS")
    work()
    return _footprint("VmHWM") - before


def main() -> None:
    # What libraries print goes to stderr; answers alone to stdout.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(x: Any) -> None:
        print(json.dumps(x), file=answers, flush=True)

    try:
        serve(iter(sys.stdin.readline, ""), answer)
    except ModuleNotFoundError as error:
        answer(dict(missing=(error.name or "").partition(".")[0]))
    except Exception as error:  # of any kind: it is that implementation's row
        answer(dict(failed=f"{type(error).__name__}: {' '.join(str(error).split())}"))


if __name__ == "__main__":
    main()
