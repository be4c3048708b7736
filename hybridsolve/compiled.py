"""The call into the compiled extension `_cpu`: addresses and strides out of tensors."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from . import faults
from .problem import Problem, axes, spec_of, strides


@cache
def extension() -> ModuleType:
    """The module `_cpu`, or an error that says how to come by it."""
    try:
        from . import _cpu
    except ImportError as error:
        raise RuntimeError(
            f"backend 'cpu' needs the compiled extension hybridsolve._cpu, which cannot be imported ({error}); "
            "reinstall hybridsolve with a C++17 compiler present, or ask for backend='reference'."
        ) from error
    return _cpu


def _address(x: Tensor | None) -> int:
    return x.data_ptr() if x is not None and x.numel() else 0


def _arguments(run: Problem, **more):
    names = _names(run.kernel)
    arguments = extension().Arguments()
    fields = dict(
        model=run.kernel,
        is_double=run.state.dtype == torch.float64,
        sizes=list(run.sizes),
        group_size=run.group,
        forcing=[(f.data_ptr(), *strides(f, "tb")) for f in run.forcing],
        forcing_bounds=run.forcing_bounds,
        parameters=[(p.data_ptr(), *strides(p, axes(p))) for p in run.parameters],
        parameter_bounds=run.parameter_bounds,
        parameter_range=run.parameter_range,
        raw=run.raw,
        per_step=run.per_step,
        by_group=[p.shape[-1] == 1 for p in run.parameters],
        weights=(0, 0, 0, 0) if run.weights is None else (run.weights.data_ptr(), *strides(run.weights, "bc")),
        initial_state=run.state.data_ptr(),
        outputs=[names.index(name) for name in run.outputs],
        each=run.each,
        interval=run.interval,
        checkpoints=_address(run.checkpoints),
    )
    for name, value in (fields | more).items():
        setattr(arguments, name, value)
    return arguments


@cache
def _names(kernel: str) -> list[str]:
    """What a compiled kernel can put out, after checking that its header and the table in Python tell one story."""
    compiled, spec = extension().models()[kernel], spec_of(kernel)
    ours = {
        "forcing_names": spec.forcing_names,
        "parameter_names": tuple(v.name for v in spec.present_parameters(compiled["parameter_names"].split())),
        "state_names": spec.state_names,
    }
    for table, names in ours.items():
        if tuple(compiled[table].split()) != names:
            raise RuntimeError(
                f"the compiled {kernel} has {table} '{compiled[table]}', its table in Python "
                f"'{' '.join(names)}'; rebuild hybridsolve."
            )
    return compiled["flux_names"].split() + compiled["state_names"].split()


def available() -> str:
    """What was built and is chosen here, in a few words; raises if nothing was."""
    return f"{extension().isa()} of {', '.join(extension().isas())}"


def group_size(n_components: int, n_basins: int, reduced: bool) -> int:
    """How many components the kernel runs behind one another in a lane (see csrc/core/drive.h).

    Where components are summed (`reduced`) this fixes the order of the sum, so it may depend on their number alone:
    a basin's result must not change with the basins beside it. Else a few basins of many components spread out.
    """
    if not reduced and n_basins < 16:
        return 1
    return -(-n_components // -(-n_components // 16))


def forward(run: Problem, fluxes: Tensor, final_state: Tensor) -> None:
    """Fill fluxes, final state and checkpoints; raise if a value is out of bounds."""
    arguments = _arguments(run, fluxes=fluxes.data_ptr(), final_state=final_state.data_ptr())
    if fault := extension().forward(arguments, torch.get_num_threads()):
        raise ValueError(faults.explain(fault, run))


def adjoint(run: Problem, d_fluxes, d_final_state, d_forcing, d_parameters, d_state, d_weights) -> None:
    """Fill the gradients that are not empty."""
    over_outputs, *rest = d_fluxes.stride()
    arguments = _arguments(
        run,
        d_fluxes=(d_fluxes.data_ptr(), *rest, *(() if run.each else (0,))),
        d_fluxes_stride=over_outputs,
        d_final_state=d_final_state.data_ptr(),
        d_forcing=[_address(d) for d in d_forcing],
        d_parameters=[_address(d) for d in d_parameters],
        d_initial_state=d_state.data_ptr(),
        d_weights=_address(d_weights),
    )
    extension().adjoint(arguments, torch.get_num_threads())


def unit_hydrograph(inputs, results, d_outflow=None) -> None:
    """Fill the routed series, or with a cotangent the gradients of the four inputs."""
    arrays = [*inputs, *results] if d_outflow is None else [*inputs, None, d_outflow, *results]
    arrays += [None] * (10 - len(arrays))
    extension().unit_hydrograph(
        is_double=inputs[0].dtype == torch.float64,
        n_steps=inputs[0].shape[0],
        n_series=inputs[0].shape[1],
        arrays=[_address(x) for x in arrays],
        reverse=d_outflow is not None,
        n_threads=torch.get_num_threads(),
    )


def sum_middle(x: Tensor, out: Tensor, rows: int, n: int, columns: int) -> None:
    """Sum x, seen as [rows, n, columns], over n in order: the same bits for any number of threads."""
    double = x.dtype == torch.float64
    extension().sum_middle(double, x.data_ptr(), out.data_ptr(), rows, n, columns, torch.get_num_threads())
