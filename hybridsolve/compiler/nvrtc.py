"""GPU kernels by NVRTC, CUDA's compiler as a library: made when a run first asks for them, and kept (`cache`).

The headers are those of the CPU's kernels. A kernel is compiled for one model, type of numbers and card, and for what
of a run its inner loop asks (csrc/core/cuda.cuh). `hybridsolve._driver` launches it, and needs the card's driver alone.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from . import cache

FLAGS = ("--std=c++17", "--fmad=false", "--device-as-default-execution-space", "-DHS_ISA=cuda")
OLDEST = (12, 1)  # what takes kernels of more than 4,096 bytes of arguments
ROUTING = '#include "routing/convolve_cuda.cuh"\n#include "routing/network_cuda.cuh"\n'
MODEL = """\
#include "core/tangent.cuh"
#include "generated.h"
#define HS_USE(name, ...) using model_##name = __VA_ARGS__;
namespace hs { namespace cuda { HS_MODELS(HS_USE) } }
"""
SAME = 'static_assert(sizeof(hs::Run) == {} && sizeof(hs::Tangent) == {} && sizeof(hs::LeastSquares) == {}, "{}");\n'

_HEADERS: dict[str, str] = {}  # by model
_FLUXES: dict[str, list[str]] = {}
_OF_OUTPUTS: dict[str, Callable[[frozenset[str]], str]] = {}  # of generated models what writes one for a run's outputs


def _candidates() -> Iterator[str]:
    """Where NVRTC may be: in the wheels that torch brings, in a toolkit, where the loader looks."""
    spec = importlib.util.find_spec("nvidia")
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    for root in spec.submodule_search_locations or () if spec else ():
        yield from map(str, sorted(Path(root).glob("*/lib/libnvrtc.so.*"), reverse=True))
    for folder in [Path(home, lib) for home in homes for lib in ("lib64", "lib")]:
        yield from map(str, sorted(folder.glob("libnvrtc.so*"), reverse=True))
    yield from ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")


class Nvrtc:
    """One NVRTC: the library's path, and its version as (major, minor)."""

    def __init__(self, path: str):
        # Its second library, without which it compiles nothing, it looks for by name alone.
        for needed in Path(path).parent.glob("libnvrtc-builtins.so.*") if "/" in path else ():
            ctypes.CDLL(str(needed), mode=ctypes.RTLD_GLOBAL)
        self.path, self._library = path, ctypes.CDLL(path)
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("Version", ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)

    def __str__(self) -> str:
        return f"NVRTC {self.version[0]}.{self.version[1]} ({self.path})"

    def _result(self, name: str, *arguments) -> int:
        return getattr(self._library, f"nvrtc{name}")(*arguments)

    def _call(self, name: str, *arguments) -> None:
        if result := self._result(name, *arguments):
            self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
            said = self._library.nvrtcGetErrorString(result).decode()
            raise RuntimeError(f"nvrtc{name} of {self} failed: {said}; reinstall NVRTC.")

    def _text(self, what: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"Get{what}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call(f"Get{what}", program, text)
        return text.raw

    def capabilities(self) -> list[int]:
        """What it compiles for: 80, 90 and so on."""
        n = ctypes.c_int()
        self._call("GetNumSupportedArchs", ctypes.byref(n))
        found = (ctypes.c_int * n.value)()
        self._call("GetSupportedArchs", found)
        return list(found)

    def compile(self, program: str, header: str, expression: str, flags: Sequence[str]) -> tuple[str, bytes]:
        """A kernel's name in its image, and the image.

        Parameters
        ----------
        header : str
            What the program includes as ``generated.h``.
        expression : str
            The kernel in C++.

        Raises
        ------
        RuntimeError
            If it fails; the message has the line of the step that the header names.
        """
        made, name = ctypes.c_void_p(), ctypes.c_char_p()
        headers, names = (ctypes.c_char_p * 1)(header.encode()), (ctypes.c_char_p * 1)(b"generated.h")
        options = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
        self._call("CreateProgram", ctypes.byref(made), program.encode(), b"kernel.cu", 1, headers, names)
        try:
            self._call("AddNameExpression", made, expression.encode())
            if self._result("CompileProgram", made, len(flags), options):
                log = self._text("ProgramLog", made).rstrip(b"\0").decode()
                raise cache.failed(header, log, str(self), "try another version")
            self._call("GetLoweredName", made, expression.encode(), ctypes.byref(name))
            assert name.value is not None
            return name.value.decode(), self._text("CUBIN", made)
        finally:
            self._call("DestroyProgram", ctypes.byref(made))


@functools.cache
def find(newest: int) -> Nvrtc:
    """The first NVRTC that there is, not newer than CUDA's major version `newest`.

    Raises
    ------
    RuntimeError
        If there is none.
    """
    others = []
    for path in _candidates():
        try:
            found = Nvrtc(path)
        except OSError:
            continue  # not there
        if found.version >= OLDEST and found.version[0] <= newest:
            return found
        others.append(str(found))
    wheel = "nvidia-cuda-nvrtc-cu12" if newest == 12 else f"'nvidia-cuda-nvrtc<{newest + 1}'"
    raise RuntimeError(
        f"backend 'cuda' compiles its kernels by NVRTC {OLDEST[0]}.{OLDEST[1]} or newer, up to {newest}, as the driver "
        f"is; found {', '.join(others) or 'none'} among installed packages, in CUDA_HOME and by the loader: "
        f"pip install {wheel}, or set CUDA_HOME."
    )


def of_driver() -> Nvrtc:
    """The NVRTC for the driver at hand."""
    from .. import _driver

    return find(_driver.driver_version() // 1000)


@functools.cache
def launcher() -> ModuleType:
    """The module `hybridsolve._driver` with the driver opened, and with the models whose headers come with the package.

    Raises
    ------
    RuntimeError
        If there is no driver, or too old a one, or no NVRTC for it.
    """
    try:
        _driver = importlib.import_module("hybridsolve._driver")
    except ImportError as error:
        raise RuntimeError(
            f"backend 'cuda' needs the compiled extension hybridsolve._driver, which cannot be imported ({error}); "
            "reinstall hybridsolve, or ask for another backend."
        ) from error
    from .. import _cpu

    _driver.open("libcuda.so.1", image)
    of_driver()
    known = _cpu.models()
    for file in sorted((cache.sources() / "models").glob("*.h")):
        text = file.read_text()
        load(text, {kernel: known[kernel] for kernel in re.findall(r"\bKERNEL\((\w+),", text) if kernel in known})
    return _driver


def load(
    text: str,
    kernels: Mapping[str, Mapping[str, object]],
    of_outputs: Callable[[frozenset[str]], str] | None = None,
) -> None:
    """Make the models of a header known to the launcher, by what `models` of an extension says of each.

    Kernels that are loaded stay, unless they are of another header. `of_outputs`, where there is one, writes the header
    with adjoints of the cotangents of some fluxes alone.
    """
    from .. import _driver

    text = text.replace('"../core/', '"core/')  # it lies in no folder here
    for kernel, names in kernels.items():
        _FLUXES[kernel] = str(names["flux_names"]).split()
        _OF_OUTPUTS.pop(kernel, None)
        if of_outputs:
            _OF_OUTPUTS[kernel] = of_outputs
        if _HEADERS.get(kernel) != text:
            _HEADERS[kernel] = text
            _driver.add(kernel, dict(names))


def header_for(model: str, expression: str, macros: Sequence[str]) -> str:
    """The header that a kernel is compiled from: of an adjoint without what the run's outputs need not."""
    slots = next((macro for macro in macros if macro.startswith("HS_SLOTS=")), None)
    if model not in _OF_OUTPUTS or "::adjoint_kernel<" not in expression or slots is None:
        return _HEADERS[model] if model else ""
    places = map(int, slots.partition("=")[2].split(","))
    wanted = frozenset(name for name, place in zip(_FLUXES[model], places, strict=False) if place >= 0)
    return _OF_OUTPUTS[model](wanted)


def image(model: str, expression: str, macros: Sequence[str], capability: int) -> tuple[str, bytes]:
    """A kernel for a card, compiled unless it has been: its name in the image, and the image.

    Parameters
    ----------
    model : str
        The model whose header has it, or "": it is of the routing or of the sums.
    expression : str
        The kernel in C++.
    macros : sequence of str
        ``NAME=value``: what it is compiled for.
    capability : int
        The card's, 80 for 8.0.
    """
    from .. import _driver

    nvrtc = of_driver()
    if capability not in (able := nvrtc.capabilities()):
        raise RuntimeError(
            f"the GPU has compute capability {capability / 10}, for which {nvrtc} does not compile, but for "
            f"{able[0] / 10} to {able[-1] / 10}: install a newer NVRTC and driver, or use backend='triton'."
        )
    header = header_for(model, expression, macros)
    program = SAME.format(*_driver.sizes(), "rebuild hybridsolve: its launcher is of other headers")
    program = (MODEL if model else ROUTING) + program
    flags = [f"--gpu-architecture=sm_{capability}", *FLAGS, *(f"-D{macro}" for macro in macros)]

    def write(file: Path) -> None:
        name, code = nvrtc.compile(program, header, expression, [*flags, f"-I{cache.sources()}"])
        file.write_bytes(name.encode() + b"\n" + code)

    said = "\0".join((program, header, expression, *flags, *map(str, nvrtc.version)))
    about = f"{model or 'routing'}; sm_{capability}, {nvrtc}"
    name, _, code = cache.entry(said, ".cubin", about, write).read_bytes().partition(b"\n")
    return name.decode(), code
