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

from collections.abc import Callable
from functools import wraps
from typing import Any


class Traced:
    """What stands for a tensor while the model compiler reads a step; `primitive` is what a function here returns."""

    __slots__ = ()

    def primitive(self, name: str, *operands: Any) -> Traced:
        raise NotImplementedError


def _primitive(function: Callable) -> Callable:
    """The function on tensors, or on what is traced."""

    @wraps(function)
    def either(*operands: Any) -> Any:
        for x in operands:
            if isinstance(x, Traced):
                return x.primitive(function.__name__, *operands)
        return function(*operands)

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
