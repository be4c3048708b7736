"""train(): a network in front of the solver, trained on many basins by Lightning, and resumed to the same bits.

All data lie in memory once, as tensors. A batch is some basins, each with a window of its own, and is a function of
seed, epoch and step alone; so are dropout's draws. What an epoch leaves is therefore the same whether the run before it
was stopped or not.
"""

from __future__ import annotations

import hashlib
import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
import xarray as xr
import yaml
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from .. import models
from ..data.dataset import check_dataset, period_slice
from ..data.netcdf import write_text_atomic
from ..nn import DifferentiableModel
from . import losses, metrics
from .config import LEAST_DAYS, Config, read_config
from .inputs import Scaling, few
from .trained import Trained, make_module, predict_flow

logger = logging.getLogger(__name__)


def train(
    data: xr.Dataset,
    config: str | Path | Mapping | Config,
    *,
    out: str | Path,
    resume: bool = False,
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
        A YAML file, a recipe's name, or what such a file would hold; see `hybridsolve.learn.config.Config`.
    out : path
        Folder for checkpoints, logs and the trained model; made if absent.
    resume : bool
        Go on from the last epoch that `out` holds, to the same weights as a run that was not stopped (on the CPU, with
        the same number of threads); a training that has ended is read.
    skip_unusable : bool
        Leave out basins without varying observations in the training period, and log which, instead of raising.
    accelerator, devices :
        As for `pytorch_lightning.Trainer`. With several devices each draws batches of its own, of the config's size.
    log : {"csv", "tensorboard"}
    progress : bool

    Returns
    -------
    Trained
        Of the best epoch by the validation period, or of the last if there is none; also written to `out`/trained.pt.

    Raises
    ------
    ValueError
        If the config, an attribute, a period or a value of the data does not fit; each names what.
    FloatingPointError
        If a parameter or its gradient is no longer finite; names basin, parameter and step.
    """
    config = read_config(config)
    if log not in ("csv", "tensorboard"):
        raise ValueError(f"log must be 'csv' or 'tensorboard'; found {log!r}: choose one.")
    forcing_names = ("prcp", "tmean", "pet") if config.model == "none" else models.get(config.model).forcing_names
    check_dataset(data, forcing_names=forcing_names, need_qobs=True)
    method = str(data["pet"].attrs.get("method", config.pet))
    if config.pet is not None and method != config.pet:
        raise ValueError(f"the config has pet '{config.pet}'; found data made by '{method}': make them agree.")
    out = Path(out)
    data = data.isel(basin=usable(data, config.periods.train, skip_unusable))
    scaling = Scaling.fit(data, config.attributes, config.fill, config.weather, config.periods.train)
    validation = None if config.periods.validation is None else _validation_basins(data, config.periods.validation)
    last = _prepare(out, config, data, forcing_names, resume)
    if last is not None and (out / "trained.pt").exists():
        return Trained.load(out / "trained.pt")

    torch.manual_seed(config.seed)
    module = make_module(config)
    basins = Basins.of(data, config, scaling, forcing_names)
    trained = Trained.of(module, config, scaling, data)
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
    callbacks += [_Rate()] + ([TQDMProgressBar(refresh_rate=1)] if progress else [])
    loggers = dict(csv=CSVLogger, tensorboard=TensorBoardLogger)
    with warnings.catch_warnings():
        # Data in memory need no worker processes, and an epoch may have fewer batches than a line of the log.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory.*exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*`isinstance.treespec, LeafSpec.`.*")
        training = _Training(module, config, basins, trained, data, validation)
        trainer = _trainer(
            max_epochs=config.epochs,
            accelerator=accelerator,
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            gradient_clip_val=config.optimiser.clip,
            check_val_every_n_epoch=config.validate_every,
            num_sanity_val_steps=0,
            limit_val_batches=1 if monitor else 0,
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            log_every_n_steps=min(50, config.steps_per_epoch),
            callbacks=callbacks,
            logger=loggers[log](out, name="logs"),
            enable_progress_bar=progress,
            enable_model_summary=False,
        )
        if last is None or not _has_stopped(last, config):
            trainer.fit(training, ckpt_path=last, weights_only=True)
    training.leave()
    best = out / "checkpoints" / ("best.ckpt" if monitor else "last.ckpt")
    weights = torch.load(best, weights_only=True, map_location="cpu")["state_dict"]
    module.load_state_dict({name.removeprefix("module."): x for name, x in weights.items()})
    module.cpu().eval()
    if trainer.is_global_zero:
        trained.save(out / "trained.pt")
    return trained


def _trainer(**options) -> pl.Trainer:
    try:
        return pl.Trainer(**options)
    except MisconfigurationException as error:
        raise ValueError(f"accelerator and devices do not fit this machine: {' '.join(str(error).split())}") from None


class _Best(ModelCheckpoint):
    """Remembers the best score in a folder that has been moved, too."""

    def load_state_dict(self, state):
        best = str(Path(self.dirpath) / "best.ckpt")
        scores = dict.fromkeys([best], *state["best_k_models"].values()) if state["best_k_models"] else {}
        there = dict(dirpath=self.dirpath, best_model_path=best, kth_best_model_path=best, best_k_models=scores)
        super().load_state_dict({**state, **(there if scores else dict(dirpath=self.dirpath))})


def _has_stopped(last: Path, config: Config) -> bool:
    """Whether the training has ended early already."""
    states = torch.load(last, weights_only=True, map_location="cpu")["callbacks"].values()
    return config.patience is not None and any(s.get("wait_count", 0) >= config.patience for s in states)


def _validation_basins(data: xr.Dataset, period) -> np.ndarray:
    """Those that have a score in the validation period; the others have no part in the choice, and the log says so."""
    seen = varies(data, period)
    if not seen.any():
        raise ValueError(f"no basin has varying observations in the validation period {period}: choose another.")
    if not seen.all():
        logger.warning(
            "%d of %d basins have no varying observation in the validation period and no part in the choice (%s).",
            (~seen).sum(), len(seen), few(data["basin"].values[~seen]),
        )  # fmt: skip
    return np.flatnonzero(seen)


def varies(data: xr.Dataset, period) -> np.ndarray:
    """Whether each basin's observations vary over a period."""
    obs = data["qobs"].values[period_slice(data["time"].values, period)]
    seen = ~np.isnan(obs)
    return np.where(seen, obs, -np.inf).max(0) > np.where(seen, obs, np.inf).min(0)


def usable(data: xr.Dataset, period, skip: bool) -> np.ndarray:
    """Indices of the basins that can be trained on; the others are refused, or left out and logged."""
    bad = ~varies(data, period)
    if bad.any():
        what = f"{bad.sum()} of {bad.size} basins have no varying observation in the training period {period} "
        what += f"({few(data['basin'].values[bad])})"
        if not skip or bad.all():
            raise ValueError(f"{what}: choose another period, or set skip_unusable to leave them out.")
        logger.warning("%s and are left out.", what)
    return np.flatnonzero(~bad)


def _prepare(out: Path, config: Config, data: xr.Dataset, forcing_names, resume: bool) -> Path | None:
    """Make the folder, or check that it holds the same training; the checkpoint to go on from."""
    names = dict.fromkeys(["time", "qobs", *forcing_names, *config.attributes, *config.weather])
    digest = hashlib.sha256()
    for name in names:
        values = data[name].values
        digest.update(repr(values.tolist()).encode() if values.dtype.kind in "OUS" else np.ascontiguousarray(values))
    record = {**config.model_dump(), "data": digest.hexdigest(), "basins": [str(b) for b in data["basin"].values]}
    last, kept = out / "checkpoints" / "last.ckpt", out / "training.yaml"
    if not last.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_text_atomic(kept, yaml.safe_dump(record, sort_keys=False))
        return None
    if not resume:
        raise ValueError(f"{out} holds a training already: set resume to go on with it, or name another folder.")
    if not kept.exists():
        raise ValueError(f"{out} lacks training.yaml, by which a training is known again: train into another folder.")
    before = yaml.safe_load(kept.read_text())
    changed = [key for key in sorted({*before, *record}) if before.get(key) != record.get(key)]
    if changed:
        raise ValueError(
            f"{out} holds a training of another '{changed[0]}': resume with the config and data it began with, or "
            "train into another folder."
        )
    return last


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
    def of(cls, data: xr.Dataset, config: Config, scaling: Scaling, forcing_names) -> Basins:
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
            forcing={name: tensor(name) for name in forcing_names},
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
        self.trained, self.drawn, self.hook = trained, None, None
        if validation is not None:
            self.data, self.attributes = data.isel(basin=validation), basins.attributes[validation]
        if isinstance(module, DifferentiableModel):
            self.hook = module.network.register_forward_hook(self._watch)

    def leave(self) -> None:
        """The module is the user's again."""
        if self.hook is not None:
            self.hook.remove()

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
        nse = metrics.summary({"nse": metrics.nse(flow, obs)})["nse"]["median"]
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
                f"{', '.join(basins[:5])}{', ...' if len(basins) > 5 else ''}: lower the learning rate, clip the "
                "gradient, or look at that basin's data."
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
