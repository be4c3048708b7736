"""The functions that a model's step is written in, on tensors of torch, with the gradients that the kernels give.

They follow the table at the head of csrc/core/elementary.h. Figures are for float32, those for float64 in brackets:

================ ============================================== =================================================
function         value at singular points                       gradient
================ ============================================== =================================================
minimum, maximum NaN where either operand is one                to the operand picked, the first at a tie
relu, clip       NaN stays                                      1 within the bounds and at them, 0 outside
select(m, x, y)  y where m is made of a NaN                     to the operand picked, none to what m is made of
exp(x)           x beyond -83 or 83 (690) is taken as that      e^x as it is returned
log(x), sqrt(x)  x < tiny = 2^-60 (2^-500) is taken as tiny     as at tiny: 2^60 (2^500), 2^29 (2^249)
power(x, y)      x < tiny is taken as tiny                      y max(x, tiny)^(y - 1), x^y ln max(x, tiny)
tanh, sigmoid    of the size 1 from abs(x) = 9, 17 (19, 37) on  1 - r^2, r (1 - r) of the result r
softplus(x)      ln(1 + e^x), for any x                         sigmoid(x): 1/2 at 0
sin, cos         the kernels' are for abs(x) <= 1000            cos, -sin
floor(x)         the kernels' is for abs(x) <= 2^22 (2^51)      none
interpolate      x beyond the first or last point is it         slope of the piece above a point
repeat           NaN where n is above `most`, or is NaN         that of the passes made, none to n
implicit         NaN where `most` iterations find no root       that of the root, not of the iterations
mlp              as its activation                              as its activation
================ ============================================== =================================================

An empty store, x = 0, makes power as good as 0 for y >= 1/2, with a gradient of 1 for y = 1 and of nearly 0 above;
below y = 1 the gradient is finite but large (5e8 (9e74) at 1/2), and a model that meets that keeps x up with `maximum`.
The kernels' power stays in 2^-121 .. 2^121 (2^-1001 .. 2^1001), and their sigmoid and softplus end at e^-83 (e^-690);
these do not. A NaN in x or y is a NaN in the result; so is here an infinite x that is taken as another.

The first operand is a tensor; others may be numbers. Everything is a method of tensors: who reads a model's table
needs no torch. The model compiler passes `Traced` values in place of tensors, and gets what they make of it. Never use
torch's minimum, maximum, relu or clamp in a step: their gradients at a tie differ from the above, and differ between
versions of torch.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from itertools import pairwise
from typing import Any


class Traced:
    """What stands for a tensor while the model compiler reads a step; `primitive` is what a function here returns."""

    __slots__ = ()

    def primitive(self, name: str, *operands: Any) -> Traced:
        raise NotImplementedError

    def repeated(self, n: Any, most: int, body: Callable, start: Mapping[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def solved(self, equations: Callable, start: Mapping[str, Any], most: int) -> dict[str, Any]:
        raise NotImplementedError

    def network(
        self, name: str, inputs: Sequence[Any], hidden: Sequence[int], outputs: int, activation: str
    ) -> tuple[Any, ...]:
        raise NotImplementedError


def _primitive(function: Callable) -> Callable:
    """The function on tensors, or on what is traced."""

    @wraps(function)
    def either(*operands: Any, **named: Any) -> Any:
        for x in (*operands, *named.values()):
            if isinstance(x, Traced):
                return x.primitive(function.__name__, *signature(function).bind(*operands, **named).args)
        return function(*operands, **named)

    return either


def _tiny(x):
    return 2.0**-60 if x.element_size() == 4 else 2.0**-500


def _taken_as(x, where, value):
    """``value`` where the mask says so, and x elsewhere; the gradient passes to x everywhere."""
    return x.where(~where, x - x.detach() + value)


def _above_tiny(x):
    return _taken_as(x, x < _tiny(x), _tiny(x))


@_primitive
def minimum(a, b):
    """The smaller operand; at a tie `a` has the gradient."""
    return a.where((a <= b) | (a != a), b)


@_primitive
def maximum(a, b):
    """The larger operand; at a tie `a` has the gradient."""
    return a.where((a >= b) | (a != a), b)


@_primitive
def relu(x):
    """max(x, 0); passes the gradient at 0."""
    return x.where(~(x < 0), 0.0)


@_primitive
def clip(x, lower, upper):
    """x within two numbers; passes the gradient at both."""
    x = x.where(~(x > upper), upper)
    return x.where(~(x < lower), lower)


@_primitive
def select(mask, x, y):
    """x where the mask holds, else y; the gradient goes to the one picked, none to what the mask was made of."""
    return x.where(mask, y) if hasattr(x, "where") else y.where(~mask, x)


@_primitive
def exp(x):
    """e^x; x beyond 83 (float32) or 690 (float64) on either side is taken as that, with the gradient of the value."""
    largest = 83.0 if x.element_size() == 4 else 690.0
    return _taken_as(_taken_as(x, x > largest, largest), x < -largest, -largest).exp()


@_primitive
def log(x):
    """ln x; an x below 2^-60 (float32) or 2^-500 (float64) is taken as that, with the gradient passing."""
    return _above_tiny(x).log()


@_primitive
def sqrt(x):
    """The square root; an x below 2^-60 (float32) or 2^-500 (float64) is taken as that, with the gradient passing."""
    return _above_tiny(x).sqrt()


@_primitive
def power(x, y):
    """x^y; an x below 2^-60 (float32) or 2^-500 (float64) is taken as that, with the gradient passing.

    x^y has no finite gradient at 0 for y < 1. The gradient to y is x^y ln x of the x that is taken.
    """
    return _above_tiny(x) ** y


@_primitive
def tanh(x):
    """The hyperbolic tangent; its gradient 1 - tanh(x)^2 is 0 where it is rounded to -1 or 1."""
    return x.tanh()


@_primitive
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return x.sigmoid()


@_primitive
def softplus(x):
    """ln(1 + e^x), without overflow; its gradient is sigmoid(x)."""
    return x.logaddexp(x.new_zeros(()))


@_primitive
def sin(x):
    """The sine of x in radians."""
    return x.sin()


@_primitive
def cos(x):
    """The cosine of x in radians."""
    return x.cos()


@_primitive
def floor(x):
    """The largest whole number that is not above x; it has no gradient."""
    return x.floor()


def interpolate(table: Sequence, x):
    """The height at x of a line through points at 0, 1, 2 ..

    Parameters
    ----------
    table : sequence of numbers or values
        The heights, at least two.
    x : value
        Below 0 it is taken as 0, beyond the last point as that. At a point it has the slope of the piece above.
    """
    last = len(table) - 1
    if last < 1:
        raise ValueError(f"interpolate needs a table of at least two heights; found {len(table)}: give more.")
    if not isinstance(x, Traced):
        table = [height if hasattr(height, "where") else x.new_tensor(height) for height in table]
    x = clip(x, 0.0, float(last))
    piece = minimum(floor(x), float(last - 1))
    low, high = table[0], table[1]
    for i in range(1, last):
        there = piece >= float(i)
        low, high = select(there, table[i], low), select(there, table[i + 1], high)
    return low + (x - piece) * (high - low)


def repeat(n, most: int, body: Callable, start: Mapping[str, Any]) -> dict:
    """Values after n passes of `body`; each cell makes as many as its own n says.

    Parameters
    ----------
    n : value or int
        Whole; none below 1. It has no gradient: a flow that depends on the number of sub-steps jumps with it.
    most : int
        What n may be at most; where it is more, or NaN, the results are NaN, and the run ends with an error.
    body : callable
        ``(values) -> values``, both mappings of the names in `start`.
    start : mapping of str to values
    """
    for x in (n, *start.values()):
        if isinstance(x, Traced):
            return x.repeated(n, most, body, start)
    if isinstance(n, int):
        n = next(x for x in start.values() if hasattr(x, "where")).new_tensor(float(n))
    within, noted = n <= float(most), _beyond.get()
    if noted is not None and not within.all():
        caller = sys._getframe(1)
        noted.append((~within, (most, (caller.f_code.co_filename, caller.f_lineno)), None))
    values = dict(start)
    for done in range(most):
        going = n >= float(done + 1)
        if not going.any():
            break
        outside = len(noted or ())
        after = body(values)
        if noted:  # of cells that have made their passes nothing counts
            inside = ((where & going, *what) for where, *what in noted[outside:])
            noted[outside:] = [row for row in inside if row[0].any()]
        values = {name: select(going, after[name], x) for name, x in values.items()}
    return {name: x.where(within, float("nan")) for name, x in values.items()}


def implicit(equations: Callable, start: Mapping[str, Any], most: int = 50) -> dict:
    """Values where equations leave no residual: each cell's x with r(x) = 0, by Newton's iterations.

    The derivatives are those of the root by the theorem of implicit functions, through one linear system with the
    Jacobian of r there; iterations have none. A kernel makes the Jacobian from the equations, and takes blocks of
    unknowns that do not lead back to each other one after the other.

    Parameters
    ----------
    equations : callable
        ``(x) -> (residuals, values)``, mappings all; x and the residuals, in mm, have the names in `start`. Each
        residual grows with its unknown, as x minus a step does, so that the Jacobian is eliminated in order.
    start : mapping of str to values
        Where the iterations begin. It has no gradient.
    most : int
        Iterations at most, among them those that halve a step which has not lessened the sum of residuals. A cell is
        done where each residual is at most 8 spacings of x or of 1 mm, in float64 far below 1e-10 mm; or, after 8
        iterations, where equations are so steep that rounding of x makes more, at most what 4 spacings of all x make.
        One that is not has NaN, and the run ends with an error.

    Returns
    -------
    dict
        What `equations` gives as values there.
    """
    for x in start.values():
        if isinstance(x, Traced):
            return x.solved(equations, start, most)
    import torch

    names, x0 = list(start), torch.stack(torch.broadcast_tensors(*start.values()), -1).detach()

    def residuals(x):
        found, _ = equations(dict(zip(names, x.unbind(-1), strict=True)))
        return torch.stack(torch.broadcast_tensors(*(found[name] for name in names)), -1)

    def system(x):
        """The residuals, and their Jacobian, all rows at once."""
        ones = (1,) * (x.dim() - 1)
        along = torch.eye(len(names), dtype=x.dtype, device=x.device).view(-1, *ones, len(names))
        along = along.repeat(1, *x.shape[:-1], 1)
        r, back = torch.func.vjp(residuals, x.repeat(len(names), *ones, 1))[:2]
        return r[0], back(along)[0].movedim(0, -2).detach()

    with torch.no_grad():
        root, found, least, _ = _root(system, x0, most)
        noted = _beyond.get()
        if noted is not None and not found.all():
            caller = sys._getframe(1)
            noted.append((~found, (most, (caller.f_code.co_filename, caller.f_lineno)), least))
        root = root.where(found[..., None], torch.nan)
    move = _newton(*system(root))
    x = root + (move - move.detach())
    return equations(dict(zip(names, x.unbind(-1), strict=True)))[1]


def _newton(r, jacobian):
    import torch

    step, _ = torch.linalg.solve_ex(jacobian, -r.unsqueeze(-1))  # no error where a cell has no number
    return step.squeeze(-1)


def _root(system, x0, most):
    """The root of each cell, whether it is one, the sum of its residuals, and the number of iterations."""
    import torch

    eight = 8 * torch.finfo(x0.dtype).eps  # spacings of 1
    x, best, step, wide = x0, x0, torch.zeros_like(x0), torch.zeros_like(x0)
    least, made = torch.full_like(x0[..., 0], torch.inf), torch.zeros_like(x0[..., 0])
    found = torch.zeros_like(least, dtype=torch.bool)
    for done in range(most):
        r, jacobian = (v.detach() for v in system(x))
        allowed = eight * x.abs().clamp(min=1.0)
        off = r.abs().masked_fill(r.abs() <= torch.maximum(wide, allowed), 0.0).sum(-1)
        better = (off < least) | ((off == least) & (done < 8))
        taken = better & ~found
        best, least = torch.where(taken[..., None], x, best), torch.where(taken, off, least)
        found = found | (taken & (off == 0))
        if (found | ~least.isfinite()).all():
            break
        if done >= 8:
            wide = (jacobian.abs() @ allowed.unsqueeze(-1)).squeeze(-1) / 2
        step = torch.where(better[..., None], _newton(r, jacobian), step / 2)
        x, made = best + step, made + ~found
    return best, found, least, made


def mlp(
    name: str,
    inputs: Sequence | Mapping[str, Any],
    hidden: Sequence[int] = (16,),
    outputs: int = 1,
    activation: str = "tanh",
) -> tuple:
    """A network of fully connected layers, whose weights are an input of the run (`simulate(networks=..)`).

    Nothing bounds what it puts out: a flux out of a store is the store times `sigmoid` of an output, or the smaller of
    both, so that no more water leaves than there is.

    Parameters
    ----------
    name : str
        A network that is called twice by one name has the same weights in both places.
    inputs : sequence of values, or mapping of str to value
        About the size of 1, divided by numbers of the table; the names label figures.
    hidden : sequence of int
        Units of each hidden layer, one at least.
    outputs : int
    activation : {"tanh", "sigmoid", "relu"}
        Of the hidden units; the outputs have none.

    Returns
    -------
    tuple of values
        The outputs, also where it is one: ``(evaporation,) = mlp("evaporation", [..])``.
    """
    labels = tuple(inputs) if isinstance(inputs, Mapping) else tuple(f"input {n}" for n in range(1, len(inputs) + 1))
    inputs = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
    for x in inputs:
        if isinstance(x, Traced):
            return x.network(name, inputs, hidden, outputs, activation)
    import torch

    weights = (_around.weights or {}).get(name)
    if weights is None:
        raise ValueError(f"the step calls the network '{name}', which has no weights here: pass it in networks.")
    like = next(x for x in inputs if hasattr(x, "where"))
    inputs = [x if hasattr(x, "where") else like.new_tensor(x) for x in inputs]
    x = torch.stack(torch.broadcast_tensors(*inputs), -1)
    if _around.seen is not None:
        _around.seen[name] = dict(zip(labels, x.unbind(-1), strict=True))
    activated = {"tanh": tanh, "sigmoid": sigmoid, "relu": relu}[activation]
    sizes = (len(inputs), *hidden, outputs)
    for layer, (n, m) in enumerate(pairwise(sizes)):
        matrix, bias, weights = weights.split([m * n, m, weights.shape[-1] - m * (n + 1)], -1)
        x = x @ matrix.unflatten(-1, (m, n)).mT + bias.unsqueeze(-2)
        x = activated(x) if layer < len(hidden) else x
    return x.unbind(-1)


class _Around(threading.local):
    """What `mlp` on tensors finds around it, by thread; a ContextVar would be, but torch.compile cannot trace one."""

    weights: Mapping[str, Any] | None = None
    seen: dict[str, dict[str, Any]] | None = None


_around = _Around()


@contextmanager
def weights_of_networks(weights: Mapping[str, Any]) -> Iterator[None]:
    """What `mlp` on tensors takes as the weights of each network meanwhile: vectors ``[W]`` or ``[B, W]``."""
    before, _around.weights = _around.weights, weights
    try:
        yield
    finally:
        _around.weights = before


@contextmanager
def noted_inputs() -> Iterator[dict[str, dict[str, Any]]]:
    """What `mlp` on tensors is given meanwhile: of each network its inputs by label, those of the latest call."""
    before, _around.seen = _around.seen, {}
    try:
        yield _around.seen
    finally:
        _around.seen = before


_beyond: ContextVar[list | None] = ContextVar("beyond", default=None)


@contextmanager
def noted_passes() -> Iterator[list]:
    """A list of what on tensors is beyond `most` meanwhile: where, the loop or the equations as ``(most, (file,
    line))``, and of equations the residuals, else None."""
    noted: list = []
    token = _beyond.set(noted)
    try:
        yield noted
    finally:
        _beyond.reset(token)
