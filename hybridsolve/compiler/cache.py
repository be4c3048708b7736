"""Generated kernels, made when they are first asked for and kept for other processes: libraries, modules in Triton.

They lie in the folder that HYBRIDSOLVE_CACHE names, or in the user's own cache, under a hash of all that decides what
they are: generated text, and of a library the headers it includes, flags, compiler, instruction set. An entry is
written aside and renamed, a library by one process at a time; what a process that was killed left aside goes when the
next makes that entry. A library whose digest is not that noted beside it, and a module whose text is another, are made
again. A folder that cannot be written to serves for what is in it.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)
# Those of setup.py, where it is said why; a lesser optimisation, which costs a few per cent of speed, halves the wait.
FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fno-delete-null-pointer-checks", "-fvisibility=hidden")
FLAGS += ("-pthread", "-fPIC", "-shared")
ISAS = {
    "baseline": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"),
}


def folder() -> Path:
    """Where kernels are kept; made when the first is, for this user alone."""
    named = os.environ.get("HYBRIDSOLVE_CACHE")
    home = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or home) / "hybridsolve"


def _writable() -> Path:
    place = folder()
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
    named = os.environ.get("CXX")
    for name in (named,) if named else ("g++", "c++", "clang++"):
        if path := shutil.which(name):
            done = subprocess.run([path, "--version"], capture_output=True, text=True)
            return path, done.stdout.splitlines()[0] if done.stdout else ""
    raise RuntimeError(
        f"compiling a model needs a C++ compiler; found no {f'CXX={named}' if named else 'g++ or clang++'} on PATH: "
        "install one, such as g++, or ask for backend='reference'."
    )


@functools.cache
def sources() -> Path:
    """The folder of the C++ sources: in the package, or beside it in a checkout.

    Raises
    ------
    RuntimeError
        If there is none.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "csrc", package.parent / "csrc"):
        if (folder / "models_cpu.cpp").is_file():
            return folder
    raise RuntimeError(
        "compiling a model needs hybridsolve's C++ sources; found none beside the package: install hybridsolve again, "
        "or ask for backend='reference'."
    )


@functools.cache
def _headers() -> bytes:
    """What a generated header includes, and what compiles it."""
    files = sorted([*sources().rglob("*.h"), *sources().rglob("*.cuh"), sources() / "models_cpu.cpp"])
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).digest()


def library(text: str, isa: str, parts: int = 7, values: int = 3) -> Path:
    """The library of a generated header's CPU kernels, compiled unless it is there already.

    Parameters
    ----------
    text : str
        The header.
    isa : str
        The instruction set, as `hybridsolve._cpu.isa()` names it.
    parts, values : int
        Which kernels, and in what precision, as csrc/models_cpu.cpp numbers them; all.

    Raises
    ------
    RuntimeError
        If there is no compiler, it fails, or the cache cannot be written to.
    """
    path, version = compiler()
    flags = (*FLAGS, *(ISAS[isa] if platform.machine() in ("x86_64", "AMD64") else ()))
    flags += ("-DHS_PLUGIN", f"-DHS_ISA={isa}", f"-DHS_PARTS={parts}", f"-DHS_VALUES={values}")
    command = [path, *flags, f"-I{sources()}"]
    about = f"{_title(text)}; {isa}, {path}"
    return entry("\0".join((text, *flags, version)), ".so", about, functools.partial(_compile, text, command))


def entry(said: str, suffix: str, about: str, make: Callable[[Path], None]) -> Path:
    """A file of the cache, made unless it is there already.

    Parameters
    ----------
    said : str
        All that decides what is in it, but for the headers of csrc.
    suffix : str
        Of its name.
    about : str
        What it is, for `hybridsolve cache`.
    make : callable
        Writes the file of that name, whose folder is there for it alone.
    """
    from filelock import FileLock

    key = hashlib.sha256(said.encode() + _headers()).hexdigest()[:24]
    kept = folder() / f"{key}{suffix}"
    if not _is_complete(kept):
        with FileLock(_writable() / f"{key}.lock"):
            if not _is_complete(kept):  # another process may have made it meanwhile
                for left in kept.parent.glob(f"{key}-*"):  # by a process that was killed: the lock is ours
                    shutil.rmtree(left, ignore_errors=True)
                began = time.perf_counter()
                with _aside(kept) as made:
                    make(made)
                    noted = made.with_suffix(".sha256")
                    noted.write_text(f"{_digest(made)}\n{about}\n")
                    os.replace(made, kept)
                    os.replace(noted, kept.with_suffix(".sha256"))
                log.info("%s: made in %.1f s and kept, %s", about, time.perf_counter() - began, kept)
    else:
        log.debug("%s: found, %s", about, kept)
    return kept


def module(text: str) -> Path:
    """The file of a generated module, written unless it is there already.

    Parameters
    ----------
    text : str

    Raises
    ------
    RuntimeError
        If the cache cannot be written to.
    """
    kept = folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.py"
    if not kept.exists() or kept.read_bytes() != text.encode():
        _writable()
        with _aside(kept) as made:
            made.write_bytes(text.encode())
            os.replace(made, kept)
    return kept


@contextmanager
def _aside(kept: Path) -> Iterator[Path]:
    """The entry's file in a folder beside it, from where it is renamed."""
    try:
        with tempfile.TemporaryDirectory(prefix=f"{kept.stem}-", dir=kept.parent) as aside:
            yield Path(aside) / kept.name
    except OSError as error:
        raise RuntimeError(
            f"the compiled model cannot be kept in {kept.parent} ({error}): free space there, or set HYBRIDSOLVE_CACHE "
            "to another folder."
        ) from error


def _title(text: str) -> str:
    """What the first line of a generated header says."""
    return text.partition("\n")[0].removeprefix("// ")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _is_complete(kept: Path) -> bool:
    noted = kept.with_suffix(".sha256")
    return kept.exists() and noted.exists() and noted.read_text().startswith(_digest(kept) + "\n")


def entries() -> list[tuple[Path, str]]:
    """What is kept, newest first, and what each is, in a few words."""
    kept = folder()
    found = dict.fromkeys(kept.glob("*.py"), "a module of Triton")
    for note in kept.glob("*.sha256"):
        about = " ".join(note.read_text().splitlines()[1:])
        found |= {path: about for suffix in (".so", ".cubin") if (path := note.with_suffix(suffix)).exists()}
    return sorted(found.items(), key=lambda entry: entry[0].stat().st_mtime, reverse=True)


def clear() -> int:
    """Remove all of it, but for what another process makes now; a library that one has loaded stays open there.

    Returns
    -------
    int
        How many entries there were.
    """
    from filelock import FileLock, Timeout

    found = entries()
    for key in {path.name[:24] for path in folder().glob("*") if re.match("[0-9a-f]{24}[.-]", path.name)}:
        try:
            with FileLock(folder() / f"{key}.lock", timeout=0):
                for path in folder().glob(f"{key}*"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        except Timeout:
            continue
    return len(found)


def _compile(text: str, command: list[str], made: Path) -> None:
    header = made.with_name("generated.h")
    header.write_text(text)
    done = subprocess.run(
        [*command, f'-DHS_HEADER="{header}"', str(sources() / "models_cpu.cpp"), "-o", str(made)],
        env=os.environ | {"TMPDIR": str(made.parent), "LC_ALL": "C"},
        capture_output=True,
        text=True,
    )
    if full := re.search("No space left on device|Disk quota exceeded|File size limit exceeded", done.stderr):
        raise OSError(errno.ENOSPC, full[0])
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
