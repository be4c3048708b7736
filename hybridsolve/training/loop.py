"""train(): a network in front of the solver, trained on many basins by Lightning, and resumed to the same bits.

All data lie in memory once, as tensors. A batch is some basins, each with a window of its own, and is a function of
seed, epoch and step alone; so are dropout's draws. What an epoch leaves is therefore the same whether the run before it
was stopped or not.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import xarray as xr
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch import Tensor, nn

from .. import memory, models
from .._extras import MissingPackage
from ..arguments import MOST_DEVICES, boolean, integer
from ..climate import with_climate
from ..data.climate_attributes import with_climate_attributes
from ..data.dataset import check_dataset
from ..data.ids import listed
from ..data.methods import forcing_methods
from ..data.steps import step_seconds
from ..data.usable import refuse_outside, usable_basins, used_days, varies
from ..nn import DifferentiableModel
from ..score import metrics
from ..solve import backends
from ..solve.trial import try_model
from ..spec import DAY
from .batches import Basins, Batches, loss_of
from .checkpoints import BestCheckpoint, alone_in, check_folder, is_first, prepare, read_checkpoint, read_finished
from .config import Config, read_config
from .inputs import Scaling, input_tensors
from .trained import Trained, make_module, predict_flow, single_precision

logger = logging.getLogger(__name__)
ACCELERATORS = ("auto", "cpu", "gpu", "cuda")


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
    backend: str = "auto",
) -> Trained:
    """Train a network in front of a model on all basins of a dataset.

    Parameters
    ----------
    data : xarray.Dataset
        Of `hybridsolve.data.open_dataset`: forcing and `qobs` ``[time, basin]``, attributes ``[basin]``. Where the
        coordinate `gauge` ``[basin]`` names the gauge of each, the basins are its units, with areas `area_km2`: the
        network gives parameters to each, and the loss sees the flow at the gauge (see docs/grids-and-units.md).
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
    backend : str
        Of the solver, as for `simulate`.

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
    check_model(config, backend, accelerator)
    data = usable(data, config, skip_unusable)
    methods = forcing_methods(data, config.forcing_names)
    if config.pet is not None and methods and config.pet not in methods.values():
        raise ValueError(
            f"the config has pet '{config.pet}'; found data made by '{', '.join(methods.values())}': make them agree."
        )
    out = Path(out)
    scaling = fit_scaling(data, config)
    validation = None if config.periods.validation is None else _validation_basins(data, config.periods.validation)
    basins = Basins.of(data, config, scaling)
    check_folder(out, "training", resume, overwrite)
    with alone_in(out), single_precision():
        last = prepare(out, config, data, resume, overwrite)
        if resume and (out / "trained.pt").exists():
            return read_finished(out / "trained.pt", backend)
        torch.manual_seed(config.seed)
        module = make_module(config, backend)
        trained = Trained.of(module, config, scaling, data)
        training = _Training(module, config, basins, trained, data, validation)
        options = dict(accelerator=accelerator, devices=devices, strategy="ddp" if devices > 1 else "auto")
        loggers = dict(csv=CSVLogger, tensorboard=TensorBoardLogger)
        with memory.kept():
            _run(training, config, out, last, progress, logger=loggers[log](out, name="logs"), **options)
        training.remove_hooks()
        best = out / "checkpoints" / ("best.ckpt" if config.periods.validation else "last.ckpt")
        read_checkpoint(best, module, config)
        module.cpu().eval()
        if is_first():
            trained.save(out / "trained.pt")
    return trained


def check_options(accelerator: str, devices: int, log: str, resume: bool, overwrite: bool) -> None:
    """Raise if an option of `train` is invalid."""
    if log not in ("csv", "tensorboard"):
        raise ValueError(f"log must be 'csv' or 'tensorboard'; found {log!r}: choose one.")
    if log == "tensorboard" and not any(map(importlib.util.find_spec, ("tensorboard", "tensorboardX"))):
        raise MissingPackage("log 'tensorboard'", "tensorboard")
    if accelerator not in ACCELERATORS:
        raise ValueError(f"accelerator must be one of {', '.join(ACCELERATORS)}; found {accelerator!r}: choose one.")
    integer("devices", devices, 1, MOST_DEVICES)
    if boolean("resume", resume) and boolean("overwrite", overwrite):
        raise ValueError("resume goes on with a run and overwrite begins anew, found both: choose one.")


def check_model(config: Config, backend: str, accelerator: str) -> None:
    """Raise if the config's model cannot be run by the backend, or a function of its table is wrong."""
    gpu = accelerator in ("gpu", "cuda") or accelerator == "auto" and torch.cuda.is_available()
    device, kernel = torch.device("cuda" if gpu else "cpu"), None
    if config.model != "none":
        try_model(models.get(config.model))
        kernel = config.layout.model.kernel_name(config.layout.names)
    backends.choose(backend, device, kernel)


def _run(training: _Training, config: Config, out: Path, last: Path | None, progress: bool, **options: Any) -> None:
    """Train from the last checkpoint, or from the start, unless early stopping has ended the training."""
    monitor: dict[str, Any] = dict(monitor="validation_nse", mode="max") if config.periods.validation else {}
    keep: dict[str, Any] = dict(dirpath=out / "checkpoints", save_on_train_epoch_end=True)
    callbacks: list[Callback] = []
    if monitor:
        callbacks.append(BestCheckpoint(filename="best", enable_version_counter=False, **monitor, **keep))
        if config.patience:
            callbacks.append(
                EarlyStopping("validation_nse", mode="max", patience=config.patience, check_on_train_epoch_end=False)
            )
    # Last, since it saves the state of the others.
    callbacks.append(ModelCheckpoint(filename="last", enable_version_counter=False, **keep))
    callbacks += [_Rate(), *([_Bar(refresh_rate=1)] if progress else [])]
    if last is not None:
        if monitor and (best := out / "checkpoints" / "best.ckpt").exists():
            read_checkpoint(best, training.module, config)
        states = read_checkpoint(last, training.module, config)["callbacks"].values()
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
def _quiet() -> Iterator[None]:
    """Silence the notices and advertisements of libraries; what they print goes to stderr."""
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
            for category in (DeprecationWarning, FutureWarning):  # between libraries
                warnings.filterwarnings("ignore", category=category, module="torch|pytorch_lightning|lightning")
            warnings.filterwarnings("ignore", message=r".*torch\.jit\..*deprecated.*")
            yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.setLevel(level)


def _fit(trainer: pl.Trainer, training: _Training, last: Path | None) -> None:
    """Run Lightning's fit; raise a stop from outside as such, and name a checkpoint that does not fit."""
    try:
        trainer.fit(training, ckpt_path=last, weights_only=True)
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None  # Lightning would exit with 0
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


def _trainer(**options: Any) -> pl.Trainer:
    try:
        return pl.Trainer(**options)
    except MisconfigurationException as error:
        raise ValueError(f"accelerator and devices do not fit this machine: {' '.join(str(error).split())}") from None


Tqdm.monitor_interval = 0  # tqdm's monitor is a thread that outlives the bar


class _Bar(TQDMProgressBar):
    """Ends before an error is printed."""

    def on_exception(self, *_: Any) -> None:
        for bar in (
            self._val_progress_bar,
            self._train_progress_bar,
        ):  # the lower first: it goes up a line
            if bar is not None:
                bar.close()


def _validation_basins(data: xr.Dataset, period: Any) -> np.ndarray:
    """The basins that have a score in the validation period; a warning names the others, which do not count."""
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
    boolean("skip_unusable", skip)
    model = None if config.model == "none" else models.get(config.model)
    check_dataset(data, forcing_names=config.forcing_names, need_qobs=True, values=False, model=model)
    if model is not None:
        model.check_step(step_seconds(data))
    p = config.periods
    periods = [period for period in (p.train, p.validation, p.test) if period is not None]
    data = used_days(data, periods, config.warmup_years, config.batch.warmup)
    if model is not None:
        data = with_climate(data, model, p.train)
    data = with_climate_attributes(data, config.attributes, p.train)
    data = data.isel(basin=usable_basins(data, config.forcing_names, p.train, skip=skip))
    check_dataset(data, forcing_names=config.forcing_names, need_qobs=True, model=model)
    if model is not None:
        refuse_outside(data, model)
        input_tensors(data, config)
    return data


def fit_scaling(data: xr.Dataset, config: Config) -> Scaling:
    """Fit the scaling of the config's attributes and weather to the basins of `data` in the training period."""
    return Scaling.fit(data, config.attributes, config.fill, config.weather, config.periods.train, config.model)


class _Training(pl.LightningModule):
    def __init__(
        self,
        module: nn.Module,
        config: Config,
        basins: Basins,
        trained: Trained,
        data: xr.Dataset,
        validation: np.ndarray | None,
    ):
        super().__init__()
        self.module, self.config, self.basins = module, config, basins
        self.drawn: Tensor  # the basins of the batch
        self.trained, self.began = trained, False
        self.hooks: list[torch.utils.hooks.RemovableHandle] = []
        if validation is not None:
            self.data, self.attributes = data.isel(basin=validation), basins.attributes[validation]
        if isinstance(module, DifferentiableModel):
            self.hooks.append(module.network.register_forward_hook(self._check_parameters))
            for name, network in module.fluxes.items():
                self.hooks.append(network.register_forward_hook(functools.partial(self._check_weights, name)))

    def remove_hooks(self) -> None:
        """Take the checks off the module, which is the user's."""
        for hook in self.hooks:
            hook.remove()

    def on_train_start(self) -> None:
        self.began = True

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        batches = Batches(self.basins, self.config, self.current_epoch, self.global_rank)
        return torch.utils.data.DataLoader(batches, batch_size=None, shuffle=False)

    def val_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader([0], batch_size=None)  # type: ignore[arg-type]  # a sequence is a Dataset

    def training_step(self, batch: dict[str, Any], i: int) -> Tensor:
        # The draws of dropout, too, are a function of the seed, the epoch and the step alone.
        key = [self.config.seed, self.current_epoch, i, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        self.drawn, units = batch["basin"], self.basins.units
        run = self.module(
            batch["forcing"],
            batch["attributes"],
            batch["weather"],
            inputs=batch["inputs"],
            step=self.basins.step,
            warmup=self.basins.warmup,
            warmup_gradient=self.config.batch.warmup_gradient,
            units=None if units is None else units.of_gauges(batch["gauge"].cpu().numpy())[0],
        )
        flow = run.fluxes[self.module.outflow]
        loss = loss_of(self.config.loss, flow, batch["obs"], batch["sigma"], self.basins.least)
        if not torch.isfinite(loss):
            bad = batch["gauge"][~torch.isfinite(flow).all(0)]
            raise FloatingPointError(
                f"the loss is {loss.item()} in step {self.global_step}, for basins "
                f"{', '.join(self.basins.gauges[i] for i in bad.tolist()) or 'with finite flow'}: "
                "lower the learning rate or look at their data."
            )
        self.log("loss", loss, prog_bar=True, batch_size=1)
        return loss

    def validation_step(self, *_: Any) -> None:
        flow, obs = predict_flow(self.trained, self.data, self.config.periods.validation, self.attributes)
        nse = metrics.summary({"nse": metrics.nse(flow, obs)})["nse"]["median"]  # every basin has observations
        self.log("validation_nse", float(nse), prog_bar=True, batch_size=1, sync_dist=self.trainer.world_size > 1)

    def configure_optimizers(self) -> Any:
        o = self.config.optimiser
        kind = dict(adam=torch.optim.Adam, adamw=torch.optim.AdamW, adadelta=torch.optim.Adadelta)[o.name]
        optimiser = kind(self.module.parameters(), lr=o.learning_rate, weight_decay=o.weight_decay)
        if o.schedule == "constant":
            return optimiser
        steps = self.config.epochs * self.config.steps_per_epoch
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        return dict(optimizer=optimiser, lr_scheduler=dict(scheduler=schedule, interval="step"))

    def _check_parameters(self, _module: nn.Module, _inputs: Any, raw: dict[str, Tensor]) -> None:
        """Check that the parameters and their gradients are finite."""
        if not self.training:
            return
        for name, x in raw.items():
            self._check_finite(x, name, "value")
            if x.requires_grad:
                x.register_hook(lambda g, name=name: self._check_finite(g, name, "gradient"))

    def _check_weights(self, name: str, _module: nn.Module, _inputs: Any, weights: Tensor) -> None:
        """Check that the weights of a network inside the step and their gradient are finite."""

        def check(x: Tensor, what: str) -> None:
            if not x.isfinite().all():
                raise FloatingPointError(
                    f"the {what} of the network '{name}' inside the step is no longer finite in step "
                    f"{self.global_step}: lower the learning rate, or clip the gradient."
                )

        check(weights.detach(), "weights")
        if weights.requires_grad:
            weights.register_hook(lambda g: check(g, "gradient"))

    def _check_finite(self, x: Tensor, name: str, what: str) -> None:
        if x.detach().sum().isfinite():  # one pass over what is large; a sum that overflows is looked at below
            return
        bad = ~torch.isfinite(x)
        if bad.any():
            basins = self._ids(bad.movedim(-2, 0).flatten(1).any(1))
            raise FloatingPointError(
                f"the {what} of parameter '{name}' is no longer finite in step {self.global_step} for basin "
                f"{listed(basins)}: lower the learning rate, clip the gradient, or look at that basin's data."
            )

    def _ids(self, bad: Tensor) -> list[str]:
        return [self.basins.ids[i] for i in self.drawn[bad].tolist()]


class _Rate(Callback):
    """Log basins x days per second over the epoch so far."""

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, i: int) -> None:
        if i == 0:
            self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, i: int) -> None:
        done = (i + 1) * batch["obs"].numel() * trainer.world_size * module.basins.step / DAY
        rate = done / (time.perf_counter() - self.began)
        module.log("basin_days_per_s", rate, prog_bar=True, batch_size=1)
