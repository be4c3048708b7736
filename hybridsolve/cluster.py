"""Independent parts of a work spread over a cluster of Dask: one worker dies, and another takes its part.

`spread` is all that a caller needs: a function that can be pickled, its parts, and where to run them. Without a cluster
the parts run one after another in this process, to the same bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from logging import ERROR, WARNING
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from . import __version__
from ._extras import needed_for

if TYPE_CHECKING:
    from distributed import Client

Part = TypeVar("Part")
Result = TypeVar("Result")
WAIT = 10.0  # s: how long a scheduler may take to answer
AHEAD = 2  # parts for each thread of the workers: one waits while one is worked on
WAITING = 16  # parts at a scheduler that has no workers yet
RETRIES = 3  # of a part that Dask gives up: it blames a part for the end of each worker that it waited at


def spread(
    function: Callable[[Part], Result], parts: Iterable[Part], cluster: Client | None = None
) -> Iterator[tuple[int, Result]]:
    """Call a function of every part, on the workers of a cluster or in this process.

    Parameters
    ----------
    function : callable
        ``(part) -> result``; both, and the function, can be pickled. An error that it raises is raised here, and ends
        the rest; a worker that dies costs its part, which another begins anew.
    parts : iterable
        Taken as workers become free, so that only a few are in memory.
    cluster : distributed.Client, optional
        Of `connected`; None: in this process, in order.

    Yields
    ------
    (int, result)
        The part's place among the parts, as it is done.

    Raises
    ------
    RuntimeError
        If a part has brought down several workers, or the scheduler is lost.
    """
    if cluster is None:
        for i, part in enumerate(parts):
            yield i, function(part)
        return
    import dask
    from distributed import KilledWorker, as_completed
    from distributed.client import FutureCancelledError

    source, places = enumerate(parts), {}
    done = as_completed([])

    def submit(i: int, part: Part, tried: int = 0) -> None:
        future = cluster.submit(_on_worker, function, part, __version__, pure=False)
        places[future] = i, part, tried
        done.add(future)

    def fill() -> None:
        for i, part in islice(source, max(0, _ahead(cluster) - len(places))):
            submit(i, part)

    # A part goes along with its task: data left on a worker would die with it.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"}):
        try:
            fill()
            for future in done:
                i, part, tried = places.pop(future)
                try:
                    result = future.result()
                except KilledWorker as error:
                    if tried < RETRIES:
                        submit(i, part, tried + 1)
                        continue
                    raise RuntimeError(
                        f"workers die time after time, the last with part {i} of the work, killed or out of memory; "
                        "give them more memory, or look at their logs."
                    ) from error
                except FutureCancelledError as error:
                    raise RuntimeError(
                        f"the scheduler at {_address(cluster)} was lost with parts of the work undone; start it again, "
                        "and go on from the checkpoint."
                    ) from error
                future.release()
                fill()
                yield i, result
        finally:
            cluster.cancel(list(places), reason="the caller has stopped")


@contextmanager
def connected(cluster: Any, *, gpus: bool = False) -> Iterator[Client | None]:
    """A client of a cluster, which is started if it is to be local, and closed again.

    Parameters
    ----------
    cluster : None, "local", str, or a cluster or client of Dask
        None gives None. "local" starts a worker of one thread for each core that this process may use; a script that
        asks for it needs ``if __name__ == "__main__":``. Else the address of a scheduler, as tcp://10.0.0.1:8786, or an
        object such as ``dask_jobqueue.SLURMCluster``.
    gpus : bool
        The work runs on GPUs: "local" starts a worker for each, which sees that one alone.

    Raises
    ------
    ValueError
        If there is no scheduler at the address.
    """
    if cluster is None:
        yield None
        return
    with needed_for("a cluster of Dask"):
        from distributed import Client

    if isinstance(cluster, Client):
        yield cluster
    elif cluster == "local":
        with _local(gpus) as local, Client(local) as client:
            yield client
    else:
        address = _checked(cluster)
        try:
            client = Client(address, timeout=WAIT)
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"cluster must be a scheduler that answers, found none at {address} ({str(error).rstrip('.')}); start "
                "it by `dask scheduler`, correct the address, or take 'local'."
            ) from error
        with client:
            yield client


def _checked(cluster: Any) -> Any:
    if isinstance(cluster, str):
        host, colon, port = cluster.removeprefix("tcp://").removeprefix("tls://").rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 2**16):
            raise ValueError(
                f"cluster must be 'local' or a scheduler's address such as tcp://10.0.0.1:8786, found {cluster!r}; "
                "correct it."
            )
    elif not hasattr(cluster, "scheduler_address"):
        raise ValueError(
            f"cluster must be 'local', a scheduler's address, or a cluster or client of Dask, found "
            f"{type(cluster).__name__}; give one of them."
        )
    return cluster


def _local(gpus: bool) -> Any:
    import dask
    from distributed import Nanny, Scheduler, SpecCluster

    # Dask lets workers hand memory back at once, which costs more than half of a search again in page faults.
    with dask.config.set({"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}):
        return SpecCluster(
            scheduler={
                "cls": Scheduler,
                "options": {"host": "127.0.0.1", "dashboard": False, "dashboard_address": None},
            },
            workers=dict(enumerate({"cls": Nanny, "options": options} for options in workers_of_this_machine(gpus))),
            silence_logs=ERROR,
        )


def cards() -> int:
    """GPUs that torch can use in this process."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def device_of(asked: str, n_cards: int | None) -> str:
    """What work is computed on, "cpu" or "cuda".

    Parameters
    ----------
    asked : {"auto", "cpu", "cuda"}
        "auto": a GPU where there is one.
    n_cards : int or None
        GPUs here; None where workers elsewhere have theirs.

    Raises
    ------
    ValueError
        If a GPU is asked for and there is none, or "auto" has no answer here.
    """
    if asked not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda; found {asked!r}: name one of these.")
    if asked == "auto" and n_cards is None:
        raise ValueError("device must be cpu or cuda where workers are elsewhere, found auto; say what they have.")
    if asked == "cuda" and n_cards == 0:
        raise ValueError(
            "device cuda must be a GPU that torch can use, found no GPU; take cpu, or install a build of torch for it."
        )
    return "cpu" if asked == "cpu" or n_cards == 0 else "cuda"


def workers_of_this_machine(gpus: bool) -> list[dict[str, Any]]:
    """Options of the workers: one a GPU, which sees no other, or one a core.

    Raises
    ------
    ValueError
        If GPUs are wanted and there are none.
    """
    from dask.system import CPU_COUNT  # that this process may use

    # A limit of memory would kill workers for what other processes take.
    common = {"nthreads": 1, "memory_limit": 0, "host": "127.0.0.1", "dashboard": False, "silence_logs": WARNING}
    if not gpus:
        return [dict(common) for _ in range(CPU_COUNT)]
    visible = [card for card in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if card]
    visible = visible or [str(i) for i in range(cards())]
    if not cards():
        raise ValueError("a local cluster for a GPU must find one, found none that torch can use; run it on the CPU.")
    return [common | {"env": {"CUDA_VISIBLE_DEVICES": card}} for card in visible]


def _ahead(client: Client) -> int:
    threads: int = sum(client.nthreads().values())
    return AHEAD * threads or WAITING


def _address(client: Client) -> str:
    return "an unknown address" if client.scheduler is None else str(client.scheduler.address)


def _on_worker(function: Callable[[Part], Result], part: Part, version: str) -> Result:
    """One part on a worker, whose tasks share its cores: torch has one thread for each."""
    if version != __version__:
        raise ValueError(
            f"all workers must have hybridsolve {version}, as the caller has, found {__version__}; install that "
            "version where they run."
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function(part)
    finally:
        torch.set_num_threads(threads)
