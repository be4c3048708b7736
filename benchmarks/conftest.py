"""Options, the choice of cases, and the CSV at the end of the run."""

import pytest
import torch

from . import ceiling, implementations
from . import record as recording
from .cases import FULL, HEADLINE, has_baseline

_ROWS = pytest.StashKey[list]()


def pytest_addoption(parser):
    group = parser.getgroup("hybridsolve")
    group.addoption("--full", action="store_true", help="all cases, not the four headline rows alone")
    group.addoption("--no-baselines", action="store_true", help="time hybridsolve alone")
    group.addoption("--csv", help="where to write the rows (default: benchmarks/results/solver-<date>.csv)")


def pytest_configure(config):
    config.stash[_ROWS] = []


def pytest_generate_tests(metafunc):
    if "case" not in metafunc.fixturenames:
        return
    cases = FULL if metafunc.config.getoption("--full") else HEADLINE
    bars = () if metafunc.config.getoption("--no-baselines") else tuple(implementations.STEPS_PER_CALL)
    # All implementations of a case one after another: a ratio compares neighbours in time.
    pairs = [(c, name) for c in cases for name in (implementations.OURS, *(bars if has_baseline(c) else ()))]
    metafunc.parametrize("case, implementation", pairs, ids=[f"{c}-{n.replace(' ', '')}" for c, n in pairs])


@pytest.fixture
def threads(case):
    before = torch.get_num_threads()
    torch.set_num_threads(case.threads)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def record(pytestconfig):
    """Keep a finished benchmark as a row of the CSV."""

    def keep(case, implementation, benchmark):
        if benchmark.stats is None:  # --benchmark-disable
            return
        stats = benchmark.stats.stats
        row = {name: getattr(case, name) for name in ("model", "B", "C", "T", "dtype", "threads", "mode")}
        row |= dict(
            implementation=implementation,
            median_s=stats.median,
            min_s=stats.min,
            iqr_s=stats.iqr,
            rounds=stats.rounds,
            million_cell_steps_per_s=f"{case.million_cell_steps / stats.median:.4g}",
        )
        benchmark.extra_info |= row
        pytestconfig.stash[_ROWS].append(row)

    return keep


def pytest_sessionfinish(session):
    rows = session.config.stash[_ROWS]
    if not rows:
        return
    common = recording.about() | ceiling.measure()
    rows[:] = [common | row for row in rows]
    recording.add_ratios(rows)
    path = recording.write(rows, "solver", session.config.getoption("--csv"))
    print(f"\nwrote {len(rows)} rows to {path}")
