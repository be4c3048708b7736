"""A network joined to the solver; and a network alone, called in the same way, to compare it with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .. import models
from ..arguments import boolean, finite
from ..compiler.tracing import networks_of
from ..routing.gauge import GaugeRun, simulate_to_gauge
from ..routing.units import Units
from ..solve.check import dense, mapping
from ..solve.simulate import Run
from ..spec import DAY, ModelSpec
from .fluxes import FluxNetwork
from .networks import Corrected, Recurrent


class DifferentiableModel(nn.Module):
    """A process model whose parameters a network gives: differentiable parameter learning (Tsai et al. 2021,
    doi 10.1038/s41467-021-26107-z; with HBV, Feng et al. 2022, doi 10.1029/2022WR032404). Networks that the model's
    step calls are learned along, one set of weights for all basins.

    Parameters
    ----------
    model : ModelSpec or str
    network : Module
        Called with ``(attributes [B, A], weather [T, B, W] or None)``; returns numbers before the sigmoid by parameter
        name, see `hybridsolve.nn.networks`. Where it gives none of the hydrograph's, the outflow is not routed.
    dynamic_dropout : float
        In training, the probability that a basin's per-step parameters are all held at their last step's.
    precision : {"float32", "bfloat16"}
        Of the network under autocast; the solver keeps the forcing's precision.
    backend : str
        Of the solver, as for `simulate`.

    Attributes
    ----------
    fluxes : ModuleDict
        Of the networks inside the step, by name: `FluxNetwork`, or a module of one's own whose call gives the weights.
    """

    def __init__(
        self,
        model: ModelSpec | str,
        network: nn.Module,
        *,
        dynamic_dropout: float = 0.0,
        precision: str = "float32",
        backend: str = "auto",
    ):
        super().__init__()
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be 'float32' or 'bfloat16'; found {precision!r}: correct it.")
        if finite("dynamic_dropout", dynamic_dropout, 0) > 1:
            raise ValueError(f"dynamic_dropout must be at most 1; found {dynamic_dropout!r}: correct it.")
        if not isinstance(network, nn.Module):
            raise TypeError(f"network must be a torch.nn.Module; found {type(network).__name__}: pass one.")
        self.model = models.get(model)
        self.network = network
        inside = networks_of(self.model.key, self.model.optional_parameter_names)
        self.fluxes = nn.ModuleDict({each.name: FluxNetwork(self.model, each.name) for each in inside})
        self.dynamic_dropout = dynamic_dropout
        self.precision = precision
        self.backend = backend

    @property
    def outflow(self) -> str:
        """The name of the flow at the gauge."""
        return self.model.outflow

    def forward(
        self,
        forcing: Mapping[str, Tensor],
        attributes: Tensor,
        weather: Tensor | None = None,
        *,
        inputs: Mapping[str, Tensor] | None = None,
        step: int = DAY,
        warmup: int = 0,
        warmup_gradient: bool = True,
        fluxes: Sequence[str] | None = None,
        units: Units | None = None,
    ) -> GaugeRun:
        """Compute the parameters by the network, and run the model with them.

        Parameters
        ----------
        forcing : mapping of str to Tensor ``[T, B]``
            In the model's units.
        attributes : Tensor ``[B, A]``
            As the network takes them (scaled).
        weather : Tensor ``[T, B, W]``, optional
            As the network takes it (scaled).
        inputs : mapping of str to Tensor ``[B]``, optional
            The model's static inputs, in its units.
        step : int
            Length of a step, s.
        warmup : int
            Steps at the start that are run and cut off.
        warmup_gradient : bool
            Whether gradients flow through them; the numbers are the same either way.
        fluxes : sequence of str, optional
            As for `simulate_to_gauge`: the model's outflow if left out; the others are not routed.
        units : Units, optional
            As for `simulate_to_gauge`; the hydrograph of a gauge has the means by area of its units' numbers before
            the sigmoid.

        Returns
        -------
        GaugeRun
            Series of ``[T - warmup, B]``, the outflow at the G gauges of units.
        """
        return run_parameters(
            self.model,
            forcing,
            self.raw_parameters(attributes, weather),
            networks=self.weights(),
            inputs=inputs,
            step=step,
            backend=self.backend,
            warmup=warmup,
            warmup_gradient=warmup_gradient,
            fluxes=fluxes,
            units=units,
        )

    def raw_parameters(self, attributes: Tensor, weather: Tensor | None = None) -> dict[str, Tensor]:
        """The network's output in the precision of `attributes`, with dropout of per-step values in training."""
        device = dense(attributes, "attributes").device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.precision == "bfloat16"):
            raw = self.network(attributes, weather)
        if not isinstance(raw, Mapping):
            raise ValueError(
                f"the network must return a mapping of parameter names to tensors; found {type(raw).__name__}: see "
                "Layout.split."
            )
        raw = {name: dense(x, f"the network's '{name}'").to(attributes.dtype) for name, x in raw.items()}
        return drop_dynamic(raw, self.dynamic_dropout) if self.training and self.dynamic_dropout else raw

    def weights(self) -> dict[str, Tensor]:
        """Those of the networks inside the step, by name, as `simulate` takes them."""
        return {name: network() for name, network in self.fluxes.items()}

    def parameters_of(
        self, attributes: Tensor, weather: Tensor | None = None, units: Units | None = None
    ) -> dict[str, Tensor]:
        """The parameters in their units; with units those of the hydrograph are the same in all units of a gauge."""
        raw = self.raw_parameters(attributes, weather)
        if units is not None:
            at_gauges = _of_gauges(self.model, raw, units)
            raw |= {name: units.spread(at_gauges[name]) for name in raw if name in self.model.routing_parameter_names}
        return self.model.parameters_from_unit({name: torch.sigmoid(x) for name, x in raw.items()})


def _of_gauges(model: ModelSpec, raw: Mapping[str, Tensor], units: Units | None) -> dict[str, Tensor]:
    """Parameters before the sigmoid, those of the hydrograph as means by area over the units of each gauge."""
    names = () if units is None else model.routing_parameter_names
    return {name: units.summed(x, 0) if units is not None and name in names else x for name, x in raw.items()}


def drop_dynamic(raw: Mapping[str, Tensor], probability: float) -> dict[str, Tensor]:
    """Hold per-step parameters at their last step, in basins that are drawn for each parameter with a probability."""

    def held(x: Tensor) -> Tensor:
        if x.dim() == 2:
            return x
        drop = torch.rand(x.shape[1], 1, device=x.device) < probability
        return torch.where(drop, x[-1], x)

    return {name: held(x) for name, x in raw.items()}


def run_parameters(
    model: ModelSpec | str,
    forcing: Mapping[str, Tensor],
    raw: Mapping[str, Tensor],
    *,
    networks: Mapping[str, Tensor] | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    step: int = DAY,
    backend: str = "auto",
    warmup: int = 0,
    warmup_gradient: bool = True,
    fluxes: Sequence[str] | None = None,
    units: Units | None = None,
) -> GaugeRun:
    """Run a model to the gauge with parameters before the sigmoid; see `DifferentiableModel`."""
    forcing = {name: dense(x, f"forcing '{name}'") for name, x in mapping(forcing, "forcing").items()}
    n_steps = max((len(x) for x in forcing.values()), default=1)
    if isinstance(warmup, bool) or not isinstance(warmup, int) or not 0 <= warmup < n_steps:
        raise ValueError(f"warmup must be from 0 to {n_steps - 1} for {n_steps} steps; found {warmup}: shorten it.")
    boolean("warmup_gradient", warmup_gradient)
    options: dict = dict(networks=networks, inputs=inputs, step=step, backend=backend, units=units)
    raw = _of_gauges(models.get(model), raw, units)
    first, state, memory = 0, None, None
    if warmup and not warmup_gradient:
        first = warmup
        with torch.no_grad():
            before = simulate_to_gauge(model, *of_steps(slice(warmup), forcing, raw), raw=True, **options)
        state, memory = before.final_state, before.memory
    run = simulate_to_gauge(
        model,
        *of_steps(slice(first, None), forcing, raw),
        initial_state=state,
        memory=memory,
        fluxes=fluxes,
        raw=True,
        **options,
    )
    return GaugeRun({name: q[warmup - first :] for name, q in run.fluxes.items()}, run.final_state, run.memory)


def of_steps(
    steps: slice, forcing: Mapping[str, Tensor], parameters: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The forcing and the parameters of some of the steps."""

    def cut(x: Tensor, axes: int) -> Tensor:  # an axis of size 1 is shared by all steps
        return x[steps] if x.dim() == axes and len(x) > 1 else x

    return {n: cut(x, 2) for n, x in forcing.items()}, {n: cut(x, 3) for n, x in parameters.items()}


class _Discharge(nn.Module):
    """Discharge without a process model. Called as `DifferentiableModel` is, so that it is trained and tested alike."""

    outflow = "streamflow"

    def before_softplus(self, attributes: Tensor, weather: Tensor) -> Tensor:
        """``[T, B, 1]``."""
        raise NotImplementedError

    def forward(
        self,
        forcing: Mapping[str, Tensor],
        attributes: Tensor,
        weather: Tensor,
        *,
        inputs: Mapping[str, Tensor] | None = None,
        step: int = DAY,
        warmup: int = 0,
        warmup_gradient: bool = True,
        fluxes: Sequence[str] | None = None,
        units: Units | None = None,
    ) -> Run:
        if fluxes is not None and tuple(fluxes) != (self.outflow,):
            raise ValueError(f"a network alone gives {self.outflow}; found {', '.join(fluxes)}: ask for that only.")
        if not warmup_gradient:
            raise ValueError("a network alone has no state to warm up without gradient; set warmup_gradient to true.")
        flow = nn.functional.softplus(self.before_softplus(attributes, weather)).squeeze(-1)
        flow = flow[warmup:].to(attributes.dtype)
        return Run({self.outflow: flow if units is None else units.summed(flow)}, {})


class DischargeLSTM(_Discharge):
    """Discharge of weather and attributes without a process model (Kratzert et al. 2019, HESS 23:5089).

    Parameters
    ----------
    n_attributes, n_weather, hidden : int
    dropout : float
    """

    def __init__(self, n_attributes: int, n_weather: int, hidden: int = 256, dropout: float = 0.4):
        super().__init__()
        self.recurrent = Recurrent(n_attributes, n_weather, hidden, dropout)
        self.head = nn.Linear(hidden, 1)

    def before_softplus(self, attributes: Tensor, weather: Tensor) -> Tensor:
        flow: Tensor = self.head(self.recurrent(attributes, weather))
        return flow


class DischargeGRU(_Discharge):
    """The network of `hybridsolve.nn.GRU` without a process model: what it puts out is the discharge.

    Parameters
    ----------
    n_attributes, n_weather, hidden, state, period, dropout :
        As for `hybridsolve.nn.networks.Corrected`.
    """

    def __init__(
        self,
        n_attributes: int,
        n_weather: int,
        hidden: Sequence[int] = (256, 256),
        state: int = 64,
        period: int = 7,
        dropout: float = 0.2,
    ):
        super().__init__()
        self.corrected = Corrected(n_attributes, n_weather, 0, 1, hidden, state, period, dropout)

    def before_softplus(self, attributes: Tensor, weather: Tensor) -> Tensor:
        flow: Tensor = self.corrected(attributes, weather)[1]
        return flow
