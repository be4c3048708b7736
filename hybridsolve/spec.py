"""What a model takes and gives, as one table: names, units, bounds, meanings and sources.

The table serves the documentation, the validation of inputs, the scaling of learned parameters and the attributes of
NetCDF files, so that each fact about a variable stands once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line reads the tables without loading torch
    import torch

INITIAL_STATE = 0.001  # mm in every store, as published (Feng et al. 2022)


@dataclass(frozen=True)
class Variable:
    """One forcing, parameter, state or flux.

    Attributes
    ----------
    name, unit, meaning : str
    lower, upper : float
        Bounds, both allowed. For parameters these are also the range of calibration and learning.
    source : str
        Where the bounds or the definition come from.
    """

    name: str
    unit: str
    meaning: str
    lower: float = -float("inf")
    upper: float = float("inf")
    source: str = ""


@dataclass(frozen=True)
class ModelSpec:
    """A model: its tables of variables and one step in plain torch.

    Attributes
    ----------
    forcings, parameters, states, fluxes : tuple of Variable
    optional_parameters : tuple of Variable
        May be left out of a run; what that means is said in their `meaning`.
    routing_parameters : tuple of Variable
        The unit hydrograph's, not used by `simulate` but calibrated and learned with the rest.
    reference_step : callable
        ``(forcing, parameters, state) -> (state, fluxes)``, all mappings of name to tensor, broadcast over ``[B, C]``.
    """

    name: str
    title: str
    source: str
    forcings: tuple[Variable, ...]
    parameters: tuple[Variable, ...]
    optional_parameters: tuple[Variable, ...]
    routing_parameters: tuple[Variable, ...]
    states: tuple[Variable, ...]
    fluxes: tuple[Variable, ...]
    reference_step: Callable

    @property
    def forcing_names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.forcings)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.parameters)

    @property
    def optional_parameter_names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.optional_parameters)

    @property
    def routing_parameter_names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.routing_parameters)

    @property
    def state_names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.states)

    @property
    def flux_names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.fluxes)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What a run can give as series: the fluxes, and the states at the end of every step."""
        return self.flux_names + self.state_names

    def __repr__(self) -> str:
        return f"<model {self.name}: {self.title}>"

    def variable(self, name: str) -> Variable:
        """The table row of any variable of this model.

        Raises
        ------
        ValueError
            If the model has no variable of that name.
        """
        every = (
            self.forcings,
            self.parameters,
            self.optional_parameters,
            self.routing_parameters,
            self.states,
            self.fluxes,
        )
        for v in (v for table in every for v in table):
            if v.name == name:
                return v
        raise ValueError(
            f"model {self.name} has no variable '{name}'; it has {', '.join(v.name for table in every for v in table)}."
        )

    def present_parameters(self, names: Iterable[str]) -> tuple[Variable, ...]:
        """The rows of the parameters that a run with these names uses, in the kernel's order."""
        names = set(names)
        return self.parameters + tuple(v for v in self.optional_parameters if v.name in names)

    def kernel_name(self, names: Iterable[str]) -> str:
        """The name of the compiled kernel for a run with these parameters (see csrc/models.def)."""
        return "_".join([self.name, *(v.name for v in self.optional_parameters if v.name in set(names))])

    def parameters_from_unit(self, unit: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Scale values in 0..1 to the parameters' bounds: ``lower + (upper - lower) u``.

        Parameters
        ----------
        unit : mapping of str to Tensor
            Any of the model's parameters, optional and routing ones included, in any shape.

        Returns
        -------
        dict of str to Tensor
            In the parameters' units, same shapes and order.

        Raises
        ------
        ValueError
            If a name is not a parameter of this model.
        """
        known = {v.name: v for v in self.parameters + self.optional_parameters + self.routing_parameters}
        unknown = [name for name in unit if name not in known]
        if unknown:
            raise ValueError(
                f"model {self.name} has no parameter '{unknown[0]}'; expected any of "
                f"{', '.join(known)}: remove or rename it."
            )
        return {name: known[name].lower + (known[name].upper - known[name].lower) * u for name, u in unit.items()}
