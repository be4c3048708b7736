"""Who computes the cases: the solver, and the loops over days that torch offers in its place.

The loops run the model's own `reference_step`; here is only what makes them as fast as torch allows. Each choice was
tried on 671 x 16 x 730 and 1000 x 1 x 3650:

* Rows and states are 2-D, and parameters one packed tensor, so that autograd adds up one gradient a step and not
  twelve. Of all fluxes only the outflow is kept, stacked once.
* Guards are skipped: the loop calls one graph with one set of shapes.
* The backward pass recomputes a step instead of loading its intermediates (`activation_memory_budget`).
* Several steps in one graph save dispatches and memory traffic, for a compilation of minutes.

Without clear effect: cpp_wrapper, flushing denormals, allocator settings, the mean inside the step.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from .cases import MODEL, Case, forcing_and_parameters

OURS = "hybridsolve"


@dataclass(frozen=True)
class Implementation:
    """One that is measured.

    Attributes
    ----------
    place : str
        Module of this package and the name in it of what makes a `Runner` of a case.
    suits : callable
        Whether it computes a case.
    package : str
        What must be installed beside hybridsolve's own dependencies.
    has_gradient : bool
    keeps : float
        Numbers a cell-step that its gradient keeps, about.
    slow : bool
        Takes half a minute or more to compile, so that a quick run leaves it out.
    tolerance : float, optional
        In place of the gate's own, with the reason beside it.
    settles : int
        Days that its start is felt, where it begins otherwise: those are not compared.
    """

    place: str
    suits: Callable[[Case], bool]
    package: str = ""
    has_gradient: bool = True
    keeps: float = 1.0
    slow: bool = False
    tolerance: float | None = None
    settles: int = 0

    def build(self, case: Case) -> Runner:
        module, _, name = self.place.partition(":")
        return getattr(importlib.import_module(f".{module}", __package__), name)(case)


class Runner:
    """One implementation with its inputs in memory.

    Attributes
    ----------
    version : str
        Of the package that computes.
    """

    version = ""

    def forward(self) -> Any:
        """The flow, as the case has it."""
        raise NotImplementedError

    def gradient(self, cotangent: Any) -> tuple[Any, dict[str, Any]]:
        """The flow, and the gradient to every parameter."""
        raise NotImplementedError

    def cotangent(self, x: Any) -> Any:
        """A tensor in the form that `gradient` takes."""
        return x

    def release(self) -> None:
        """Give back what is kept from call to call."""


class Torch(Runner):
    """What is a function of forcing and parameters in torch."""

    run: Callable

    def __init__(self, case: Case) -> None:
        import torch

        self.torch, self.case = torch, case
        self.version = f"torch {torch.__version__}"
        self.forcing, self.parameters = forcing_and_parameters(case)
        self.leaves = {name: x.clone().requires_grad_() for name, x in self.parameters.items()}

    def forward(self) -> Any:
        with self.torch.no_grad():
            return self.run(self.forcing, self.parameters)

    def gradient(self, cotangent: Any) -> tuple[Any, dict[str, Any]]:
        flow = self.run(self.forcing, self.leaves)
        found = self.torch.autograd.grad(flow, list(self.leaves.values()), cotangent)
        return flow.detach(), dict(zip(self.leaves, found, strict=True))


class Solver(Torch):
    """`simulate`, with its kernels or as the oracle."""

    def __init__(self, case: Case, backend: str = "cpu") -> None:
        import hybridsolve

        super().__init__(case)
        self.version = "" if backend == "cpu" else self.version
        outflow, how = hybridsolve.models.get(case.model).outflow, "each" if case.each else "mean"

        def run(forcing: Any, parameters: Any) -> Any:
            found = hybridsolve.simulate(case.model, forcing, parameters, components=how, backend=backend)
            return found.fluxes[outflow]

        self.run = run


oracle = partial(Solver, backend="reference")


class StepLoop(Torch):
    """A loop over a graph of a day, or of several, which torch.compile has made."""

    def __init__(self, case: Case, stride: int) -> None:
        import torch._functorch.config
        import torch._inductor.config

        import hybridsolve

        super().__init__(case)
        self.model, self.stride = hybridsolve.models.get(case.model), stride
        self.run = self.loop
        # The number of threads is compiled in, and the cache of compiled code must know it.
        torch._inductor.config.cpp.threads = torch.get_num_threads()
        torch._functorch.config.activation_memory_budget = 0.0
        # A graph of its own with and without grad, because without guards none would be chosen; and of a code object of
        # its own, as graphs are kept by that.
        options: Any = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
        make = partial(torch.compile, fullgraph=True, dynamic=False, options=options)
        code, names = StepLoop.steps.__code__, StepLoop.steps.__globals__
        copies = (MethodType(FunctionType(code.replace(), names), self) for _ in range(2))
        self.calls = dict(zip((False, True), map(make, copies), strict=True))

    def steps(self, rows, packed, names, state):
        parameters = dict(zip(names, packed.unbind(0), strict=True))
        flows = []
        for row in rows:
            forcing = dict(zip(self.model.forcing_names, row, strict=True))
            before = dict(zip(self.model.state_names, state, strict=True))
            new, flux = self.model.reference_step(forcing, {}, parameters, before)
            state = tuple(new[name] for name in self.model.state_names)
            flows.append(flux[self.model.outflow])
        return state, flows

    def loop(self, forcing: Any, parameters: Any) -> Any:
        torch, grad = self.torch, self.torch.is_grad_enabled()
        series = (forcing[name].unsqueeze(-1).unbind(0) for name in self.model.forcing_names)
        rows = list(zip(*series, strict=True))
        packed = torch.stack(list(parameters.values()))
        # Without guards the first call's graph serves all: its state must require grad as all later ones do.
        start = self.model.initial_state(parameters).values()
        state = tuple(torch.full_like(packed[0], x).requires_grad_(grad) for x in start)
        call, names = self.calls[grad], tuple(parameters)
        flows: list[Any] = []
        for t in range(0, len(rows), self.stride):
            state, found = call(tuple(rows[t : t + self.stride]), packed, names, state)
            flows += found
        series = torch.stack(flows)
        return series if self.case.each else series.mean(-1)


compiled_day, compiled_5_days = partial(StepLoop, stride=1), partial(StepLoop, stride=5)


def _hbv(case: Case, threads: int = 2) -> bool:
    return case.model == MODEL and not case.river and case.threads <= threads


def _one(model: tuple[str, ...]) -> Callable[[Case], bool]:
    """Whether a case is of these models, on one thread and in the float64 that programs for them have."""
    return lambda case: case.model in model and case.threads == 1


def _timed(case: Case) -> bool:
    """Whether a case has peers: those for the exponents have none."""
    return not case.shape.startswith("over-")


IMPLEMENTATIONS: dict[str, Implementation] = {
    OURS: Implementation("implementations:Solver", lambda case: not case.river),
    f"{OURS} rivers": Implementation("rivers:Solver", lambda case: case.river),
    "eager oracle": Implementation("implementations:oracle", lambda case: not case.river, keeps=120),
    "compiled day": Implementation("implementations:compiled_day", _hbv, keeps=15),
    "compiled 5 days": Implementation(
        "implementations:compiled_5_days", lambda case: _hbv(case) and case.T % 5 == 0, keeps=8, slow=True
    ),
    "JAX scan": Implementation("peers:Scan", _hbv, "jax", keeps=8),
    "numba": Implementation("peers:Numba", _hbv, has_gradient=False),
    "Warp": Implementation("peers:Warp", partial(_hbv, threads=1), "warp-lang", keeps=14),
    # Its constants are those of single precision, up to 2.4e-6 mm/d apart.
    "grsuite": Implementation("gr:Grsuite", _one(("gr4j", "gr6j")), "grsuite", False, tolerance=1e-5),
    "hydrogr": Implementation("gr:Hydrogr", _one(("gr4j", "gr6j")), "hydrogr", False, tolerance=1e-5),
    "hydrologeez": Implementation(
        "gr:Hydrologeez", _one(("gr6j",)), "hydrologeez", keeps=70, tolerance=1e-3, settles=3000
    ),
    "numba loop": Implementation(
        "rivers:Numba", lambda case: case.model == "muskingum" and case.threads == 1, has_gradient=False
    ),
    "sparse solve": Implementation("rivers:SparseSolve", lambda case: case.model == "muskingum" and case.threads == 1),
}
OURS_OF = {False: OURS, True: f"{OURS} rivers"}


def chosen(case: Case, names: list[str]) -> list[str]:
    """Ours, and those of `names` that compute a case."""
    others = [n for n in names if _timed(case) and IMPLEMENTATIONS[n].suits(case)]
    return [OURS_OF[case.river], *(n for n in others if not n.startswith(OURS))]
