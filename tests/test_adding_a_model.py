"""Every block of Python of docs/adding-a-model.md runs, one after the other; and the page's model does what it says."""

import math
import re
from pathlib import Path

import pytest
import torch
from conftest import ROOT

import hybridsolve as hs

TEXT = (Path(ROOT) / "docs" / "adding-a-model.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_page_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(hs.models, "MODELS", dict(hs.models.MODELS))  # what the page defines stays in this test
    monkeypatch.chdir(tmp_path)
    here = {}
    (tmp_path / "page.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)))
    exec(compile((tmp_path / "page.py").read_text(), str(tmp_path / "page.py"), "exec"), here)
    assert all(x.grad.isfinite().all() and x.grad.any() for x in here["parameters"].values())
    assert here["hourly"].fluxes["flow"].shape == (730, 3)
    run, forcing = here["run"], here["forcing"]
    before = here["two_stores"].initial_state({n: x.detach() for n, x in here["parameters"].items()})
    stored = sum(run.final_state[name] - x for name, x in before.items())[:, 0]
    left = forcing["prcp"].sum(0) - run.fluxes["aet"].sum(0) - run.fluxes["flow"].sum(0)
    torch.testing.assert_close(left, stored, rtol=1e-3, atol=0.1)
    result = here["result"].isel(start=0)
    assert result["nse"].min() > 0.999
    assert abs(result["m"].item() / here["truth"]["m"][0].item() - 1) < 0.02
    soil = torch.tensor([[50.0]])
    drier = hs.simulate(
        here["hbv_exponential"],
        {"prcp": torch.zeros(1, 1), "tmean": torch.ones(1, 1), "pet": torch.ones(1, 1)},
        {v.name: torch.tensor([[v.lower + 0.5 * (v.upper - v.lower)]]) for v in hs.models.get("hbv11p").parameters},
        initial_state={"sm": soil} | {n: torch.zeros(1, 1) for n in ("snowpack", "meltwater", "suz", "slz")},
        fluxes=("evapfactor",),
    )
    p = {v.name: v.lower + 0.5 * (v.upper - v.lower) for v in hs.models.get("hbv11p").parameters}
    expected = 1 - math.exp(-p["betaet"] * 50 / (p["lp"] * p["fc"]))
    assert abs(drier.fluxes["evapfactor"].item() - expected) < 1e-6


def test_the_files_it_names_are_there():
    for name in set(re.findall(r"`((?:csrc|tests|hybridsolve)/[\w/.-]+)`", TEXT)):
        assert (Path(ROOT) / name).exists(), name
