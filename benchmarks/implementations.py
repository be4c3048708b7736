"""The implementations under measurement, and the gate that each passes before it is timed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from hybridsolve import simulate

from .baselines import StepLoop
from .cases import BOTH, PER_STEP, Case, inputs

STEPS_PER_CALL = {"compiled step": 1, "compiled 5 steps": 5, "eager step": 0}
OURS = "hybridsolve"
NAMES = (OURS, *STEPS_PER_CALL)


def build(name: str, model: str):
    """``(forcing, parameters) -> streamflow [T, B]``, with torch's present number of threads."""
    if name != OURS:
        return StepLoop(model, STEPS_PER_CALL[name])
    return lambda forcing, parameters: simulate(model, forcing, parameters).fluxes["streamflow"]


def leaves(parameters):
    return {name: p.clone().requires_grad_() for name, p in parameters.items()}


def gradient(run, forcing, parameters, cotangent):
    """Streamflow, and the gradients of all parameters."""
    learned = leaves(parameters)
    flow = run(forcing, learned)
    return flow.detach(), torch.autograd.grad(flow, list(learned.values()), cotangent)


def cotangent(case: Case) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randn(case.T, case.B, generator=random).to(getattr(torch, case.dtype))


def check(name: str, run, case: Case) -> None:
    """Raise unless flows and gradients are right: a speed is reported only behind this gate.

    Ours is held against the float64 oracle on a small instance. A baseline is held against ours on the case
    itself, since its compiled code is for that one shape.
    """
    if name == OURS:
        return _check_small(case.model, case.is_per_step, case.dtype)
    full = replace(case, mode=BOTH)
    forcing, parameters = inputs(full)
    ours = build(OURS, case.model)
    if case.mode == BOTH:
        found, expected = (gradient(r, forcing, parameters, cotangent(full)) for r in (run, ours))
    else:
        with torch.no_grad():
            found, expected = ((r(forcing, parameters), ()) for r in (run, ours))
    compare(found, expected, parameters, case)


@cache
def _check_small(model: str, per_step: bool, dtype: str) -> None:
    case = Case(model, 37, 3, 40, PER_STEP if per_step else BOTH, dtype)
    forcing, parameters = inputs(case)
    found = gradient(build(OURS, model), forcing, parameters, cotangent(case))

    def oracle(f, p):
        return simulate(model, f, p, backend="reference").fluxes["streamflow"]

    # Rounded to the case's precision first, then widened: the oracle sees the very same numbers.
    widened = [{n: x.double() for n, x in given.items()} for given in (forcing, parameters)]
    expected = gradient(oracle, *widened, cotangent(case).double())
    compare(found, expected, parameters, case)


def compare(found, expected, names, case: Case) -> None:
    # In the Euclidean norm, since in float32 a single cell may fall on the other side of a kink.
    tolerance = 1e-10 if case.dtype == "float64" else 1e-3
    pairs = [("streamflow", found[0], expected[0])]
    if found[1]:
        pairs += zip((f"gradient of {n}" for n in names), found[1], expected[1], strict=True)
    for what, x, y in pairs:
        error = float((x.double() - y.double()).norm() / y.double().norm())
        if not error <= tolerance:
            raise AssertionError(
                f"{case}: {what} is off by {error:.1e} of its norm; expected {tolerance:.0e} or less: "
                "no speed is reported for a wrong answer."
            )
