"""Every block of Python of the pages that have no test of their own runs, one after the other in an empty folder; every
command on any page is one that the command line takes; and every page is reached from the site's navigation."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import yaml
from conftest import ROOT
from river_networks import IDS, routelink

from hybridsolve import cli, models
from hybridsolve.training.config import read_config

DOCS = Path(ROOT) / "docs"
EXAMPLES = sorted(p for p in (Path(ROOT) / "examples").glob("*.py") if "\n# %%" in "\n" + p.read_text(encoding="utf-8"))
OWN = {  # pages whose blocks another file runs
    "your-data": "test_your_data.py",
    "nextgen": "test_nextgen_page.py",
    "adding-a-model": "test_adding_a_model.py",
    "grids-and-units": "test_grids_page.py",
    "cluster": "test_cluster.py",
    "continental-runs": "test_continental_run.py",
    "neural-fluxes": "test_neural_fluxes.py",
}
PAGES = sorted(p for p in DOCS.glob("*.md") if p.stem not in OWN and "```python" in p.read_text(encoding="utf-8"))
OURS = [m.name for m in models.MODELS.values() if m.reference_step.__module__.startswith("hybridsolve.models.")]
COMMANDS = sorted(
    {
        line.strip()
        for page in (Path(ROOT) / "README.md", *DOCS.glob("*.md"))
        for block in re.findall(r"```(?:bash|)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for line in block.replace("\\\n", " ").split("\n")
        if line.strip().startswith("hybridsolve ")
    }
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_page_runs(page, tmp_path, monkeypatch):
    if '"fulda"' in page.read_text(encoding="utf-8"):
        pytest.importorskip("spotpy", reason="the Fulda's data come with spotpy")
    monkeypatch.chdir(tmp_path)
    here = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block, str(page), "exec"), here)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_readme_runs(tmp_path, monkeypatch):
    """In a folder with the files that it speaks of, and with the tensors that its rivers take."""
    monkeypatch.chdir(tmp_path)
    days = pd.date_range("1986-10-01", "2008-09-30")
    draw, warm = np.random.default_rng(0), np.cos(2 * np.pi * (np.arange(len(days)) - 290) / 365.25)
    series = {"prcp": (draw.gamma(0.4, 8.0, len(days)), "mm d-1"), "tmean": (8 + 9 * warm, "degC")}
    series |= {"pet": (1.6 + 1.4 * warm, "mm d-1"), "discharge": (10 + 5 * draw.random(len(days)), "1")}
    mine = xr.Dataset({n: (("time", "basin"), x[:, None], {"units": u}) for n, (x, u) in series.items()})
    mine = mine.assign_coords(time=days, basin=["a"]).assign(area_km2=("basin", [900.0], {"units": "km2"}))
    mine.to_netcdf("mine.nc")
    routelink("RouteLink.nc", So=np.full(7, 1e-3))
    text = (Path(ROOT) / "README.md").read_text(encoding="utf-8")
    own, running, rivers = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    here = {}
    exec(compile(own, "README.md", "exec"), here)
    assert here["result"]["nse"].notnull().all() and (tmp_path / "calibrated.nc").exists()
    exec(compile(running, "README.md", "exec"), here)
    assert all(x.grad.isfinite().all() for x in here["unit"].values())
    N = len(IDS)
    here |= {n: torch.full((N,), x) for n, x in dict(roughness=0.04, width=20.0, shape=0.3, area=4e7).items()}
    here |= dict(lateral=torch.rand(24, N), ids=IDS, gauges=[IDS[-1]])
    here["forcing"] = {name: x[:30, :N] for name, x in here["forcing"].items()}
    hbv10 = models.get("hbv10")
    here["parameters"] = hbv10.parameters_from_unit({name: torch.full((N, 1), 0.5) for name in hbv10.parameter_names})
    exec(compile(rivers, "README.md", "exec"), here)
    assert here["run"].discharge.shape == (30 * 24, 1)


@pytest.mark.slow
def test_the_commands_of_calibrate_run(tmp_path, monkeypatch):
    pytest.importorskip("spotpy", reason="the Fulda's data come with spotpy")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```bash\n(.*?)```", (DOCS / "calibrate.md").read_text(encoding="utf-8"), re.DOTALL)
    for line in block.replace("\\\n", " ").strip().split("\n"):
        assert cli.main(shlex.split(line)[1:]) == 0, line
    assert (tmp_path / "gr4j" / "calibration.nc").exists() and (tmp_path / "flows.nc").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_takes(command):
    words = shlex.split(command, comments=True)[1:]
    cli._parser().parse_args(words[: words.index("&&")] if "&&" in words else words)


def test_the_configuration_of_learn_can_be_read():
    block, *_ = re.findall(r"```yaml\n(.*?)```", (DOCS / "learn.md").read_text(encoding="utf-8"), re.DOTALL)
    config = read_config(yaml.safe_load(block))
    assert config.model == "hbv11p" and len(config.attributes) == 4


def test_every_page_is_in_the_navigation():
    site = yaml.safe_load((Path(ROOT) / "mkdocs.yml").read_text(encoding="utf-8"))
    named = set(re.findall(r"[\w/-]+\.md", str(site["nav"])))
    examples = {f"examples/{p.stem}.md" for p in EXAMPLES}
    assert {p.name for p in DOCS.glob("*.md")} | {"command-line.md", "models/README.md"} | examples == named


def test_the_pages_that_run_elsewhere_do():
    for page, file in OWN.items():
        assert f"{page}.md" in (Path(ROOT) / "tests" / file).read_text(encoding="utf-8"), page


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built without a warning and with every example run: a cell that raises ends the build."""
    for package in ("mkdocs", "latex2mathml", "spotpy"):
        pytest.importorskip(package, reason="the extra 'docs' builds the site")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_pages_of_the_site(site):
    def page(name):
        return (site / name / "index.html").read_text(encoding="utf-8")

    assert "calibrate" in page("command-line") and "--train FROM:TO" in page("command-line")
    assert "hybridsolve.solve.simulate.simulate" in page("api")
    for model in OURS:
        text = page(f"models/{model}")
        assert "<math" in text and f'{quote(model)}.svg"' in text and "```" not in text
        assert (site / "models" / f"{model}.svg").stat().st_size > 10_000
    # Nothing is fetched from another host when a page is opened.
    for file in site.rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|img|link)[^>]+(?:src|href)="(https?://[^"]+)"', file.read_text(encoding="utf-8")
        )
        assert not [x for x in fetched if "canonical" not in x], file


@pytest.mark.slow
@pytest.mark.parametrize("script", EXAMPLES, ids=lambda p: p.stem)
def test_the_site_shows_what_an_example_draws(site, script, monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    import notebooks

    text = script.read_text(encoding="utf-8")
    assert (site / "examples" / script.name).read_text(encoding="utf-8") == text
    if missing := notebooks.lacking(text):
        pytest.skip(f"{script.name} reads {missing}, which is not here")
    assert len(list((site / "examples").glob(f"{script.stem}-*.svg"))) >= 1


def test_an_example_without_its_data_is_not_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    monkeypatch.setenv("HYBRIDSOLVE_DATA", str(tmp_path))
    import notebooks

    script = tmp_path / "one.py"
    script.write_text("# %% [markdown]\n# # One\n\n# %%\ndata = read_camels()\n")
    text, figures = notebooks.page(script, tmp_path)
    assert "nothing below has been run" in text and "data = read_camels()" in text and not figures


def test_a_cell_that_raises_names_its_script(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    import notebooks

    script = tmp_path / "one.py"
    script.write_text("# %% [markdown]\n# # One\n#\n# Text.\n\n# %%\nx = 2\nprint('two')\nx + 1\n\n# %%\n1 / 0\n")
    assert [is_text for is_text, _ in notebooks.cells(script.read_text())] == [True, False, False]
    with pytest.raises(ZeroDivisionError) as error:
        notebooks.page(script, tmp_path)
    assert str(script) in error.value.__notes__[0]
    script.write_text(script.read_text().replace("1 / 0", "x"))
    text, figures = notebooks.page(script, tmp_path)
    assert text.startswith("# One\n") and "```text\ntwo\n```" in text and "<pre>3</pre>" in text and not figures
