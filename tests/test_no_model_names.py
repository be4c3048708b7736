"""Upstairs of the solver nothing knows HBV: no name of its variables stands in a literal, an attribute or a keyword."""

import ast
import re
from pathlib import Path

import pytest
from conftest import ROOT

from hybridsolve import models

HBV = [models.get("hbv10"), models.get("hbv11p")]
NAMES = {row.name for model in HBV for table in model._tables for row in table}
# Symbols with another meaning that nothing can tell apart: the axis of components, and a colour of matplotlib.
NAMES -= {"c"}
# English words. A literal that is nothing else picks a variable by its name, and is found; one in a sentence is not,
# nor is an attribute or a keyword.
WORDS = {
    "beta",  # the ratio of means in KGE
    "capillary",
    "excess",
    "infiltration",
    "melt",
    "meltwater",
    "percolation",
    "rain",
    "recharge",
    "refreezing",
    "snowfall",
    "snowpack",
    "streamflow",
}
# The model itself, readers of data by their names, other packages' interfaces, and the demonstration.
FREE = {"__pycache__", "models", "data", "interop", "recipes", "demo.py", "dropin.py"}
PACKAGE = Path(ROOT) / "hybridsolve"
PLACES = sorted(p.name for p in PACKAGE.iterdir() if (p.is_dir() or p.suffix == ".py") and p.name not in FREE)
# A part of the model; a list of others' results; what makes data, by the data's own names; another program's arguments.
EXEMPT = {"solve/triton/hbv.py", "training/published.py", "scale/continent.py", "bench/cases.py", "bench/gr.py"}
# The same words with another meaning: what an LSTM without a model gives, and a key of a training's configuration.
MEANT = {("differentiable.py", "streamflow"), ("loop.py", "pet")}


def files(place: str) -> list[Path]:
    path = PACKAGE / place
    every = [path] if path.is_file() else sorted(path.rglob("*.py"))
    return [file for file in every if file.relative_to(path.parents[0]).as_posix() not in EXEMPT]


def docstrings(tree: ast.AST) -> set[int]:
    """The nodes that are docstrings, which may show an example."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                found.add(id(first.value))
    return found


def names_in(source: str) -> list[tuple[int, str]]:
    """Lines and names of HBV that a module's literals, attributes and keywords hold."""
    tree = ast.parse(source)
    skipped, found = docstrings(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            text = node.value
            there = {text} & NAMES | set(re.findall(r"[A-Za-z_]\w*", text)) & (NAMES - WORDS)
        elif isinstance(node, ast.Attribute):
            there = {node.attr} & (NAMES - WORDS)
        elif isinstance(node, ast.keyword):
            there = {node.arg} & (NAMES - WORDS)
        else:
            continue
        found += [(node.lineno, name) for name in there]
    return sorted(found)


@pytest.mark.parametrize("place", PLACES)
def test_no_name_of_hbv(place):
    found = [(file.name, line, name) for file in files(place) for line, name in names_in(file.read_text("utf-8"))]
    found = [f"{file}:{line} {name}" for file, line, name in found if (file, name) not in MEANT]
    assert not found, ", ".join(found)


def test_what_is_found():
    """The search itself: literals, sentences, attributes and keywords; no docstrings, no other meanings."""
    source = '''
"""prcp in a docstring"""
def f():
    """fc too"""
a = x["prcp"]
b = f"the option --pet of {x.tmean} is {y}"
c = g(fc=1, c=2)
d = "streamflow", "its streamflow melts", "petrol", plot.scatter(c=x, beta=1).rain
'''
    assert names_in(source) == [(5, "prcp"), (6, "pet"), (6, "tmean"), (7, "fc"), (8, "streamflow")]
    assert {"sm", "q0", "route_a", "uzl"} <= NAMES and WORDS <= NAMES
    assert {"calibration", "cli.py", "plot", "routing", "scale", "score", "solve", "training"} <= set(PLACES)
    assert all(files(place) for place in PLACES)
