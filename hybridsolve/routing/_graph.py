"""The loops over a river network, in a file of their own so that numba is imported only where a network is made."""

from __future__ import annotations

import heapq

import numpy as np

from .._extras import needed_for

with needed_for("a network of rivers"):
    from numba import njit


@njit(cache=True)
def breadth_first(downstream):
    """The rows in network order, outlets last, and how many rows reach no outlet."""
    n = len(downstream)
    start = np.zeros(n + 1, np.int64)
    for d in downstream:
        if d >= 0:
            start[d + 1] += 1
    for i in range(n):
        start[i + 1] += start[i]
    upstream, place = np.empty(start[n], np.int64), start[:-1].copy()
    for i in range(n):
        if downstream[i] >= 0:
            upstream[place[downstream[i]]] = i
            place[downstream[i]] += 1

    order, head = np.empty(n, np.int64), n
    for i in range(n - 1, -1, -1):
        if downstream[i] < 0:
            head -= 1
            order[head] = i
    tail = n - 1
    while tail >= head:
        row = order[tail]
        tail -= 1
        for k in range(start[row + 1] - 1, start[row] - 1, -1):
            head -= 1
            order[head] = upstream[k]
    return order, head


@njit(cache=True)
def accumulate(downstream, values):
    """Add to each column of values [M, N], in place, all that lies upstream of it."""
    for row in values:
        for i in range(len(downstream)):
            if downstream[i] >= 0:
                row[downstream[i]] += row[i]


@njit(cache=True)
def spread_upstream(downstream, label):
    """Give every reach without a label (-1), in place, the one of its downstream reach."""
    for i in range(len(downstream) - 1, -1, -1):
        if label[i] < 0 and downstream[i] >= 0:
            label[i] = label[downstream[i]]


@njit(cache=True)
def cut(downstream, first, most):
    """Which reaches to cut off below, that no part is larger than `most`, heads that it receives included."""
    n = len(downstream)
    load, is_cut = np.empty(n, np.int64), np.zeros(n, np.bool_)
    for i in range(n):
        total = 1
        for j in range(first[i], first[i + 1]):
            total += load[j]
        while total > most:
            largest = -1
            for j in range(first[i], first[i + 1]):
                if not is_cut[j] and (largest < 0 or load[j] > load[largest]):
                    largest = j
            is_cut[largest] = True
            total -= load[largest] - 1
        load[i] = total
    return is_cut


def of_even_size(sizes: np.ndarray, n: int) -> np.ndarray:
    """The part of each basin ``[M]`` among n of about even size: the largest one left goes to the smallest part."""
    part, loads = np.empty(len(sizes), np.int64), [(0, i) for i in range(n)]
    for i in np.argsort(-sizes, kind="stable"):
        load, part[i] = heapq.heappop(loads)
        heapq.heappush(loads, (load + sizes[i], part[i]))
    return part
