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

import pytest
import yaml
from conftest import ROOT

from hybridsolve import cli

DOCS = Path(ROOT) / "docs"
OWN = {
    "your-data",
    "nextgen",
    "adding-a-model",
    "grids-and-units",
    "cluster",
    "continental-runs",
    "neural-fluxes",
}  # run elsewhere
PAGES = sorted(p for p in DOCS.glob("*.md") if p.stem not in OWN and "```python" in p.read_text(encoding="utf-8"))
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


def test_every_page_is_in_the_navigation():
    site = yaml.safe_load((Path(ROOT) / "mkdocs.yml").read_text(encoding="utf-8"))
    named = set(re.findall(r"[\w/-]+\.md", str(site["nav"])))
    assert {p.name for p in DOCS.glob("*.md")} | {"command-line.md", "models/README.md"} == named


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra 'docs' builds the site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "command-line" / "index.html").read_text(encoding="utf-8")
    assert "calibrate" in page and "--train FROM:TO" in page
    assert "hybridsolve.solve.simulate.simulate" in (tmp_path / "site" / "api" / "index.html").read_text(
        encoding="utf-8"
    )
