"""Factors before any model, for data that are off by a share: of its potential evapotranspiration, and of its snow.

``"pet_factor+gr4j"`` is GR4J with one parameter more, which multiplies the potential evapotranspiration it is given;
``"snow_factor+cemaneige+gr4j"`` has one that multiplies what falls as snow, by the model's own rule of what does, while
rain stays as measured. What that adds is the flux `catch`, so that the balance closes. Each is one model with a kernel
of its own.

A step that has snow passes it through `hybridsolve.models.forcings.fallen`; Snow-17 does not, since its own `scf` is
that factor.
"""

from __future__ import annotations

from dataclasses import replace

from ..spec import ModelSpec, Parameter, Variable
from .forcings import PET, SNOW_FACTOR

CATCH = Variable("catch", "mm d-1", "snow that the gauge did not catch, below 0 where it caught too much")
FACTORS = {
    row.name: row
    for row in (
        Parameter(
            "pet_factor",
            "1",
            "potential evapotranspiration of the model over that of the data",
            0.7,
            1.5,
            "formulas of it differ by so much",
            default=1.0,
            allowed=(0.0, 10.0),
        ),
        Parameter(
            SNOW_FACTOR,
            "1",
            "snow that falls over snow that is measured",
            0.7,
            1.8,
            "gauges in the open miss up to half of the snow, Goodison et al. 1998, WMO/TD 872",
            default=1.0,
            allowed=(0.01, 10.0),
        ),
    )
}


def factored(name: str, model: ModelSpec) -> ModelSpec:
    """A model with one of `FACTORS`, named ``factor+model``.

    Raises
    ------
    ValueError
        If there is no such factor; if the model has nothing that it multiplies, or has it already.
    """
    if name not in FACTORS:
        raise ValueError(f"unknown factor '{name}'; expected one of {', '.join(FACTORS)}.")
    row, whole = FACTORS[name], f"{name}+{model.name}"
    if row.name in {v.name for v in model.every_parameter}:
        raise ValueError(f"'{whole}' must have '{name}' once; found it in '{model.name}' already: leave one out.")
    parts = _of_pet(whole, model) if name == "pet_factor" else _of_snow(whole, model)
    return replace(
        model,
        name=whole,
        title=f"{model.title}, with a factor of {'evapotranspiration' if name == 'pet_factor' else 'snow'}",
        parameters=(*model.parameters, row),
        triton=None,
        **parts,
    )


def _of_pet(whole: str, model: ModelSpec) -> dict:
    if PET.name not in model.forcing_names:
        raise ValueError(
            f"'{whole}' must be of a model with the forcing '{PET.name}'; found '{model.name}', which has "
            f"{', '.join(model.forcing_names)}: leave the factor out."
        )

    def step(f, k, p, s):
        """The model's step, with the factor."""
        return model.reference_step({**f, PET.name: p["pet_factor"] * f[PET.name]}, k, p, s)

    return dict(reference_step=step)


def _of_snow(whole: str, model: ModelSpec) -> dict:
    if "snowfall" not in model.flux_names or not _reads(model, SNOW_FACTOR):
        own = "has 'scf', which is that factor: search it" if "scf" in model.parameter_names else (
            f"has {', '.join(model.forcing_names)}: put a snow routine before it, such as 'cemaneige+{model.name}'"
        )  # fmt: skip
        raise ValueError(
            f"'{whole}' must be of a model whose snow the factor can reach; found '{model.name}', which {own}."
        )

    def step(f, k, p, s):
        """The model's step, which reads the factor, and what that adds."""
        state, fluxes = model.reference_step(f, k, p, s)
        return state, {**fluxes, CATCH.name: fluxes["snowfall"] - fluxes["snowfall"] / p[SNOW_FACTOR]}

    balance = model.balance and replace(model.balance, gains=(*model.balance.gains, CATCH.name))
    return dict(reference_step=step, fluxes=(*model.fluxes, CATCH), balance=balance)


class _Watched(dict):
    """A mapping that notes what is read."""

    read: frozenset[str] = frozenset()

    def __getitem__(self, name):
        self.read |= {name}
        return super().__getitem__(name)


def _reads(model: ModelSpec, name: str) -> bool:
    """Whether the step reads a parameter that its table need not have."""
    import torch  # who reads tables needs it not

    one = torch.ones(1, 1, dtype=torch.float64)
    inputs = {v.name: one for v in model.inputs} | {"dt": one}
    values = {v.name: v.from_unit(0.5) * one for v in (*model.parameters, *model.optional_parameters)} | {name: one}
    values |= model.prepare(inputs, values) if model.prepare else {}
    p = _Watched(values | dict.fromkeys(model.line_names, one))
    state = dict.fromkeys((*model.state_names, *model.line_names), one)
    model.reference_step(dict.fromkeys(model.forcing_names, one), inputs, p, state)
    return name in p.read
