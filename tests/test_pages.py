"""docs/models is what the tables and the models' files say; a change of either is written anew by one command."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT

from hybridsolve import cli, models, pages

FOLDER = Path(ROOT) / "docs" / "models"
OURS = [m for m in models.MODELS.values() if m.reference_step.__module__.startswith("hybridsolve.models.")]


def test_the_pages_are_those_of_the_tables():
    made = pages.pages(OURS)
    there = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.md")}
    stale = sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))
    assert not stale, (
        f"run `hybridsolve models --pages docs/models`, and remove pages of models that are no more: {stale}"
    )


@pytest.mark.parametrize("model", OURS, ids=lambda m: m.name)
def test_a_page_says_all_of_a_model(model):
    text = pages.page(model)
    for v in (v for table in model._tables for v in table):
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{v.name}` |")]
        assert v.meaning in row and f"| {v.unit} |" in row
        if v in model.every_parameter:
            assert v.source in row and f"{v.lower:g} to {v.upper:g}" in row
            assert v.free or f"`{v.name}` at {v.default:g}" in text.split("Not calibrated unless asked: ")[1]
    assert model.source in text and f"`{model.outflow}` is the outflow" in text
    assert "\nChecked " in text, "the model's file does not say what it was held against"


def test_a_changed_table_changes_the_page():
    gr4j = models.get("gr4j")
    wider = replace(gr4j, parameters=(replace(gr4j.parameters[0], upper=4000.0), *gr4j.parameters[1:]))
    assert pages.page(gr4j) != pages.page(wider) and "| 1 to 4000 |" in pages.page(wider)


def test_where_kernels_come_from():
    assert pages.kernels(models.get("hbv11p")) == "By hand in `csrc/models/hbv.h`, compiled with the package."
    assert pages.kernels(models.get("gr4j")).endswith("from the step, compiled with the package.")
    assert "compiled at first use" in pages.kernels(models.get("gr6j"))


def test_pages_of_some_models_take_no_other_files_place(tmp_path, capsys):
    command = ["models", "gr4j", "cemaneige+gr4j", "--pages", str(tmp_path / "new")]
    assert cli.main(command) == cli.main(command) == 0
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"README.md", "gr4j.md", "cemaneige+gr4j.md"}
    assert "wrote 3 files" in capsys.readouterr().out
    (tmp_path / "new" / "README.md").write_text("my own")
    assert cli.main(command) == 2
    assert "README.md must be a page that this command has written" in capsys.readouterr().err
    assert (tmp_path / "new" / "README.md").read_text() == "my own"
