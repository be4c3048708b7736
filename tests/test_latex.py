"""The equations of a page are those of the step: written by hand for a small one, and fit to be set for every model."""

import re

import pytest

from hybridsolve import models
from hybridsolve.compiler.latex import equations, number, word
from hybridsolve.models.primitives import clip, maximum, minimum, power, relu, repeat, select, tanh
from hybridsolve.spec import DelayLine, Forcing, ModelSpec, Parameter, State, Variable


def step(f, k, p, s):
    water = s["store"] + f["rain"] - 3 * f["pet"]
    cold = ~(f["rain"] >= 1.0) & (s["store"] <= p["x1"])
    water = select(cold, relu(water), maximum(water, 2.0)) ** 2

    def half(now):
        return dict(y=now["y"] / p["x1"] + water)

    end = repeat(k["dt"] + 1, 4, half, dict(y=water))
    share = clip(power(water / (p["x1"] - 1), p["x1"]), 0.0, 1.0)
    return dict(store=end["y"], line=share), dict(
        flow=minimum(s["line"] + p["line"] * share, water / 9), wet=tanh(-share) - (share - water)
    )


SMALL = ModelSpec(
    name="small",
    title="",
    source="",
    forcings=(Forcing("rain", "mm d-1", "", 0.0, 1e3), Forcing("pet", "mm d-1", "", 0.0, 1e3)),
    parameters=(Parameter("x1", "1", "", 2.0, 9.0),),
    states=(State("store", "mm", "", 0.0, 1e9),),
    lines=(DelayLine("line", "mm", "", 2, lambda k, p: [0.5, 0.5]),),
    fluxes=(Variable("flow", "mm d-1", ""), Variable("wet", "1", "")),
    reference_step=step,
    outflow="flow",
)


def plain(text):
    """Without the commands that only set letters and brackets."""
    text = re.sub(r"\\(left|right)(?=[()\[\]])|\\mathrm", "", text)
    for name in ("water", "store", "rain", "pet", "cold", "share", "line", "flow", "wet"):
        text = text.replace(f"{{{name}}}", name)
    return text.split(" \\\\\n")


def test_a_small_step_by_hand():
    assert plain(equations(SMALL)) == [
        r"water &= store + rain - 3 \, pet",
        r"cold &= (rain < 1 \wedge x_{1} \ge store)",
        r"v &= \begin{cases} [water]^{+} & \text{if } cold \\ \max(water, 2) & \text{else} \end{cases}",
        r"water' &= {v}^{2}",
        r"&\textbf{repeat } \Delta t + 1 \textbf{ times, from}",
        r"&\quad y = water'",
        r"&\textbf{by}",
        r"&\quad y \leftarrow \frac{y}{x_{1}} + water'",
        r"&\textbf{end}",
        r"share &= \min(\max((\frac{water'}{x_{1} - 1})^{x_{1}}, 0), 1)",
        r"flow &= \min(line + \omega_{line} \, share, \frac{water'}{9})",
        r"wet &= \tanh(-share) - (share - water')",
        r"store &\leftarrow y^{\ast}",
        r"line &\leftarrow share",
    ]


def test_words_and_numbers():
    assert [word(x) for x in ("x1", "kf", "b", "adc_11", "net_rain")] == [
        "x_{1}", r"\mathrm{kf}", "b", r"\mathrm{adc}_{11}", r"\mathrm{net\_rain}",
    ]  # fmt: skip
    assert [number(x)[0] for x in (1.0, 0.9, 4 / 9, 1e-5, -2.5e-7, 0.0612)] == [
        "1", "0.9", r"\frac{4}{9}", "10^{-5}", r"-2.5 \cdot 10^{-7}", "0.0612",
    ]  # fmt: skip


@pytest.mark.parametrize("model", models.MODELS.values(), ids=lambda m: m.name)
def test_every_model_can_be_set(model):
    convert = pytest.importorskip("latex2mathml.converter", reason="the extra 'docs' sets equations").convert
    text = equations(model)
    assert "<merror" not in convert(rf"\begin{{aligned}}{text}\end{{aligned}}", display="block")
    in_step = () if model.lines else model.parameters  # an ordinate of a delay line is made outside it
    for v in (*model.forcings, *in_step, *model.states, *model.fluxes):
        assert word(v.name) in text, v.name
