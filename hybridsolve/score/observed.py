"""Observations that a loss is made of: mask, checks, and which basins cannot be scored."""

from __future__ import annotations

import numpy as np
import torch


class UnusableObservations(ValueError):
    """Basins whose observations cannot be scored.

    Attributes
    ----------
    basins : list of int
        Their indices on the basin axis.
    """

    def __init__(self, message, basins):
        super().__init__(message)
        self.basins = basins


def refuse(bad, what, remedy):
    """Raise for the basins of `bad` [B] (bool), by index; the caller knows their names."""
    if bool(bad.any()):
        basins = bad.nonzero()[:, 0].tolist()
        shown = ", ".join(map(str, basins[:10])) + (", ..." if len(basins) > 10 else "")
        which = f"basin {shown}" if len(basins) == 1 else f"{len(basins)} basins ({shown})"
        raise UnusableObservations(f"obs must be {what}, which does not hold for {which}: {remedy}.", basins)


def _refuse_no_tensor(name, x):
    if isinstance(x, np.ma.MaskedArray):
        # torch.as_tensor would drop the mask.
        raise TypeError(
            f"{name} must be a torch tensor, found a masked array: write torch.as_tensor(np.ma.filled(x, np.nan))."
        )
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a torch tensor, found {type(x).__name__}: wrap it in torch.as_tensor.")


class Observed:
    """Observations, mask and the checks common to all losses."""

    #: Whether the result is one number per series ([B] or [B, C]) and not a scalar.
    per_series: bool

    def __init__(self, obs, *, dtype=None):
        _refuse_no_tensor("obs", obs)
        if obs.ndim != 2 or obs.shape[0] == 0 or obs.shape[1] == 0:
            raise ValueError(
                f"obs must be [T, B] (steps x basins), none empty, found shape {tuple(obs.shape)}: starts "
                "are an axis of sim only, and one basin is [T, 1]."
            )
        dtype = obs.dtype if dtype is None else dtype
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"dtype must be torch.float32 or torch.float64, found {dtype}: give the dtype of sim.")
        if obs.requires_grad:
            raise ValueError("obs must be constant, found requires_grad=True: give obs.detach().")
        if bool(torch.isinf(obs).any()):
            t, b = torch.isinf(obs).nonzero()[0].tolist()
            raise ValueError(
                f"obs must be finite or NaN (missing), found {obs[t, b].item()} on step {t} in basin {b}: "
                "mark missing steps with NaN."
            )
        self.dtype, self.device = dtype, obs.device
        self.mask = ~torch.isnan(obs)
        self.n = self.mask.sum(0)
        self.obs = torch.where(self.mask, obs, 0).to(dtype)
        self._obs64 = torch.where(self.mask, obs, 0).double()

    def _check(self, sim):
        _refuse_no_tensor("sim", sim)
        if sim.ndim not in (2, 3) or sim.shape[:2] != self.mask.shape or sim.shape[-1] == 0:
            t, b = self.mask.shape
            raise ValueError(
                f"sim must be [T, B] or [T, B, C] with T = {t} and B = {b} as in obs, found shape "
                f"{tuple(sim.shape)}: cut the warm-up off both."
            )
        if sim.dtype != self.dtype or sim.device != self.device:
            raise TypeError(
                f"sim must be {self.dtype} on {self.device} like the loss, found {sim.dtype} on "
                f"{sim.device}: build the loss from obs on that device with dtype=sim.dtype."
            )
        return sim

    def _aligned(self, x, sim):
        """`x` [T, B] or [B] with a starts axis if `sim` has one."""
        return x.unsqueeze(-1) if sim.ndim == 3 else x
