"""train(): a network in front of the solver, trained on many basins by Lightning, and resumed to the same bits.

All data lie in memory once, as tensors. A batch is some basins, each with a window of its own, and is a function of
seed, epoch and step alone; so are dropout's draws. What an epoch leaves is therefore the same whether the run before it
was stopped or not.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import signal
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
import xarray as xr
import yaml
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch import Tensor

from .. import models
from ..arguments import MOST_DEVICES, whole
from ..data.dataset import check_dataset, period_slice
from ..data.files import locked, refuse_file, write_text_atomic
from ..data.ids import listed
from ..data.usable import refuse_outside, usable_basins, used_days, varies
from ..nn import DifferentiableModel
from ..score import losses, metrics
from .config import LEAST_DAYS, Config, read_config
from .inputs import Scaling
from .trained import Trained, load_weights, load_weights_only, make_module, predict_flow, single_precision

logger = logging.getLogger(__name__)
ACCELERATORS = ("auto", "cpu", "gpu", "cuda")
# Files by which a folder shows what kind of run it holds.
RUNS = {
    "training": ("checkpoints/last.ckpt", "trained.pt"),
    "experiment": ("experiment.nc",),
    "calibration": ("calibration.nc", "checkpoint.pt"),
}


def train(
    data: xr.Dataset,
    config: str | Path | Mapping | Config,
    *,
    out: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    skip_unusable: bool = False,
    accelerator: str = "auto",
    devices: int = 1,
    log: str = "csv",
    progress: bool = True,
) -> Trained:
    """Train a network in front of a model on all basins of a dataset.

    Parameters
    ----------
    data : xarray.Dataset
        Of `hybridsolve.data.open_dataset`: forcing and `qobs` ``[time, basin]``, attributes ``[basin]``.
    config : path, str, mapping or Config
        A YAML file, a recipe's name, or what such a file would hold; see `hybridsolve.training.config.Config`.
    out : path
        Folder for checkpoints, logs and the trained model; made if absent.
    resume : bool
        Go on from the last epoch that `out` holds, to the same weights as a run that was not stopped (on the CPU, with
        the same number of threads); a training that has ended is read.
    overwrite : bool
        Begin anew in a folder that holds a training, or another run, already.
    skip_unusable : bool
        Leave out basins with gaps in their forcing, or without varying observations in the training period, with a
        warning that names them, instead of raising.
    accelerator : {"auto", "cpu", "gpu", "cuda"}
    devices : int
        With several devices each draws batches of its own, of the config's size.
    log : {"csv", "tensorboard"}
    progress : bool
        Show a progress bar, on stderr.

    Returns
    -------
    Trained
        Of the best epoch by the validation period, or of the last if there is none; also written to `out`/trained.pt.

    Raises
    ------
    ValueError
        If the config, an attribute, a period or a value of the data does not fit; if `out` holds another run, or a file
        in it is damaged; each names what.
    FloatingPointError
        If a parameter or its gradient is no longer finite; names basin, parameter and step.
    KeyboardInterrupt
        If stopped by Ctrl-C; `resume` goes on from the last epoch.
    """
    config = read_config(config)
    check_options(accelerator, devices, log, resume, overwrite)
    data = usable(data, config, skip_unusable)
    method = str(data["pet"].attrs.get("method", config.pet))
    if config.pet is not None and method != config.pet:
        raise ValueError(f"the config has pet '{config.pet}'; found data made by '{method}': make them agree.")
    out = Path(out)
    scaling = Scaling.fit(data, config.attributes, config.fill, config.weather, config.periods.train)
    validation = None if config.periods.validation is None else _validation_basins(data, config.periods.validation)
    basins = Basins.of(data, config, scaling)
    check_folder(out, "training", resume, overwrite)
    with alone_in(out), single_precision():
        last = _prepare(out, config, data, resume, overwrite)
        if resume and (out / "trained.pt").exists():
            return _finished(out / "trained.pt")
        torch.manual_seed(config.seed)
        module = make_module(config)
        trained = Trained.of(module, config, scaling, data)
        training = _Training(module, config, basins, trained, data, validation)
        options = dict(accelerator=accelerator, devices=devices, strategy="ddp" if devices > 1 else "auto")
        loggers = dict(csv=CSVLogger, tensorboard=TensorBoardLogger)
        _run(training, config, out, last, progress, logger=loggers[log](out, name="logs"), **options)
        training.leave()
        best = out / "checkpoints" / ("best.ckpt" if config.periods.validation else "last.ckpt")
        _read_checkpoint(best, module, config)
        module.cpu().eval()
        if rank_zero_only.rank == 0:
            trained.save(out / "trained.pt")
    return trained


def check_options(accelerator: str, devices: int, log: str, resume: bool, overwrite: bool) -> None:
    """Raise if an option of `train` means nothing."""
    if log not in ("csv", "tensorboard"):
        raise ValueError(f"log must be 'csv' or 'tensorboard'; found {log!r}: choose one.")
    if log == "tensorboard" and not any(map(importlib.util.find_spec, ("tensorboard", "tensorboardX"))):
        raise ValueError("log 'tensorboard' needs the package tensorboard, found none: install it, or take log 'csv'.")
    if accelerator not in ACCELERATORS:
        raise ValueError(f"accelerator must be one of {', '.join(ACCELERATORS)}; found {accelerator!r}: choose one.")
    whole("devices", devices, 1, MOST_DEVICES)
    if resume and overwrite:
        raise ValueError("resume goes on with a run and overwrite begins anew, found both: choose one.")


def check_folder(out: Path, kind: str, resume: bool, overwrite: bool) -> None:
    """Raise if a folder holds a run already that this one would write over."""
    refuse_file(out)
    if overwrite or rank_zero_only.rank != 0:  # the first process has looked, and has begun to write
        return
    for other, files in RUNS.items():
        there = next((file for file in files if (out / file).exists()), None)
        if there is not None and other != kind:
            raise ValueError(
                f"{out} holds files of another kind of run, such as {there}: name another folder, or set overwrite."
            )
        if there is not None and not resume:
            raise ValueError(
                f"{out} holds {'an' if kind[0] in 'aeiou' else 'a'} {kind} already: set resume to go on with it, name "
                "another folder, or set overwrite."
            )


def alone_in(out: Path):
    """Keep other runs out of a folder; of a training's own processes the first does so for all."""
    return locked(out) if rank_zero_only.rank == 0 else nullcontext()


def _run(training: _Training, config: Config, out: Path, last: Path | None, progress: bool, **options) -> None:
    """Train from the last checkpoint, or from the begin, unless it has ended early already."""
    monitor = dict(monitor="validation_nse", mode="max") if config.periods.validation else {}
    keep = dict(dirpath=out / "checkpoints", save_on_train_epoch_end=True)
    callbacks = []
    if monitor:
        callbacks.append(_Best(filename="best", enable_version_counter=False, **monitor, **keep))
        if config.patience:
            callbacks.append(
                EarlyStopping("validation_nse", mode="max", patience=config.patience, check_on_train_epoch_end=False)
            )
    # After the others, whose state it keeps.
    callbacks.append(ModelCheckpoint(filename="last", enable_version_counter=False, **keep))
    callbacks += [_Rate()] + ([_Bar(refresh_rate=1)] if progress else [])
    if last is not None:
        if monitor and (best := out / "checkpoints" / "best.ckpt").exists():
            _read_checkpoint(best, training.module, config)
        states = _read_checkpoint(last, training.module, config)["callbacks"].values()
        if monitor and not best.exists() and any(s.get("best_model_path") for s in states):
            raise ValueError(f"{best} is missing, which {last.name} beside it needs: put it back, or set overwrite.")
        if config.patience is not None and any(s.get("wait_count", 0) >= config.patience for s in states):
            return
    with _quiet():
        trainer = _trainer(
            max_epochs=config.epochs,
            gradient_clip_val=config.optimiser.clip,
            check_val_every_n_epoch=config.validate_every,
            num_sanity_val_steps=0,
            limit_val_batches=1 if monitor else 0,
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            log_every_n_steps=min(50, config.steps_per_epoch),
            callbacks=callbacks,
            enable_progress_bar=progress,
            enable_model_summary=False,
            **options,
        )
        _fit(trainer, training, last)


@contextmanager
def _quiet():
    """Without notices and advertisements of libraries; what they print goes to stderr."""
    libraries = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning", "lightning_fabric")]
    levels = [library.level for library in libraries]
    for library in libraries:
        library.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            # Data in memory need no worker processes, and an epoch may have fewer batches than a line of the log.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
            warnings.filterwarnings("ignore", message=".*`isinstance.treespec, LeafSpec.`.*")
            for category in (DeprecationWarning, FutureWarning):  # of libraries among themselves
                warnings.filterwarnings("ignore", category=category, module="torch|pytorch_lightning|lightning")
            warnings.filterwarnings("ignore", message=r".*torch\.jit\..*deprecated.*")
            yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.setLevel(level)


def _fit(trainer: pl.Trainer, training: _Training, last: Path | None) -> None:
    """Lightning's fit, but a stop from outside is raised as such, and a checkpoint that does not fit is named."""
    try:
        trainer.fit(training, ckpt_path=last, weights_only=True)
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None  # Lightning's own would say that all went well
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):  # which Lightning turns into an exit
            raise ended.__context__ from None
        raise
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        if last is None or training.began:
            raise
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{last} could not be restored, and may be damaged or of another run ({reason}): set overwrite to begin "
            "anew, or train into another folder."
        ) from error
    if trainer.interrupted:
        raise KeyboardInterrupt


def _trainer(**options) -> pl.Trainer:
    try:
        return pl.Trainer(**options)
    except MisconfigurationException as error:
        raise ValueError(f"accelerator and devices do not fit this machine: {' '.join(str(error).split())}") from None


Tqdm.monitor_interval = 0  # of Lightning's bars; see `calibration.Bar`


class _Bar(TQDMProgressBar):
    """Ends before an error is printed."""

    def on_exception(self, *_):
        for bar in (self._val_progress_bar, self._train_progress_bar):  # the lower first, which goes up a line
            if bar is not None:
                bar.close()


class _Best(ModelCheckpoint):
    """Remembers the best score in a folder that has been moved, too."""

    def load_state_dict(self, state):
        best = str(Path(self.dirpath) / "best.ckpt")
        scores = dict.fromkeys([best], *state["best_k_models"].values()) if state["best_k_models"] else {}
        there = dict(dirpath=self.dirpath, best_model_path=best, kth_best_model_path=best, best_k_models=scores)
        super().load_state_dict({**state, **(there if scores else dict(dirpath=self.dirpath))})


def _read_checkpoint(path: Path, module, config: Config) -> dict:
    """A checkpoint's content, its weights loaded into the module."""
    remedy = "set overwrite to begin anew, or train into another folder"
    content = load_weights_only(path, "a checkpoint of `hybridsolve train`", remedy)
    # Lightning goes on without what is not there.
    schedules = int(config.optimiser.schedule != "constant")
    whole = {
        "state_dict": lambda x: isinstance(x, dict) and all(isinstance(w, Tensor) for w in x.values()),
        "callbacks": lambda x: isinstance(x, dict) and all(isinstance(state, dict) for state in x.values()),
        "loops": lambda x: isinstance(x, dict) and "fit_loop" in x,
        "optimizer_states": lambda x: isinstance(x, list) and len(x) == 1,
        "lr_schedulers": lambda x: isinstance(x, list) and len(x) == schedules,
    }
    for key, fits in whole.items():
        if not fits(content.get(key)):
            raise ValueError(f"{path} lacks '{key}' and is no whole checkpoint of this training: {remedy}.")
    weights = {name.removeprefix("module."): x for name, x in content["state_dict"].items()}
    load_weights(module, weights, path)
    return content


def _finished(path: Path) -> Trained:
    try:
        return Trained.load(path)
    except ValueError as error:
        raise ValueError(
            f"{str(error).rstrip('.')}; or delete it, and resume makes it again from the checkpoints."
        ) from None


def _validation_basins(data: xr.Dataset, period) -> np.ndarray:
    """Those that have a score in the validation period; the others have no part in the choice, and the log says so."""
    seen = varies(data, period)
    if not seen.any():
        raise ValueError(f"no basin has varying observations in the validation period {period}: choose another.")
    if not seen.all():
        logger.warning(
            "%d of %d basins have no varying observation in the validation period and no part in the choice (%s).",
            (~seen).sum(), len(seen), listed(data["basin"].values[~seen]),
        )  # fmt: skip
    return np.flatnonzero(seen)


def usable(data: xr.Dataset, config: Config, skip: bool) -> xr.Dataset:
    """The checked data of the basins that can be trained on; the others are refused, or left out with a warning."""
    check_dataset(data, forcing_names=config.forcing_names, need_qobs=True, values=False)
    p = config.periods
    periods = [period for period in (p.train, p.validation, p.test) if period is not None]
    data = used_days(data, periods, config.warmup_years, config.batch.warmup)
    data = data.isel(basin=usable_basins(data, config.forcing_names, p.train, skip=skip))
    check_dataset(data, forcing_names=config.forcing_names, need_qobs=True)
    if config.model != "none":
        refuse_outside(data, models.get(config.model))
    return data


def _prepare(out: Path, config: Config, data: xr.Dataset, resume: bool, overwrite: bool) -> Path | None:
    """Clear the folder, or check that it holds the same training; the checkpoint to go on from."""
    names = dict.fromkeys(["time", "qobs", *config.forcing_names, *config.attributes, *config.weather])
    digest = hashlib.sha256()
    for name in names:
        values = data[name].values
        digest.update(repr(values.tolist()).encode() if values.dtype.kind in "OUS" else np.ascontiguousarray(values))
    record = {**config.model_dump(), "data": digest.hexdigest(), "basins": [str(b) for b in data["basin"].values]}
    last, kept = out / "checkpoints" / "last.ckpt", out / "training.yaml"
    if rank_zero_only.rank != 0:  # the first process has checked all this
        return last if resume and last.exists() else None
    if overwrite:
        for file in (last, last.with_name("best.ckpt"), out / "trained.pt"):
            file.unlink(missing_ok=True)
    if not last.exists() and not (out / "trained.pt").exists():
        write_text_atomic(kept, yaml.safe_dump(record, sort_keys=False))
        return None
    if not kept.exists():
        raise ValueError(f"{out} lacks training.yaml, by which a training is known again: train into another folder.")
    before = _record(kept)
    changed = [key for key in sorted({*before, *record}) if before.get(key) != record.get(key)]
    if changed:
        raise ValueError(
            f"{out} holds a training of another '{changed[0]}': resume with the config and data it began with, or "
            "train into another folder."
        )
    return last if last.exists() else None


def _record(path: Path) -> dict:
    """What training.yaml says of a training."""
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


@dataclass(frozen=True)
class Basins:
    """The training data as tensors: ``[T, B]``, attributes ``[B, A]``, weather ``[T, B, W]``.

    `starts` are the first and the last day on which a window (its warm-up) may begin.
    """

    ids: list[str]
    forcing: dict[str, Tensor]
    qobs: Tensor
    attributes: Tensor
    weather: Tensor | None
    sigma: Tensor
    starts: tuple[int, int]

    @classmethod
    def of(cls, data: xr.Dataset, config: Config, scaling: Scaling) -> Basins:
        period, batch = period_slice(data["time"].values, config.periods.train), config.batch
        first, last = period.start - batch.warmup, period.stop - batch.warmup - batch.days
        if first < 0:
            raise ValueError(
                f"the training period {config.periods.train} needs {batch.warmup} days of warm-up before it, and the "
                f"data begin {period.start} days before: shorten batch.warmup or begin later."
            )
        if last < first:
            raise ValueError(
                f"batch.days is {batch.days}, and the training period has {period.stop - period.start}: shorten it."
            )
        tensor = lambda name: torch.from_numpy(np.ascontiguousarray(data[name].values, dtype=np.float32))  # noqa: E731
        qobs = tensor("qobs")
        if batch.basins > data.sizes["basin"]:
            logger.warning("batches have %d basins, all there are, and not %d.", data.sizes["basin"], batch.basins)
        return cls(
            ids=[str(b) for b in data["basin"].values],
            forcing={name: tensor(name) for name in config.forcing_names},
            qobs=qobs,
            attributes=scaling.scaled_attributes(data),
            weather=scaling.scaled_weather(data),
            sigma=torch.from_numpy(np.nanstd(qobs[period].numpy().astype(np.float64), 0)),
            starts=(first, last),
        )


class _Batches(torch.utils.data.Dataset):
    """The batches of one epoch."""

    def __init__(self, basins: Basins, config: Config, epoch: int, rank: int):
        self.basins, self.config, self.epoch, self.rank = basins, config, epoch, rank

    def __len__(self):
        return self.config.steps_per_epoch

    def __getitem__(self, i: int):
        if i >= len(self):
            raise IndexError(i)
        x, size = self.basins, self.config.batch
        draw = np.random.default_rng([self.config.seed, self.epoch, i, self.rank])
        days = torch.arange(size.warmup + size.days)[:, None]
        for _ in range(100):
            basin = draw.choice(len(x.ids), min(size.basins, len(x.ids)), replace=False)
            at = days + torch.from_numpy(draw.integers(x.starts[0], x.starts[1] + 1, len(basin)))
            basin = torch.from_numpy(basin)
            obs = x.qobs[at[size.warmup :], basin]
            if _scored(self.config.loss, obs).any():
                break
        else:
            raise ValueError(
                f"a hundred batches had no window with observations enough for loss '{self.config.loss}': lengthen "
                "batch.days, or take 'nse_batch'."
            )
        return dict(
            basin=basin,
            forcing={name: series[at, basin] for name, series in x.forcing.items()},
            attributes=x.attributes[basin],
            weather=None if x.weather is None else x.weather[at, basin],
            obs=obs,
            sigma=x.sigma[basin],
        )


class _Training(pl.LightningModule):
    def __init__(self, module, config: Config, basins: Basins, trained: Trained, data: xr.Dataset, validation):
        super().__init__()
        self.module, self.config, self.basins = module, config, basins
        self.trained, self.drawn, self.hook, self.began = trained, None, None, False
        if validation is not None:
            self.data, self.attributes = data.isel(basin=validation), basins.attributes[validation]
        if isinstance(module, DifferentiableModel):
            self.hook = module.network.register_forward_hook(self._watch)

    def leave(self) -> None:
        """The module is the user's again."""
        if self.hook is not None:
            self.hook.remove()

    def on_train_start(self) -> None:
        self.began = True

    def train_dataloader(self):
        batches = _Batches(self.basins, self.config, self.current_epoch, self.global_rank)
        return torch.utils.data.DataLoader(batches, batch_size=None, shuffle=False)

    def val_dataloader(self):
        return torch.utils.data.DataLoader([0], batch_size=None)

    def training_step(self, batch, i):
        # Dropout's draws, too, are a function of the seed, the epoch and the step alone.
        key = [self.config.seed, self.current_epoch, i, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        self.drawn = batch["basin"]
        size = self.config.batch
        run = self.module(
            batch["forcing"],
            batch["attributes"],
            batch["weather"],
            warmup=size.warmup,
            warmup_gradient=size.warmup_gradient,
        )
        loss = _loss(self.config.loss, run.fluxes["streamflow"], batch["obs"], batch["sigma"])
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} in step {self.global_step}, for basins "
                f"{', '.join(self._ids(~torch.isfinite(run.fluxes['streamflow']).all(0))) or 'with finite flow'}: "
                "lower the learning rate or look at their data."
            )
        self.log("loss", loss, prog_bar=True, batch_size=1)
        return loss

    def validation_step(self, *_):
        flow, obs = predict_flow(self.trained, self.data, self.config.periods.validation, self.attributes)
        nse = metrics.summary({"nse": metrics.nse(flow, obs)})["nse"]["median"]  # all have observations
        self.log("validation_nse", float(nse), prog_bar=True, batch_size=1, sync_dist=self.trainer.world_size > 1)

    def configure_optimizers(self):
        o = self.config.optimiser
        kind = dict(adam=torch.optim.Adam, adamw=torch.optim.AdamW, adadelta=torch.optim.Adadelta)[o.name]
        optimiser = kind(self.module.parameters(), lr=o.learning_rate, weight_decay=o.weight_decay)
        if o.schedule == "constant":
            return optimiser
        steps = self.config.epochs * self.config.steps_per_epoch
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        return dict(optimizer=optimiser, lr_scheduler=dict(scheduler=schedule, interval="step"))

    def _watch(self, _module, _inputs, raw):
        """A value or gradient of a parameter that is not finite stops the training, by name."""
        if not self.training:
            return
        for name, x in raw.items():
            self._finite(x, name, "value")
            if x.requires_grad:
                x.register_hook(lambda g, name=name: self._finite(g, name, "gradient"))

    def _finite(self, x: Tensor, name: str, what: str) -> None:
        bad = ~torch.isfinite(x)
        if bad.any():
            basins = self._ids(bad.movedim(-2, 0).flatten(1).any(1))
            raise FloatingPointError(
                f"the {what} of parameter '{name}' is no longer finite in step {self.global_step} for basin "
                f"{listed(basins)}: lower the learning rate, clip the gradient, or look at that basin's data."
            )

    def _ids(self, bad: Tensor) -> list[str]:
        return [self.basins.ids[i] for i in self.drawn[bad].tolist()]


def _loss(name: str, sim: Tensor, obs: Tensor, sigma: Tensor) -> Tensor:
    """A number for a batch; of a score by series the mean over the windows that have one."""
    kind = losses.get(name)
    if not kind.per_series:
        return (kind(obs, sigma) if name == "nse_batch" else kind(obs))(sim)
    scored = _scored(name, obs)
    return kind(obs[:, scored])(sim[:, scored]).mean()


def _scored(name: str, obs: Tensor) -> Tensor:
    """The windows that have part in the loss."""
    seen = obs.isfinite()
    if not losses.get(name).per_series:
        return seen.any(0)
    spread = torch.where(seen, obs, -torch.inf).amax(0) - torch.where(seen, obs, torch.inf).amin(0)
    return (seen.sum(0) >= LEAST_DAYS) & (spread > 0)


class _Rate(Callback):
    """Basins x days a second, over the epoch so far, beside the loss."""

    def on_train_batch_start(self, trainer, module, batch, i):
        if i == 0:
            self.began = time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, i):
        done = (i + 1) * batch["obs"].numel() * trainer.world_size
        rate = done / (time.perf_counter() - self.began)
        module.log("basin_days_per_s", rate, prog_bar=True, batch_size=1)
