"""The compiled parts: `hybridsolve._cpu`, `hybridsolve._driver` and, where it is asked for, `hybridsolve._cuda`.

Everything else about the package stands in pyproject.toml. Neither torch nor a network is needed to build, nor a GPU.

HYBRIDSOLVE_BUILD       all, for wheels and mixed clusters: every model for every instruction set, which takes half an
                        hour; unset: models.SHIPPED and those of csrc/models for the baseline and this processor.
                        Kernels of models that are not built are compiled when they are first asked for
HYBRIDSOLVE_CUDA        1 builds _cuda too, with nvcc of CUDA_HOME or PATH: minutes; 0 (the default) does not
HYBRIDSOLVE_CUDA_ARCHS  compute capabilities to build for, "80,90"; newer cards run what their driver makes of the last
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError, SetupError
from setuptools.modified import newer_group

WINDOWS = os.name == "nt"  # by clang-cl, since lanes are GCC's vector types; nobody has tried it
# No fast-math: a NaN must stay a NaN. No contraction: the adjoint recomputes the forward run and must meet its bits.
# No conclusions from null pointers: GCC 12 takes an address that its own optimisation has made a sum of integers for
# null, a function that writes there for one without effect, and drops the calls of it.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-delete-null-pointer-checks", "-fvisibility=hidden", "-pthread"]
CUDA_FLAGS = ["-O3", "--fmad=false", "-cudart=static", "-Xcompiler=-fPIC,-ffp-contract=off,-fvisibility=hidden"]
# Instruction sets beside the baseline. A compiler that lacks a flag, or another processor, builds without that set.
ISAS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"],
}
MACROS = {"avx2": {"__AVX2__", "__FMA__"}, "avx512": {f"__AVX512{x}__" for x in ("F", "DQ", "BW", "VL")}}
JUDGES = ("hbv",)  # of csrc/models: a CPU runs what is generated, in stages, and this judges it: test_compiler.py
JOINED = tuple(f"cemaneige+{body}" for body in ("gr4j", "gr5j", "gr6j", "hymod", "xinanjiang"))
# Every header of csrc/models, by its name: each has kernels of its own (csrc/core/table.h).
HEADERS = {path.stem: f"models/{path.name}" for path in sorted(Path("csrc/models").glob("*.h"))}


def spelled(*flags):
    """Flags of GCC and clang, as the compiler at hand takes them."""
    return [f"/clang:{flag}" for flag in flags] if WINDOWS else list(flags)


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


def names_of(name, header):
    """What the translation unit of a header of models is told."""
    return {"HS_NAME": name, "HS_HEADER": f'"{header}"'}


def every_table(headers):
    """The headers' names, as the bindings take them."""
    return " ".join(f"TABLE({name})" for name in headers)


def builds_all():
    wish = os.environ.get("HYBRIDSOLVE_BUILD") or "short"
    if wish not in ("short", "all"):
        raise SetupError(f"HYBRIDSOLVE_BUILD must be all or short; found '{wish}': correct or unset it.")
    return wish == "all"


def generated(folder):
    """The headers for a CPU of models that are written in Python alone, or judged by one of csrc/models.

    The latter take its name. An unchanged one keeps its date.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from hybridsolve import models
    from hybridsolve.compiler import header

    by_hand = {
        kernel: name
        for name, path in HEADERS.items()
        for kernel in re.findall(r"KERNEL\((\w+)", Path("csrc", path).read_text())
    }
    short = [*(name for name in models.names() if by_hand.get(name) in JUDGES), *models.SHIPPED]
    headers = {}
    for model in map(models.get, dict.fromkeys([*models.names(), *JOINED] if builds_all() else short)):
        name = by_hand.get(model.name, model.kernel_name(()))
        if name in JUDGES or by_hand.keys().isdisjoint(model.kernel_names):
            headers.setdefault(name, []).append(model)
    found = {}
    for name, group in headers.items():
        file, text = folder / f"{name}.h", header(*group)
        if not file.exists() or file.read_text() != text:
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        found[name] = str(file.resolve())
    return found


class PackHeaders(build_py):
    """Packs beside the modules what kernels are compiled of at first use; an editable install finds it here."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for source in [*Path("csrc").rglob("*.h"), *Path("csrc").rglob("*.cuh"), Path("csrc/models_cpu.cpp")]:
            target = Path(self.build_lib, "hybridsolve", source)
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(source), str(target))


class BuildKernels(build_ext):
    """Compiles each header of models once per instruction set or type of number, in parallel, and links all of them.

    An object is made anew only where something that it includes has changed, or the way in which it is made.
    """

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
        if ext.name.endswith("._driver"):
            return super().build_extension(ext)
        if WINDOWS:
            self.compiler.initialize()
            self.compiler.cc = "clang-cl"
        isas = {"baseline": []} | self.instruction_sets()
        # What knows nothing of Python is kept from the build for one Python to that for the next.
        shared = Path(self.get_finalized_command("build").build_base, f"kernels.{self.plat_name}")
        headers = HEADERS | generated(shared / "generated")
        common = ext.extra_compile_args  # with pybind11's: the standard, and no debugging information unless asked for
        parts = {}  # source, macros and flags by folder
        for isa, flags in isas.items():
            made = [*common, *spelled(*flags)]
            parts[f"{isa}/routing"] = ("csrc/routing_cpu.cpp", {"HS_ISA": isa}, made)
            for name, header in headers.items():
                parts[f"{isa}/{name}"] = ("csrc/models_cpu.cpp", {"HS_ISA": isa} | names_of(name, header), made)
        macros = {f"HS_HAS_{isa.upper()}": "1" for isa in isas} | {"HS_HEADERS(TABLE)": every_table(headers)}
        parts["binding"] = (*ext.sources, dict(ext.define_macros) | macros, common)

        def compile_part(name):
            source, macros, flags = parts[name]
            folder = (Path(self.build_temp) if name == "binding" else shared) / name
            made = folder / Path(source).with_suffix(self.compiler.obj_extension)
            options = dict(
                output_dir=str(folder),
                macros=list(macros.items()),
                include_dirs=ext.include_dirs if name == "binding" else ["csrc"],
                extra_postargs=[*flags, *spelled("-MMD", f"-MF{made.with_suffix('.d')}")],
            )
            how = [*getattr(self.compiler, "compiler_so_cxx", ()), *map(str, options.values())]
            return self.made_once(made, how, lambda: self.compiler.compile([source], **options))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = list(pool.map(compile_part, parts))
        ext.depends = ext.extra_objects
        ext.sources = []  # compiled already, beside the kernels
        super().build_extension(ext)

    def made_once(self, made, how, make):
        """The name of an object, which is made unless what it includes and `how` are as when it was made."""
        note, needs = made.with_suffix(".how"), made.with_suffix(".d")
        how = "\n".join(how)
        if made.exists() and needs.exists() and note.exists() and note.read_text() == how and not self.force:
            included = needs.read_text().replace("\\\n", " ").split()[1:]
            if not newer_group(included, str(made), missing="newer"):
                return str(made)
        made.parent.mkdir(parents=True, exist_ok=True)
        make()
        note.write_text(how)
        return str(made)

    def build_cuda(self, ext):
        """All by nvcc, which knows where its own headers and runtime lie."""
        library, folder = Path(self.get_ext_fullpath(ext.name)), Path(self.build_temp, "cuda")
        nvcc, architectures = find_nvcc(), cuda_architectures()
        codes = [f"-gencode=arch={name.replace('sm', 'compute')},code={name}" for name in architectures]
        includes = [f"-I{path}" for path in dict.fromkeys([*ext.include_dirs, *self.include_dirs])]
        parts = {}
        for value in ("double", "float"):
            common = [*codes, "-DHS_ISA=cuda", f"-DHS_VALUE={value}"]
            parts[f"routing_{value}"] = ["csrc/routing_cuda.cu", *common]
            for name, header in HEADERS.items():
                macros = [f"-D{macro}={text}" for macro, text in names_of(name, header).items()]
                parts[f"{name}_{value}"] = ["csrc/models_cuda.cu", *common, *macros]
        tables = [f'-DHS_CUDA_ARCHITECTURES="{" ".join(architectures)}"', f"-DHS_HEADERS(TABLE)={every_table(HEADERS)}"]
        parts["bind"] = [*ext.sources, *includes, *tables]

        def compile_part(name):
            made = folder / f"{name}.o"
            command = [nvcc, "-c", *parts[name], "-o", str(made), f"-std=c++{ext.cxx_std}", *CUDA_FLAGS]
            command += ["-MMD", "-MF", str(made.with_suffix(".d"))]
            return self.made_once(made, command, lambda: self.spawn(command))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_part, parts))
        if self.force or newer_group(objects, str(library)):
            library.parent.mkdir(parents=True, exist_ok=True)
            self.spawn([nvcc, "-shared", "-cudart=static", *objects, "-o", str(library)])

    def instruction_sets(self):
        """Those beside the baseline: the best that this processor has, or for wheels all that the compiler knows."""
        if platform.machine().lower() not in ("x86_64", "amd64"):
            return {}
        sets = {isa: flags for isa, flags in ISAS.items() if self.accepts(flags)}
        if builds_all():
            return sets
        command = [self.compiler.compiler_cxx[0], "-march=native", "-dM", "-E", "-x", "c++", os.devnull]
        done = subprocess.run(command, capture_output=True, text=True)
        has = {line.split()[1] for line in done.stdout.splitlines()}
        able = [isa for isa in sets if has >= MACROS[isa]]
        return {isa: sets[isa] for isa in able[-1:]} if done.returncode == 0 else sets

    def accepts(self, flags):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "empty.cpp"
            source.write_text("int main() { return 0; }\n")
            try:
                self.compiler.compile([str(source)], output_dir=folder, extra_postargs=spelled(*flags))
            except CompileError:
                return False
        return True


depends = sorted(str(p) for p in Path("csrc").rglob("*") if p.is_file())
cpu = Pybind11Extension(
    "hybridsolve._cpu",
    ["csrc/bind_cpu.cpp"],
    cxx_std=17,
    depends=depends,
    extra_compile_args=spelled(*FLAGS),
    extra_link_args=[] if WINDOWS else ["-pthread"],
)
# Launches what NVRTC compiles: no CUDA is needed to build it.
driver = Pybind11Extension(
    "hybridsolve._driver", ["csrc/bind_driver.cpp"], cxx_std=17, depends=depends, extra_compile_args=spelled(*FLAGS)
)
cuda = Pybind11Extension("hybridsolve._cuda", ["csrc/bind_cuda.cpp"], cxx_std=17, depends=depends)
cuda_architectures()  # what cannot be built for is said though nothing be built
setup(
    ext_modules=[cpu, driver, *([cuda] if find_nvcc() else [])],
    cmdclass={"build_py": PackHeaders, "build_ext": BuildKernels},
)
