"""The ceilings of this machine, one thread, from ceiling.cpp: `python -m benchmarks.ceiling` prints them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path


def measure() -> dict:
    """Vector instructions per second, their float32 lanes, and bytes copied per second; {} without g++."""
    if not shutil.which("g++"):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "ceiling"
        source = Path(__file__).with_suffix(".cpp")
        subprocess.run(["g++", "-O3", "-march=native", str(source), "-o", str(program)], check=True)
        out = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    operations, copied, lanes = out.split()
    return dict(vector_ops_per_s=operations, lanes=lanes, copy_bytes_per_s=copied)


if __name__ == "__main__":
    print(measure())
