"""The solver with torch and numpy alone; what needs a package that is not installed names the extra that brings it."""

import json
import pickle
import re
import subprocess
import sys
import textwrap
import tomllib

import pytest
from conftest import ROOT
from test_build import environment

from hybridsolve._extras import PACKAGES, MissingPackage, extra_of, needed_for

# A process that finds none of some packages, which may be changed.
BLOCK = """
    import json, os, sys
    class Without:
        def __init__(self, finder):
            self.finder = finder
        def __getattr__(self, name):
            return getattr(self.finder, name)
        def find_spec(self, name, *where):
            return None if name.partition(".")[0] in blocked else self.finder.find_spec(name, *where)
    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
    import torch, hybridsolve as hs
"""
ALONE = """
    table = hs.models.get("hbv11p")
    forcing = torch.tensor([[8.0, 3.0], [0.5, 5.0], [20.0, 11.0]], requires_grad=True)
    weather = {n: forcing[:, i % 2].repeat(5, 1).T.contiguous() for i, n in enumerate(table.forcing_names)}
    parameters = {p.name: torch.full((5, 2), (p.lower + p.upper) / 2) for p in table.parameters}
    found = {}
    for backend in ("auto", "reference"):
        run = hs.simulate("hbv11p", weather, parameters, backend=backend)
        found[backend] = run.fluxes["streamflow"].sum().item()
        found[f"gradient {backend}"] = torch.autograd.grad(run.fluxes["streamflow"].sum(), forcing)[0].sum().item()
    flow = hs.simulate("hbv11p", weather, parameters).fluxes["streamflow"].detach()
    hs.unit_hydrograph(flow, torch.full((5,), 1.5), torch.full((5,), 2.0))
    hydrograph = {name: torch.full((5, 2), 2.0) for name in ("route_a", "route_b")}
    hs.jacobian("hbv11p", weather, parameters | hydrograph)
    hs.models.define, hs.scale.simulate, hs.score.losses, hs.routing.route, hs.routing.simulate_rivers
    [getattr(hs.nn, name) for name in hs.nn.__all__]
    from hybridsolve import cli
    codes = [cli.main(["info"]), cli.main(["models"])]
    print(json.dumps([found, codes, sorted(blocked & set(sys.modules))]))
"""
SAID = """
    for statement, packages in json.loads(sys.argv[1]):
        if not (child := os.fork()):  # so that each case imports all anew but torch
            blocked.update(packages)
            try:
                exec(statement, {"hs": hs})
            except ModuleNotFoundError as error:
                print(json.dumps(str(error)), flush=True)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
"""
CASES = [  # statement, packages that are not there, what needs them, the package and the extra that it says
    ("hs.calibrate", ["xarray"], "hybridsolve.calibrate", "xarray", "data"),
    ("hs.data.open_dataset", ["pandas"], "hybridsolve.data.open_dataset", "pandas", "data"),
    ("hs.routing.RiverNetwork.random(9)", ["numba"], "a network of rivers", "numba", "data"),
    ("from hybridsolve.score import metrics", ["xarray"], "hybridsolve.score.metrics", "xarray", "data"),
    ("hs.scale.run", ["yaml"], "hybridsolve.scale.run", "pyyaml", "data"),
    ("hs.train", ["pytorch_lightning"], "hybridsolve.train", "pytorch-lightning", "learn"),
    ("hs.plot.hydrograph", ["matplotlib"], "hybridsolve.plot.hydrograph", "matplotlib", "plot"),
    ("hs.scale.run", ["zarr"], "hybridsolve.scale.run", "zarr", "scale"),
    (
        "hs.scale.synthetic_continent('absent.zarr', 9)",
        ["zarr"],
        "a synthetic continent",
        "zarr",
        "scale",
    ),
    ("with hs.scale.connected('local'): pass", ["distributed"], "a cluster of Dask", "distributed", "scale"),
    (
        "hs.routing.RiverNetwork.from_hydrorivers('absent.shp')",
        ["pyogrio"],
        "a table of rivers in a GeoPackage or shapefile",
        "pyogrio",
        "nextgen",
    ),
    ("import hybridsolve.interop.bmi", ["bmipy"], "the Basic Model Interface", "bmipy", "nextgen"),
    ("hs.data.basin_weights(None, 'absent.shp', 'id')", ["geopandas"], "the weights of polygons", "geopandas", "grids"),
    ("hs.data.read_fulda()", ["spotpy"], "the Fulda example", "spotpy", "demo"),
]


def extras():
    """Packages by extra, as pyproject.toml lists them; without those of developers."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    packages = {extra: [re.match(r"[\w.-]+", line)[0] for line in lines] for extra, lines in listed.items()}
    return {e: [p for p in names if p != "hybridsolve"] for e, names in packages.items() if e not in ("test", "docs")}


def run(script, blocked, *arguments):
    program = textwrap.dedent(f"    blocked = {set(blocked)!r}\n" + BLOCK + script)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("[", '"'))]


def test_the_solver_needs_torch_and_numpy_alone():
    modules = {package: module for module, package in PACKAGES.items()}
    blocked = {modules.get(p, p.replace("-", "_")) for names in extras().values() for p in names}
    assert blocked >= {"xarray", "pandas", "yaml", "pytorch_lightning", "zarr", "dask", "matplotlib", "numba", "scipy"}
    ((found, codes, loaded),) = run(ALONE, blocked)
    assert found["auto"] == pytest.approx(found["reference"], rel=1e-5) and found["auto"] > 0
    assert found["gradient auto"] == pytest.approx(found["gradient reference"], rel=1e-4)
    assert codes == [0, 0] and not loaded


@pytest.mark.slow
def test_what_is_missing_names_its_extra():
    said = run(SAID, (), json.dumps([case[:2] for case in CASES]))
    brings = " needs {}, which is not installed: pip install 'hybridsolve[{}]'."
    assert said == [what + brings.format(package, extra) for _, _, what, package, extra in CASES]


@pytest.mark.parametrize("extra, packages", extras().items())
def test_every_package_of_an_extra_is_found(extra, packages):
    """By the metadata that an installed package has."""
    for package in packages:
        first = next(e for e, names in extras().items() if package in names)
        assert extra_of(package) == first
    assert extra_of("torch") == extra_of("absent") == ""


def test_what_no_extra_brings_is_named_alone(monkeypatch):
    with pytest.raises(
        MissingPackage, match="^mine needs absent-one, which is not installed: pip install absent-one.$"
    ):
        with needed_for("theirs"), needed_for("mine"):
            import absent_one  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match="No module named 'hybridsolve.absent'"), needed_for("mine"):
        import hybridsolve.absent  # noqa: F401
    error = pickle.loads(pickle.dumps(MissingPackage("a worker", "zarr")))
    assert error.name == "zarr" and str(error).startswith("a worker needs zarr, ")
