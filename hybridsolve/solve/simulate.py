"""simulate(): check names, shapes, types and devices; choose the backend; call the operator; name the outputs.

The way of a run: `simulate` here -> `ops.run` (autograd) -> `backends.forward` (allocates) -> `compiled.Cpu.forward` ->
csrc/core/drive.h (the time loop) -> csrc/models/<model>.h (one step); and back: `ops._RunAdjoint` ->
`backends.adjoint` -> the same files. On a GPU it is `triton/launch.py` -> drive.py -> <model>.py there, or
`compiled.Cuda` -> csrc/core/cuda.cuh -> the CPU's own csrc/models/<model>.h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import models
from ..arguments import whole
from ..spec import ModelSpec
from . import backends, faults, ops, reference
from .problem import Problem, dense, mapping


@dataclass(frozen=True)
class Run:
    """What a simulation gives.

    Attributes
    ----------
    fluxes : dict of str to Tensor
        ``[T, B]`` each, or ``[T, B, C]`` with ``components="each"``; units as in the model's table.
    final_state : dict of str to Tensor ``[B, C]``
        Every store in mm after the last step: the `initial_state` of a run that continues this one.
    """

    fluxes: dict[str, Tensor]
    final_state: dict[str, Tensor]


def simulate(
    model: ModelSpec | str,
    forcing: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    *,
    initial_state: Mapping[str, Tensor] | None = None,
    fluxes: Sequence[str] = ("streamflow",),
    components: str = "mean",
    weights: Tensor | None = None,
    checkpoint_interval: int | None = None,
    raw: bool = False,
    backend: str = "auto",
) -> Run:
    """Run a model over all steps, basins and components in one fused kernel; gradients come back through another.

    Parameters
    ----------
    model : ModelSpec or str
        From `hybridsolve.models`.
    forcing : mapping of str to Tensor ``[T, B]``
        The model's `forcing_names`, units as in its table (mm/d, degC). An axis of size 1 is shared.
    parameters : mapping of str to Tensor ``[B, C]`` or ``[T, B, C]``
        The model's `parameter_names`; any of them may vary by step. An axis of size 1 is shared, and its gradient has
        size 1.
    initial_state : mapping of str to Tensor ``[B, C]``, optional
        Stores before the first step; any that is left out starts where the model's table says.
    fluxes : sequence of str
        Which series to return, from the model's `flux_names`, or its `state_names` for stores at the end of each step.
    components : {"mean", "each"}
        Average the series over the components, or return them apart.
    weights : Tensor ``[B, C]``, optional
        Instead of the mean, return the sum of w q over the components. Used as given, not normalised.
    checkpoint_interval : int, optional
        Steps between the states kept for the gradient; about sqrt(T) if left out. Changes memory, never bits.
    raw : bool
        Take every parameter as a network puts it out, and scale ``sigmoid(x)`` to the parameter's bounds inside the
        kernel: the numbers of ``model.parameters_from_unit(sigmoid(x))`` to rounding, without the scaled copies.
    backend : {"auto", "cpu", "triton", "cuda", "reference"}
        "auto": "cpu" for CPU tensors, "triton" for CUDA tensors.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        If a name, shape, dtype, device or value does not fit; one sentence says which, where and what to do.
    RuntimeError
        If the backend asked for is not built.
    NotImplementedError
        If a second derivative is asked for.

    Notes
    -----
    The same input gives the same bits for any number of threads (torch's), checkpoint interval, split into basins or
    chain of windows. On a GPU nobody waits for the run to end: a value out of bounds is raised by the next call of this
    package or by `synchronize`, and until then the outputs of its cell are NaN.

    Examples
    --------
    From numpy, arrays ``[T, B]`` of days and basins:

    >>> forcing = {"prcp": torch.as_tensor(prcp), "tmean": torch.as_tensor(tmean), "pet": torch.as_tensor(pet)}

    From xarray, such as a dataset of `hybridsolve.data.open_dataset`, and back:

    >>> series = {name: ds[name].transpose("time", "basin") for name in hs.models.get("hbv11p").forcing_names}
    >>> run = hs.simulate("hbv11p", {name: torch.as_tensor(x.values) for name, x in series.items()}, parameters)
    >>> flow = series["prcp"].copy(data=run.fluxes["streamflow"].numpy(force=True)).rename("streamflow")

    Parameters of one set for all basins have the shape ``[1, 1]``: ``torch.tensor([[250.0]])``. Forcing, parameters and
    state share one dtype, float32 or float64.
    """
    model = models.get(model)
    x = check(model, forcing, parameters, initial_state, fluxes, components, weights, checkpoint_interval, raw)
    forcing, parameters, state, sizes, outputs, each = x.forcing, x.parameters, x.state, x.sizes, x.outputs, x.each
    interval, kernel = x.interval, model.kernel_name(x.parameters)
    backend = backends.choose(backend, state.device, kernel)
    if backend == "reference":
        faults.look(
            Problem(kernel, [*forcing.values()], [*parameters.values()], state, weights, sizes, outputs, each, 0, raw)
        )
        if raw:
            parameters = model.parameters_from_unit({name: torch.sigmoid(x) for name, x in parameters.items()})
        series, final = reference.run(model, forcing, parameters, state, weights, sizes, outputs, each)
    else:
        if not torch.is_grad_enabled():
            interval = 0  # no gradient can be asked for: keep no checkpoints
        series, final = ops.run(
            backend,
            kernel,
            list(forcing.values()),
            list(parameters.values()),
            state,
            weights,
            sizes,
            outputs,
            each,
            interval,
            raw,
        )
    # One series is a view whose gradient needs no copy; unbind's gradient stacks.
    series = (series.squeeze(0),) if len(outputs) == 1 else series.unbind(0)
    return Run(dict(zip(outputs, series, strict=True)), dict(zip(model.state_names, final.unbind(0), strict=True)))


@dataclass(frozen=True)
class Checked:
    """The inputs of a run after `check`, in the kernel's order; `state` is ``[S, B, C]``."""

    forcing: dict[str, Tensor]
    parameters: dict[str, Tensor]
    state: Tensor
    sizes: list[int]
    outputs: list[str]
    each: bool
    interval: int


def check(model, forcing, parameters, initial_state, fluxes, components, weights, checkpoint_interval, raw) -> Checked:
    """Raise unless names, shapes, types and devices fit; values are looked at by the kernels."""
    forcing, parameters = mapping(forcing, "forcing"), mapping(parameters, "parameters")
    given_state = {} if initial_state is None else mapping(initial_state, "initial_state")
    if not isinstance(raw, bool):
        raise ValueError(f"raw must be True or False; found {raw!r}: say whether the parameters come unscaled.")
    outputs = output_names(model, fluxes)
    if components not in ("mean", "each"):
        raise ValueError(f"components must be 'mean' or 'each'; found {components!r}.")
    each = components == "each"
    if each and weights is not None:
        raise ValueError("weights apply to the sum over components; with components='each' leave them out.")

    forcing_given, forcing = forcing, {name: _named(forcing, name, "forcing") for name in model.forcing_names}
    _refuse_unknown(forcing_given, model.forcing_names, "forcing", model)
    rows = model.present_parameters(parameters)
    _refuse_unknown(parameters, [v.name for v in rows], "parameters", model)
    parameters = {v.name: _named(parameters, v.name, "parameters") for v in rows}
    _refuse_unknown(given_state, model.state_names, "initial_state", model)

    sizes = _sizes(forcing, parameters, given_state, weights)
    interval = _interval(checkpoint_interval, sizes[0])
    like = next(iter(forcing.values()))
    state = _initial_state(model, given_state, parameters, like, sizes[1:], raw)
    return Checked(forcing, parameters, state, sizes, outputs, each, interval)


def _initial_state(model, given, parameters, like, cells, raw) -> Tensor:
    """The state ``[S, B, C]``: what is given, and what the table says of the rest."""
    if len(given) < len(model.states):
        first = {name: p if p.dim() == 2 else p[0] for name, p in parameters.items()}
        if raw and any(callable(s.initial) for s in model.states):
            first = model.parameters_from_unit({name: torch.sigmoid(p) for name, p in first.items()})
        given = model.initial_state(first) | given
    stores = (given[name] for name in model.state_names)
    return torch.stack([x.expand(cells) if isinstance(x, Tensor) else like.new_full(cells, x) for x in stores])


def output_names(model: ModelSpec, fluxes: Sequence[str]) -> list[str]:
    """The names of the series asked for; empty, unknown and repeated ones are refused."""
    if isinstance(fluxes, Tensor) or not isinstance(fluxes, str | Sequence | Set):
        raise ValueError(f"fluxes must be names of series; found {type(fluxes).__name__}: pass a tuple of names.")
    names = [fluxes] if isinstance(fluxes, str) else list(fluxes)
    if not names:
        raise ValueError(f"fluxes is empty; expected at least one of {', '.join(model.output_names)}.")
    for name in names:
        if name not in model.output_names:
            raise ValueError(
                f"model {model.name} has no flux '{name}'; expected any of {', '.join(model.output_names)}."
            )
    if len(set(names)) < len(names):
        raise ValueError(f"fluxes names a series twice: {', '.join(names)}; name each once.")
    return names


def _named(given, name: str, what: str) -> Tensor:
    if name not in given:
        there = ", ".join(map(str, given)) or "nothing"
        raise ValueError(f"{what} lacks '{name}'; expected it beside {there}: add it.")
    return dense(given[name], f"{what} '{name}'")


def _refuse_unknown(given, known, what: str, model: ModelSpec) -> None:
    for name in given:
        if name not in known:
            raise ValueError(
                f"{what} has '{name}', which {model.name} does not take; expected {', '.join(known)}: "
                "remove or rename it."
            )


def _sizes(forcing, parameters, state, weights) -> list[int]:
    """T, B and C, which all inputs must agree on or have as 1; and that all share one dtype and device."""
    every = [(f"forcing '{n}'", x, "tb") for n, x in forcing.items()]
    every += [(f"parameter '{n}'", x, "bc" if x.dim() == 2 else "tbc") for n, x in parameters.items()]
    every += [(f"initial_state '{n}'", _named(state, n, "initial_state"), "bc") for n in state]
    every += [("weights", dense(weights, "weights"), "bc")] if weights is not None else []
    letters = {"t": "T", "b": "B", "c": "C"}
    sizes: dict[str, int] = {}
    origin: dict[str, str] = {}
    first_name, first, _ = every[0]
    if first.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{first_name} must be float32 or float64; found {first.dtype}: convert it with .to().")
    for name, x, axes in every:
        if x.dim() != len(axes):
            shape = " or ".join(
                ["[B, C]", "[T, B, C]"]
                if name.startswith("parameter")
                else [f"[{', '.join(letters[a] for a in axes)}]"]
            )
            raise ValueError(f"{name} must be {shape}; found shape {list(x.shape)}: reshape it.")
        if x.dtype != first.dtype:
            raise ValueError(
                f"{name} must be {first.dtype} as {first_name} is; found {x.dtype}: convert it with .to()."
            )
        if x.device != first.device:
            raise ValueError(
                f"{name} must be on {first.device} as {first_name} is; found {x.device}: move it with .to()."
            )
        for axis, size in zip(axes, x.shape, strict=True):
            if size == 0:
                raise ValueError(
                    f"{name} is empty: axis {letters[axis]} has size 0 in {list(x.shape)}; expected at least "
                    "one step, basin and component."
                )
            if size == 1:
                continue
            if sizes.setdefault(axis, size) != size:
                raise ValueError(
                    f"{name} has {letters[axis]} = {size}, but {origin[axis]} has {sizes[axis]}; "
                    "expected the same, or 1."
                )
            origin.setdefault(axis, name)
    return [sizes.get(axis, 1) for axis in "tbc"]


def _interval(interval: int | None, n_steps: int) -> int:
    if interval is None:
        return backends.check_interval(n_steps)
    return min(whole("checkpoint_interval", interval, 1), n_steps)
