"""Every block of Python of docs/neural-fluxes.md runs; and its models agree with the oracle and conserve water."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT, assert_close

import hybridsolve as hs
from hybridsolve.compiler.tracing import networks_of

TEXT = (Path(ROOT) / "docs" / "neural-fluxes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
NAMES = ("exphydro_two_networks", "exphydro_all_networks", "hbv_evaporation", "hbv_recharge", "hbv_response")
pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler is installed")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The blocks that define models, run as a file, so that lines of steps are found."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRIDSOLVE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        file = folder / "page.py"
        file.write_text("\n\n".join(BLOCKS[:-1]))
        found = {"__name__": "page"}
        exec(compile(file.read_text(), str(file), "exec"), found)
        yield found
        for name in NAMES:
            hs.models.MODELS.pop(name)


def inputs(model, T=40, B=3, C=2):
    draw = torch.Generator().manual_seed(1)
    uniform = lambda *shape: torch.rand(shape, generator=draw, dtype=torch.float64)  # noqa: E731
    forcing = dict(prcp=(30 * uniform(T, B) - 15).clamp(min=0), tmean=25 * uniform(T, B) - 10, pet=5 * uniform(T, B))
    parameters = model.parameters_from_unit({v.name: uniform(B, C) for v in model.parameters})
    state = {name: 60 * uniform(B, C) for name in model.state_names}
    return forcing, parameters, state, {n.name: 2 * uniform(n.weights) - 1 for n in networks_of(model.key)}


@pytest.mark.parametrize(
    "name", [NAMES[2], *(pytest.param(n, marks=pytest.mark.nightly) for n in NAMES if n != NAMES[2])]
)
def test_a_model_of_the_page_against_the_oracle(page, name):
    model = page[name]
    forcing, parameters, state, networks = inputs(model)

    def both_ways(backend):
        leaves = {n: w.clone().requires_grad_() for n, w in networks.items()} | {
            n: p.clone().requires_grad_() for n, p in parameters.items()
        }
        run = hs.simulate(
            model, forcing, {n: leaves[n] for n in parameters}, networks={n: leaves[n] for n in networks},
            initial_state=state, fluxes=("streamflow", "aet"), backend=backend,
        )  # fmt: skip
        loss = run.fluxes["streamflow"].square().sum() + run.fluxes["aet"].sum()
        return {n: x.detach() for n, x in run.fluxes.items()} | dict(
            zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)
        )

    assert_close(both_ways("cpu"), both_ways("reference"), 1e-10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_water_is_conserved_whatever_the_networks_say(page, name, scale):
    model = page[name]
    forcing, parameters, state, networks = inputs(model)
    run = hs.simulate(
        model, forcing, parameters, networks={n: scale * w for n, w in networks.items()}, initial_state=state,
        fluxes=("streamflow", "aet"), components="each", backend="reference",
    )  # fmt: skip
    gained = forcing["prcp"].sum(0)[:, None] - sum(x.sum(0) for x in run.fluxes.values())
    stored = sum(run.final_state[n] - state[n] for n in model.state_names)
    assert (stored - gained).abs().max() <= (1e-10 if name.startswith("exphydro") else 40 * 2e-5)  # HBV's floors
    assert min(float(x.min()) for x in run.final_state.values()) >= 0


def test_the_training_of_the_page(page):
    exec(compile(BLOCKS[-1], "training", "exec"), page)
    assert page["errors"][-1] < 0.5 * page["errors"][0]
    assert Path("evaporation.pt").exists()
