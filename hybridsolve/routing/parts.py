"""A river system that is larger than a machine: cut at confluences into parts that follow one another.

A part has its own reaches and, as heads without any upstream, the reaches of other parts that flow into it; what those
have published of every step is its upstream boundary, so that its bits are those of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import integer
from .muskingum import Boundary, Routed, check_network, route
from .network import RiverNetwork


@dataclass(frozen=True)
class RiverPart:
    """A part of a network.

    Attributes
    ----------
    network : RiverNetwork
        Its `order` holds positions in the whole. The reaches of `receives` are in it, as heads.
    receives : int64 ``[K]``
        Ids of the reaches of earlier parts that flow into this one.
    exports : int64 ``[M]``
        Ids of the reaches of this part that flow into later ones.
    depth : int
        Parts of one depth need nothing of each other, and all that they receive comes from lower depths.
    """

    network: RiverNetwork
    receives: np.ndarray
    exports: np.ndarray
    depth: int

    @property
    def own(self) -> np.ndarray:
        """Positions in `network` of the reaches that are not received."""
        return np.flatnonzero(~np.isin(self.network.ids, self.receives))


def cut_parts(network: RiverNetwork, most: int) -> list[RiverPart]:
    """Cut a network at confluences into parts of at most so many reaches, received ones included, in an order to route.

    Parameters
    ----------
    network : RiverNetwork
    most : int
        Above the largest number of reaches that flow to one.

    Returns
    -------
    list of RiverPart
        In ascending depth; what flows out together, and fits, stays together.

    Raises
    ------
    ValueError
        If `most` is too small for a confluence of the network.
    """
    from ._graph import cut, spread_upstream

    check_network(network)
    inflows = int(np.diff(network.first).max(initial=0))
    most = integer("most", most, inflows + 1)
    is_cut = cut(network.downstream, network.first, most)
    outlets = network.downstream < 0
    # Of each reach the one that its subtree is cut off below, or its outlet.
    root = np.where(is_cut | outlets, np.arange(network.n_reaches), -1)
    spread_upstream(network.downstream, root)
    depth = np.zeros(network.n_reaches, np.int64)  # of each root
    flows_on = np.flatnonzero(is_cut)
    into = root[network.downstream[flows_on]]
    for i, j in zip(flows_on, into, strict=True):  # upstream first, in the network's order
        depth[j] = max(depth[j], depth[i] + 1)
    sizes = np.bincount(root, minlength=network.n_reaches) + np.bincount(into, minlength=network.n_reaches)
    bins: list[tuple[int, list[int]]] = []
    roots = np.flatnonzero(is_cut | outlets)
    for level in range(int(depth[roots].max()) + 1):
        loads: list[int] = []
        filled: list[list[int]] = []
        here = roots[depth[roots] == level]
        for i in here[np.argsort(-sizes[here], kind="stable")]:  # largest first, each to the last bin if it has room
            if not filled or loads[-1] + sizes[i] > most:
                filled.append([])
                loads.append(0)
            filled[-1].append(int(i))
            loads[-1] += int(sizes[i])
        bins += [(level, members) for members in filled]
    number = np.empty(network.n_reaches, np.int64)
    for b, (_, members) in enumerate(bins):
        number[members] = b
    number = number[root]
    received_by = number[network.downstream[flows_on]]
    parts = []
    for b, (level, _) in enumerate(bins):
        receives = flows_on[received_by == b]
        keep = number == b
        keep[receives] = True
        exports = network.ids[flows_on[number[flows_on] == b]]
        parts.append(RiverPart(network.take(keep), network.ids[receives], exports, level))
    return parts


def route_parts(
    parts: Sequence[RiverPart],
    lateral: Callable[[RiverPart], Tensor],
    *,
    gauges: Sequence[int] | None = None,
    **options: Any,
) -> Iterator[tuple[RiverPart, Routed]]:
    """Route parts one after another, each with the series of those above it: the bits of the whole, forwards.

    Only the series of the cuts that later parts need stay in memory.

    Parameters
    ----------
    parts : sequence of RiverPart
        Of `cut_parts`.
    lateral : callable
        Gives a part's lateral inflow ``[T / repeat, N]`` in the order of its network; that of received reaches, any
        number of 0 or more, is not used.
    gauges : sequence of int, optional
        Ids of reaches of the whole whose discharge is kept; all if left out.
    options
        Of `hybridsolve.routing.route`: dt, scheme, repeat, substeps as a number, checkpoint_interval.

    Yields
    ------
    (RiverPart, Routed)
        Discharge of the part's own gauges; of a part that has none, of nothing.
    """
    boundary: dict[int, tuple[Tensor, Tensor]] = {}
    for part in parts:
        network, own = part.network, part.network.ids[part.own]
        asked = own if gauges is None else own[np.isin(own, gauges)]
        shown = asked if len(asked) else own[:1]
        given = None
        if len(part.receives):
            series, initial = zip(*(boundary.pop(int(i)) for i in part.receives), strict=True)
            given = Boundary(part.receives, torch.stack(series, 2), torch.stack(initial))
        exports = part.exports.tolist() or None
        with torch.no_grad():
            found = route(
                network, lateral(part), ids="network", gauges=shown.tolist(), boundary=given, exports=exports, **options
            )
        if found.boundary is not None:
            for k, i in enumerate(found.boundary.ids.tolist()):
                boundary[i] = found.boundary.series[:, :, k].clone(), found.boundary.initial[k]
        n = len(asked)
        yield part, Routed(found.discharge[:, :n], found.ids[:n], found.final_state)
