"""Other compilers of Python on the model's own step, each as its best user would write the loop around it.

JAX: `lax.scan` over days, jitted whole, its body under `jax.checkpoint` where a gradient is asked for. numba: cells of
a block side by side in the innermost loop, blocks shared by threads. Warp: one launch, a thread a cell; with a gradient
its states are kept in arrays, since that of local ones over a loop is wrong.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import hybridsolve

from .cases import Case, forcing_and_parameters
from .implementations import Runner
from .translate import Dialect, Step, step

CELLS = 64  # of a block in numba: their states fit the first cache


class Peer(Runner):
    """The inputs of a case as arrays: forcing ``[F, T, B]``, parameters ``[P, B C]`` and states ``[S, B C]``."""

    dialect: Dialect

    def __init__(self, case: Case) -> None:
        self.case, model = case, hybridsolve.models.get(case.model)
        forcing, parameters = forcing_and_parameters(case)
        start = model.initial_state(parameters)
        self.names = tuple(parameters)
        self.f = torch.stack(list(forcing.values())).numpy()
        self.p = torch.stack(list(parameters.values())).flatten(1).numpy()
        self.s = np.empty((len(start), case.B * case.C), self.f.dtype)
        for row, x in zip(self.s, start.values(), strict=True):
            row[:] = x if isinstance(x, int | float) else x.flatten().numpy()

    def step(self) -> Step:
        return step(self.case.model, self.dialect, self.case.dtype)

    def series(self, flow: Any) -> Any:
        """The flow ``[T, B C]`` as the case has it."""
        flow = flow.reshape(self.case.T, self.case.B, self.case.C)
        return flow if self.case.each else flow.mean(-1)

    def d_series(self, cotangent: Any) -> Any:
        """The cotangent of the flow ``[T, B C]``."""
        shape = (self.case.T, self.case.B, self.case.C)
        wide = cotangent if self.case.each else (cotangent / self.case.C)[..., None]
        return np.ascontiguousarray(np.broadcast_to(wide, shape)).reshape(self.case.T, -1)

    def by_name(self, d_p: Any) -> dict[str, Any]:
        """The gradients to parameters ``[P, B C]``."""
        d_p = np.asarray(d_p).reshape(len(self.names), self.case.B, self.case.C)
        return dict(zip(self.names, d_p, strict=True))


def made(text: str, **given: Any) -> Callable:
    """The function `run` of Python text, which tools that read source find."""
    file = f"<hybridsolve.bench, {len(linecache.cache)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    names = dict(given, __name__=__name__)
    exec(compile(text, file, "exec"), names)
    return names["run"]


def rows(letter: str, n: int, of: str) -> list[str]:
    """Statements that name the rows of an array; of is a format of a number."""
    return [f"{letter}{k} = {of.format(k)}" for k in range(n)]


def block(depth: int, *groups: list[str]) -> str:
    """Statements at a depth of indentation."""
    return "\n".join("    " * depth + line for group in groups for line in group)


class Scan(Peer):
    """JAX's `lax.scan`."""

    dialect = Dialect("where({m}, {a}, {b})", "power({a}, {b})", "{x}", no="~{a}")

    def __init__(self, case: Case) -> None:
        import jax
        import jax.numpy as jnp

        super().__init__(case)
        self.version = f"jax {jax.__version__}"
        jax.config.update("jax_enable_x64", case.dtype == "float64")
        step = self.step()
        text = f"""\
def run(f, p, s, body):
{block(1, rows("p", len(self.p), "p[{}]"), step.once)}
    def day(s, f):
{block(2, rows("s", len(self.s), "s[{}]"), rows("f", len(self.f), "f[{}][:, None]"), step.every)}
        return ({", ".join(step.states)},), {step.outflow}{"" if case.each else ".mean(-1)"}
    return scan(body(day), s, f)[1]
"""
        names = {name: getattr(jnp, name) for name in ("where", "power", "exp", "log", "sqrt", "tanh")}
        run = made(text, scan=jax.lax.scan, **names)
        self.run = jax.jit(lambda f, p, s: run(f, p, s, lambda day: day))

        @jax.jit
        def both(f, p, s, cotangent):
            flow, back = jax.vjp(lambda p: run(f, p, s, jax.checkpoint), p)
            return flow, back(cotangent)[0]

        self.both, self.jnp = both, jnp
        wide = (-1, case.B, case.C)
        self.arrays = [tuple(map(jnp.asarray, x)) for x in (self.f, self.p.reshape(wide), self.s.reshape(wide))]

    def forward(self) -> Any:
        return self.run(*self.arrays).block_until_ready()

    def cotangent(self, x: Any) -> Any:
        return self.jnp.asarray(x.numpy())

    def gradient(self, cotangent: Any) -> tuple[Any, dict[str, Any]]:
        flow, d_p = self.both(*self.arrays, cotangent)
        return flow.block_until_ready(), dict(zip(self.names, [x.block_until_ready() for x in d_p], strict=True))


class Numba(Peer):
    """numba's loops, parallel over blocks."""

    dialect = Dialect("({a} if {m} else {b})", "{a} ** {b}", "F({x})")

    def __init__(self, case: Case) -> None:
        import numba

        super().__init__(case)
        self.version = f"numba {numba.__version__}"
        numba.set_num_threads(case.threads)
        step, n_p, n_s, n_f = self.step(), len(self.p), len(self.s), len(self.f)
        stored = [f"s[{k}, i] = {x}" for k, x in enumerate(step.states)]
        text = f"""\
def run(forcing, p_all, s_all, C, size, flow):
    T, B = forcing.shape[1:]
    for k in prange((B + size - 1) // size):
        first, last = k * size, min(B, (k + 1) * size)
        n = (last - first) * C
        p = p_all[:, first * C : last * C].copy()
        s = s_all[:, first * C : last * C].copy()
        f, d, q = np.empty(({n_f}, n), F), np.empty(({max(step.n_once, 1)}, n), F), np.empty(n, F)
        for i in range(n):
{block(3, rows("p", n_p, "p[{}, i]"), step.once, [f"d[{k}, i] = d{k}" for k in range(step.n_once)])}
        for t in range(T):
            for b in range(last - first):
                for c in range(C):
                    for m in range({n_f}):
                        f[m, b * C + c] = forcing[m, t, first + b]
            for i in range(n):
{block(4, rows("p", n_p, "p[{}, i]"), rows("d", step.n_once, "d[{}, i]"), rows("s", n_s, "s[{}, i]"))}
{block(4, rows("f", n_f, "f[{}, i]"), step.every, stored, [f"q[i] = {step.outflow}"])}
            {"flow[t, first * C : last * C] = q" if case.each else MEAN}
"""
        compiled = numba.njit(parallel=True, fastmath=True, error_model="numpy")
        self.run = compiled(made(text, prange=numba.prange, np=np, F=self.f.dtype.type))

    def forward(self) -> Any:
        case = self.case
        flow = np.empty((case.T, case.B * (case.C if case.each else 1)), self.f.dtype)
        self.run(self.f, self.p, self.s, case.C, max(1, CELLS // case.C), flow)
        return flow.reshape(case.T, case.B, case.C) if case.each else flow


MEAN = """for b in range(last - first):
                total = F(0)
                for c in range(C):
                    total += q[b * C + c]
                flow[t, first + b] = total / F(C)"""


class Warp(Peer):
    """NVIDIA Warp on the CPU, which has one thread."""

    def __init__(self, case: Case) -> None:
        import warp as wp

        super().__init__(case)
        wp.config.quiet = True
        wp.init()
        self.wp, self.version = wp, f"warp {wp.__version__}"
        number = f"wp.{case.dtype}({{x}})"
        self.dialect = Dialect("wp.where({m}, {a}, {b})", "wp.pow({a}, {b})", number, module="wp.")
        step, n_s = self.step(), len(self.s)
        local = [f"n{k} = {x}" for k, x in enumerate(step.states)] + rows("s", n_s, "n{}")
        self.local = self.kernel(step, rows("s", n_s, "s[{}, 0, i]"), [], local)
        kept = [f"s[{k}, t + 1, i] = {x}" for k, x in enumerate(step.states)]
        self.kept = self.kernel(step, [], rows("s", n_s, "s[{}, t, i]"), kept)
        device = dict(dtype=getattr(wp, case.dtype), device="cpu")
        self.new = lambda x, **more: wp.array(x, **device, **more)
        self.forcing, self.parameters = self.new(self.f), self.new(self.p, requires_grad=True)
        self.start = self.new(self.s[:, None])
        self.arrays: tuple[Any, Any] | None = None

    def kernel(self, step: Step, before: list[str], each: list[str], after: list[str]) -> Any:
        number = f"wp.{self.case.dtype}"
        text = f"""\
def run(f: wp.array3d(dtype={number}), p: wp.array2d(dtype={number}), s: wp.array3d(dtype={number}),
        q: wp.array2d(dtype={number}), n_components: int, n_steps: int):
    i = wp.tid()
    b = i // n_components
{block(1, rows("p", len(self.p), "p[{}, i]"), step.once, before)}
    for t in range(n_steps):
{block(2, each, rows("f", len(self.f), "f[{}, t, b]"), step.every, after, [f"q[t, i] = {step.outflow}"])}
"""
        return self.wp.Kernel(made(text, wp=self.wp), key=f"run_{'local' if before else 'kept'}_{self.case.dtype}")

    def launch(self, kernel: Any, states: Any, flow: Any) -> None:
        given = [self.forcing, self.parameters, states, flow, self.case.C, self.case.T]
        self.wp.launch(kernel, dim=self.case.B * self.case.C, inputs=given, device="cpu")

    def forward(self) -> Any:
        flow = self.new(np.empty((self.case.T, self.case.B * self.case.C), self.f.dtype))
        self.launch(self.local, self.start, flow)
        return self.series(flow.numpy())

    def cotangent(self, x: Any) -> Any:
        return x.numpy()

    def gradient(self, cotangent: Any) -> tuple[Any, dict[str, Any]]:
        if self.arrays is None:  # kept from call to call, as one's own loop would
            cells = self.case.B * self.case.C
            states = np.zeros((len(self.s), self.case.T + 1, cells), self.f.dtype)
            states[:, 0] = self.s
            flow = np.empty((self.case.T, cells), self.f.dtype)
            self.arrays = self.new(states, requires_grad=True), self.new(flow, requires_grad=True)
        states, flow = self.arrays
        tape = self.wp.Tape()
        with tape:
            self.launch(self.kept, states, flow)
        tape.backward(grads={flow: self.new(self.d_series(cotangent))})
        found = self.by_name(self.parameters.grad.numpy().copy())
        tape.zero()
        return self.series(flow.numpy()), found

    def release(self) -> None:
        self.arrays = None
