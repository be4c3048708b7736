"""The compiled parts, linked into `hybridsolve._cpu` and, where nvcc is, `hybridsolve._cuda`.

Everything else about the package stands in pyproject.toml. Neither torch nor a network is needed to build, nor a GPU.

HYBRIDSOLVE_CUDA        auto (the default) builds _cuda if nvcc is on PATH or in CUDA_HOME; 1 insists; 0 leaves it out
HYBRIDSOLVE_CUDA_ARCHS  compute capabilities to build for, "80,90"; newer cards run what their driver makes of the last
"""

import os
import platform
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup
from setuptools.errors import CompileError, SetupError

# No fast-math: a NaN must stay a NaN. No contraction: the adjoint recomputes the forward run and must meet its bits.
FLAGS = ["-O3", "-ffp-contract=off", "-fvisibility=hidden", "-pthread"]
CUDA_FLAGS = ["-O3", "--fmad=false", "-cudart=static", "-Xcompiler=-fPIC,-ffp-contract=off,-fvisibility=hidden"]
# Instruction sets beside the baseline. A compiler that lacks a flag, or another processor, builds without that set.
ISAS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"],
}


def find_nvcc():
    """The CUDA compiler, or None where there is none or it is not wanted."""
    wish = os.environ.get("HYBRIDSOLVE_CUDA", "auto")
    if wish not in ("auto", "0", "1"):
        raise SetupError(f"HYBRIDSOLVE_CUDA must be auto, 0 or 1; found '{wish}': set it to one of these or unset it.")
    home = os.environ.get("CUDA_HOME")
    nvcc = shutil.which("nvcc", path=os.path.join(home, "bin") if home else None)
    if wish != "0" and home and not nvcc:
        raise SetupError(f"CUDA_HOME must have bin/nvcc; found none in '{home}': correct or unset it.")
    if wish == "1" and not nvcc:
        raise SetupError(
            "HYBRIDSOLVE_CUDA=1 needs nvcc on PATH or in CUDA_HOME/bin; found none: "
            "install the CUDA toolkit, or set HYBRIDSOLVE_CUDA=0."
        )
    return None if wish == "0" else nvcc


def cuda_architectures():
    """What to build for, as nvcc names it: machine code of every capability, and of the last what drivers translate."""
    wish = os.environ.get("HYBRIDSOLVE_CUDA_ARCHS") or "80,90"
    numbers = list(dict.fromkeys(wish.replace(" ", "").split(",")))
    if not all(re.fullmatch("[1-9][0-9]{1,2}", n) for n in numbers):
        raise SetupError(f"HYBRIDSOLVE_CUDA_ARCHS must be numbers such as 80,90; found '{wish}': correct or unset it.")
    return [*(f"sm_{n}" for n in numbers), f"compute_{numbers[-1]}"]


class BuildKernels(build_ext):
    """Compiles the kernels once per instruction set or type of number, in parallel, and links them to the binding."""

    def run(self):
        super().run()
        if not any(ext.name.endswith("._cuda") for ext in self.extensions):
            # Nor may an earlier build's be installed as if it were this one's.
            here = [Path("hybridsolve")] if self.inplace or self.editable_mode else []
            for folder in (Path(self.build_lib, "hybridsolve"), *here):
                for old in folder.glob("_cuda.*"):
                    old.unlink()

    def build_extension(self, ext):
        if ext.name.endswith("._cuda"):
            return self.build_cuda(ext)
        isas = {"baseline": []}
        if platform.machine().lower() in ("x86_64", "amd64"):
            isas |= {isa: flags for isa, flags in ISAS.items() if self.accepts(flags)}

        def compile_isa(isa):
            (built,) = self.compiler.compile(
                ["csrc/kernels_cpu.cpp"],
                output_dir=os.path.join(self.build_temp, isa),
                macros=[("HS_ISA", isa)],
                extra_postargs=[f"-std=c++{ext.cxx_std}", *FLAGS, *isas[isa]],
                depends=ext.depends,
            )
            return built

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = list(pool.map(compile_isa, isas))
        ext.define_macros += [(f"HS_HAS_{isa.upper()}", "1") for isa in isas]
        super().build_extension(ext)

    def build_cuda(self, ext):
        """All by nvcc, which knows where its own headers and runtime lie."""
        library, folder = Path(self.get_ext_fullpath(ext.name)), Path(self.build_temp, "cuda")
        newest = max(Path(source).stat().st_mtime for source in [__file__, *ext.depends])
        nvcc, architectures = find_nvcc(), cuda_architectures()
        stamp = folder / f"{'-'.join(architectures)}.built"
        if not self.force and stamp.exists() and library.exists() and library.stat().st_mtime > newest:
            return
        for path in (folder, library.parent):
            path.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.built"):
            old.unlink()
        codes = [f"-gencode=arch={name.replace('sm', 'compute')},code={name}" for name in architectures]
        includes = [f"-I{path}" for path in dict.fromkeys([*ext.include_dirs, *self.include_dirs])]

        def compile_value(value):
            built = folder / f"{value}.o"
            self.spawn(
                [nvcc, "-c", "csrc/kernels_cuda.cu", "-o", str(built), f"-std=c++{ext.cxx_std}", *CUDA_FLAGS, *codes]
                + ["-DHS_ISA=cuda", f"-DHS_VALUE={value}"]
            )
            return str(built)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_value, ("double", "float")))
        names = f'-DHS_CUDA_ARCHITECTURES="{" ".join(architectures)}"'
        binding = str(folder / "bind.o")
        self.spawn([nvcc, "-c", *ext.sources, "-o", binding, f"-std=c++{ext.cxx_std}", *CUDA_FLAGS, *includes, names])
        self.spawn([nvcc, "-shared", "-cudart=static", *objects, binding, "-o", str(library)])
        stamp.touch()

    def accepts(self, flags):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "empty.cpp"
            source.write_text("int main() { return 0; }\n")
            try:
                self.compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
            except CompileError:
                return False
        return True


depends = sorted(str(p) for p in Path("csrc").rglob("*") if p.is_file())
cpu = Pybind11Extension(
    "hybridsolve._cpu",
    ["csrc/bind_cpu.cpp"],
    cxx_std=17,
    depends=depends,
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread"],
)
cuda = Pybind11Extension("hybridsolve._cuda", ["csrc/bind_cuda.cpp"], cxx_std=17, depends=depends)
cuda_architectures()  # what cannot be built for is said though nothing be built
setup(ext_modules=[cpu, cuda] if find_nvcc() else [cpu], cmdclass={"build_ext": BuildKernels})
