"""What a continental run is made of: its files opened, held against one another, before hours are spent."""

from __future__ import annotations

import glob
import hashlib
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from .. import models
from ..cluster import cards
from ..compiler.identity import identity, refuse_another
from ..compiler.tracing import networks_of
from ..data.dataset import resolve_basins
from ..data.files import refuse_overwriting
from ..data.ids import text_ids
from ..data.netcdf import is_zarr, load_netcdf, open_zarr
from ..routing.checks import reach_ids
from ..routing.files import open_network, read_gauges, utc_offsets
from ..routing.muskingum import check_scheme
from ..routing.network import RiverNetwork
from ..routing.rivers import whole_steps
from ..routing.units import Units, units_of
from ..solve import backends
from ..solve.bounds import bounds
from ..solve.check import output_names
from ..spec import DAY, ModelSpec
from .config import RunConfig
from .cut import SHORTEST, Plan, along, apart, cut_rivers, make_plan
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
    weights : dict of str to ndarray ``[W]``
        Of the networks inside the model's step.
    members : int
        Of the ensemble; 1 where there is none.
    apart : bool
        The second axis of `values` is that of members, whose flows are kept apart.
    fluxes : list of str
    chosen : ndarray or None
        Places of the basins that are kept, in their order; None for all.
    network : RiverNetwork or None
    reach : ndarray ``[B]``
        The reach of each basin, by its place in the network; with units that of each gauge.
    units : Units or None
        Of which gauges the basins of the forcing are units; the parameters of the hydrograph are then of the G gauges,
        and `chosen` are places of gauges.
    utc_offset : ndarray or None
        Hours ahead of UTC of each gauge of the rivers, whose means of the local day are kept.
    """

    config: RunConfig
    model: ModelSpec
    source: Source
    values: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    members: int
    apart: bool
    fluxes: list[str]
    chosen: np.ndarray | None
    network: RiverNetwork | None
    reach: np.ndarray
    units: Units | None
    utc_offset: np.ndarray | None

    @property
    def kinds(self) -> list[str]:
        """Of the stores: that of basins, that of reaches, and that of local days."""
        return ["", *([".rivers"] * (self.network is not None)), *([".days"] * (self.utc_offset is not None))]

    @property
    def catchments(self) -> np.ndarray:
        """Ids of what has an outflow: the basins, or the gauges of units."""
        return self.source.basins if self.units is None else np.array(self.units.ids)

    def blocks(self, plan: Plan, part: int = 0) -> list[slice]:
        """The basins of each block of a part, which leaves the units of a gauge together."""
        blocks = plan.blocks_of(part)
        if self.units is None:
            return blocks
        starts = np.unique(self.units.first[self.units.gauge[[block.start for block in blocks]]]).tolist()
        return [slice(a, b) for a, b in zip(starts, [*starts[1:], plan.n_basins], strict=True)]

    def catchments_of(self, cols: slice) -> slice:
        """Those of the basins of a block."""
        if self.units is None:
            return cols
        return slice(int(self.units.gauge[cols.start]), int(self.units.gauge[cols.stop - 1]) + 1)

    def kept(self, name: str) -> tuple[str, np.ndarray | None]:
        """Of an output its dimension, basin or unit, and the places along it that are held until a window has ended.

        None: all of them are written block by block, as the store is cut.
        """
        if self.units is None:
            return "basin", self.chosen
        gauges = np.arange(len(self.units.ids)) if self.chosen is None else self.chosen
        if name == self.model.outflow:
            return "basin", gauges
        return "unit", np.flatnonzero(np.isin(self.units.gauge, gauges))

    @property
    def needed(self) -> list[str]:
        """What the model must put out: also its outflow where that goes into the rivers."""
        outflow = [self.model.outflow] if self.network is not None else []
        return list(dict.fromkeys([*self.fluxes, *outflow]))

    @property
    def writes_runoff(self) -> bool:
        """Whether rivers can be routed from what the run writes: all of the outflow, as float32."""
        outflow = self.model.outflow
        return outflow in self.fluxes and outflow not in self.config.pack and self.chosen is None

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
        held = [places for _, places in map(self.kept, self.fluxes) if places is not None]
        kept, at_end, memory = sum(map(len, held)) * self.members, 0, config.memory * 1e9
        least, sizes, is_cut = 0, (0, self.repeat, self.members), False
        if self.network is not None:
            sizes, least = (self.n_gauges, *sizes[1:]), int(np.diff(self.network.first).max()) + 1
            of_window = along(self.network.n_reaches, *sizes)
            shortest = 4 * of_window * min(len(self.source.time), SHORTEST)
            is_cut = config.parts > 1 or self.writes_runoff and shortest > memory / 2
            if is_cut:
                at_end = apart(least, *sizes)
            else:
                kept += of_window
        rows = len(self.model.states) + sum(line.slots - 1 for line in self.model.lines) + 16 * bool(self.model.routing)
        components = max(x.shape[1] if x.ndim > 1 else 1 for x in self.values.values())
        plan = make_plan(
            n_steps=len(self.source.time),
            n_basins=n_basins,
            n_forcings=len(self.source.series),
            n_outputs=len(self.needed),
            state_rows=rows * (1 if self.apart else components),
            members=self.members,
            chunk=self.source.chunk,
            kept=kept,
            apart=at_end,
            memory=memory,
            window=config.window,
            block=config.block,
            parts=config.parts,
        )
        if self.network is None or not is_cut:
            return plan
        return cut_rivers(plan, least, self.network.n_reaches, *sizes, config.parts, memory)

    @property
    def record(self) -> dict[str, Any]:
        """What must not change while a run goes on, each by the words in which a refusal names it."""
        digest = hashlib.sha256()
        for name, x in sorted({**self.values, **self.inputs, **self.weights}.items()):
            digest.update(f"{name} {x.shape} ".encode() + np.ascontiguousarray(x).tobytes())
        if self.units is not None:
            digest.update(json.dumps(self.units.ids).encode() + self.units.gauge.tobytes() + self.units.share.tobytes())
        rivers: Any = None
        if self.network is not None and self.config.rivers is not None:
            about = self.config.rivers
            gauges = "all" if self.gauges is None else hashlib.sha256(self.gauges.tobytes()).hexdigest()[:16]
            offset = None if self.utc_offset is None else self.utc_offset.tolist()
            rivers = [self.network.fingerprint, about.scheme, about.dt, dict(about.constants), gauges, offset]
        kept = None if self.chosen is None else hashlib.sha256(self.chosen.tobytes()).hexdigest()[:16]
        pack = {name: packing.model_dump() for name, packing in self.config.pack.items()}
        outputs = dict(fluxes=self.fluxes, basins=kept, compress=self.config.compress, members=self.members, pack=pack)
        return {
            "model": identity(self.model),
            "parameters": digest.hexdigest()[:16],
            "forcing": self.source.fingerprint,
            "rivers": rivers,
            "outputs": outputs,
            "device": self.config.device,
        }


_OPENING = threading.Lock()


def setup_of_worker(config: RunConfig) -> Setup:
    """`make_setup`, one at a time: workers may be threads of a process, and HDF5 is not to be called by two at once."""
    with _OPENING:
        return make_setup(config)


def make_setup(config: RunConfig) -> Setup:
    """Open and check all files of a run; raises as `run`."""
    _refuse_overwriting(config)
    stored, trained, weights = None, None, {}
    if config.parameters is not None:
        stored = _stored(config.parameters)
        if config.model is None and "model" not in stored.attrs:
            raise ValueError(
                f"{config.parameters} must name its model in the attribute 'model', found none; give model."
            )
        model = models.get(config.model or str(stored.attrs["model"]))
        refuse_another(model, stored.attrs.get("definition"), str(config.parameters))
        for network in networks_of(model.key, model.optional_parameter_names):
            raise ValueError(
                f"{config.parameters} holds parameters alone, and model {model.name} calls the network "
                f"'{network.name}' in its step: learn it with `hybridsolve train`, and give trained in place "
                "of parameters."
            )
    else:
        from ..nn import DifferentiableModel
        from ..training.trained import Trained

        trained = Trained.load(str(config.trained))
        if trained.config.model == "none" or trained.config.dynamic or trained.config.network.kind != "mlp":
            raise ValueError(
                f"{config.trained} must give parameters from attributes alone, found one that needs the weather of "
                "each step; run it by `hybridsolve simulate --trained`."
            )
        model = models.get(trained.config.model)
        assert isinstance(trained.module, DifferentiableModel)
        weights = {name: x.detach().numpy() for name, x in trained.module.weights().items()}
    _check_backend(config)
    source = open_source(config.forcing, model, config.names, config.period)
    static = source.static.assign_coords(time=source.time[:2], basin=source.basins)
    units = units_of(static)
    over = "component" if trained is not None else "member"
    if trained is not None:
        stored = trained.parameters(static)
    elif stored is not None and "start" in stored.dims:
        size = 1 if config.member == "best" else int(stored.attrs.get("ensemble_size", stored.sizes["start"]))
        stored = stored.isel(start=slice(size)).rename(start="member")
        if size == 1:
            stored = stored.isel(member=0)
    assert stored is not None
    values = _values(stored, model, source, units, over)
    _check_values(values, model, source.basins if units is None else np.array(units.ids), source.basins)
    _check_backend(config, model.kernel_name(values))
    second = {x.shape[1] for x in values.values() if x.ndim > 1}
    apart = bool(second) and over == "member"
    if apart and source.members:
        raise ValueError("members must be of the forcing or of the parameters, found both; run one of them at a time.")
    members = source.members or (max(second) if apart else 1)
    fluxes = output_names(model, [model.outflow] if config.fluxes is None else config.fluxes)
    chosen = None
    if config.basins is not None:
        given = config.basins if Path(config.basins).is_file() else config.basins.split(",")
        ids = source.basins if units is None else np.array(units.ids)
        chosen = np.sort(resolve_basins(given, ids, config.forcing))
    if units is not None and config.parts > 1:
        raise ValueError(f"a run of units of gauges has one part, found parts: {config.parts}; leave parts out.")
    network, reach, utc_offset = None, np.empty(0, np.int64), None
    if config.rivers is not None:
        network, reach, utc_offset = _rivers(config, source, units)
        if config.parts > 1 and (model.outflow not in fluxes or model.outflow in config.pack):
            how = "packed" if model.outflow in config.pack else "not among the fluxes"
            raise ValueError(
                f"rivers of several parts are routed from what the run writes of {model.outflow}, found it {how}; "
                "write it as float32, or leave parts out."
            )
    written = [
        *fluxes,
        *(["discharge"] * (network is not None)),
        *(["discharge_daily_mean"] * (utc_offset is not None)),
    ]
    if unknown := [name for name in config.pack if name not in written]:
        raise ValueError(f"pack must name what is written, {', '.join(written)}; found {unknown[0]}: correct it.")
    return Setup(
        config,
        model,
        source,
        values,
        source.inputs(model, stored),
        weights,
        members,
        apart,
        list(fluxes),
        chosen,
        network,
        reach,
        units,
        utc_offset,
    )


def _check_backend(config: RunConfig, kernel: str | None = None) -> None:
    """Raise if the backend cannot run here; of GPUs that are elsewhere the workers know."""
    if config.device == "cpu" or cards():
        backends.choose(config.backend, torch.device(config.device), kernel)


def _refuse_overwriting(config: RunConfig) -> None:
    """Raise if the output is one of the inputs, lies in one or holds one."""
    inputs = {"forcing": config.forcing, "parameters": config.parameters, "trained": config.trained}
    if config.rivers is not None:
        inputs["rivers.network"] = config.rivers.network
    refuse_overwriting({"out": config.out}, inputs)
    out = Path(config.out).resolve()
    for name, given in inputs.items():
        for path in () if given is None else (sorted(glob.glob(given)) or [given]):
            place = Path(path).resolve()
            if out.is_relative_to(place) or place.is_relative_to(out):
                raise ValueError(
                    f"out must be a folder apart from {name}, found {config.out} and {path}; name another folder."
                )


def _check_values(values: dict[str, np.ndarray], model: ModelSpec, gauges: np.ndarray, basins: np.ndarray) -> None:
    """Raise if a parameter is out of bounds, of which a kernel knows no basin."""
    for v in model.every_parameter:
        if v.name not in values:
            continue
        x, (lower, upper) = values[v.name].astype(np.float32), bounds(v, torch.float32)
        bad = ~((x >= lower) & (x <= upper))
        if bad.any():
            ids = gauges if v.name in model.routing_parameter_names else basins
            least, most = v.taken
            raise ValueError(
                f"parameter '{v.name}' must lie in [{least:g}, {most:g}] {v.unit}, found {x[bad][0]:g} in basin "
                f"{ids[np.argwhere(bad)[0][0]]} ({int(bad.sum())} such values); correct it, or leave out that basin."
            )


def _values(
    stored: xr.Dataset, model: ModelSpec, source: Source, units: Units | None, over: str
) -> dict[str, np.ndarray]:
    """Parameters of the basins; with units, which have their own or those of their gauge, the hydrograph's of gauges.

    Where each unit has its own, the hydrograph of a gauge has the means by area of its units' parameters.
    """
    if units is None:
        return by_basin(stored, model, source.basins, over)
    known = text_ids(stored["basin"].values, "basins of the parameters") if "basin" in stored.coords else source.basins
    if np.isin(source.basins, known).all():
        values, at = by_basin(stored, model, source.basins, over), model.routing_parameter_names
        return {n: units.summed(torch.tensor(x), 0).numpy() if n in at else x for n, x in values.items()}
    values = by_basin(stored, model, np.array(units.ids), over)
    return {n: x if n in model.routing_parameter_names else x[units.gauge] for n, x in values.items()}


def _stored(path: str) -> xr.Dataset:
    what = "parameters of basins, as a NetCDF file or a Zarr store"
    place = Path(path)
    return open_zarr(place, what).load() if place.is_dir() and is_zarr(place) else load_netcdf(place, what)


def _rivers(
    config: RunConfig, source: Source, units: Units | None
) -> tuple[RiverNetwork, np.ndarray, np.ndarray | None]:
    """The network, the reach of each basin or gauge of units, and the gauges' hours ahead of UTC."""
    assert config.rivers is not None
    check_scheme(config.rivers.scheme)
    whole_steps(source.step, config.rivers.dt)
    network = open_network(config.rivers.network)
    what = "basins" if units is None else "gauges of the units"
    ids = reach_ids(
        source.basins if units is None else np.array(units.ids),
        f"{what} of {config.forcing}, which are reaches of the network,",
    )
    reach = np.atleast_1d(network.index(ids))
    without = network.n_reaches - len(reach)
    if without:
        raise ValueError(
            f"{config.forcing} must hold the {network.n_reaches} reaches of {config.rivers.network}, found "
            f"{len(reach)} of them; prune the network, or add their forcing."
        )
    network.attribute("area")
    gauges = None if config.rivers.gauges == "all" else read_gauges(config.rivers.gauges)
    if gauges is not None:
        network.index(gauges)
    offset = None
    if config.rivers.local_days is not None:
        offset = utc_offsets(config.rivers.local_days, network, gauges)
        whole_steps(DAY, config.rivers.dt)
    return network, reach, offset
