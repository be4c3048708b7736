"""Kernels that the tests compile: those of models that are no part of the package, and the GPU's for the CPU.

A header of models (csrc/core/model.h says what stands in one) becomes a library, which `load` of the extension takes.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import filelock
import pybind11
import torch

from hybridsolve.compiler import nvrtc

ROOT = Path(__file__).resolve().parents[1]
CSRC, STAND_IN, STUB = ROOT / "csrc", ROOT / "tests" / "cuda_on_cpu", ROOT / "tests" / "cuda_stub" / "libcuda.c"
TOY = ROOT / "tests" / "models" / "toy.h"
BUILT_IN = sorted((CSRC / "models").glob("*.h"))
GPU_FLAGS = ["-O1", "-ffp-contract=off", "-fno-delete-null-pointer-checks", "-w"]  # as setup.py's, which says why
GPU_FLAGS += ["-DHS_CUDA_ON_CPU", "-DHS_ISA=cuda", f"-I{STAND_IN}"]
if torch.backends.cpu.get_cpu_capability().startswith("AVX"):
    GPU_FLAGS.append("-mfma")


def toy_for_cpu(cache: Path, isa: str) -> Path:
    """The library of the toy's CPU kernels for one instruction set."""
    return _made_once(cache, f"toy_{isa}.so", lambda folder: build(TOY, folder, isa))


def cuda_on_cpu(cache: Path) -> ModuleType:
    """hybridsolve._cuda by the stand-in for CUDA's header, with the toy's kernels loaded."""
    module = _made_once(cache, f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}", _build_cuda_on_cpu)
    toy = _made_once(cache, "toy_cuda.so", lambda folder: build_for_cuda_on_cpu(TOY, folder, module))
    spec = importlib.util.spec_from_file_location("_cuda", module)
    extension = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    extension.load(str(toy))
    return extension


def cuda_stub(cache: Path) -> Path:
    """A stand-in for the NVIDIA driver's library."""

    def make(folder: Path) -> Path:
        library = folder / "libcuda.so"
        command = [
            "gcc",
            "-O1",
            "-fPIC",
            "-shared",
            "-Wall",
            "-Wextra",
            "-Werror",
            str(STUB),
            "-o",
            str(library),
            "-ldl",
        ]
        subprocess.run(command, check=True)
        return library

    return _made_once(cache, "libcuda.so", make)


def for_stub(cache: Path, module: Path) -> Callable:
    """What stands for NVRTC where that stand-in has kernels run: g++, for the lanes of `cuda_on_cpu`'s module."""

    def compiler(model: str, expression: str, macros: list[str], capability: int) -> tuple[str, bytes]:
        arguments = "(unsigned blocks, unsigned threads, unsigned shared, void** a)"
        launch = f"cudaLaunchKernel({expression}, dim3(blocks), dim3(threads), a, shared, nullptr)"
        text = f'{nvrtc.MODEL if model else nvrtc.ROUTING}extern "C" int kernel{arguments} {{ return {launch}; }}\n'
        header = nvrtc.header_for(model, expression, macros)

        def make(folder: Path) -> Path:
            (folder / "kernel.cpp").write_text(text)
            (folder / "generated.h").write_text(header)
            flags = [*GPU_FLAGS, *(f"-D{macro}" for macro in macros), f"-I{folder}", "-shared"]
            _compile([*flags, folder / "kernel.cpp", module, "-o", folder / "kernel.so"])
            return folder / "kernel.so"

        key = hashlib.sha256("\0".join((text, header, *macros)).encode()).hexdigest()[:16]
        return "kernel", f"run {_made_once(cache, f'kernel_{key}.so', make)}\0".encode()

    return compiler


def build(header: Path, folder: Path, isa: str) -> Path:
    """The library of a header's CPU kernels for one instruction set, at -O1: some ten seconds."""
    library = folder / f"{header.stem}_{isa}.so"
    flags = [*_setting("FLAGS"), "-O1", *_setting("ISAS").get(isa, [])]
    names = ["-DHS_PLUGIN", f"-DHS_ISA={isa}", f'-DHS_HEADER="{header}"']
    _compile([*flags, *names, "-shared", CSRC / "models_cpu.cpp", "-o", library])
    return library


def build_for_cuda_on_cpu(header: Path, folder: Path, module: Path) -> Path:
    """The library of a header's GPU kernels for the stand-in, whose module has the memory and the lanes of the card."""
    parts = {f"{header.stem}_{value}": _of_models(header, value, ["-DHS_PLUGIN"]) for value in ("float", "double")}
    library = folder / f"{header.stem}_cuda.so"
    _compile(["-shared", *_objects(parts, folder), module, "-o", library])
    return library


def _build_cuda_on_cpu(folder: Path) -> Path:
    tables = " ".join(f"TABLE({header.stem})" for header in BUILT_IN)
    names = ['-DHS_CUDA_ARCHITECTURES="sm_80 sm_90 compute_90"', f"-DHS_HEADERS(TABLE)={tables}"]
    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
    parts = {
        "binding": [*names, *includes, CSRC / "bind_cuda.cpp"],
        "runtime": [STAND_IN / "runtime.cpp"],
    }
    for value in ("double", "float"):
        parts[f"routing_{value}"] = ["-x", "c++", f"-DHS_VALUE={value}", CSRC / "routing_cuda.cu"]
        for header in BUILT_IN:
            parts[f"{header.stem}_{value}"] = _of_models(header, value, [f"-DHS_NAME={header.stem}"])
    library = folder / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    _compile(["-shared", *_objects(parts, folder), "-o", library])
    return library


def _of_models(header: Path, value: str, names: list[str]) -> list:
    return ["-x", "c++", f"-DHS_VALUE={value}", f'-DHS_HEADER="{header}"', *names, CSRC / "models_cuda.cu"]


def _objects(parts: dict[str, list], folder: Path) -> list[Path]:
    def compile_part(name: str) -> Path:
        _compile([*GPU_FLAGS, "-c", *parts[name], "-o", folder / f"{name}.o"])
        return folder / f"{name}.o"

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compile_part, parts))


def _compile(arguments: list) -> None:
    command = [shutil.which("g++"), "-std=c++17", "-fPIC", f"-I{CSRC}", *map(str, arguments)]
    subprocess.run(command, check=True, cwd=ROOT)


def _setting(name: str):
    """A constant of setup.py."""
    for x in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(x, ast.Assign) and getattr(x.targets[0], "id", None) == name:
            return ast.literal_eval(x.value)
    raise KeyError(name)


def _made_once(cache: Path, name: str, make: Callable[[Path], Path]) -> Path:
    """A library of this name, made again only where a source has changed; older ones go."""
    sources = [p for folder in (CSRC, STAND_IN) for p in sorted(folder.rglob("*")) if p.is_file()]
    text = b"".join(p.read_bytes() for p in (*sources, TOY, STUB, ROOT / "setup.py", Path(__file__)))
    known = cache / f"{hashlib.sha256(text).hexdigest()[:16]}-{name}"
    with filelock.FileLock(cache / f"{name}.lock"):  # pytest -n: one process compiles, the others wait
        if not known.exists():
            for old in cache.glob(f"*-{name}"):
                old.unlink(missing_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                os.replace(make(Path(folder)), known)
    return known
