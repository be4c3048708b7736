"""The compiled parts, linked into `hybridsolve._cpu` and, where it is asked for, `hybridsolve._cuda`.

Everything else about the package stands in pyproject.toml. Neither torch nor a network is needed to build, nor a GPU.

HYBRIDSOLVE_CUDA        1 builds _cuda too, with nvcc of CUDA_HOME or PATH: minutes; 0 (the default) does not
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
from setuptools.modified import newer_group

# No fast-math: a NaN must stay a NaN. No contraction: the adjoint recomputes the forward run and must meet its bits.
FLAGS = ["-O3", "-ffp-contract=off", "-fvisibility=hidden", "-pthread"]
CUDA_FLAGS = ["-O3", "--fmad=false", "-cudart=static", "-Xcompiler=-fPIC,-ffp-contract=off,-fvisibility=hidden"]
# Instruction sets beside the baseline. A compiler that lacks a flag, or another processor, builds without that set.
ISAS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"],
}


def find_nvcc():
    """The CUDA compiler, or None where it is not asked for."""
    wish = os.environ.get("HYBRIDSOLVE_CUDA") or "0"
    if wish not in ("0", "1"):
        raise SetupError(f"HYBRIDSOLVE_CUDA must be 0 or 1; found '{wish}': set 1 to build for a GPU, or unset it.")
    if wish == "0":
        return None
    home = os.environ.get("CUDA_HOME")
    nvcc = shutil.which("nvcc", path=os.path.join(home, "bin") if home else None)
    if home and not nvcc:
        raise SetupError(f"CUDA_HOME must have bin/nvcc; found none in '{home}': correct or unset it.")
    if not nvcc:
        raise SetupError(
            "HYBRIDSOLVE_CUDA=1 needs nvcc on PATH or in CUDA_HOME/bin; found none: "
            "install the CUDA toolkit, or unset HYBRIDSOLVE_CUDA."
        )
    return nvcc


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
        if self.is_built(ext):
            return
        isas = {"baseline": []}
        if platform.machine().lower() in ("x86_64", "amd64"):
            isas |= {isa: flags for isa, flags in ISAS.items() if self.accepts(flags)}

        ext.define_macros += [(f"HS_HAS_{isa.upper()}", "1") for isa in isas]

        def compile_isa(isa):
            return self.compiler.compile(
                ["csrc/kernels_cpu.cpp"],
                output_dir=os.path.join(self.build_temp, isa),
                macros=[("HS_ISA", isa)],
                extra_postargs=[f"-std=c++{ext.cxx_std}", *FLAGS, *isas[isa]],
            )

        def compile_binding():
            return self.compiler.compile(
                ext.sources,
                output_dir=self.build_temp,
                macros=ext.define_macros,
                include_dirs=ext.include_dirs,
                extra_postargs=ext.extra_compile_args,
            )

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = [pool.submit(compile_isa, isa) for isa in isas] + [pool.submit(compile_binding)]
            ext.extra_objects = [built for job in jobs for built in job.result()]
        ext.sources = []  # compiled already, beside the kernels
        super().build_extension(ext)

    def is_built(self, ext):
        """Whether the library is there and newer than all that it is made of."""
        sources = [__file__, *ext.depends]
        return not (self.force or newer_group(sources, self.get_ext_fullpath(ext.name), missing="newer"))

    def build_cuda(self, ext):
        """All by nvcc, which knows where its own headers and runtime lie."""
        library, folder = Path(self.get_ext_fullpath(ext.name)), Path(self.build_temp, "cuda")
        nvcc, architectures = find_nvcc(), cuda_architectures()
        stamp = folder / f"{'-'.join(architectures)}.built"
        if stamp.exists() and self.is_built(ext):
            return
        for path in (folder, library.parent):
            path.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.built"):
            old.unlink()
        codes = [f"-gencode=arch={name.replace('sm', 'compute')},code={name}" for name in architectures]
        includes = [f"-I{path}" for path in dict.fromkeys([*ext.include_dirs, *self.include_dirs])]
        names = f'-DHS_CUDA_ARCHITECTURES="{" ".join(architectures)}"'
        parts = {v: ["csrc/kernels_cuda.cu", *codes, "-DHS_ISA=cuda", f"-DHS_VALUE={v}"] for v in ("double", "float")}
        parts["bind"] = [*ext.sources, *includes, names]

        def compile_part(name):
            built = str(folder / f"{name}.o")
            self.spawn([nvcc, "-c", *parts[name], "-o", built, f"-std=c++{ext.cxx_std}", *CUDA_FLAGS])
            return built

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_part, parts))
        self.spawn([nvcc, "-shared", "-cudart=static", *objects, "-o", str(library)])
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
