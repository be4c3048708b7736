"""The batches of a training: some basins, each with a window of its own, and the loss of what is observed in it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..data.dataset import period_slice
from ..data.steps import rows_of_days, step_seconds
from ..routing.units import Units, units_of
from ..score import losses
from .config import LEAST_DAYS, Config
from .inputs import Scaling, input_tensors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Basins:
    """The training data as tensors: ``[T, B]``, attributes ``[B, A]``, weather ``[T, B, W]``, static inputs ``[B]``.

    Attributes
    ----------
    gauges : list of str
        Whose flow is observed: the basins, or with `units` the G gauges, of `qobs` and `sigma` then.
    starts : (int, int)
        The first and the last step at which a window (its warm-up) may begin.
    warmup, scored, least : int
        Steps of a window that warm up, those that are scored, and those observed that a score of its own needs.
    step : int
        Length of a step, s.
    """

    ids: list[str]
    gauges: list[str]
    units: Units | None
    forcing: dict[str, Tensor]
    inputs: dict[str, Tensor]
    qobs: Tensor
    attributes: Tensor
    weather: Tensor | None
    sigma: Tensor
    starts: tuple[int, int]
    warmup: int
    scored: int
    least: int
    step: int

    @classmethod
    def of(cls, data: xr.Dataset, config: Config, scaling: Scaling) -> Basins:
        period, batch = period_slice(data["time"].values, config.periods.train), config.batch
        warmup, scored, least = (rows_of_days(data, days) for days in (batch.warmup, batch.days, LEAST_DAYS))
        first, last = period.start - warmup, period.stop - warmup - scored
        a_day = rows_of_days(data, 1)
        if first < 0:
            raise ValueError(
                f"the training period {config.periods.train} needs {batch.warmup} days of warm-up before it, and the "
                f"data begin {period.start / a_day:g} days before: shorten batch.warmup or begin later."
            )
        if last < first:
            raise ValueError(
                f"batch.days is {batch.days}, and the training period has "
                f"{(period.stop - period.start) / a_day:g}: shorten it."
            )
        tensor = lambda name: torch.from_numpy(np.ascontiguousarray(data[name].values, dtype=np.float32))  # noqa: E731
        units, ids = units_of(data), [str(b) for b in data["basin"].values]
        qobs = tensor("qobs") if units is None else tensor("qobs")[:, units.first].contiguous()
        gauges = ids if units is None else list(units.ids)
        if batch.basins > len(gauges):
            logger.warning("batches have %d basins, all there are, and not %d.", len(gauges), batch.basins)
        return cls(
            ids=ids,
            gauges=gauges,
            units=units,
            forcing={name: tensor(name) for name in config.forcing_names},
            inputs=input_tensors(data, config),
            qobs=qobs,
            attributes=scaling.scaled_attributes(data),
            weather=scaling.scaled_weather(data),
            sigma=torch.from_numpy(np.nanstd(qobs[period].numpy().astype(np.float64), 0)),
            starts=(first, last),
            warmup=warmup,
            scored=scored,
            least=least,
            step=step_seconds(data),
        )


class Batches(torch.utils.data.Dataset):
    """The batches of one epoch."""

    def __init__(self, basins: Basins, config: Config, epoch: int, rank: int):
        self.basins, self.config, self.epoch, self.rank = basins, config, epoch, rank

    def __len__(self) -> int:
        return self.config.steps_per_epoch

    def __getitem__(self, i: int) -> dict[str, Any]:
        if i >= len(self):
            raise IndexError(i)
        x = self.basins
        draw = np.random.default_rng([self.config.seed, self.epoch, i, self.rank])
        window = torch.arange(x.warmup + x.scored)[:, None]
        for _ in range(100):
            drawn = draw.choice(len(x.gauges), min(self.config.batch.basins, len(x.gauges)), replace=False)
            at = window + torch.from_numpy(draw.integers(x.starts[0], x.starts[1] + 1, len(drawn)))
            gauge = torch.from_numpy(drawn)
            obs = x.qobs[at[x.warmup :], gauge]
            if scored(self.config.loss, obs, x.least).any():
                break
        else:
            raise ValueError(
                f"a hundred batches had no window with observations enough for loss '{self.config.loss}': lengthen "
                "batch.days, or take 'nse_batch'."
            )
        basin = gauge
        if x.units is not None:  # all units of a gauge have its window
            units, rows = x.units.of_gauges(drawn)
            basin, at = torch.from_numpy(rows), at[:, torch.from_numpy(units.gauge)]
        return dict(
            basin=basin,
            gauge=gauge,
            forcing={name: series[at, basin] for name, series in x.forcing.items()},
            inputs={name: values[basin] for name, values in x.inputs.items()},
            attributes=x.attributes[basin],
            weather=None if x.weather is None else x.weather[at, basin],
            obs=obs,
            sigma=x.sigma[gauge],
        )


def loss_of(name: str, sim: Tensor, obs: Tensor, sigma: Tensor, least: int) -> Tensor:
    """A number for a batch; of a score by series the mean over the windows that have one."""
    total = sim.new_zeros(())
    for weight, kind in losses.parts(name):
        if kind.per_series:
            part = scored(name, obs, least)
            total = total + weight * kind(obs[:, part])(sim[:, part]).mean()
        else:
            total = total + weight * losses.build(kind, obs, sigma)(sim)
    return total


def scored(name: str, obs: Tensor, least: int) -> Tensor:
    """The windows that have part in the loss; of scores by series those with `least` observations that vary."""
    seen = obs.isfinite()
    if not any(kind.per_series for _, kind in losses.parts(name)):
        return seen.any(0)
    spread = torch.where(seen, obs, -torch.inf).amax(0) - torch.where(seen, obs, torch.inf).amin(0)
    return (seen.sum(0) >= least) & (spread > 0)
