"""Memory that a loop of equal steps asks for and frees in each of them."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# Of mallopt(3) and malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_GROWTH = 64 << 20  # bytes by which the heap grows at least


@contextmanager
def kept() -> Iterator[None]:
    """Keep what is freed on the CPU for the next request, and give it back to the system in the end.

    The C library of Linux maps each large tensor anew and unmaps it when it is freed, and the system clears every page
    of it when it is touched first: in a training, a third of the time. Within, large tensors come from the heap, which
    does not shrink. The settings are the whole process's, and afterwards those that the library begins with. With
    another C library nothing is changed.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _GROWTH)):
        library.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in ((_MMAP_MAX, 65536), (_TRIM_THRESHOLD, 128 << 10), (_TOP_PAD, 0)):
            library.mallopt(option, value)
        library.malloc_trim(0)
