"""River networks: reaches in an order in which each upstream reach lies exactly one level before its downstream."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path

import numpy as np

from ..arguments import integer
from ..data.ids import listed, refuse_duplicates, whole_ids
from .checks import (
    OUTLET_IDS,
    as_floats,
    by_label,
    look_up,
    pieces_of,
    reach_ids,
    refuse_cycle,
    refuse_no_network,
    table_of_edges,
)
from .lattice import lattice, slopes
from .readers import (
    SAVED,
    read_hydrofabric,
    read_hydrorivers,
    read_merit,
    read_rapid,
    read_routelink,
    read_saved,
    write_saved,
)

MOST_REACHES = 2**31 - 2  # their positions have 32 bits
DIVIDED = ("length", "area", "k")  # attributes of a reach that its pieces share


@dataclass(frozen=True, eq=False, repr=False)
class RiverNetwork:
    """N reaches, each of which flows to one other or out, in network order; made by one of the ``from_...`` below.

    Network order is breadth-first from the outlets upstream, reversed; outlets, and reaches that flow to the same one,
    ascend by id. So it depends on the ids alone, not on the rows of the table given.

    Attributes
    ----------
    ids : int64 ``[N]``
        Of every reach.
    order : int64 ``[N]``
        Where each reach came from: the row of the table given, or the position in the network pruned, parted or split.
    downstream : int32 ``[N]``
        Position of the reach that each flows to, always after its own; -1 at an outlet.
    first : int32 ``[N + 1]``
        The reaches ``first[i]:first[i + 1]`` flow to reach i.
    level_start : int64 ``[n_levels + 1]``
        Level k is the reaches ``level_start[k]:level_start[k + 1]``, and flows to level k + 1; outlets are the last.
    attributes : dict of str to float64 ``[N]``
        What else was given: length (m), slope (m/m), area (m2), k (s), x, n, p, q and any other.
    """

    ids: np.ndarray
    order: np.ndarray
    downstream: np.ndarray
    first: np.ndarray
    level_start: np.ndarray
    attributes: dict[str, np.ndarray]

    # --- From tables -----------------------------------------------------------------------------------------------

    @classmethod
    def from_downstream(cls, downstream, ids=None, **attributes) -> RiverNetwork:
        """The network of a table whose reaches name the row that they flow to.

        Parameters
        ----------
        downstream : int ``[N]``
            Row of the downstream reach; -1 at an outlet.
        ids : int ``[N]``, optional
            Of the reaches, unique; their rows if left out.
        **attributes : float ``[N]``
            Of the reaches, by name.

        Raises
        ------
        ValueError
            If there is no reach, two have the same id, one flows to itself or in a cycle, a row or an id is not a whole
            number, a row does not exist, or an array is not ``[N]``.
        """
        rows = np.arange(np.size(downstream)) if ids is None else ids
        ids = whole_ids(rows, "ids")
        downstream = whole_ids(by_label(downstream, "downstream", rows, ids), "downstream")
        return _make(ids, downstream, {name: by_label(x, name, rows, ids) for name, x in attributes.items()})

    @classmethod
    def from_ids(cls, ids, to, *, dangling="refuse", **attributes) -> RiverNetwork:
        """The network of a table whose reaches name the id that they flow to.

        Parameters
        ----------
        ids : int ``[N]``
            Of the reaches, unique, none 0 or -1.
        to : int or float ``[N]``
            Id of the downstream reach; 0, -1 or NaN at an outlet.
        dangling : {"refuse", "outlet"}
            What a reach is that flows to an id not in `ids`: an error, or an outlet.
        **attributes : float ``[N]``
            Of the reaches, by name.

        Raises
        ------
        ValueError
            As `from_downstream`, or if a reach flows to an id that is not in `ids`.
        """
        if dangling not in ("refuse", "outlet"):
            raise ValueError(f"dangling must be 'refuse' or 'outlet'; found {dangling!r}: choose one.")
        rows, ids = ids, whole_ids(ids, "ids")
        to = whole_ids(by_label(to, "to", rows, ids), "to", nan=0)
        attributes = {name: by_label(x, name, rows, ids) for name, x in attributes.items()}
        if len(to) != len(ids):
            raise ValueError(f"to must be [{len(ids)}] as ids is; found [{len(to)}]: give each reach one downstream.")
        refuse_duplicates(ids, "ids of reaches")
        if np.isin(ids, OUTLET_IDS).any():
            raise ValueError(
                "ids must not hold 0 or -1, which mean an outlet where a reach flows to; found "
                f"{listed(ids[np.isin(ids, OUTLET_IDS)])}: give that reach another id."
            )
        downstream, known = look_up(ids, to)
        lost = ~known & ~np.isin(to, OUTLET_IDS)
        if lost.any() and dangling == "refuse":
            raise ValueError(
                f"every reach must flow to a reach of ids or out (0, -1 or NaN); found {listed(ids[lost])} flowing to "
                f'{listed(to[lost])}, not in ids: add what is missing, or pass dangling="outlet".'
            )
        return _make(ids, np.where(known, downstream, -1), attributes)

    @classmethod
    def from_edges(cls, upstream_ids, downstream_ids, ids=None, *, dangling="refuse", **attributes) -> RiverNetwork:
        """The network of a list of edges.

        Parameters
        ----------
        upstream_ids, downstream_ids : int ``[E]``
            Each edge's reach and the one it flows to; 0, -1 or NaN where it flows out.
        ids : int ``[N]``, optional
            Of the reaches, those without edges among them; those that have edges, ascending, if left out.
        dangling : {"refuse", "outlet"}
            As for `from_ids`.
        **attributes : float ``[N]``
            Of the reaches as in `ids`, by name.

        Raises
        ------
        ValueError
            As `from_ids`, or if a reach has two edges downstream, or attributes are given without ids.
        """
        ids, to, attributes = table_of_edges(upstream_ids, downstream_ids, ids, attributes)
        return cls.from_ids(ids, to, dangling=dangling, **attributes)

    @classmethod
    def from_routelink(cls, path, *, dangling="refuse") -> RiverNetwork:
        """The network of a RouteLink file of the National Water Model.

        Parameters
        ----------
        path : path_like
            NetCDF with ``link`` and ``to``. Of the others it makes length (m), slope (m/m), n, n_cc (of the compound
            channel), k (s), x, bottom_width, top_width, top_width_cc (m), side_slope, alt (m), lon, lat (degrees) and
            waterbody (an id, negative where there is none), as far as the file has them.
        dangling : {"refuse", "outlet"}
            As for `from_ids`.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            As `from_ids`, or if it is not such a file.
        """
        ids, to, attributes = read_routelink(path)
        return cls.from_ids(ids, to, dangling=dangling, **attributes)

    @classmethod
    def from_rapid(cls, rapid_connect_csv, k_csv, x_csv, *, dangling="refuse") -> RiverNetwork:
        """The network of RAPID's tables, without header.

        Parameters
        ----------
        rapid_connect_csv : path_like
            Rows of id, downstream id (0 at an outlet), number of upstream reaches, and their ids, filled up by 0.
        k_csv, x_csv : path_like
            Muskingum's k (s) and x of the same rows.
        dangling : {"refuse", "outlet"}
            As for `from_ids`; a table that was cut out of a larger one needs "outlet".

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            As `from_ids`, if a file is not such a table, or if upstream and downstream ids contradict each other.
        """
        ids, to, attributes = read_rapid(rapid_connect_csv, k_csv, x_csv)
        return cls.from_ids(ids, to, dangling=dangling, **attributes)

    @classmethod
    def from_hydrofabric(
        cls, path: str | Path, *, dangling: str = "refuse", channels: str | None = None
    ) -> RiverNetwork:
        """The network of a NextGen hydrofabric, version 2.

        Parameters
        ----------
        path : path_like
            GeoPackage with the tables flowpaths, nexus and flowpath-attributes; the number in ``wb-12`` is a reach's
            id. It makes length (m), area and drained_area (m2), and of the channels what `from_routelink` makes, its
            waterbody the first of several, 0 where that is no number.
        dangling : {"refuse", "outlet"}
            As for `from_ids`; a subset may need "outlet".
        channels : str, optional
            The table of the channels, in place of flowpath-attributes: such as flowpath-attributes-ml.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            As `from_ids`, or if it is not such a file, lacks a table or a column, or has an id twice.
        """
        ids, to, attributes = read_hydrofabric(path, dangling, channels)
        return cls.from_ids(ids, to, dangling=dangling, **attributes)

    @classmethod
    def from_merit(
        cls, path: str | Path, catchments: str | Path | None = None, *, dangling: str = "refuse"
    ) -> RiverNetwork:
        """The network of MERIT-Basins.

        Parameters
        ----------
        path : path_like
            Shapefile or GeoPackage of the rivers (riv_pfaf_...). It makes length (m), slope (m/m), drained_area (m2)
            and strahler_order.
        catchments : path_like, optional
            That of the catchments (cat_pfaf_...), which makes area (m2).
        dangling : {"refuse", "outlet"}
            As for `from_ids`.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            As `from_ids`, if it is not such a file, or if upstream and downstream ids contradict each other.
        """
        ids, to, attributes = read_merit(path, catchments)
        return cls.from_ids(ids, to, dangling=dangling, **attributes)

    @classmethod
    def from_hydrorivers(cls, path: str | Path, *, dangling: str = "refuse") -> RiverNetwork:
        """The network of HydroRIVERS, version 1.

        Parameters
        ----------
        path : path_like
            Shapefile, geodatabase or GeoPackage. It makes length, distance_to_outlet (m), area, drained_area (m2),
            mean_discharge (m3/s) and strahler_order; slope and Manning's n come from elsewhere.
        dangling : {"refuse", "outlet"}
            As for `from_ids`.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            As `from_ids`, or if it is not such a file.
        """
        ids, to, attributes = read_hydrorivers(path)
        return cls.from_ids(ids, to, dangling=dangling, **attributes)

    @classmethod
    def random(cls, n, seed=0) -> RiverNetwork:
        """A dendritic network of n reaches with plausible attributes: Scheidegger's lattice.

        Each of about 1.25 sqrt(n) rows of cells flows to the row below, every cell to one of its two lower neighbours
        at random; the lowest row flows out.

        Parameters
        ----------
        n : int
            Reaches; their ids are 1 to n, from the lowest row up.
        seed : int
            Of numpy's default generator; the same seed gives the same network.

        Returns
        -------
        RiverNetwork
            With length (m), slope (m/m, less the larger the area drained), n (Manning's), p and q (of the width
            ``p * depth ** q``), x (of Muskingum) and area (m2).

        Raises
        ------
        ValueError
            If n is not 1 or more, or the seed not 0 or more.
        """
        n, rng = integer("n", n, 1), np.random.default_rng(integer("seed", seed, 0))
        downstream, attributes = lattice(n, rng)
        network = _make(np.arange(1, n + 1), downstream, attributes)
        network.attributes["slope"] = slopes(network.upstream_area(), rng)
        return network

    # --- What it is ------------------------------------------------------------------------------------------------

    @property
    def n_reaches(self) -> int:
        return len(self.ids)

    @property
    def n_levels(self) -> int:
        return len(self.level_start) - 1

    @property
    def outlets(self) -> np.ndarray:
        """Positions of the reaches that flow out: the last ones."""
        return np.arange(self.level_start[-2], self.n_reaches)

    @property
    def headwaters(self) -> np.ndarray:
        """Positions of the reaches that no other flows to."""
        return np.flatnonzero(np.diff(self.first) == 0)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of ids and downstream: two networks share it if a state of one fits the other."""
        parts = (self.ids.astype("<i8"), self.downstream.astype("<i4"))
        return hashlib.sha256(b"".join(x.tobytes() for x in parts)).hexdigest()

    def __repr__(self) -> str:
        return (
            f"RiverNetwork({self.n_reaches} reaches, {self.n_levels} levels, {len(self.outlets)} outlets; "
            f"{listed(self.attributes) if self.attributes else 'no attributes'})"
        )

    def attribute(self, name: str) -> np.ndarray:
        """The attribute of that name ``[N]``; ValueError if there is none."""
        if name not in self.attributes:
            raise ValueError(
                f"the network must have the attribute {name}; found {listed(self.attributes)}: give {name}= "
                "when making it."
            )
        return self.attributes[name]

    def index(self, ids) -> np.ndarray:
        """Positions of the reaches with these ids.

        Parameters
        ----------
        ids : int or int ``[M]``

        Returns
        -------
        int64, of the same shape

        Raises
        ------
        ValueError
            If an id is not in the network.
        """
        wanted = reach_ids(np.atleast_1d(ids), "ids")
        place, known = look_up(self.ids, wanted, self._by_id)
        if not known.all():
            raise ValueError(
                f"ids must be among the network's {self.n_reaches}; found {listed(wanted[~known])}, not in it: correct "
                "or leave them out."
            )
        return place.reshape(np.shape(ids))

    @cached_property
    def _by_id(self) -> np.ndarray:
        return np.argsort(self.ids)

    def accumulate(self, values) -> np.ndarray:
        """Sum over each reach and all that lies upstream of it.

        Parameters
        ----------
        values : float ``[..., N]``
            In network order, or labelled by the reaches' ids; any unit.

        Returns
        -------
        float64 ``[..., N]``

        Raises
        ------
        ValueError
            If the last axis is not N.
        """
        from ._graph import accumulate

        sums = np.array(as_floats(by_label(values, "values", None, self.ids), "to accumulate"), order="C")
        if sums.ndim == 0 or sums.shape[-1] != self.n_reaches:
            raise ValueError(
                f"values must be [..., {self.n_reaches}] in network order; found {list(sums.shape)}: put reaches last."
            )
        accumulate(self.downstream, sums.reshape(-1, self.n_reaches))
        return sums

    def upstream_area(self) -> np.ndarray:
        """Area drained by each reach, m2, float64 ``[N]``; ValueError if there is no attribute area."""
        return self.accumulate(self.attribute("area"))

    @property
    def below_waterbody(self) -> np.ndarray:
        """Whether each reach is part of a lake or reservoir or lies anywhere downstream of one, bool ``[N]``.

        These are routed as rivers, which shows in the discharge all the way to the outlet; gauges there are scored
        apart. Needs the attribute waterbody, an id, negative or NaN where there is none; ValueError without.
        """
        return self.accumulate(self.attribute("waterbody") >= 0) > 0

    # --- Others made of it -----------------------------------------------------------------------------------------

    def prune(self, gauges) -> RiverNetwork:
        """The network of the reaches with these ids and all that lies upstream of any.

        Parameters
        ----------
        gauges : int ``[M]``
            Ids of reaches; those not upstream of another become outlets.

        Returns
        -------
        RiverNetwork
            Its `order` holds positions in this one.

        Raises
        ------
        ValueError
            If there is no gauge, or one is not in the network.
        """
        label = np.full(self.n_reaches, -1)
        label[self.index(np.atleast_1d(gauges))] = 0
        if (label < 0).all():
            raise ValueError("gauges must name one reach or more; found none: give the ids of gauged reaches.")
        return self.take(self._upstream_of(label) == 0)

    def parts(self, n) -> list[RiverNetwork]:
        """Independent networks of about equal size that together are this one.

        Parameters
        ----------
        n : int
            How many, at most one for each outlet; what flows to one outlet stays together.

        Returns
        -------
        list of RiverNetwork
            Largest basin first; `order` holds positions in this one.

        Raises
        ------
        ValueError
            If n is less than 1 or more than there are outlets.
        """
        from ._graph import of_even_size

        outlets = self.outlets
        if isinstance(n, bool) or not isinstance(n, Integral) or not 1 <= int(n) <= len(outlets):
            raise ValueError(
                f"n must be 1 to {len(outlets)}, as many parts as there are outlets; found {n}: ask for fewer."
            )
        label = np.full(self.n_reaches, -1)
        label[outlets] = np.arange(len(outlets))
        outlet = self._upstream_of(label)
        part = of_even_size(np.bincount(outlet), int(n))
        return [self.take(part[outlet] == i) for i in range(n)]

    def split_long(self, max_length) -> tuple[RiverNetwork, np.ndarray]:
        """Reaches longer than `max_length` in pieces of equal length, one after the other.

        Parameters
        ----------
        max_length : float
            m; a reach becomes ``ceil(length / max_length)`` pieces.

        Returns
        -------
        network : RiverNetwork
            The most downstream piece of a reach has its id, the others new ones below -1; length, area and k are
            divided, other attributes copied.
        parent : int64 ``[N of network]``
            Position in this network of the reach that each is a piece of; the same as `network.order`.

        Raises
        ------
        ValueError
            If `max_length` is not positive, there is no attribute length, or one is negative or not finite.
        """
        length = self.attribute("length")
        pieces = pieces_of(length, self.ids, max_length, MOST_REACHES)
        parent = np.repeat(np.arange(self.n_reaches), pieces)
        last = np.cumsum(pieces) - 1
        downstream = np.arange(1, len(parent) + 1)
        downstream[last] = np.where(self.downstream < 0, -1, (last - pieces + 1)[self.downstream])
        # New ids lie below -1, which means an outlet, and below all existing ones.
        ids = min(int(self.ids.min()), -1) - 1 - np.arange(len(parent))
        ids[last] = self.ids
        attributes = {
            name: values[parent] / (pieces[parent] if name in DIVIDED else 1)
            for name, values in self.attributes.items()
        }
        network = _make(ids, downstream, attributes)
        parent = parent[network.order]
        return replace(network, order=parent), parent

    def _upstream_of(self, label: np.ndarray) -> np.ndarray:
        from ._graph import spread_upstream

        spread_upstream(self.downstream, label)
        return label

    def take(self, keep: np.ndarray) -> RiverNetwork:
        """The network of the reaches where `keep` ``[N]``; one whose downstream reach is not kept becomes an outlet."""
        taken, place = np.flatnonzero(keep), np.cumsum(keep) - 1
        to = self.downstream[taken]
        downstream = np.where((to >= 0) & keep[to], place[to], -1)
        network = _make(self.ids[taken], downstream, {name: x[taken] for name, x in self.attributes.items()})
        return replace(network, order=taken[network.order])

    # --- On disk ---------------------------------------------------------------------------------------------------

    def save(self, path) -> Path:
        """Write the network to a NetCDF file, whole or not at all.

        Parameters
        ----------
        path : path_like
            An existing file is replaced only once the new one is whole.

        Returns
        -------
        pathlib.Path
            The path written.

        Raises
        ------
        OSError
            As `write_netcdf`.
        """
        arrays = {"ids": self.ids, "downstream": self.downstream, "order": self.order}
        arrays |= {f"attribute_{name}": x for name, x in self.attributes.items()}
        return write_saved(path, arrays, self.fingerprint)

    @classmethod
    def load(cls, path) -> RiverNetwork:
        """The network that `save` wrote.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            If it is not such a file, or is damaged.
        """
        arrays = read_saved(path)
        ids, downstream, order = (arrays.pop(name) for name in SAVED)
        network = _make(ids, downstream, {name.removeprefix("attribute_"): x for name, x in arrays.items()})
        return replace(network, order=order)


def _make(ids: np.ndarray, downstream: np.ndarray, attributes: dict) -> RiverNetwork:
    """The network of int64 ids [N] and rows of the downstream reaches [N], checked and put in network order."""
    from ._graph import breadth_first

    refuse_no_network(ids, downstream, attributes)
    n = len(ids)
    by_id = np.argsort(ids)
    rank = np.empty(n, np.int64)
    rank[by_id] = np.arange(n)
    to = downstream[by_id]
    to = np.where(to < 0, -1, rank[to])
    order, lost = breadth_first(to)
    if lost:
        refuse_cycle(ids[by_id], to, order[lost:])
    inflows = np.bincount(to[to >= 0], minlength=n)[order]
    first = np.concatenate([[0], np.cumsum(inflows)])
    starts = [n, int(first[-1])]
    while starts[-1] > 0:
        starts.append(int(first[starts[-1]]))
    order = by_id[order]
    return RiverNetwork(
        ids=ids[order],
        order=order,
        downstream=np.concatenate([np.repeat(np.arange(n), inflows), np.full(n - first[-1], -1)]).astype(np.int32),
        first=first.astype(np.int32),
        level_start=np.array(starts[::-1]),
        attributes={name: as_floats(x, name)[order] for name, x in attributes.items()},
    )
