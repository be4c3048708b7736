"""Every block of Python of docs/adding-a-model.md runs, one after the other; and the page's model does what it says."""

import re
from pathlib import Path

import torch
from conftest import ROOT

import hybridsolve as hs

TEXT = (Path(ROOT) / "docs" / "adding-a-model.md").read_text(encoding="utf-8")


def test_the_page_runs(monkeypatch):
    monkeypatch.setattr(hs.models, "MODELS", dict(hs.models.MODELS))  # what the page registers stays in this test
    here = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(block, "docs/adding-a-model.md", "exec"), here)
    assert here["k"].grad.isfinite().all() and here["k"].grad.any()
    assert here["hourly"].fluxes["discharge"].shape == (365, 3)
    run, forcing = here["run"], here["forcing"]
    stored = run.final_state["store"][:, 0] - 10
    left = forcing["rainfall"].sum(0) - run.fluxes["evaporation"].sum(0) - run.fluxes["discharge"].sum(0)
    torch.testing.assert_close(left, stored, rtol=1e-3, atol=1e-2)


def test_the_files_it_names_are_there():
    for name in set(re.findall(r"`((?:csrc|tests|hybridsolve)/[\w/.-]+)`", TEXT)):
        assert (Path(ROOT) / name).exists(), name
