"""A trained model as one file, and what it predicts for any basins and period."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from .. import __version__, models
from ..climate import with_climate
from ..compiler.identity import identity, refuse_another
from ..data.climate_attributes import with_climate_attributes
from ..data.dataset import check_dataset, period_slice, refuse_no_dataset
from ..data.files import load_weights_only, write_atomic
from ..data.methods import forcing_methods
from ..data.steps import rows_of_days, step_seconds
from ..data.times import carry_days
from ..data.units import unit_at
from ..data.usable import refuse_outside, usable_basins, used_days
from ..nn import GRU, LSTM, MLP, DifferentiableModel, DischargeGRU, DischargeLSTM
from ..routing.units import units_of
from ..solve.check import output_names
from .config import Config, read_config
from .inputs import Scaling, input_tensors, transforms_of

FORMAT = 1  # of the file; raised when older files can no longer be read
METHOD = "_method"  # suffix of an attribute: by which method a forcing was made
AS_IS = "as in the data"  # the method where the data name none
CELL_STEPS = 6.4e7  # in a run at a time, to bound the memory


@contextmanager
def single_precision() -> Iterator[None]:
    """Make modules and tensors in float32, in which trainings are run, whatever torch's default dtype is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _Content(BaseModel):
    """The content of a file of `Trained.save`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    weights: dict[str, Tensor]
    config: dict[str, Any]
    scaling: Scaling
    basins: list[str]
    versions: dict[str, str]
    citation: str
    methods: dict[str, str]
    bounds: dict[str, list[float]]
    definition: str = ""  # of the model; older files have none


def make_module(config: Config, backend: str = "auto") -> nn.Module:
    """The untrained module of a configuration: `DifferentiableModel`, or the network alone where there is no model.

    `backend` is that of the solver, as for `simulate`.
    """
    net, alone = config.network, config.model == "none"
    seen = len(config.attributes), len(config.weather)
    network: nn.Module
    if net.kind == "mlp":
        network = MLP(config.layout, seen[0], net.hidden, net.dropout)
    elif net.kind == "lstm":
        width = net.hidden[0], net.dropout
        network = DischargeLSTM(*seen, *width) if alone else LSTM(config.layout, *seen, *width)
    else:
        sizes: Any = (net.hidden, net.state, net.period, net.dropout)  # none of which a checked config lacks
        network = DischargeGRU(*seen, *sizes) if alone else GRU(config.layout, *seen, *sizes)
    if alone:
        return network
    return DifferentiableModel(
        config.model, network, dynamic_dropout=config.dynamic_dropout, precision=net.precision, backend=backend
    )


@dataclass
class Trained:
    """A trained model: the module with its weights, how its inputs are scaled, and what it was trained on.

    Attributes
    ----------
    module : Module
        `DifferentiableModel`, `DischargeLSTM` or `DischargeGRU`.
    config : Config
    scaling : Scaling
    basins : list of str
        Those it was trained on.
    versions : dict of str to str
    citation : str
        Of the data it was trained on.
    methods : dict of str to str
        By which method the forcing was made that it was trained on, by name, where the data say.
    """

    module: nn.Module
    config: Config
    scaling: Scaling
    basins: list[str]
    versions: dict[str, str] = field(default_factory=dict)
    citation: str = ""
    methods: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, module: nn.Module, config: Config, scaling: Scaling, data: xr.Dataset) -> Trained:
        versions = {"hybridsolve": __version__, "torch": str(torch.__version__)}
        ids = [str(b) for b in data["basin"].values]
        methods = forcing_methods(data, config.forcing_names)
        return cls(module, config, scaling, ids, versions, str(data.attrs.get("citation", "")), methods)

    def save(self, path: str | Path) -> Path:
        """Write weights, config, scaling, basins and versions to one file."""
        content = dict(
            format=FORMAT,
            weights=self.module.state_dict(),
            config=self.config.model_dump(),
            scaling=self.scaling.to_dict(),
            basins=self.basins,
            versions=self.versions,
            citation=self.citation,
            bounds=_bounds(self.config.model),
            definition="" if self.config.model == "none" else identity(models.get(self.config.model)),
            **{name + METHOD: method for name, method in self.methods.items()},
        )
        return write_atomic(path, lambda temporary: torch.save(content, temporary))

    @classmethod
    def load(cls, path: str | Path, backend: str = "auto") -> Trained:
        """Read a file of `save`; `backend` is that of the solver, as for `simulate`.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If it is no such file, of another version, or of a model whose parameters were bounded otherwise.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; expected trained.pt of `hybridsolve train`.")
        content = load_weights_only(path, "a trained model", "give trained.pt of `hybridsolve train`")
        if "format" not in content:
            raise ValueError(f"{path} is not a trained model of this package: give trained.pt of `hybridsolve train`.")
        if content["format"] != FORMAT:
            raise ValueError(
                f"{path} has format {content['format']}, written by hybridsolve {_writer(content)}; this version reads "
                f"format {FORMAT}: load it with that version, or train again."
            )
        methods = {key.removesuffix(METHOD): x for key, x in content.items() if key.endswith(METHOD) and x != ""}
        try:
            held = _Content.model_validate(
                {key: x for key, x in content.items() if key != "format"} | {"methods": methods}
            )
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise ValueError(
                f"{path} is no complete trained model, its '{key}' does not fit ({first['msg'].lower()}): train again, "
                "or take an undamaged copy."
            ) from None
        try:
            config = read_config(held.config)
            held.scaling.check(config.attributes, config.weather)
            if "transforms" not in content["scaling"]:  # of a version in which they followed from the names
                held.scaling.transforms.update(transforms_of(config.weather, config.model))
        except ValueError as error:
            raise ValueError(f"{path} holds what this version cannot read: {error}") from None
        for name, (lower, upper) in _bounds(config.model).items():
            if held.bounds.get(name) != [lower, upper]:
                raise ValueError(
                    f"{path} was trained with '{name}' in {held.bounds.get(name)}, and {config.model} has it in "
                    f"{[lower, upper]} now: load it with hybridsolve {_writer(content)}."
                )
        if config.model != "none":
            refuse_another(models.get(config.model), held.definition, str(path))
        with single_precision():
            module = make_module(config, backend)
        load_weights(module, held.weights, path)
        module.eval()
        about = held.basins, held.versions, held.citation, held.methods
        return cls(module, config, held.scaling, *about)

    def predict(
        self, data: xr.Dataset, period: Any = None, fluxes: Sequence[str] | None = None, *, skip_unusable: bool = False
    ) -> xr.Dataset:
        """Series ``[time, basin]`` of any basins and period, with units; of units of gauges the outflow at the gauges.

        Parameters
        ----------
        data : xarray.Dataset
            Of `hybridsolve.data.open_dataset`, with the config's attributes; need not hold `qobs`.
        period : str or pair of dates, optional
            All of the data if left out. The `warmup_years` of the config before it are run too, where the data allow.
        fluxes : sequence of str, optional
            Of the model's; the outflow if left out, which is routed, the others are not.
        skip_unusable : bool
            Leave out basins whose forcing has gaps in the steps that are run, instead of raising.

        Raises
        ------
        ValueError
            If an attribute, flux or period does not fit, or a basin cannot be run.
        """
        outflow = str(self.module.outflow)
        if self.config.model != "none":
            fluxes = output_names(models.get(self.config.model), fluxes)
        elif fluxes in (None, outflow, [outflow], (outflow,)):
            fluxes = (outflow,)
        else:
            raise ValueError(f"a network alone gives {outflow}; found fluxes {fluxes!r}: leave them out.")
        data = self._runnable(data, period, skip_unusable)
        run, rows = _run(self, data, period, fluxes)
        step = step_seconds(data)
        units = units_of(data)
        out = xr.Dataset(coords={"time": data["time"].values[rows]})
        out = out.assign_coords(basin=data["basin"] if units is None else list(units.ids))
        if units is not None and any(name != outflow for name in fluxes):
            out = out.assign_coords(unit=data["basin"].values, gauge=("unit", data["gauge"].values))
        for name in fluxes:
            unit, meaning = "mm d-1", "routed streamflow"
            if self.config.model != "none":
                model = models.get(self.config.model)
                v = model.variable(name)
                unit, meaning = v.unit, meaning if name == outflow and model.routing else v.meaning
            of = "basin" if units is None or name == outflow else "unit"
            out[name] = (("time", of), run[name], dict(units=unit_at(unit, step), long_name=meaning))
        out.attrs.update(
            title=f"{self.config.name}, predicted",
            model=self.config.model,
            trained_on=f"{len(self.basins)} basins, {self.config.periods.train}",
            citation="; ".join(filter(None, [self.citation, str(data.attrs.get("citation", ""))])),
            **{name + METHOD: x for name, x in forcing_methods(data, self.config.forcing_names).items()},
        )
        return carry_days(out, data)

    def _runnable(self, data: xr.Dataset, period: Any, skip: bool) -> xr.Dataset:
        """The steps of a period and its warm-up, of the basins that can be run; the others are refused, or left out."""
        names = self.config.forcing_names
        check_dataset(data, forcing_names=names, values=False)
        if self.config.model != "none":
            data = with_climate(data, models.get(self.config.model), self.config.periods.train)
        data = with_climate_attributes(data, self.config.attributes, self.config.periods.train)
        if period is not None:
            data = used_days(data, [period], self.config.warmup_years)
        usable = usable_basins(data, names, skip=skip)
        return data if len(usable) == data.sizes["basin"] else data.isel(basin=usable)

    def parameters(self, data: xr.Dataset, period: Any = None) -> xr.Dataset:
        """Learned parameters ``[basin, component]`` in their units; of one that varies by step its mean over time.

        Where the basins are units of gauges, those of the hydrograph are the gauge's in each of its units.
        """
        if self.config.model == "none":
            raise ValueError("this is a network without a process model and has no parameters: ask for its flow.")
        refuse_no_dataset(data)
        model = models.get(self.config.model)
        data = with_climate_attributes(data, self.config.attributes, self.config.periods.train)
        rows, first = _rows(self.config, data, period)
        attributes, weather = self.scaling.scaled_attributes(data), self.scaling.scaled_weather(data)
        out = xr.Dataset(coords={"basin": data["basin"]})
        with torch.no_grad(), single_precision(), evaluating(self.module) as module:
            weather = None if weather is None else weather[first : rows.stop]
            values = module.parameters_of(attributes, weather, units_of(data))
        for name, x in values.items():
            v = model.variable(name)
            x = x[rows.start - first :].mean(0) if x.dim() == 3 else x
            dims = ("basin", "component") if x.shape[1] > 1 or name not in model.routing_parameter_names else ("basin",)
            out[name] = (dims, x.numpy().reshape([len(x), -1][: len(dims)]), dict(units=v.unit, long_name=v.meaning))
        return out


class evaluating:
    """The module in evaluation mode, and afterwards in the mode that it was in."""

    def __init__(self, module: nn.Module):
        self.module, self.before = module, module.training

    def __enter__(self) -> Any:
        return self.module.eval()

    def __exit__(self, *_: object) -> None:
        self.module.train(self.before)


def predict_flow(
    trained: Trained, data: xr.Dataset, period: Any, attributes: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Flow at the gauge and observations ``[T, B]`` of a period; `attributes` are the scaled ones where known."""
    outflow = str(trained.module.outflow)
    run, rows = _run(trained, data, period, [outflow], attributes)
    units = units_of(data)
    return run[outflow], data["qobs"].values[rows][:, slice(None) if units is None else units.first]


def _run(
    trained: Trained, data: xr.Dataset, period: Any, fluxes: Sequence[str], attributes: Tensor | None = None
) -> tuple[dict[str, np.ndarray], slice]:
    _check(trained, data)
    rows, _ = _rows(trained.config, data, period)
    parts = []
    with torch.no_grad(), single_precision(), evaluating(trained.module) as module:
        for arguments in chunks(trained, data, period, attributes):
            parts.append({name: q.cpu().numpy() for name, q in module(**arguments, fluxes=fluxes).fluxes.items()})
    return {name: np.concatenate([part[name] for part in parts], 1) for name in fluxes}, rows


def _check(trained: Trained, data: xr.Dataset) -> None:
    """Raise unless the model can be run on these data, whose forcing must be made as that of the training."""
    config = trained.config
    model = None if config.model == "none" else models.get(config.model)
    check_dataset(data, forcing_names=config.forcing_names, model=model)
    if model is not None:
        model.check_step(step_seconds(data))
        refuse_outside(data, model)
    found = forcing_methods(data, config.forcing_names)
    for name in config.forcing_names:
        own, other = trained.methods.get(name), found.get(name, AS_IS)
        if (own or AS_IS) != other:
            remedy = f"with {name}='{own}' (--{name} {own})" if own else f"with their own (without {name}=, --{name})"
            raise ValueError(
                f"the model was trained with {name} by '{own or AS_IS}', found '{other}' in the data; open "
                f"them {remedy}."
            )


def chunks(
    trained: Trained, data: xr.Dataset, period: Any, attributes: Tensor | None = None
) -> Iterator[dict[str, Any]]:
    """Some basins at a time over a period and its warm-up, as the module's arguments."""
    config, device = trained.config, next(trained.module.parameters()).device
    rows, first = _rows(config, data, period)
    if attributes is None:
        attributes = trained.scaling.scaled_attributes(data)
    size = max(1, int(CELL_STEPS / (config.components * (rows.stop - first))))
    units, n = units_of(data), data.sizes["basin"]
    # A gauge has all its units in one part.
    ends = np.arange(1, n + 1) if units is None else np.append(units.first[1:], n)
    i = 0
    while i < n:
        end = int(ends[max(np.searchsorted(ends, i + size, side="right") - 1, np.searchsorted(ends, i, side="right"))])
        part = data.isel(basin=slice(i, end), time=slice(first, rows.stop))
        series = {name: np.ascontiguousarray(part[name].values, dtype=np.float32) for name in config.forcing_names}
        weather = trained.scaling.scaled_weather(part)
        yield dict(
            forcing={name: torch.from_numpy(x).to(device) for name, x in series.items()},
            attributes=attributes[i:end].to(device),
            weather=None if weather is None else weather.to(device),
            inputs={name: x.to(device) for name, x in input_tensors(part, config).items()},
            step=step_seconds(data),
            warmup=rows.start - first,
            **({} if units is None else dict(units=units_of(part))),
        )
        i = end


def _rows(config: Config, data: xr.Dataset, period: Any) -> tuple[slice, int]:
    """The steps asked for, and the first that is run to warm up."""
    rows = slice(0, data.sizes["time"]) if period is None else period_slice(data["time"].values, period)
    return rows, max(0, rows.start - rows_of_days(data, 365.25 * config.warmup_years))


def load_weights(module: nn.Module, weights: dict, path: str | Path) -> None:
    """Load weights into a module, whose names and shapes they must have.

    Raises
    ------
    ValueError
        If they are of another network, or not finite; names the file.
    """
    own = module.state_dict()
    for name in sorted({*own, *weights}):
        found = tuple(weights[name].shape) if name in weights else "none"
        wanted = tuple(own[name].shape) if name in own else "none"
        if found != wanted:
            raise ValueError(
                f"{path} holds weights of another network, '{name}' must have shape {wanted}, found {found}: take the "
                "file that belongs to this config, or train again."
            )
        if weights[name].dtype != own[name].dtype:
            raise ValueError(
                f"{path} holds weights of another precision, '{name}' must be {own[name].dtype}, found "
                f"{weights[name].dtype}: take the file that `hybridsolve train` wrote, or train again."
            )
        if not weights[name].isfinite().all():
            raise ValueError(f"{path} holds weights that are not finite, in '{name}': train again.")
    module.load_state_dict(weights)


def _writer(content: dict) -> str:
    versions = content.get("versions")
    return str(versions.get("hybridsolve", "unknown")) if isinstance(versions, dict) else "unknown"


def _bounds(model: str) -> dict[str, list[float]]:
    if model == "none":
        return {}
    spec = models.get(model)
    rows = spec.parameters + spec.optional_parameters + spec.routing_parameters
    return {v.name: [v.lower, v.upper] for v in rows}
