"""The compiled part: one object per x86 instruction set, chosen at run time, linked into `hybridsolve._cpu`.

Everything else about the package stands in pyproject.toml. Neither torch nor a network is needed to build.
"""

import os
import platform
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup
from setuptools.errors import CompileError

# No fast-math: a NaN must stay a NaN. No contraction: the adjoint recomputes the forward run and must meet its bits.
FLAGS = ["-O3", "-ffp-contract=off", "-fvisibility=hidden", "-pthread"]
# Instruction sets beside the baseline. A compiler that lacks a flag, or another processor, builds without that set.
ISAS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"],
}


class BuildKernels(build_ext):
    """Compiles kernels_cpu.cpp once per instruction set, in parallel, and links the objects into the extension."""

    def build_extension(self, ext):
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

    def accepts(self, flags):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "empty.cpp"
            source.write_text("int main() { return 0; }\n")
            try:
                self.compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
            except CompileError:
                return False
        return True


cpu = Pybind11Extension(
    "hybridsolve._cpu",
    ["csrc/bind_cpu.cpp"],
    cxx_std=17,
    depends=sorted(str(p) for p in Path("csrc").rglob("*") if p.is_file()),
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread"],
)
setup(ext_modules=[cpu], cmdclass={"build_ext": BuildKernels})
