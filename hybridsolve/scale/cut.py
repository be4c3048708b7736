"""How a continental run is cut: windows of time, and in each window blocks of basins one after another.

While a block is computed, the next is read and the last is written. States of all basins stay in memory from window to
window, so memory grows with the basins by their states alone, and by what of a window is kept for the rivers. Where
that is too much, rivers are routed when all basins are done, in parts that are cut at confluences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

ROWS = 366  # steps that a window is to have, where the store's chunks leave it open
FILE = 2**25  # bytes that a chunk of output is to have
IN_FLIGHT = 3  # blocks of forcing that are read ahead, with one at work, and blocks of output to be written
AT_WORK = 4  # blocks that are computed at a time, at most
REACHES = 8192  # of a chunk of discharge
SHORTEST = 16  # steps that a window is to have, for which the rivers of all basins may take half of the memory


@dataclass(frozen=True)
class Plan:
    """A cut, as it is kept with a run; a run that goes on goes on by the plan that it began with.

    Attributes
    ----------
    window, block : int
        Steps of a window, basins of a block; whole chunks of what is read.
    parts : int
        Ranges of blocks that run on their own, each with its journal and its state.
    memory : int
        Bytes that the arrays of one part take.
    reaches : int
        Those that are routed at a time, at most, when all basins are done, for which larger rivers are cut at
        confluences; 0 where rivers are routed along with the basins of each window.
    """

    n_basins: int
    window: int
    block: int
    parts: int
    memory: int
    reaches: int = 0

    @property
    def blocks(self) -> list[slice]:
        return [slice(b, min(b + self.block, self.n_basins)) for b in range(0, self.n_basins, self.block)]

    def blocks_of(self, part: int) -> list[slice]:
        """Those of one part, beside one another."""
        blocks = self.blocks
        return blocks[part * len(blocks) // self.parts : (part + 1) * len(blocks) // self.parts]

    def windows(self, n_steps: int, first: int = 0) -> Iterator[slice]:
        for t in range(first, n_steps, self.window):
            yield slice(t, min(t + self.window, n_steps))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(
    *,
    n_steps: int,
    n_basins: int,
    n_forcings: int,
    n_outputs: int,
    state_rows: int,
    members: int = 1,
    chunk: tuple[int, int] = (1, 1),
    kept: int = 0,
    apart: int = 0,
    memory: float,
    window: int | None = None,
    block: int | None = None,
    parts: int = 1,
) -> Plan:
    """Cut a run so that its arrays take no more than `memory` bytes.

    Parameters
    ----------
    n_outputs : int
        Series of every basin that are written.
    state_rows : int
        Numbers of a cell that stay from window to window: stores, memory of the hydrograph.
    members : int
        Of the ensemble.
    chunk : (int, int)
        Steps and basins that the forcing stores together.
    kept : int
        Numbers of a step that are held until the window has ended: lateral inflow, discharge.
    apart : int
        Numbers of a step that are held at another time than all else.
    memory : float
        Bytes.
    window, block : int, optional
        Chosen if left out.

    Raises
    ------
    ValueError
        If not even one block of the least size fits.
    """
    rows, columns = (min(c, n) for c, n in zip(chunk, (n_steps, n_basins), strict=True))
    held = 8 * state_rows * n_basins * members  # with the copy that is being written
    if window is None:
        window = min(n_steps, rows * max(1, ROWS // rows))
    if apart:
        window = max(1, min(window, int(memory // (4 * apart))))
    each = 4 * (IN_FLIGHT + AT_WORK - 1) * (n_forcings + n_outputs) * members

    def size(window: int, block: int) -> int:
        return max(held + 4 * kept * window + each * window * block, 4 * apart * window)

    if block is None:
        target = max(1, FILE // (4 * window))
        block = min(n_basins, max(1, target // columns) * columns)
        while size(window, block) > memory and block > columns:
            block = max(columns, block // 2 // columns * columns)
    while size(window, block) > memory and window > 1 and kept * window > each // 4:
        window = -(-window // 2)
    if size(window, block) > memory:
        raise ValueError(
            f"memory must hold {window} steps of {block} basins and the states of all, {size(window, block) / 1e9:.2g} "
            f"GB, found {memory / 1e9:.2g} GB; give more, name a smaller window or block, or store the forcing in "
            "smaller chunks."
        )
    parts = min(parts, -(-n_basins // block))
    return Plan(n_basins, window, block, parts, size(window, block))


def along(n_reaches: int, n_gauges: int, repeat: int, members: int) -> int:
    """Numbers of a step that routing holds: lateral inflow and the router's copy, discharge and what is written."""
    return (members + 1) * n_reaches + 2 * repeat * members * n_gauges


def apart(reaches: int, n_gauges: int, repeat: int, members: int) -> int:
    """Numbers of a step that rivers apart hold: a part of `reaches`, or a chunk of discharge that is put together."""
    return max(along(reaches, min(reaches, n_gauges), repeat, members), along(0, min(n_gauges, REACHES), repeat, 1))


def cut_rivers(
    plan: Plan, least: int, n_reaches: int, n_gauges: int, repeat: int, members: int, parts: int, memory: float
) -> Plan:
    """The plan with rivers that are routed apart, by as many reaches at a time as fit, or as one of `parts` has."""
    budget = memory / (4 * plan.window)
    most = int(budget / along(1, 1, repeat, members))
    if most > n_gauges:
        most = int((budget - along(0, n_gauges, repeat, members)) / along(1, 0, repeat, members))
    reaches = max(min(most, -(-n_reaches // parts)), least)
    size = 4 * plan.window * apart(reaches, n_gauges, repeat, members)
    return replace(plan, reaches=reaches, memory=max(plan.memory, size))
