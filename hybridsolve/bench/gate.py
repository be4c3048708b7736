"""What an implementation must pass before it is timed: the oracle's flow and gradients, in float64.

Of a model the case itself is computed, and the first basins and steps are held against the oracle's, which runs those
alone: a basin does not depend on others, nor a flow on later days. The cotangent is 0 elsewhere, so that the gradients
are those of the part. Of rivers a network of 200 reaches is computed by all that the case would use.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .cases import Case, cotangent, forcing_and_parameters
from .implementations import Implementation, Runner

BASINS, DAYS = 4, 400
SMALL = 200, 20  # reaches and steps
TOLERANCES = {"float64": 1e-10, "float32": 1e-3}


def check(case: Case, implementation: Implementation, runner: Runner) -> None:
    """Raise unless flow and gradients are right.

    Raises
    ------
    AssertionError
        If one is not, and says by how much.
    """
    tolerance = implementation.tolerance or TOLERANCES[case.dtype]
    if case.river:
        small = replace(case, B=SMALL[0], T=SMALL[1])
        return _check_rivers(small, implementation, implementation.build(small), tolerance)
    first = implementation.settles
    b, t = min(BASINS, case.B), min(first + DAYS, case.T)
    part = cotangent(case)
    part[:first] = part[t:] = 0
    part[:, b:] = 0
    expected, slopes = _oracle(case, b, t, part[:t, :b])
    found = runner.forward()
    compare("the flow", found[first:t, :b], expected[first:], tolerance)
    if implementation.has_gradient:
        found, gradients = runner.gradient(runner.cotangent(part))
        compare("the flow with gradient", found[first:t, :b], expected[first:], tolerance)
        for name, slope in slopes.items():
            compare(f"the gradient to {name}", gradients[name][:b], slope, tolerance)


def _oracle(case: Case, b: int, t: int, part: Any) -> tuple[Any, dict[str, Any]]:
    import torch

    import hybridsolve

    forcing, parameters = forcing_and_parameters(case)
    # Rounded to the case's precision first, then widened: the oracle sees the very same numbers.
    forcing = {name: x[:t, :b].double() for name, x in forcing.items()}
    leaves = {name: x[:b].double().requires_grad_() for name, x in parameters.items()}
    how = "each" if case.each else "mean"
    run = hybridsolve.simulate(case.model, forcing, leaves, components=how, backend="reference")
    flow = run.fluxes[hybridsolve.models.get(case.model).outflow]
    slopes = torch.autograd.grad(flow, list(leaves.values()), part.double())
    return flow.detach(), dict(zip(leaves, slopes, strict=True))


def _check_rivers(case: Case, implementation: Implementation, runner: Any, tolerance: float) -> None:
    import torch

    from .rivers import Solver

    judge = Solver(replace(case, dtype="float64"), backend="reference")
    judge.take(runner)
    part = cotangent(case)
    expected, slopes = judge.gradient(part.double())
    compare("the discharge", runner.forward(), expected, tolerance)
    if implementation.has_gradient:
        found, gradients = runner.gradient(runner.cotangent(part))
        compare("the discharge with gradient", found, expected, tolerance)
        for name, slope in slopes.items():
            compare(f"the gradient to {name}", torch.as_tensor(gradients[name]), slope, tolerance)


def compare(what: str, found: Any, expected: Any, tolerance: float) -> None:
    """Raise unless two arrays are as near as that in the Euclidean norm: in float32 a single cell may fall on the other
    side of a kink."""
    import numpy as np

    x, y = (np.asarray(a, dtype=np.float64) for a in (found, expected))
    error = float(np.linalg.norm(x - y)) / max(float(np.linalg.norm(y)), 1e-300) if x.shape == y.shape else float("inf")
    if not error <= tolerance:
        raise AssertionError(
            f"{what} is {error:.1e} of its norm from the oracle's, {tolerance:.0e} is allowed: not timed"
        )
