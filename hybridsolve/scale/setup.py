"""What a continental run is made of: its files opened, held against one another, before hours are spent."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from .. import models
from ..compiler.identity import identity, refuse_another
from ..data.dataset import resolve_basins
from ..data.files import refuse_overwriting
from ..data.netcdf import is_zarr, load_netcdf, open_zarr
from ..routing.checks import reach_ids
from ..routing.files import open_network, read_gauges
from ..routing.muskingum import check_scheme
from ..routing.network import RiverNetwork
from ..routing.rivers import whole_steps
from ..solve import backends
from ..solve.check import output_names
from ..spec import ModelSpec
from .config import RunConfig
from .cut import Plan, make_plan
from .datasets import by_basin
from .source import Source, open_source


@dataclass(frozen=True)
class Setup:
    """A run's settings with what its files hold, checked.

    Attributes
    ----------
    values : dict of str to ndarray
        Parameters ``[B]``, or ``[B, M]`` of the ensemble's members or of the components.
    inputs : dict of str to ndarray ``[B]``
    members : int
        Of the ensemble; 1 where there is none.
    apart : bool
        The second axis of `values` is that of members, whose flows are kept apart.
    fluxes : list of str
    chosen : ndarray or None
        Places of the basins that are kept, in their order; None for all.
    network : RiverNetwork or None
    reach : ndarray ``[B]``
        The reach of each basin, by its place in the network.
    """

    config: RunConfig
    model: ModelSpec
    source: Source
    values: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    members: int
    apart: bool
    fluxes: list[str]
    chosen: np.ndarray | None
    network: RiverNetwork | None
    reach: np.ndarray

    @property
    def kinds(self) -> list[str]:
        """Of the stores: that of basins, and that of reaches."""
        return [""] if self.network is None else ["", ".rivers"]

    @property
    def needed(self) -> list[str]:
        """What the model must put out: also its outflow where that goes into the rivers."""
        outflow = [self.model.outflow] if self.network is not None else []
        return list(dict.fromkeys([*self.fluxes, *outflow]))

    @property
    def gauges(self) -> np.ndarray | None:
        rivers = self.config.rivers
        return None if rivers is None or rivers.gauges == "all" else read_gauges(rivers.gauges)

    @property
    def n_gauges(self) -> int:
        if self.network is None:
            return 0
        return self.network.n_reaches if self.gauges is None else len(self.gauges)

    @property
    def repeat(self) -> int:
        """Routing steps in a step of the forcing."""
        return 1 if self.config.rivers is None else whole_steps(self.source.step, self.config.rivers.dt)

    def plan(self) -> Plan:
        """How the run is cut."""
        n_basins, config = len(self.source.basins), self.config
        kept = 0 if self.chosen is None else len(self.fluxes) * len(self.chosen) * self.members
        if self.network is not None:  # lateral inflow and the copy that the router takes, discharge and what is written
            kept += 2 * self.network.n_reaches + 2 * self.repeat * self.n_gauges
        rows = len(self.model.states) + sum(line.slots - 1 for line in self.model.lines) + 16 * bool(self.model.routing)
        components = max(x.shape[1] if x.ndim > 1 else 1 for x in self.values.values())
        return make_plan(
            n_steps=len(self.source.time),
            n_basins=n_basins,
            n_forcings=len(self.source.series),
            n_outputs=len(self.needed),
            state_rows=rows * (1 if self.apart else components),
            members=self.members,
            chunk=self.source.chunk,
            kept=kept,
            memory=config.memory * 1e9,
            window=config.window,
            block=config.block,
            parts=config.parts,
        )

    @property
    def record(self) -> dict[str, Any]:
        """What must not change while a run goes on, each by the words in which a refusal names it."""
        digest = hashlib.sha256()
        for name, x in sorted({**self.values, **self.inputs}.items()):
            digest.update(f"{name} {x.shape} ".encode() + np.ascontiguousarray(x).tobytes())
        rivers: Any = None
        if self.network is not None and self.config.rivers is not None:
            about = self.config.rivers
            rivers = [self.network.fingerprint, about.scheme, about.dt, dict(about.constants), about.gauges]
        kept = None if self.chosen is None else hashlib.sha256(self.chosen.tobytes()).hexdigest()[:16]
        outputs = dict(fluxes=self.fluxes, basins=kept, compress=self.config.compress, members=self.members)
        return {
            "model": identity(self.model),
            "parameters": digest.hexdigest()[:16],
            "forcing": self.source.fingerprint,
            "rivers": rivers,
            "outputs": outputs,
        }


def make_setup(config: RunConfig) -> Setup:
    """Open and check all files of a run; raises as `run`."""
    refuse_overwriting(
        {"out": config.out},
        {"forcing": config.forcing, "parameters": config.parameters, "trained": config.trained},
    )
    stored, trained = None, None
    if config.parameters is not None:
        stored = _stored(config.parameters)
        if config.model is None and "model" not in stored.attrs:
            raise ValueError(
                f"{config.parameters} must name its model in the attribute 'model', found none; give model."
            )
        model = models.get(config.model or str(stored.attrs["model"]))
        refuse_another(model, stored.attrs.get("definition"), str(config.parameters))
    else:
        from ..training.trained import Trained

        trained = Trained.load(str(config.trained), config.backend)
        if trained.config.model == "none" or trained.config.dynamic or trained.config.network.kind != "mlp":
            raise ValueError(
                f"{config.trained} must give parameters from attributes alone, found one that needs the weather of "
                "each step; run it by `hybridsolve simulate --trained`."
            )
        model = models.get(trained.config.model)
    backends.choose(config.backend, torch.device("cpu"))
    source = open_source(config.forcing, model, config.names, config.period)
    over = "component" if trained is not None else "member"
    if trained is not None:
        stored = trained.parameters(source.static.assign_coords(time=source.time[:2], basin=source.basins))
    elif stored is not None and "start" in stored.dims:
        size = 1 if config.member == "best" else int(stored.attrs.get("ensemble_size", stored.sizes["start"]))
        stored = stored.isel(start=slice(size)).rename(start="member")
        if size == 1:
            stored = stored.isel(member=0)
    assert stored is not None
    values = by_basin(stored, model, source.basins, over)
    backends.choose(config.backend, torch.device("cpu"), model.kernel_name(values))
    second = {x.shape[1] for x in values.values() if x.ndim > 1}
    apart = bool(second) and over == "member"
    if apart and source.members:
        raise ValueError("members must be of the forcing or of the parameters, found both; run one of them at a time.")
    members = source.members or (max(second) if apart else 1)
    fluxes = output_names(model, [model.outflow] if config.fluxes is None else config.fluxes)
    chosen = None
    if config.basins is not None:
        given = config.basins if Path(config.basins).is_file() else config.basins.split(",")
        chosen = np.sort(resolve_basins(given, source.basins, config.forcing))
    network, reach = None, np.empty(0, np.int64)
    if config.rivers is not None:
        if members > 1:
            raise ValueError("rivers take one member at a time, found an ensemble; run the members one after another.")
        network, reach = _rivers(config, source)
    return Setup(
        config,
        model,
        source,
        values,
        source.inputs(model, stored),
        members,
        apart,
        list(fluxes),
        chosen,
        network,
        reach,
    )


def _stored(path: str) -> xr.Dataset:
    what = "parameters of basins, as a NetCDF file or a Zarr store"
    place = Path(path)
    return open_zarr(place, what).load() if place.is_dir() and is_zarr(place) else load_netcdf(place, what)


def _rivers(config: RunConfig, source: Source) -> tuple[RiverNetwork, np.ndarray]:
    assert config.rivers is not None
    check_scheme(config.rivers.scheme)
    whole_steps(source.step, config.rivers.dt)
    network = open_network(config.rivers.network)
    ids = reach_ids(source.basins, f"basins of {config.forcing}, which are reaches of the network,")
    reach = np.atleast_1d(network.index(ids))
    without = network.n_reaches - len(reach)
    if without:
        raise ValueError(
            f"{config.forcing} must hold the {network.n_reaches} reaches of {config.rivers.network}, found "
            f"{len(reach)} of them; prune the network, or add their forcing."
        )
    network.attribute("area")
    if config.rivers.gauges != "all":
        network.index(read_gauges(config.rivers.gauges))
    return network, reach
