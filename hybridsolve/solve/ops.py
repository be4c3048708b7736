"""The registered operators, and the autograd Functions around them, written once for all kernels.

Every kernel is three operators of one signature: the value, its adjoint, its tangent. What they compute is a text that
a graph can hold (`problem.Problem.text`), the tensors it takes are one list, the numbers that may be symbolic another:

    name(str what, Tensor[] inputs, SymInt[] sizes) -> Tensor[]
    name_adjoint(str what, Tensor[] inputs, SymInt[] sizes,
                 Tensor[] kept, Tensor[] cotangents, bool[] needs) -> Tensor[]
    name_tangent(str what, Tensor[] inputs, SymInt[] sizes, Tensor?[] tangents) -> Tensor[]

Each has a fake for torch.compile, a rule for torch.vmap and an autograd formula; that of a derivative raises, since
second derivatives are not implemented. An outer autograd.Function calls them, because torch.func transforms see
Functions and do not see an operator's own formula, while torch.compile sees operators.

Four things that break when they are changed: a cache (functools) in a Function's backward breaks a graph; Functions
that hang on a closure in place of a global are traced into by torch.compile; opcheck takes no empty list of sizes; and
a jvp must return a value for the kept outputs too, of which there are `n_kept`, since ``saved_tensors`` are fewer under
torch.func.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from . import backends

MOST_TENSORS = 96  # of one kernel's inputs, kept tensors and cotangents
_library = torch.library.Library("hybridsolve", "DEF")


def refuse(ctx: Any, *grad_outputs: Any) -> NoReturn:
    """The formula of every derivative's own derivative."""
    raise NotImplementedError(
        "second derivatives of hybridsolve are not implemented: the adjoint has none of its own; "
        "differentiate once, or use backend='reference', which torch can differentiate again."
    )


def _define(schema: str, real: Callable, fake: Callable):
    """Define an operator with its kernel, its fake and its rule for vmap; return it."""
    name = f"hybridsolve::{schema[: schema.index('(')]}"
    _library.define(schema)
    for device in ("CPU", "CUDA"):
        torch.library.impl(name, device, real, lib=_library)
    torch.library.register_fake(name, fake, lib=_library)
    operator = getattr(torch.ops.hybridsolve, name.removeprefix("hybridsolve::"))

    def over_batch(info, in_dims, *args):
        # A batch of runs is a loop of runs: each already fills the machine, and nothing is copied to join them.
        pieces = [operator(*_take(args, in_dims, i)) for i in range(info.batch_size)]
        joined = [torch.stack(parts) for parts in zip(*pieces, strict=True)]
        return joined, [0] * len(joined)

    torch.library.register_vmap(name, over_batch, lib=_library)
    return operator


def _without_dispatch(operator: Callable, real: Callable) -> Callable:
    """The kernel itself, unless a mode or transform of torch is on: the dispatcher takes longer than a small run."""

    def call(*args):
        intercepted = torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack()
        return operator(*args) if intercepted else real(*args)

    return call


def _take(args, in_dims, i):
    """The i-th of a batch of argument lists."""
    if isinstance(in_dims, list | tuple):
        return [_take(a, d, i) for a, d in zip(args, in_dims, strict=True)]
    return args if in_dims is None else args.select(in_dims, i)


class _Unbound:
    """A Function's apply without binding its arguments to the signature, which takes longer than a small run does."""

    @classmethod
    def apply(cls, *args):
        if torch._C._are_functorch_transforms_active():
            return super().apply(*args)  # type: ignore[misc]  # of the Function behind this class
        unwrapped = torch._functorch.utils.unwrap_dead_wrappers(args)
        return super(torch.autograd.Function, cls).apply(*unwrapped)  # type: ignore[misc]  # as above


def _nothing_is_differentiated() -> bool:
    """Whether nobody asks for a derivative: then a Function, which takes longer than a small run, is not needed."""
    forward_mode = torch.autograd.forward_ad._current_level >= 0
    return not (torch.is_grad_enabled() or forward_mode or torch._C._are_functorch_transforms_active())


class _FirstOrder(torch.autograd.Function):
    """A derivative, whose own is refused."""

    generate_vmap_rule = True
    backward = staticmethod(refuse)  # type: ignore[assignment]

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass


def _of_every_arity(function) -> list:
    """The Function by its number of tensors, for torch.compile, which counts them by the signature, not by *args."""

    def of(n):
        def forward(*args):
            return function.forward(*args)

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        n_words = len(inspect.signature(function.forward).parameters) - 1
        signature = inspect.Signature([inspect.Parameter(f"x{i}", kind) for i in range(n_words + n)])
        forward.__signature__ = signature  # type: ignore[attr-defined]  # which inspect reads
        return type(f"{function.__name__}{n}", (function,), {"forward": staticmethod(forward)})

    return [of(n) for n in range(MOST_TENSORS)]


_ADJOINTS: dict[str, list] = {}  # of each kernel, by number of tensors


class Differentiable:
    """A kernel as a function of tensors that torch differentiates once, in reverse or forward.

    Parameters
    ----------
    name : str
    value, adjoint : callable
        As the operators' signatures say; see the module's docstring.
    tangent : callable, optional
        Without it the function has no forward mode.
    fake : callable
        Empty tensors in place of the value's.
    n_outputs, n_kept : int
        The value's tensors, and those behind them that are kept for the adjoint.
    """

    def __init__(self, name, value, adjoint, tangent, fake, *, n_outputs: int, n_kept: int):
        self.n_outputs = n_outputs
        shape = "(str what, Tensor[] inputs, SymInt[] sizes"
        value_op = _define(f"{name}{shape}) -> Tensor[]", value, fake)
        adjoint_op = _define(
            f"{name}_adjoint{shape}, Tensor[] kept, Tensor[] cotangents, bool[] needs) -> Tensor[]",
            adjoint,
            lambda what, inputs, sizes, kept, cotangents, needs: [
                x.new_empty(x.shape if need else (0,)) for x, need in zip(inputs, needs, strict=True)
            ],
        )

        self.value, direct_adjoint = _without_dispatch(value_op, value), _without_dispatch(adjoint_op, adjoint)

        class Adjoint(_FirstOrder):
            @staticmethod
            def forward(what, sizes, needs, *tensors):
                n = len(tensors) - n_kept - n_outputs
                inputs, kept, cotangents = tensors[:n], tensors[n : n + n_kept], tensors[n + n_kept :]
                return tuple(adjoint_op(what, list(inputs), sizes, list(kept), list(cotangents), needs))

        _ADJOINTS[name] = _of_every_arity(Adjoint)

        def gradients(what, sizes, saved, cotangents, needs):
            if torch.compiler.is_compiling() or not _nothing_is_differentiated():
                found = _ADJOINTS[name][len(saved) + n_outputs].apply(what, sizes, needs, *saved, *cotangents)
            else:
                inputs, kept = list(saved[: len(needs)]), list(saved[len(needs) :])
                found = direct_adjoint(what, inputs, sizes, kept, list(cotangents), needs)
            return [g if need else None for g, need in zip(found, needs, strict=True)]

        class Value(torch.autograd.Function):
            generate_vmap_rule = True

            @staticmethod
            def forward(what, sizes, *inputs):
                return tuple(value_op(what, list(inputs), sizes))

            @staticmethod
            def setup_context(ctx, inputs, output):
                ctx.what, ctx.sizes, *tensors = inputs
                ctx.n_inputs = len(tensors)
                kept = output[n_outputs:]
                ctx.mark_non_differentiable(*kept)
                ctx.save_for_backward(*tensors, *kept)
                ctx.save_for_forward(*tensors)

            @staticmethod
            def backward(ctx, *cotangents):
                needs = list(ctx.needs_input_grad[2:])
                return None, None, *gradients(ctx.what, ctx.sizes, ctx.saved_tensors, cotangents[:n_outputs], needs)

        def set_up(ctx, inputs, output):
            ctx.what, tensors, ctx.sizes = inputs
            ctx.save_for_backward(*tensors, *output[n_outputs:])

        def backward(ctx, cotangents):
            needs = ctx.needs_input_grad[1]
            return None, gradients(ctx.what, ctx.sizes, ctx.saved_tensors, cotangents[:n_outputs], needs), None

        torch.library.register_autograd(f"hybridsolve::{name}", backward, setup_context=set_up, lib=_library)
        torch.library.register_autograd(f"hybridsolve::{name}_adjoint", refuse, lib=_library)
        self.values = _of_every_arity(Value)

        class Eager(_Unbound, Value):
            @staticmethod
            def forward(what, sizes, *inputs):
                return tuple(self.value(what, list(inputs), sizes))

            @staticmethod
            def setup_context(ctx, inputs, output):
                Value.setup_context(ctx, inputs, output)
                # What is kept has no cotangent; torch would make zeros as large in its place.
                ctx.set_materialize_grads(False)
                ctx.outputs = [(x.shape, dict(dtype=x.dtype, device=x.device)) for x in output[:n_outputs]]

            @staticmethod
            def backward(ctx, *cotangents):
                given = zip(cotangents, ctx.outputs, strict=False)
                return Value.backward(ctx, *(torch.zeros(x[0], **x[1]) if d is None else d for d, x in given))

        self.eager = Eager
        if tangent is None:
            return
        tangent = _define(
            f"{name}_tangent{shape}, Tensor?[] tangents) -> Tensor[]",
            tangent,
            lambda what, inputs, sizes, tangents: fake(what, inputs, sizes)[:n_outputs],
        )
        torch.library.register_autograd(f"hybridsolve::{name}_tangent", refuse, lib=_library)

        class Tangent(_FirstOrder):
            @staticmethod
            def forward(what, sizes, *tensors):
                n = len(tensors) // 2
                return tuple(tangent(what, list(tensors[:n]), sizes, list(tensors[n:])))

        class EagerDual(Eager):
            """With forward mode, which torch.compile does not know of a Function."""

            @staticmethod
            def jvp(ctx, _what, _sizes, *tangents):
                found = Tangent.apply(ctx.what, ctx.sizes, *ctx.saved_tensors[: ctx.n_inputs], *tangents)
                return *found, *[None] * n_kept

        self.eager = EagerDual

    def __call__(self, what: str, inputs: Sequence[Tensor], sizes: Sequence[int]) -> tuple[Tensor, ...]:
        if not torch.compiler.is_compiling():
            if _nothing_is_differentiated():
                return tuple(self.value(what, list(inputs), sizes)[: self.n_outputs])
            return self.eager.apply(what, sizes, *inputs)[: self.n_outputs]
        # Views: of a graph's own inputs torch.compile does not see that torch.func.grad differentiates them.
        inputs = [x.view_as(x) for x in inputs]
        return self.values[len(inputs)].apply(what, sizes, *inputs)[: self.n_outputs]


run = Differentiable(
    "run", backends.forward, backends.adjoint, backends.tangent, backends.forward_fake, n_outputs=2, n_kept=1
)
convolve = Differentiable(
    "convolve",
    backends.convolve,
    backends.convolve_adjoint,
    backends.convolve_tangent,
    lambda backend, inputs, sizes: [inputs[0].new_empty(inputs[0].shape)],
    n_outputs=1,
    n_kept=0,
)
route = Differentiable(
    "route", backends.route, backends.route_adjoint, None, backends.route_fake, n_outputs=2, n_kept=1
)
