"""Memory that a loop keeps."""

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, torch
from hybridsolve import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

outside = faults()
with memory.kept():
    for _ in range(20):  # until what lies between large tensors, small blocks that the library keeps, has its place
        torch.ones(10_000_000)
    within = faults()
print(outside, within, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the memory of another C library is left as it is")
def test_a_loop_touches_its_pages_no_more():
    """In a process of its own, whose settings are those of the C library."""
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    outside, within, after = map(int, done.stdout.split())
    assert within < 0.01 * outside < after  # and in the end all is given back
