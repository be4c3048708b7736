"""Instructions that the CPU kernels take, counted by callgrind: `python -m benchmarks.instructions [--check]`.

instructions.cpp, without Python and on one thread, linked with the kernels as setup.py compiles them for AVX2 (valgrind
does not know AVX-512), on small fixed shapes. Counted is what happens inside of its function `measured`, the kernels'
work alone (--toggle-collect). Unlike seconds, the counts do not depend on what else the machine does; they say nothing
of memory. About a minute, most of it the compiler's. Sizes are basins x components x steps.

Without --check the counts are kept in results/instructions.csv, to be committed. With it they are compared with those
kept, and the status is 1 where a case takes over 2 % more, or where there is nothing to compare with: a case that was
not kept or is not there any more, another compiler, other flags.
"""

from __future__ import annotations

import argparse
import ast
import csv
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from hybridsolve import models
from hybridsolve.compiler import header as compiler_header

ROOT = Path(__file__).resolve().parents[1]
KEPT = Path(__file__).parent / "results" / "instructions.csv"
COLUMNS = ("case", "instructions", "compiler", "flags")
ALLOWED = 1.02


def flags() -> list[str]:
    """What setup.py compiles the kernels for AVX2 with."""
    made = ast.parse((ROOT / "setup.py").read_text()).body
    made = {x.targets[0].id: x.value for x in made if isinstance(x, ast.Assign) and isinstance(x.targets[0], ast.Name)}
    return ["-std=c++17", *ast.literal_eval(made["FLAGS"]), *ast.literal_eval(made["ISAS"])["avx2"]]


def compiler() -> str:
    done = subprocess.run(["g++", "--version"], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[0]


def count(header: str | None = None) -> list[dict]:
    """The rows of the table, in the order of the program's cases.

    `header` holds the kernels of HBV; unless it is given they are those that run, the generated ones.
    """
    if header is None:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "hbv.h"
            made.write_text(compiler_header(*(models.get(name) for name in ("hbv10", "hbv11p"))))
            return count(str(made))
    kernels = (  # sources and what they are compiled with beside the flags
        ("csrc/routing_cpu.cpp",),
        ("csrc/models_cpu.cpp", "-Icsrc", "-DHS_NAME=hbv", f'-DHS_HEADER="{header}"'),
    )
    for tool in ("g++", "valgrind"):
        if not shutil.which(tool):
            raise SystemExit(f"counting instructions needs {tool} on PATH; found none: install it.")
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        for source, *macros in kernels:
            objects.append(f"{folder}/{Path(source).stem}.o")
            subprocess.run(
                ["g++", *flags(), "-DHS_ISA=avx2", *macros, "-c", source, "-o", objects[-1]], cwd=ROOT, check=True
            )
        program, source = f"{folder}/instructions", str(Path(__file__).with_suffix(".cpp"))
        subprocess.run(["g++", "-std=c++17", "-O2", "-pthread", source, *objects, "-o", program], check=True)
        tool = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={folder}/counts"]
        tool += ["--toggle-collect=measured", "--dump-after=measured"]  # each call's counts in a file of its own
        done = subprocess.run([*tool, program], check=True, stdout=subprocess.PIPE, text=True)
        about = dict(compiler=compiler(), flags=" ".join(flags()))
        rows = []
        for i, case in enumerate(done.stdout.splitlines(), 1):
            found = re.search(r"^summary: (\d+)$", Path(f"{folder}/counts.{i}").read_text(), re.MULTILINE)
            rows.append(dict(case=case, instructions=int(found[1])) | about)
    return rows


def faults(rows: list[dict], kept: list[dict]) -> list[str]:
    """What is wrong with the rows, in a sentence each, beside those kept."""
    found = []
    for name in ("compiler", "flags"):
        here, there = ({row[name] for row in table} for table in (rows, kept))
        if here != there:
            found.append(f"{name}: the counts kept are of {there}; found {here}: keep counts of this one first.")
    here, there = ({row["case"]: int(row["instructions"]) for row in table} for table in (rows, kept))
    for case in sorted(here.keys() ^ there.keys()):
        found.append(f"{case}: only {'counted here' if case in here else 'kept'}: keep the counts anew.")
    for case in (case for case in here if case in there and here[case] > ALLOWED * there[case]):
        found.append(f"{case}: at most {ALLOWED} x {there[case]} instructions expected; found {here[case]}.")
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the counts kept, in place of keeping them")
    options = parser.parse_args(argv)
    kept = []
    if options.check:
        with KEPT.open(newline="") as file:
            kept = list(csv.DictReader(file))
    rows = count()
    before = {row["case"]: int(row["instructions"]) for row in kept}
    for row in rows:
        ratio = f" | {row['instructions'] / before[row['case']]:.4f}" if row["case"] in before else ""
        print(f"{row['case']} | {row['instructions']}{ratio}")
    if options.check:
        print(*(wrong := faults(rows, kept)), sep="\n")
        return int(bool(wrong))
    with KEPT.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {len(rows)} rows to {KEPT}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
