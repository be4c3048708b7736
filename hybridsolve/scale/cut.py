"""How a continental run is cut: windows of time, and in each window blocks of basins one after another.

While a block is computed, the next is read and the last is written. States of all basins stay in memory from window to
window, so memory grows with the basins by their states alone, and by what of a window is kept for the rivers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

ROWS = 366  # steps that a window is to have, where the store's chunks leave it open
FILE = 2**25  # bytes that a chunk of output is to have
IN_FLIGHT = 3  # blocks of forcing that are read ahead, with one at work, and blocks of output to be written
AT_WORK = 4  # blocks that are computed at a time, at most


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
    """

    n_basins: int
    window: int
    block: int
    parts: int
    memory: int

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
    each = 4 * (IN_FLIGHT + AT_WORK - 1) * (n_forcings + n_outputs) * members

    def size(window: int, block: int) -> int:
        return held + 4 * kept * window + each * window * block

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
