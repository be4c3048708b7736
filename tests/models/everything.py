"""A model of every primitive that nobody should use, for what the model compiler writes.

Its names are those that a generated module has itself, numbers stand wherever a value may, and it has one of
everything: a forcing, an input, a parameter, a state, a delay line.
"""

from __future__ import annotations

from hybridsolve.models.primitives import (
    clip,
    cos,
    exp,
    floor,
    interpolate,
    log,
    maximum,
    minimum,
    power,
    relu,
    repeat,
    select,
    sigmoid,
    sin,
    softplus,
    sqrt,
    tanh,
)
from hybridsolve.spec import DelayLine, Forcing, ModelSpec, Parameter, State, Variable


def ordinates(k, p):
    share = p["number"] * k["dt"] / 3
    return [share, 1 - share, 0.0]


def reference_step(f, k, p, s):
    given, number = s["zero"], p["number"]
    tl = exp(maximum(-given, -2.0)) + log(given + 1.0)
    d_s = sqrt(given) * tanh(tl - 1.5) + sigmoid(given) - softplus(-given)
    once = power(number, 0.3) * sqrt(number) + 1 / (k["dt"] + number)
    powers = power(relu(f["f"] - 1.0), number) + power(1 + number, -given)
    cold = ~(f["f"] >= 1.0) & (given >= 0.5) | (2.0 >= number + given)
    _ = select(cold, given, 0.5) + minimum(number, given)
    quotient = (d_s + 2.0) / (number * once) - given / number
    wave = sin(given) * cos(quotient) - floor(3.0 * given)
    arriving = s["triton"] + p["triton"] * given
    done = floor(given + 1.3)

    def half(now):
        return dict(y=0.5 * now["y"] + number)

    def part(now):
        zero = minimum(repeat(done, 8, half, dict(y=now["back"]))["y"], now["limit"])
        return dict(back=now["limit"], limit=tanh(given - now["back"]) + zero)

    end = repeat(done, 8, part, dict(limit=given, back=0.5))
    x = clip(wave + select(cold, f["f"], -2.0), 0.25, 4.0)
    state = dict(zero=maximum(x, k["k"]) * power(x, -number), triton=given)
    curve = interpolate([0.25, number, 2.0, end["back"]], end["limit"])
    return state, dict(flow=_ + arriving + curve, wave=wave - tl + powers, same=f["f"])


everything = ModelSpec(
    name="everything",
    title="Every primitive\nin two lines",
    source="these tests",
    forcings=(Forcing("f", "mm d-1", "rain", -1e4, 1e4),),
    inputs=(Variable("k", "1", "a floor", 0.25, 0.5),),
    parameters=(Parameter("number", "1", "a number", 0.5, 2.0),),
    states=(State("zero", "mm", "water", 0.0, 1e30, initial=1.0, wet=2.0),),
    lines=(DelayLine("triton", "mm", "water on its way", 3, ordinates),),
    fluxes=tuple(Variable(name, "mm d-1", name) for name in ("flow", "wave", "same")),
    reference_step=reference_step,
    outflow="flow",
    steps=None,
)
