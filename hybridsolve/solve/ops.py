"""The registered operators, and the autograd Functions around them, written once for all models.

Each kernel pair is two operators, `hybridsolve::run` and `hybridsolve::run_adjoint` (and `convolve` likewise). Both
have a fake for torch.compile, a rule for torch.vmap and an autograd formula; the adjoint's formula raises, since second
derivatives are not implemented. An outer autograd.Function calls them, because torch.func transforms see Functions and
do not see an operator's own formula, while torch.compile sees operators. All these doors lead to the same two kernels.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor

from . import backends

_library = torch.library.Library("hybridsolve", "DEF")
_SECOND = (
    "second derivatives of hybridsolve are not implemented: the adjoint has none of its own; "
    "differentiate once, or use backend='reference', which torch can differentiate again."
)


def refuse(*_):
    """The formula of every adjoint's own derivative."""
    raise NotImplementedError(_SECOND)


def _define(schema: str, real, fake) -> str:
    """Define an operator with its CPU kernel and its fake; return its qualified name."""
    name = "hybridsolve::" + schema[: schema.index("(")]
    _library.define(schema)
    for device in ("CPU", "CUDA"):
        torch.library.impl(name, device, real, lib=_library)
    torch.library.register_fake(name, fake, lib=_library)

    def over_batch(info, in_dims, *args):
        # A batch of runs is a loop of runs: each already fills the machine, and nothing is copied to join them.
        pieces = [_call(name)(*_take(args, in_dims, i)) for i in range(info.batch_size)]
        if isinstance(pieces[0], Tensor):
            return torch.stack(pieces), 0
        joined = [torch.stack(parts) for parts in zip(*pieces, strict=True)]
        kind = type(pieces[0])
        return kind(joined), kind([0] * len(joined))

    torch.library.register_vmap(name, over_batch, lib=_library)
    return name


def _call(name: str):
    return getattr(torch.ops.hybridsolve, name.split("::")[1])


def _take(args, in_dims, i):
    """The i-th of a batch of argument lists."""
    if isinstance(in_dims, list | tuple):
        return [_take(a, d, i) for a, d in zip(args, in_dims, strict=True)]
    return args if in_dims is None else args.select(in_dims, i)


# --- The time loop -----------------------------------------------------------------------------------------------


def _run_fake(backend, kernel, forcing, parameters, state, weights, sizes, outputs, each, interval, raw):
    return (
        backends.empty_series(backend, state, len(outputs), sizes, each),
        state.new_empty(state.shape),
        backends.empty_checkpoints(backend, state, sizes, interval),
    )


_RUN = _define(
    "run(str backend, str kernel, Tensor[] forcing, Tensor[] parameters, Tensor state, Tensor? weights, "
    "SymInt[] sizes, str[] outputs, bool each, SymInt interval, bool raw) -> (Tensor, Tensor, Tensor)",
    backends.forward,
    _run_fake,
)


def _adjoint_fake(
    backend,
    kernel,
    forcing,
    parameters,
    checkpoints,
    weights,
    d_fluxes,
    d_final_state,
    sizes,
    outputs,
    each,
    interval,
    raw,
    needs,
):
    new = checkpoints.new_empty
    inputs = [
        *(x.shape for x in forcing),
        *(x.shape for x in parameters),
        (checkpoints.shape[1], *sizes[1:]),
        (0,) if weights is None else weights.shape,
    ]
    return [new(shape if need else (0,)) for shape, need in zip(inputs, needs, strict=True)]


_RUN_ADJOINT = _define(
    "run_adjoint(str backend, str kernel, Tensor[] forcing, Tensor[] parameters, Tensor checkpoints, Tensor? weights, "
    "Tensor d_fluxes, Tensor d_final_state, SymInt[] sizes, str[] outputs, bool each, SymInt interval, bool raw, "
    "bool[] needs) "
    "-> Tensor[]",
    backends.adjoint,
    _adjoint_fake,
)


_RUN_TANGENT = _define(
    "run_tangent(str backend, str kernel, Tensor[] forcing, Tensor[] parameters, Tensor state, Tensor? weights, "
    "Tensor?[] t_forcing, Tensor?[] t_parameters, Tensor? t_state, Tensor? t_weights, SymInt[] sizes, str[] outputs, "
    "bool each, bool raw) -> (Tensor, Tensor)",
    backends.tangent,
    lambda backend, kernel, forcing, parameters, state, weights, tf, tp, ts, tw, sizes, outputs, each, raw: (
        backends.empty_series(backend, state, len(outputs), sizes, each),
        state.new_empty(state.shape),
    ),
)


def _run_setup(ctx, inputs, output):
    backend, kernel, forcing, parameters, state, weights, sizes, outputs, each, interval, raw = inputs
    checkpoints = output[2]
    tensors = (*forcing, *parameters, *(() if weights is None else (weights,)))
    ctx.save_for_backward(*tensors, checkpoints)
    ctx.n_forcing, ctx.n_parameters = len(forcing), len(parameters)
    ctx.arguments = backend, kernel, sizes, outputs, each, interval, raw
    ctx.set_materialize_grads(True)


def _run_backward(ctx, needs, d_fluxes, d_final_state):
    *inputs, checkpoints = ctx.saved_tensors
    backend, kernel, sizes, outputs, each, interval, raw = ctx.arguments
    n = ctx.n_forcing + ctx.n_parameters
    weights = inputs[n] if len(inputs) > n else None
    gradients = _ADJOINTS[n].apply(
        backend,
        kernel,
        sizes,
        outputs,
        each,
        interval,
        raw,
        needs,
        ctx.n_forcing,
        d_fluxes,
        d_final_state,
        checkpoints,
        weights,
        *inputs[:n],
    )
    return [g if need else None for g, need in zip(gradients, needs, strict=True)]


def _of_arity(function, n):
    """The Function with n arguments by signature: torch.compile counts them, and miscounts a *args."""

    def forward(*args):
        return function.forward(*args)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    forward.__signature__ = inspect.Signature([inspect.Parameter(f"x{i}", kind) for i in range(n)])
    return type(f"{function.__name__}{n}", (function,), {"forward": staticmethod(forward)})


def _aliases(tensors):
    """Under torch.compile, views: of a graph's own inputs it does not see that torch.func.grad differentiates them."""
    if not torch.compiler.is_compiling():
        return tensors
    return [None if x is None else x.view_as(x) for x in tensors]


class _Run(torch.autograd.Function):
    """run() as autograd and torch.func see it; tensors are flat arguments, since Functions look no deeper."""

    generate_vmap_rule = True

    @staticmethod
    def forward(backend, kernel, sizes, outputs, each, interval, raw, n_forcing, state, weights, *inputs):
        return _call(_RUN)(
            backend,
            kernel,
            list(inputs[:n_forcing]),
            list(inputs[n_forcing:]),
            state,
            weights,
            sizes,
            outputs,
            each,
            interval,
            raw,
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        backend, kernel, sizes, outputs, each, interval, raw, n_forcing, state, weights, *tensors = inputs
        ctx.mark_non_differentiable(output[2])
        _run_setup(
            ctx,
            (
                backend,
                kernel,
                tensors[:n_forcing],
                tensors[n_forcing:],
                state,
                weights,
                sizes,
                outputs,
                each,
                interval,
                raw,
            ),
            output,
        )
        ctx.save_for_forward(state, weights, *tensors)

    @staticmethod
    def backward(ctx, d_fluxes, d_final_state, _):
        need_state, need_weights, *need_inputs = ctx.needs_input_grad[8:]
        *d_inputs, d_state, d_weights = _run_backward(
            ctx, [*need_inputs, need_state, need_weights], d_fluxes, d_final_state
        )
        return *[None] * 8, d_state, d_weights, *d_inputs


class _DualRun(_Run):
    """_Run with forward mode, which torch.compile does not know of a Function."""

    @staticmethod
    def jvp(ctx, *tangents):
        state, weights, *tensors = ctx.saved_tensors
        t_state, t_weights, *t_inputs = tangents[8:]
        backend, kernel, sizes, outputs, each, _, raw = ctx.arguments
        t_fluxes, t_final_state = _RunTangent.apply(
            backend,
            kernel,
            sizes,
            outputs,
            each,
            raw,
            ctx.n_forcing,
            state,
            weights,
            t_state,
            t_weights,
            *tensors,
            *t_inputs,
        )
        return t_fluxes, t_final_state, None


class _RunAdjoint(torch.autograd.Function):
    """run_adjoint() as autograd and torch.func see it: once more is refused."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        backend,
        kernel,
        sizes,
        outputs,
        each,
        interval,
        raw,
        needs,
        n_forcing,
        d_fluxes,
        d_final_state,
        checkpoints,
        weights,
        *inputs,
    ):
        return tuple(
            _call(_RUN_ADJOINT)(
                backend,
                kernel,
                list(inputs[:n_forcing]),
                list(inputs[n_forcing:]),
                checkpoints,
                weights,
                d_fluxes,
                d_final_state,
                sizes,
                outputs,
                each,
                interval,
                raw,
                needs,
            )
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    backward = staticmethod(refuse)


class _RunTangent(torch.autograd.Function):
    """run_tangent() as autograd and torch.func see it: once more is refused."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        backend, kernel, sizes, outputs, each, raw, n_forcing, state, weights, t_state, t_weights, *inputs_and_tangents
    ):
        n = len(inputs_and_tangents) // 2
        inputs, tangents = inputs_and_tangents[:n], inputs_and_tangents[n:]
        return _call(_RUN_TANGENT)(
            backend,
            kernel,
            list(inputs[:n_forcing]),
            list(inputs[n_forcing:]),
            state,
            weights,
            list(tangents[:n_forcing]),
            list(tangents[n_forcing:]),
            t_state,
            t_weights,
            sizes,
            outputs,
            each,
            raw,
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    backward = staticmethod(refuse)


_RUNS, _DUAL_RUNS = ([_of_arity(kind, 10 + n) for n in range(40)] for kind in (_Run, _DualRun))
_ADJOINTS = [_of_arity(_RunAdjoint, 13 + n) for n in range(40)]


def _op_backward(ctx, d_fluxes, d_final_state, _):
    need_forcing, need_parameters, need_state, need_weights = ctx.needs_input_grad[2:6]
    needs = [*need_forcing, *need_parameters, need_state, need_weights]
    gradients = _run_backward(ctx, needs, d_fluxes, d_final_state)
    n = ctx.n_forcing
    return None, None, gradients[:n], gradients[n:-2], gradients[-2], gradients[-1], *[None] * 5


torch.library.register_autograd(_RUN, _op_backward, setup_context=_run_setup, lib=_library)
torch.library.register_autograd(_RUN_ADJOINT, refuse, lib=_library)
torch.library.register_autograd(_RUN_TANGENT, refuse, lib=_library)


def run(backend, kernel, forcing, parameters, state, weights, sizes, outputs, each, interval, raw=False):
    """Run a compiled model over all steps, differentiably.

    Parameters
    ----------
    backend : str
        As `backends.choose` gives it.
    kernel : str
        A name of csrc/models.def.
    forcing, parameters : list of Tensor
        In the kernel's order; ``[T, B]``, and ``[B, C]`` or ``[T, B, C]``, any axis of size 1.
    state : Tensor ``[S, B, C]``
    weights : Tensor ``[B, C]`` or None
        None: the mean over components.
    sizes : (T, B, C)
    outputs : list of str
    each : bool
    interval : int
        Steps between checkpoints; 0 keeps none, and then there is no gradient.
    raw : bool
        The parameters come before the sigmoid, and the kernel scales them to their bounds.

    Returns
    -------
    fluxes : Tensor ``[n_outputs, T, B]``, or with `each` ``[n_outputs, T, B, C]``
    final_state : Tensor ``[S, B, C]``
    """
    forcing, parameters, (weights,) = _aliases(forcing), _aliases(parameters), _aliases([weights])
    runs = _RUNS if torch.compiler.is_compiling() else _DUAL_RUNS
    fluxes, final_state, _ = runs[len(forcing) + len(parameters)].apply(
        backend, kernel, sizes, outputs, each, interval, raw, len(forcing), state, weights, *forcing, *parameters
    )
    return fluxes, final_state


# --- The unit hydrograph -----------------------------------------------------------------------------------------

_ROUTE = _define(
    "unit_hydrograph(str backend, Tensor inflow, Tensor a, Tensor b, Tensor memory) -> Tensor",
    backends.unit_hydrograph,
    lambda backend, inflow, a, b, memory: inflow.new_empty(inflow.shape),
)
_ROUTE_ADJOINT = _define(
    "unit_hydrograph_adjoint(str backend, Tensor inflow, Tensor a, Tensor b, Tensor memory, Tensor d_outflow) "
    "-> Tensor[]",
    backends.unit_hydrograph,
    lambda backend, inflow, a, b, memory, d_outflow: [x.new_empty(x.shape) for x in (inflow, a, b, memory)],
)


_ROUTE_TANGENT = _define(
    "unit_hydrograph_tangent(str backend, Tensor inflow, Tensor a, Tensor b, Tensor memory, Tensor? t_inflow, "
    "Tensor? t_a, Tensor? t_b, Tensor? t_memory) -> Tensor",
    backends.unit_hydrograph_tangent,
    lambda backend, inflow, *_: inflow.new_empty(inflow.shape),
)


class _Route(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(backend, inflow, a, b, memory):
        return _call(_ROUTE)(backend, inflow, a, b, memory)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.backend, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx, d_outflow):
        return None, *_RouteAdjoint.apply(ctx.backend, *ctx.saved_tensors, d_outflow)


class _DualRoute(_Route):
    @staticmethod
    def jvp(ctx, _, *tangents):
        return _RouteTangent.apply(ctx.backend, *ctx.saved_tensors, *tangents)


class _RouteTangent(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(backend, *inputs_and_tangents):
        return _call(_ROUTE_TANGENT)(backend, *inputs_and_tangents)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    backward = staticmethod(refuse)


class _RouteAdjoint(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(backend, inflow, a, b, memory, d_outflow):
        return tuple(_call(_ROUTE_ADJOINT)(backend, inflow, a, b, memory, d_outflow))

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    backward = staticmethod(refuse)


torch.library.register_autograd(_ROUTE, _Route.backward, setup_context=_Route.setup_context, lib=_library)
torch.library.register_autograd(_ROUTE_ADJOINT, refuse, lib=_library)
torch.library.register_autograd(_ROUTE_TANGENT, refuse, lib=_library)


def unit_hydrograph(backend: str, inflow: Tensor, a: Tensor, b: Tensor, memory: Tensor) -> Tensor:
    """Route ``[T, N]`` series by the unit hydrographs of ``a, b [N]`` after a memory ``[14, N]``, differentiably."""
    function = _Route if torch.compiler.is_compiling() else _DualRoute
    return function.apply(backend, *_aliases([inflow, a, b, memory]))


# --- Routing along a network -------------------------------------------------------------------------------------


def _reaches_fake(backend, scheme, *inputs):
    state, _, sizes, keep = inputs[-4:]
    return (
        state.new_empty(sizes[0], sizes[3]),
        state.new_empty(state.shape),
        backends.empty_route_checkpoints(backend, state, sizes, keep),
    )


_NETWORK = "str backend, str scheme, Tensor level_start, Tensor first, Tensor downstream, Tensor column, Tensor level, "
_REACHES = _define(
    f"route({_NETWORK}Tensor constants, Tensor lateral, Tensor state, float dt, SymInt[] sizes, bool keep) "
    "-> (Tensor, Tensor, Tensor)",
    backends.route,
    _reaches_fake,
)
_REACHES_ADJOINT = _define(
    f"route_adjoint({_NETWORK}Tensor constants, Tensor lateral, Tensor checkpoints, float dt, SymInt[] sizes, "
    "Tensor d_discharge, Tensor d_final_state) -> Tensor[]",
    backends.route_adjoint,
    lambda *args: [x.new_empty(x.shape) for x in (*args[7:9], args[-1])],
)


class _Reaches(torch.autograd.Function):
    """route() as autograd and torch.func see it; its arguments are the operator's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments):
        return _call(_REACHES)(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *ctx.before, ctx.dt, ctx.sizes, _ = (*inputs[:2], *inputs[-3:])
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(*inputs[2:9], output[2])  # the network, constants and lateral inflow

    @staticmethod
    def backward(ctx, d_discharge, d_final_state, _):
        found = _ROUTE_REACHES_ADJOINT.apply(
            *ctx.before, *ctx.saved_tensors, ctx.dt, ctx.sizes, d_discharge, d_final_state
        )
        return *[None] * 7, *found, None, None, None


class _ReachesAdjoint(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments):
        return tuple(_call(_REACHES_ADJOINT)(*arguments))

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    backward = staticmethod(refuse)


_ROUTE_REACHES, _ROUTE_REACHES_ADJOINT = _of_arity(_Reaches, 13), _of_arity(_ReachesAdjoint, 14)
torch.library.register_autograd(_REACHES, _Reaches.backward, setup_context=_Reaches.setup_context, lib=_library)
torch.library.register_autograd(_REACHES_ADJOINT, refuse, lib=_library)


def route(backend, scheme, level_start, first, downstream, column, level, constants, lateral, state, dt, sizes, keep):
    """Route lateral inflow through a network, differentiably in constants, inflow and state.

    Parameters
    ----------
    scheme : str
        A scheme of csrc/routing/muskingum.h.
    level_start, first, downstream : integer Tensors
        Of the `RiverNetwork`.
    column : int32 Tensor ``[N]``
        Where each reach's discharge goes among the outputs; -1: nowhere.
    level : int32 Tensor ``[N]``
        Of each reach, for a GPU's threads.
    constants : Tensor ``[CONSTANTS, N]``
    lateral : Tensor ``[T / repeat, N]``
    state : Tensor ``[STORES, N]``
    dt : float
    sizes : (T, N, levels, outputs, repeat, tile)
        `tile` is the number of steps between checkpoints.
    keep : bool
        Keep checkpoints, without which there is no gradient.

    Returns
    -------
    discharge : Tensor ``[T, outputs]``
    final_state : Tensor ``[STORES, N]``

    Raises
    ------
    faults.BadInflow
    """
    constants, lateral, state = _aliases([constants, lateral, state])
    return _ROUTE_REACHES.apply(
        backend, scheme, level_start, first, downstream, column, level, constants, lateral, state, dt, sizes, keep
    )[:2]
