"""The folder of a training: which run it holds, what a resumed one must find there, and its checkpoints."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn

from .. import models
from ..compiler.identity import identity
from ..data.files import load_weights_only, locked, refuse_file, write_text_atomic
from ..routing.units import AREA, GAUGE
from .config import Config, Network
from .trained import Trained, load_weights

# The files that tell which kind of run a folder holds.
RUNS = {
    "training": ("checkpoints/last.ckpt", "trained.pt"),
    "experiment": ("experiment.nc",),
    "calibration": ("calibration.nc", "checkpoint.pt"),
}


def is_first() -> bool:
    """Whether this is the first of the processes of one training."""
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]  # Lightning sets it on the function
    return rank == 0


def check_folder(out: Path, kind: str, resume: bool, overwrite: bool) -> None:
    """Raise if a folder already holds a run that this one would overwrite."""
    refuse_file(out)
    if overwrite or not is_first():  # the first process has checked, and has begun to write
        return
    for other, files in RUNS.items():
        found = next((file for file in files if (out / file).exists()), None)
        if found is not None and other != kind:
            raise ValueError(
                f"{out} holds files of another kind of run, such as {found}: name another folder, or set overwrite."
            )
        if found is not None and not resume:
            raise ValueError(
                f"{out} holds {'an' if kind[0] in 'aeiou' else 'a'} {kind} already: set resume to go on with it, name "
                "another folder, or set overwrite."
            )


def alone_in(out: Path) -> AbstractContextManager:
    """Lock a folder against other runs; of the processes of one training the first does so for all."""
    return locked(out) if is_first() else nullcontext()


def prepare(out: Path, config: Config, data: xr.Dataset, resume: bool, overwrite: bool) -> Path | None:
    """Clear the folder, or check that it holds the same training; return the checkpoint to continue from."""
    names = dict.fromkeys(
        ["time", "qobs", *config.forcing_names, *config.input_names, *config.attributes, *config.weather]
    )
    digest = hashlib.sha256()
    units = [GAUGE, AREA] if GAUGE in data.coords else []
    for name in [*names, *units]:
        values = data[name].values
        if values.dtype.kind in "OUS":
            digest.update(repr(values.tolist()).encode())
        else:
            digest.update(np.ascontiguousarray(values))  # type: ignore[arg-type]  # a buffer, as all arrays are
    record = {**config.model_dump(), "data": digest.hexdigest(), "basins": [str(b) for b in data["basin"].values]}
    if config.model != "none":
        record["definition"] = identity(models.get(config.model))
    last, kept = out / "checkpoints" / "last.ckpt", out / "training.yaml"
    if not is_first():  # the first process has checked all this
        return last if resume and last.exists() else None
    if overwrite:
        for file in (last, last.with_name("best.ckpt"), out / "trained.pt"):
            file.unlink(missing_ok=True)
    if not last.exists() and not (out / "trained.pt").exists():
        write_text_atomic(kept, yaml.safe_dump(record, sort_keys=False))
        return None
    if not kept.exists():
        raise ValueError(f"{out} lacks training.yaml, by which a training is known again: train into another folder.")
    # A setting that an older version did not have is at its default.
    before = {name: field.default for name, field in Config.model_fields.items()} | _record(kept)
    if isinstance(before["network"], dict):
        before["network"] = {n: field.default for n, field in Network.model_fields.items()} | before["network"]
    changed = [key for key in sorted({*before, *record}) if before.get(key) != record.get(key)]
    if changed:
        raise ValueError(
            f"{out} holds a training of another '{changed[0]}': resume with the config and data it began with, or "
            "train into another folder."
        )
    return last if last.exists() else None


def _record(path: Path) -> dict:
    """The content of training.yaml."""
    try:
        record = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged, by which a training is known again ({' '.join(str(error).split())[:120]}): train into "
            "another folder, or set overwrite."
        ) from None
    if not isinstance(record, dict) or not all(isinstance(key, str) for key in record):
        raise ValueError(f"{path} is no record of a training: train into another folder, or set overwrite.")
    return record


def read_finished(path: Path, backend: str) -> Trained:
    """The trained model of a training that has ended."""
    try:
        return Trained.load(path, backend)
    except ValueError as error:
        raise ValueError(
            f"{str(error).rstrip('.')}; or delete it, and resume makes it again from the checkpoints."
        ) from None


class BestCheckpoint(ModelCheckpoint):
    """Finds its files again after the folder was moved."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        best = str(Path(self.dirpath or "") / "best.ckpt")
        scores = dict.fromkeys([best], *state["best_k_models"].values()) if state["best_k_models"] else {}
        there = dict(dirpath=self.dirpath, best_model_path=best, kth_best_model_path=best, best_k_models=scores)
        super().load_state_dict({**state, **(there if scores else dict(dirpath=self.dirpath))})


def read_checkpoint(path: Path, module: nn.Module, config: Config) -> dict:
    """Read a checkpoint, and load its weights into the module."""
    remedy = "set overwrite to begin anew, or train into another folder"
    content = load_weights_only(path, "a checkpoint of `hybridsolve train`", remedy)
    # Lightning ignores missing parts.
    schedules = int(config.optimiser.schedule != "constant")
    expected = {
        "state_dict": lambda x: isinstance(x, dict) and all(isinstance(w, Tensor) for w in x.values()),
        "callbacks": lambda x: isinstance(x, dict) and all(isinstance(state, dict) for state in x.values()),
        "loops": lambda x: isinstance(x, dict) and "fit_loop" in x,
        "optimizer_states": lambda x: isinstance(x, list) and len(x) == 1,
        "lr_schedulers": lambda x: isinstance(x, list) and len(x) == schedules,
    }
    for key, fits in expected.items():
        if not fits(content.get(key)):
            raise ValueError(f"{path} lacks '{key}' and is no complete checkpoint of this training: {remedy}.")
    weights = {name.removeprefix("module."): x for name, x in content["state_dict"].items()}
    load_weights(module, weights, path)
    return content
