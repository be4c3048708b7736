"""Ids and values of reaches as tables give them: checked, looked up, and put in one order."""

from __future__ import annotations

import re
from numbers import Real

import numpy as np

from ..data.ids import listed, refuse_duplicates, text_ids, whole_ids
from ..data.values import unmasked

OUTLET_IDS = (0, -1)  # in place of the downstream id, in tables of ids


def reach_ids(values, what: str, nan: int | None = None) -> np.ndarray:
    """Ids of reaches as int64 ``[N]``, of numbers or of their digits as text; as `whole_ids`."""
    if not np.ma.is_masked(values) and (x := np.asarray(values)).dtype.kind in "SUO" and x.size:
        texts = text_ids(x, what)
        for row, text in enumerate(texts):
            if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
                raise ValueError(f"{what} must be whole numbers; found '{text}' in row {row}: correct or leave it out.")
        values = texts.astype(np.int64)
    return whole_ids(values, what, nan)


def by_label(x, what: str, rows, ids: np.ndarray):
    """Values in the order of `ids`; those with labels, of the given rows or of the ids, are matched by them."""
    labels, own = _labels(x), _labels(rows)
    if labels is None or (type(labels).__name__ == "RangeIndex" and own is None):
        return x
    for order in (own, ids):
        if order is not None and np.array_equal(labels, order):
            return x
    for order in (own, ids):
        if order is not None and len(order) == len(labels):
            place = {label: i for i, label in enumerate(np.asarray(labels).tolist())}
            if len(place) == len(labels) and place.keys() == set(np.asarray(order).tolist()):
                return x.to_numpy()[..., [place[label] for label in np.asarray(order).tolist()]]
    raise ValueError(
        f"{what} must be labelled by the reaches as ids is; found {listed(np.asarray(labels))}: index it by the ids, "
        "or pass its values in the order of ids."
    )


def _labels(x):
    """The index of the last axis of a pandas or xarray object, or None."""
    if hasattr(x, "iloc"):
        return x.axes[-1]
    return x.indexes.get(x.dims[-1]) if hasattr(x, "indexes") and x.dims else None


def look_up(ids: np.ndarray, wanted: np.ndarray, by_id: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The rows of `ids` that hold the wanted ids, and whether each was found."""
    by_id = np.argsort(ids) if by_id is None else by_id
    if len(ids) == 0:
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    place = by_id[np.searchsorted(ids, wanted, sorter=by_id).clip(max=len(ids) - 1)]
    return place, ids[place] == wanted


def as_floats(values, name: str) -> np.ndarray:
    try:
        if np.asanyarray(values).dtype.kind in "cMm":
            raise TypeError(np.asanyarray(values).dtype)
        return np.array(unmasked(values), dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).split(". ")[0]
        raise ValueError(f"attribute {name} must be numbers; found {reason}: convert it.") from error


def refuse_cycle(ids: np.ndarray, to: np.ndarray, reached: np.ndarray) -> None:
    """Raise with the ids along one cycle, into which all leads that does not reach an outlet."""
    free = np.ones(len(ids), bool)
    free[reached] = False
    row = int(np.flatnonzero(free)[0])
    seen: dict[int, int] = {}
    while row not in seen:
        seen[row] = len(seen)
        row = int(to[row])
    around = [str(i) for i in ids[list(seen)[seen[row] :]]]
    shown = around if len(around) <= 6 else [*around[:5], f"({len(around) - 5} more)"]
    raise ValueError(
        f"a river must not flow in a cycle; found {' -> '.join([*shown, around[0]])}: correct where one of these flows."
    )


def table_of_edges(upstream_ids, downstream_ids, ids, attributes):
    """Edges as ids, the ids that these flow to, and their attributes; see `RiverNetwork.from_edges`."""
    edges, upstream_ids = upstream_ids, whole_ids(upstream_ids, "upstream_ids")
    downstream_ids = by_label(downstream_ids, "downstream_ids", edges, upstream_ids)
    downstream_ids = whole_ids(downstream_ids, "downstream_ids", nan=0)
    if len(upstream_ids) != len(downstream_ids):
        raise ValueError(
            f"downstream_ids must be [{len(upstream_ids)}] as upstream_ids is; found [{len(downstream_ids)}]: "
            "give both ends of each edge."
        )
    if ids is None:
        if attributes:
            raise ValueError(
                f"attributes of edges must come with the ids they belong to; found {listed(attributes)} without "
                "ids: pass ids=."
            )
        ids = np.union1d(upstream_ids, downstream_ids[~np.isin(downstream_ids, OUTLET_IDS)])
    rows, ids = ids, whole_ids(ids, "ids")
    values, counts = np.unique(upstream_ids, return_counts=True)
    if (counts > 1).any():
        reach = values[counts > 1][0]
        raise ValueError(
            f"every reach must flow to one downstream reach; found a divergence, {reach} flowing to "
            f"{listed(downstream_ids[upstream_ids == reach])}: keep the main one."
        )
    place, known = look_up(ids, upstream_ids)
    if not known.all():
        raise ValueError(
            f"upstream_ids must all be in ids; found {listed(upstream_ids[~known])}, which are not: add them."
        )
    to = np.zeros(len(ids), np.int64)
    to[place] = downstream_ids
    attributes = {name: by_label(x, name, rows, ids) for name, x in attributes.items()}
    return ids, to, attributes


def refuse_no_network(ids: np.ndarray, downstream: np.ndarray, attributes: dict) -> None:
    """Raise unless ids [N], rows of the downstream reaches [N] and attributes are those of a network."""
    n = len(downstream)
    if n == 0:
        raise ValueError("a network must have one reach or more; found none: check how its table was read or cut.")
    if len(ids) != n:
        raise ValueError(f"ids must be [{n}] as downstream is; found [{len(ids)}]: give each reach one id.")
    sizes = {name: np.shape(x) for name, x in attributes.items()}
    for name, shape in sizes.items():
        if shape != (n,):
            raise ValueError(f"attribute {name} must be [{n}], one value a reach; found {list(shape)}: reshape it.")
    refuse_duplicates(ids, "ids of reaches")
    bad = (downstream < -1) | (downstream >= n)
    if bad.any():
        raise ValueError(
            f"downstream must be a row from 0 to {n - 1}, or -1 at an outlet; found {listed(downstream[bad])} at reach "
            f"{listed(ids[bad])}: correct it, or use from_ids if these are ids."
        )
    own = downstream == np.arange(n)
    if own.any():
        raise ValueError(f"no reach may flow to itself; found {listed(ids[own])}: correct where it flows, -1 if out.")


def pieces_of(length: np.ndarray, ids: np.ndarray, max_length: float, most: int) -> np.ndarray:
    """How many pieces each reach is cut into ``[N]``, so that none is longer than `max_length`.

    Raises
    ------
    ValueError
        If a length or `max_length` is not a length in m, or there are more than `most` pieces.
    """
    if not isinstance(max_length, Real) or not 0 < float(max_length) < np.inf:
        raise ValueError(f"max_length must be above 0 m and finite; found {max_length!r}: choose a length.")
    bad = ~((length >= 0) & (length < np.inf))
    if bad.any():
        raise ValueError(
            f"length must be 0 m or more and finite; found {length[bad][0]:g} at reach {ids[bad][0]}: correct it."
        )
    pieces = np.maximum(np.ceil(length / max_length), 1)
    if pieces.sum() > most:
        raise ValueError(
            f"a network has at most {most} reaches; found {pieces.sum():.3g} pieces of {max_length:g} m: choose a "
            "greater max_length."
        )
    return pieces.astype(np.int64)
