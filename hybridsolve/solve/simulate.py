"""simulate(): one run, from named tensors to named tensors.

The way of a run: `check.problem` (names, shapes, types, devices; the backend) -> `ops.run` (autograd) ->
`backends.forward` (allocates) -> `compiled.Cpu.forward` -> csrc/core/drive.h (the time loop) ->
csrc/models/<model>.h (one step); and back: `ops.Differentiable` -> `backends.adjoint` -> the same files. On a GPU it is
triton/launch.py -> drive.py -> the model's step there, or `compiled.Cuda` -> csrc/core/cuda.cuh -> the CPU's own
csrc/models/<model>.h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..spec import DAY, ModelSpec
from . import check, faults, ops, reference


@dataclass(frozen=True)
class Run:
    """What a simulation gives.

    Attributes
    ----------
    fluxes : dict of str to Tensor
        ``[T, B]`` each, or ``[T, B, C]`` with ``components="each"``; units as in the model's table.
    final_state : dict of str to Tensor ``[B, C]``
        Every store after the last step, and of a delay line its contents ``[slots - 1, B, C]``: the `initial_state` of
        a run that continues this one.
    """

    fluxes: dict[str, Tensor]
    final_state: dict[str, Tensor]


def simulate(
    model: ModelSpec | str,
    forcing: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    *,
    inputs: Mapping[str, Tensor] | None = None,
    networks: Mapping[str, Tensor] | None = None,
    step: int = DAY,
    initial_state: Mapping[str, Tensor] | None = None,
    fluxes: Sequence[str] | None = None,
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
        The model's `forcing_names`, units as in its table (degC; depths of water in mm of one step). An axis of size 1
        is shared.
    parameters : mapping of str to Tensor ``[B, C]`` or ``[T, B, C]``
        The model's `parameter_names`, as its table has them, for a day; any of them may vary by step. An axis of size 1
        is shared, and its gradient has size 1. One that has a default may be left out.
    inputs : mapping of str to Tensor ``[B]``, optional
        The model's `input_names`: numbers of a basin that nobody learns. An axis of size 1 is shared.
    networks : mapping of str to Tensor ``[W]`` or ``[B, W]``, optional
        The weights of the networks that the model's step calls (`hybridsolve.models.primitives.mlp`), by name: shared
        by all cells, or a set for each basin; in the order of ``torch.nn.utils.parameters_to_vector`` of a chain of
        Linear, as a `hybridsolve.nn.FluxNetwork` gives them.
    step : int
        Length of a step, s. Parameters are converted to it as their rows of the table say.
    initial_state : mapping of str to Tensor ``[B, C]``, optional
        Stores before the first step; any that is left out starts where the model's table says.
    fluxes : sequence of str, optional
        Which series to return, from the model's `flux_names`, or its `state_names` for stores at the end of each step;
        the model's outflow if left out.
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

    >>> forcing = {name: torch.as_tensor(arrays[name]) for name in hs.models.get("hbv11p").forcing_names}

    From xarray, such as a dataset of `hybridsolve.data.open_dataset`, and back:

    >>> series = {name: ds[name].transpose("time", "basin") for name in hs.models.get("hbv11p").forcing_names}
    >>> run = hs.simulate("hbv11p", {name: torch.as_tensor(x.values) for name, x in series.items()}, parameters)
    >>> flow = next(iter(series.values())).copy(data=run.fluxes[model.outflow].numpy(force=True))

    Parameters of one set for all basins have the shape ``[1, 1]``: ``torch.tensor([[250.0]])``. Forcing, parameters and
    state share one dtype, float32 or float64.
    """
    run = check.problem(
        model, forcing, parameters, inputs, step, initial_state, fluxes, components, weights, checkpoint_interval, raw,
        backend, networks,
    )  # fmt: skip
    if run.backend == "reference":
        faults.check_values(run)
        series, final = reference.run(run)
    else:
        series, final = ops.run(run.text, run.tensors, run.numbers)
    # One series is a view whose gradient needs no copy; unbind's gradient stacks.
    apart = (series.squeeze(0),) if len(run.outputs) == 1 else series.unbind(0)
    return Run(dict(zip(run.outputs, apart, strict=True)), run.named_state(final))
