"""The models behind the Basic Model Interface, for NextGen and other frameworks: one catchment, or many in one call.

Sources: Hutton et al. (2020, doi 10.21105/joss.02317) for the interface; NextGen (github.com/NOAA-OWP/ngen,
AorcForcing.hpp) for names and units of forcing, and for runoff in metres.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .. import models
from .._extras import needed_for
from ..arguments import integer
from ..compiler.identity import identity, refuse_another
from ..data.files import check_target, refuse_overwriting
from ..data.ids import listed, read_text, refuse_duplicates, text_ids
from ..data.units import convert, is_ours, unit_at
from ..routing.gauge import simulate_to_gauge

with needed_for("the Basic Model Interface"):
    import xarray as xr
    from bmipy import Bmi

    from ..configuration import checked, read_yaml
    from ..data.names import role_of
    from ..data.netcdf import load_netcdf, write_netcdf
    from .bmi_config import STANDARD, UNITS, Array, Input, Settings, parameters_of_file

DEPTH, NGEN_DEPTH, FLOW = "land_surface_water__runoff_depth", "Q_OUT", "land_surface_water__runoff_volume_flux"
MEMORY = "hydrograph_memory"
STATE_FILE = "a state of the Basic Model Interface of hybridsolve"


class Catchments(Bmi):
    """Catchments of one model, side by side on grid 0, which `initialize` makes of a YAML file; see `Settings`.

    Inputs are the forcings. Outputs are the runoff at the outlet as a depth (m) and, where areas are given, as a volume
    flux (m3 s-1), the table's fluxes, of which the outflow is routed too, and its states, all float64. States,
    hydrograph_memory and contents of delay lines can be set as well. After a call of many steps the depth is the sum of
    the call's steps, the volume flux their mean, and everything else as in the last step. Times are seconds since the
    start.
    """

    def __init__(self) -> None:
        self._values: dict[str, Array] = {}
        self._units: dict[str, str] = {}
        self._steps = 0

    # --- Running ---------------------------------------------------------------------------------------------------

    def initialize(self, config_file: str) -> None:
        """Read a configuration and make the catchments of it.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            If a key is unknown or ill-typed, a unit of another kind, a catchment without parameters, or a value out of
            its bounds; if the state is another model's, or lacks a catchment.
        """
        path = Path(config_file)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist, expected a configuration in YAML; check the path.")
        values = read_yaml(read_text(path, "a configuration in YAML"), str(path))
        try:
            self._set_up(checked(Settings, values, str(path)), str(path))
        except BaseException:
            self._values = {}  # nothing half made
            raise

    def _set_up(self, settings: Settings, where: str) -> None:
        model = models.get(settings.model)
        model.check_step(integer("step", settings.step, 1))
        self._model, self._settings, self._steps = model, settings, 0
        self._values, self._units = {}, {}
        self._ids = text_ids(np.array(settings.ids, dtype=object), f"ids of {where}")
        refuse_duplicates(self._ids, f"ids of {where}")
        self._start = np.datetime64(settings.start, "s")
        self._end = None if settings.end is None else (np.datetime64(settings.end, "s") - self._start).astype(int)
        if self._end is not None and self._end < settings.step:
            raise ValueError(f"end of {where} must lie a step or more after start; found {settings.end}: correct it.")
        if model.variable(model.outflow).unit != "mm d-1":
            raise ValueError(f"the outflow of model {model.name} must be in mm d-1 for its depth in m: take another.")
        if settings.write_state is not None:
            refuse_overwriting({"write_state": settings.write_state}, {"state": settings.state, "config": where})
            check_target("write_state", settings.write_state)
        self._areas = None if settings.areas is None else self._each(settings.areas, f"areas of {where}")
        if self._areas is not None and not (self._areas > 0).all():
            raise ValueError(f"areas of {where} must be above 0 km2; found {self._areas.min():g}: correct it.")
        given: Mapping[str, Any] | str = settings.parameters
        given = parameters_of_file(given, model, self._ids) if isinstance(given, str) else given
        self._parameters = self._tensors(given, f"parameters of {where}")
        self._inputs = {name: x[:, 0] for name, x in self._tensors(settings.inputs, f"inputs of {where}").items()}
        self._set_up_inputs(where)
        self._set_up_state()
        for v in model.fluxes:
            self._add(v.name, np.full(len(self._ids), np.nan), unit_at(v.unit, settings.step))
        flow = () if self._areas is None else (FLOW,)
        for name in (DEPTH, NGEN_DEPTH, *flow):
            self._add(name, np.full(len(self._ids), np.nan), "m3 s-1" if name == FLOW else "m")
        if settings.state is not None:
            self.load_state(settings.state)

    def update(self) -> None:
        """Go one step on with the inputs as they are; see `update_until`."""
        self.update_until((self._steps + 1) * self._initialised.step)

    def update_until(self, time: float) -> None:
        """Go on to a time, in one call of the kernel, with the inputs as they are in every step.

        Raises
        ------
        ValueError
            If the time has passed, lies beyond the end or between two steps, an input was never set, or a value is out
            of its bounds.
        """
        step = self._initialised.step
        now = self._steps * step
        if time < now:
            raise ValueError(f"time must not go back from {now} s; found {time:g} s: initialize anew, or load a state.")
        n = round((time - now) / step)
        if abs(now + n * step - time) > 1e-6:
            raise ValueError(
                f"time must be a multiple of the step of {step} s; found {time:g} s: stop at a step's end."
            )
        if n:
            self._go_on({name: self._values[name][None] for name in self.get_input_var_names()}, n)

    def update_series(self, series: Mapping[str, ArrayLike], outputs: Sequence[str] = (DEPTH,)) -> dict[str, Array]:
        """Go many steps on, each with inputs of its own, in one call of the kernel; no part of the interface.

        Parameters
        ----------
        series : mapping of str to array ``[T, B]``
            Every input by name, in its unit, of the catchments in their order.
        outputs : sequence of str
            Depth, volume flux, fluxes and states.

        Returns
        -------
        dict of str to float64 ``[T, B]``
            Of every step, in the outputs' units.

        Raises
        ------
        ValueError
            As `update_until`, or if a series is missing, of another shape or of no input.
        """
        self._initialised  # noqa: B018 - raises
        names = self.get_input_var_names()
        if set(series) != set(names):
            raise ValueError(
                f"series must hold {listed(names)}; found {listed(series)}: give each input, and no other."
            )
        for name in outputs:
            if name not in self.get_output_var_names():
                raise ValueError(
                    f"outputs must be among {', '.join(self.get_output_var_names())}; found '{name}': correct it."
                )
        arrays = {name: np.asarray(series[name], dtype=np.float64) for name in names}
        n = max((len(x) for x in arrays.values() if x.ndim), default=0)
        for name, x in arrays.items():
            if n == 0 or x.shape != (n, len(self._ids)):
                raise ValueError(
                    f"series '{name}' must be [{n}, {len(self._ids)}], steps and catchments as the others; found "
                    f"{list(x.shape)}: reshape it."
                )
        found = self._go_on(arrays, n)
        for name, x in arrays.items():
            self._values[name][:] = x[-1]
        return {name: found[name] for name in outputs}

    def finalize(self) -> None:
        """Write the state where the configuration names a file, and forget the catchments."""
        if self._values and self._settings.write_state is not None:
            self.save_state(self._settings.write_state)
        self._values = {}

    def _go_on(self, given: Mapping[str, Array], n: int) -> dict[str, Array]:
        """Run n steps with the inputs ``[n or 1, B]``, keep what they leave behind, and give the series ``[n, B]``."""
        model, step = self._model, self._settings.step
        if self._end is not None and (self._steps + n) * step > self._end:
            raise ValueError(f"time must not pass the end, {self._settings.end}: set a later end, or stop before.")
        for name, x in given.items():
            if not np.isfinite(x).all():
                b = int(np.argwhere(~np.isfinite(x))[0][-1])
                raise ValueError(
                    f"input '{name}' must be a finite number in every catchment; found none in {self._ids[b]}: set it "
                    "before each update, or give its value in the configuration."
                )
        forcing = {
            row: torch.from_numpy(given[name] * self._factors[name] + self._offsets[name]).expand(n, -1)
            for row, name in self._names.items()
        }
        states = model.state_names
        run = self._simulate(forcing, self._state, self._memory, (*model.flux_names, *states))
        for name, x in run.final_state.items():
            self._values[name][:] = x[..., 0].numpy()
        if run.memory is not None:
            self._values[MEMORY][:] = run.memory.numpy()
        series = {name: x.numpy() for name, x in run.fluxes.items()}
        series[DEPTH] = series[NGEN_DEPTH] = series[model.outflow] / 1000
        for name in model.flux_names:
            self._values[name][:] = series[name][-1]
        for name in (DEPTH, NGEN_DEPTH):
            self._values[name][:] = series[name].sum(0)
        if self._areas is not None:
            series[FLOW] = series[DEPTH] * (self._areas * 1e6 / step)
            self._values[FLOW][:] = series[FLOW].mean(0)
        self._steps += n
        return series

    def _simulate(self, forcing: Mapping[str, Tensor], state: Any, memory: Tensor | None, fluxes: Sequence[str]) -> Any:
        with torch.no_grad():
            return simulate_to_gauge(
                self._model,
                forcing,
                self._parameters,
                inputs=self._inputs,
                step=self._settings.step,
                initial_state=state,
                memory=memory,
                fluxes=fluxes,
            )

    @property
    def _state(self) -> dict[str, Tensor]:
        names = (*self._model.state_names, *self._model.line_names)
        return {name: torch.from_numpy(self._values[name])[..., None] for name in names}

    @property
    def _memory(self) -> Tensor | None:
        return torch.from_numpy(self._values[MEMORY]) if MEMORY in self._values else None

    @property
    def _initialised(self) -> Settings:
        if not self._values:
            raise ValueError("the catchments must be initialized first; found none: call initialize with a file.")
        return self._settings

    # --- Setting up ------------------------------------------------------------------------------------------------

    def _each(self, values: float | list[float] | Array, what: str) -> Array:
        """A number of every catchment ``[B]``."""
        x = np.array(values, dtype=np.float64)
        if x.ndim and len(x) != len(self._ids):
            raise ValueError(f"{what} must be one number, or {len(self._ids)} as ids; found {len(x)}: correct it.")
        return np.broadcast_to(x, len(self._ids)).copy()

    def _tensors(self, given: Mapping[str, Any], what: str) -> dict[str, Tensor]:
        return {name: torch.from_numpy(self._each(x, f"{name} of {what}"))[:, None] for name, x in given.items()}

    def _set_up_inputs(self, where: str) -> None:
        model, settings = self._model, self._settings
        for row in settings.forcing:
            if row not in model.forcing_names:
                raise ValueError(
                    f"forcing of {where} has '{row}', which {model.name} does not take; expected any of "
                    f"{', '.join(model.forcing_names)}: remove or rename it."
                )
        self._names: dict[str, str] = {}
        self._factors: dict[str, Array] = {}
        self._offsets: dict[str, Array] = {}
        for v in model.forcings:
            ours = unit_at(v.unit, settings.step)
            said = settings.forcing.get(v.name) or Input(name=STANDARD.get(role_of(v.name), v.name))
            unit = said.unit or UNITS.get(said.name) or (ours if said.name == v.name else None)
            what = f"forcing '{said.name}' of {where}"
            if unit is None:
                raise ValueError(f"{what} must come with its unit, as NextGen has no such name; found none: add unit.")
            two = np.broadcast_to([[0.0], [1.0]], (2, len(self._ids))).copy()
            if not is_ours(unit, ours):
                two, _ = convert(two, unit, ours, what, summed=True, area=self._km2, step_seconds=settings.step)
            self._offsets[said.name], self._factors[said.name] = two[0], two[1] - two[0]
            self._names[v.name] = said.name
            value = np.nan if said.value is None else said.value
            self._add(said.name, np.full(len(self._ids), value), unit)

    def _km2(self) -> Array:
        if self._areas is None:
            raise ValueError("a forcing that is a volume needs areas in km2; found none: add areas.")
        return self._areas

    def _set_up_state(self) -> None:
        """The stores where the table says that a run starts; an empty hydrograph, as long as a trial step has it."""
        model, like = self._model, torch.zeros(1, len(self._ids), dtype=torch.float64)
        forcing = {v.name: like.clamp(v.lower, v.upper) for v in model.forcings}
        trial = self._simulate(forcing, None, None, (model.outflow,))  # refuses what is wrong with the parameters
        rows = model.present_parameters(self._parameters)
        defaults = {v.name: torch.full((1, 1), v.default) for v in rows if v.default is not None}
        first = model.initial_state(defaults | self._parameters)
        for s in model.states:
            x = first[s.name]
            self._add(s.name, self._each(x[..., 0].numpy() if isinstance(x, Tensor) else x, s.name), s.unit)
        for line in model.lines:
            self._add(line.name, np.zeros((line.slots - 1, len(self._ids))), line.unit)
        if trial.memory is not None:
            unit = unit_at(model.variable(model.outflow).unit, self._settings.step)  # type: ignore[union-attr]
            self._add(MEMORY, np.zeros(trial.memory.shape), unit)

    def _add(self, name: str, values: Array, unit: str) -> None:
        if name in self._values:
            raise ValueError(f"the name '{name}' must belong to one variable; found two: rename the forcing.")
        self._values[name], self._units[name] = values, unit

    # --- Warm states -----------------------------------------------------------------------------------------------

    def save_state(self, path: str | Path) -> Path:
        """Write states, delay lines and hydrograph memory to a NetCDF file, whole or not at all.

        Raises
        ------
        OSError
            As `write_netcdf`.
        """
        self._initialised  # noqa: B018 - raises
        out = xr.Dataset(
            coords={"basin": self._ids, "time": self._now},
            attrs={"title": STATE_FILE, "model": self._model.name, "definition": identity(self._model)},
        )
        out.attrs["step"] = self._settings.step
        for name in self._stores:
            x = self._values[name]
            dims = ("basin",) if x.ndim == 1 else (f"{name}_slot", "basin")
            out[name] = (dims, x.copy(), {"units": self._units[name]})
        return write_netcdf(out, path)

    def load_state(self, path: str | Path) -> None:
        """Take the state of this time from a file that `save_state` wrote; catchments are matched by id.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            If it is no such file, of another model, step or time, or lacks a catchment.
        """
        settings, stored = self._initialised, load_netcdf(path, STATE_FILE)
        lacking = [x for x in ("model", "definition", "step") if x not in stored.attrs]
        lacking += [x for x in ("basin", "time", *self._stores) if x not in stored.variables and not lacking]
        refuse_another(self._model, stored.attrs.get("definition"), str(path))
        if lacking:
            raise ValueError(f"{path} must be {STATE_FILE}; found no {', '.join(lacking)} in it: write it anew.")
        expected = {"step": settings.step, "time": str(self._now)}
        found = {"step": stored.attrs["step"], "time": str(stored["time"].values.astype("datetime64[s]"))}
        for name, value in expected.items():
            if found[name] != value:
                raise ValueError(
                    f"{path} must be a state of {name} {value}; found {found[name]}: take the state that fits, or "
                    "start without."
                )
        ids = text_ids(stored["basin"].values, f"basin of {path}")
        refuse_duplicates(ids, f"basin of {path}")
        place = {name: i for i, name in enumerate(ids.tolist())}
        if absent := [name for name in self._ids.tolist() if name not in place]:
            raise ValueError(f"{path} must hold every catchment of ids; found no {listed(absent)}: leave them out.")
        rows = [place[name] for name in self._ids.tolist()]
        for name in self._stores:
            x = stored[name].transpose(..., "basin").values[..., rows]
            if x.shape != self._values[name].shape or not np.isfinite(x).all():
                raise ValueError(
                    f"'{name}' of {path} must be finite {list(self._values[name].shape)}; found {list(x.shape)} with "
                    f"{(~np.isfinite(x)).sum()} that are not: write it anew, or start without."
                )
            self._values[name][:] = x

    @property
    def _stores(self) -> tuple[str, ...]:
        memory = (MEMORY,) if MEMORY in self._values else ()
        return (*self._model.state_names, *self._model.line_names, *memory)

    @property
    def _now(self) -> np.datetime64:
        return self._start + np.timedelta64(self._steps * self._settings.step, "s")

    # --- Variables -------------------------------------------------------------------------------------------------

    def get_component_name(self) -> str:
        return f"hybridsolve {self._model.name}" if self._values else "hybridsolve"

    def get_input_item_count(self) -> int:
        return len(self.get_input_var_names())

    def get_output_item_count(self) -> int:
        return len(self.get_output_var_names())

    def get_input_var_names(self) -> tuple[str, ...]:  # type: ignore[override]  # bmipy means this
        self._initialised  # noqa: B018 - raises
        return tuple(self._names.values())

    def get_output_var_names(self) -> tuple[str, ...]:  # type: ignore[override]
        self._initialised  # noqa: B018 - raises
        flow = () if self._areas is None else (FLOW,)
        return (DEPTH, NGEN_DEPTH, *flow, *self._model.flux_names, *self._model.state_names)

    def get_var_grid(self, name: str) -> int:
        if self.get_var_location(name) == "none":
            raise ValueError(f"'{name}' lies on no grid, as it has more numbers than there are catchments.")
        return 0

    def get_var_type(self, name: str) -> str:
        return str(self.get_value_ptr(name).dtype)

    def get_var_units(self, name: str) -> str:
        self.get_value_ptr(name)
        return self._units[name]

    def get_var_itemsize(self, name: str) -> int:
        return self.get_value_ptr(name).itemsize

    def get_var_nbytes(self, name: str) -> int:
        return self.get_value_ptr(name).nbytes

    def get_var_location(self, name: str) -> str:
        return "node" if self.get_value_ptr(name).size == len(self._ids) else "none"

    def get_value_ptr(self, name: str) -> Array:
        """The array itself, flat, which later steps change."""
        self._initialised  # noqa: B018 - raises
        if name not in self._values:
            raise ValueError(f"unknown variable '{name}'; expected one of {', '.join(self._values)}.")
        return self._values[name].reshape(-1)

    def get_value(self, name: str, dest: Array) -> Array:
        return self.get_value_at_indices(name, dest, np.arange(self.get_value_ptr(name).size))

    def get_value_at_indices(self, name: str, dest: Array, inds: NDArray[Any]) -> Array:
        dest.reshape(-1)[:] = self.get_value_ptr(name)[self._places(name, inds, dest)]
        return dest

    def set_value(self, name: str, src: ArrayLike) -> None:
        self.set_value_at_indices(name, np.arange(self.get_value_ptr(name).size), src)

    def set_value_at_indices(self, name: str, inds: NDArray[Any], src: ArrayLike) -> None:
        to, values = self.get_value_ptr(name), np.asarray(src, dtype=np.float64)
        if name not in (*self._names.values(), *self._stores):
            raise ValueError(f"'{name}' is computed and cannot be set; set an input or a state.")
        if not np.isfinite(values).all():
            raise ValueError(f"'{name}' must be set to finite numbers; found {values[~np.isfinite(values)][0]}.")
        to[self._places(name, inds, values)] = values.reshape(-1)

    def _places(self, name: str, inds: ArrayLike, values: Array) -> NDArray[Any]:
        places = np.asarray(inds).reshape(-1)
        size = self._values[name].size
        if places.size != values.size or (places.size and not 0 <= places.min() <= places.max() < size):
            raise ValueError(
                f"'{name}' has {size} numbers; found {values.size} for {places.size} places: give one for each, from 0 "
                f"to {size - 1}."
            )
        return places

    # --- Time ------------------------------------------------------------------------------------------------------

    def get_current_time(self) -> float:
        return float(self._steps * self._initialised.step)

    def get_start_time(self) -> float:
        return 0.0

    def get_end_time(self) -> float:
        """The largest float where the configuration has no end."""
        self._initialised  # noqa: B018 - raises
        return float(np.finfo(np.float64).max if self._end is None else self._end)

    def get_time_units(self) -> str:
        return "s"

    def get_time_step(self) -> float:
        return float(self._initialised.step)

    # --- Grid: a point, or points without coordinates but their place in ids ----------------------------------------

    def get_grid_rank(self, grid: int) -> int:
        return 0 if self.get_grid_size(grid) == 1 else 1

    def get_grid_size(self, grid: int) -> int:
        self._initialised  # noqa: B018 - raises
        if grid != 0:
            raise ValueError(f"grid must be 0, the only one; found {grid}.")
        return len(self._ids)

    def get_grid_type(self, grid: int) -> str:
        return "scalar" if self.get_grid_size(grid) == 1 else "unstructured"

    def get_grid_node_count(self, grid: int) -> int:
        return self.get_grid_size(grid)

    def get_grid_edge_count(self, grid: int) -> int:
        self.get_grid_size(grid)  # raises
        return 0

    def get_grid_face_count(self, grid: int) -> int:
        return self.get_grid_edge_count(grid)

    def get_grid_x(self, grid: int, x: Array) -> Array:
        x[:] = np.arange(self.get_grid_size(grid))
        return x

    def get_grid_y(self, grid: int, y: Array) -> Array:
        raise NotImplementedError(NO_GRID)

    def get_grid_z(self, grid: int, z: Array) -> Array:
        raise NotImplementedError(NO_GRID)

    def get_grid_shape(self, grid: int, shape: NDArray[np.int_]) -> NDArray[np.int_]:
        raise NotImplementedError(NO_GRID)

    def get_grid_spacing(self, grid: int, spacing: Array) -> Array:
        raise NotImplementedError(NO_GRID)

    def get_grid_origin(self, grid: int, origin: Array) -> Array:
        raise NotImplementedError(NO_GRID)

    def get_grid_edge_nodes(self, grid: int, edge_nodes: NDArray[np.int_]) -> NDArray[np.int_]:
        raise NotImplementedError(NO_GRID)

    def get_grid_face_edges(self, grid: int, face_edges: NDArray[np.int_]) -> NDArray[np.int_]:
        raise NotImplementedError(NO_GRID)

    def get_grid_face_nodes(self, grid: int, face_nodes: NDArray[np.int_]) -> NDArray[np.int_]:
        raise NotImplementedError(NO_GRID)

    def get_grid_nodes_per_face(self, grid: int, nodes_per_face: NDArray[np.int_]) -> NDArray[np.int_]:
        raise NotImplementedError(NO_GRID)


NO_GRID = "catchments are points without coordinates; they have a place, x, and no shape, edges or faces."
