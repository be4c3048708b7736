"""Libraries of generated kernels, compiled when they are first asked for and kept for other processes.

They lie in the folder that HYBRIDSOLVE_CACHE names, or in the user's own cache, under a hash of all that decides what
they are: generated text, the headers it includes, flags, compiler, instruction set. An entry is written aside and
renamed, one process at a time, and one whose digest is not that noted beside it is made again.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

_PACKED = Path(__file__).resolve().parents[1] / "csrc"  # of an installed package; else the headers are beside it
CSRC = _PACKED if _PACKED.is_dir() else _PACKED.parents[1] / "csrc"
# Those of setup.py, where it is said why; a lesser optimisation, which costs a few per cent of speed, halves the wait.
FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fvisibility=hidden", "-pthread", "-fPIC", "-shared")
ISAS = {
    "baseline": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"),
}


def folder() -> Path:
    """Where libraries are kept; made if absent, for this user alone.

    Raises
    ------
    RuntimeError
        If it cannot be written to.
    """
    named = os.environ.get("HYBRIDSOLVE_CACHE")
    home = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    place = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or home) / "hybridsolve"
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(place, os.W_OK):
            raise PermissionError("no right to write")
    except OSError as error:
        raise RuntimeError(
            f"compiled models are kept in {place}, which cannot be written to ({error}): set HYBRIDSOLVE_CACHE to a "
            "folder of yours."
        ) from error
    return place


@functools.cache
def compiler() -> tuple[str, str]:
    """The C++ compiler, and the version that it says.

    Raises
    ------
    RuntimeError
        If there is none.
    """
    wish = os.environ.get("CXX")
    for name in (wish,) if wish else ("g++", "c++", "clang++"):
        if path := shutil.which(name):
            done = subprocess.run([path, "--version"], capture_output=True, text=True)
            return path, done.stdout.splitlines()[0] if done.stdout else ""
    raise RuntimeError(
        f"compiling a model needs a C++ compiler; found no {f'CXX={wish}' if wish else 'g++ or clang++'} on PATH: "
        "install one, such as g++, or ask for backend='reference'."
    )


@functools.cache
def _headers() -> bytes:
    """What a generated header includes, and what compiles it."""
    files = sorted([*CSRC.rglob("*.h"), *CSRC.rglob("*.cuh"), CSRC / "models_cpu.cpp"])
    if not CSRC.is_dir():
        raise RuntimeError(
            f"compiling a model needs hybridsolve's C++ headers; found none in {CSRC}: reinstall hybridsolve, or ask "
            "for backend='reference'."
        )
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).digest()


def library(text: str, isa: str) -> Path:
    """The library of a generated header's CPU kernels, compiled unless it is there already.

    Parameters
    ----------
    text : str
        The header.
    isa : str
        The instruction set, as `hybridsolve._cpu.isa()` names it.

    Raises
    ------
    RuntimeError
        If there is no compiler, it fails, or the cache cannot be written to.
    """
    path, version = compiler()
    flags = (*FLAGS, *(ISAS[isa] if platform.machine() in ("x86_64", "AMD64") else ()))
    command = [path, *flags, f"-I{CSRC}", "-DHS_PLUGIN", f"-DHS_ISA={isa}"]
    return entry("\0".join((text, *flags, version, isa)), ".so", functools.partial(_compile, text, command))


def entry(said: str, suffix: str, make: Callable[[Path], None]) -> Path:
    """A file of the cache, made unless it is there already.

    Parameters
    ----------
    said : str
        All that decides what is in it, but for the headers of csrc.
    suffix : str
        Of its name.
    make : callable
        Writes the file of that name, whose folder is there for it alone.
    """
    from filelock import FileLock

    key = hashlib.sha256(said.encode() + _headers()).hexdigest()[:24]
    kept = folder() / f"{key}{suffix}"
    if not _is_complete(kept):
        with FileLock(kept.with_suffix(".lock")):
            if not _is_complete(kept):  # another process may have made it meanwhile
                _make(make, kept)
    return kept


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _is_complete(kept: Path) -> bool:
    noted = kept.with_suffix(".sha256")
    return kept.exists() and noted.exists() and noted.read_text() == _digest(kept)


def _make(make: Callable[[Path], None], kept: Path) -> None:
    try:
        with tempfile.TemporaryDirectory(dir=kept.parent) as aside:
            made, noted = Path(aside) / f"made{kept.suffix}", Path(aside) / "made.sha256"
            make(made)
            noted.write_text(_digest(made))
            os.replace(made, kept)
            os.replace(noted, kept.with_suffix(".sha256"))
    except OSError as error:
        raise RuntimeError(
            f"the compiled model cannot be kept in {kept.parent} ({error}): free space there, or set HYBRIDSOLVE_CACHE "
            "to another folder."
        ) from error


def _compile(text: str, command: list[str], made: Path) -> None:
    header = made.with_name("generated.h")
    header.write_text(text)
    done = subprocess.run(
        [*command, f'-DHS_HEADER="{header}"', str(CSRC / "models_cpu.cpp"), "-o", str(made)],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise failed(text, done.stderr, "the C++ compiler", "try another by CXX")


def failed(text: str, said: str, who: str, remedy: str) -> RuntimeError:
    """What a compiler says first of a header, with the line of the step where the header names it."""
    found = re.search(r"generated\.h[:(](\d+)[:)].*?error: (.*)", said)
    if not found:
        first = next((line for line in said.splitlines() if "error" in line), said.strip() or "it says nothing")
        return RuntimeError(f"{who} fails on a kernel ({first}): {remedy}, or report it.")
    before = text.splitlines()[: int(found[1])]
    remark = next((line.strip() for line in reversed(before) if re.match(r"\s*// \d+: ", line)), "")
    return RuntimeError(f"{who} fails on a kernel ({found[2]}; made of line {remark[3:]}): {remedy}, or report it.")
