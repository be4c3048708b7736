"""Rivers: the router, and what else computes linear Muskingum: a loop compiled by numba, a factorised sparse matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hybridsolve.routing import route

from .cases import STEP, Case, network_and_inflow
from .implementations import Runner


class River(Runner):
    """The inputs of a network, which begins in the steady state of its mean inflow."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.network, self.inflow, self.parameters = network_and_inflow(case)
        mean = self.inflow.mean(0, keepdim=True)
        start = route(self.network, mean, ids="network", dt=STEP, scheme="accumulate").discharge[-1]
        self.start = {"discharge": start}

    def take(self, other: River, device: Any = "cpu") -> None:
        """The numbers of another, in this one's precision."""
        how = device, getattr(torch, self.case.dtype)
        self.network, self.inflow = other.network, other.inflow.to(*how)
        self.parameters = {name: x.to(*how) for name, x in other.parameters.items()}
        self.start = {name: x.to(*how) for name, x in other.start.items()}


class Solver(River):
    """`route`."""

    def __init__(self, case: Case, backend: str = "cpu") -> None:
        super().__init__(case)
        self.options: dict[str, Any] = dict(ids="network", dt=STEP, scheme=case.model, backend=backend)

    def forward(self) -> Any:
        with torch.no_grad():
            return route(self.network, self.inflow, self.parameters, initial_state=self.start, **self.options).discharge

    def gradient(self, cotangent: Any) -> tuple[Any, dict[str, Any]]:
        leaves = {name: x.clone().requires_grad_() for name, x in self.parameters.items()}
        inflow = self.inflow if leaves else self.inflow.clone().requires_grad_()
        wanted = leaves or {"inflow": inflow}  # of the scheme that has no parameter
        found = route(self.network, inflow, leaves, initial_state=self.start, **self.options).discharge
        slopes = torch.autograd.grad(found, list(wanted.values()), cotangent)
        return found.detach(), dict(zip(wanted, slopes, strict=True))


def coefficients(parameters: dict[str, Any]) -> Any:
    """Linear Muskingum's, of inflow after and before, outflow before and lateral inflow."""
    k, x = parameters["k"], parameters["x"]
    most = k * (1 - x) + STEP / 2
    return torch.stack([STEP / 2 - k * x, STEP / 2 + k * x, k * (1 - x) - STEP / 2, torch.full_like(k, STEP)]) / most


class Numba(River):
    """Reach by reach in every step, as C code for linear Muskingum does."""

    def __init__(self, case: Case) -> None:
        import numba

        super().__init__(case)
        self.version = f"numba {numba.__version__}"

        @numba.njit(fastmath=True)
        def loop(downstream, c, lateral, state, discharge):
            n = len(downstream)
            before, now = np.zeros_like(state), np.zeros_like(state)
            for t in range(len(lateral)):
                before[:] = 0
                for i in range(n):
                    if downstream[i] >= 0:
                        before[downstream[i]] += state[i]
                now[:] = 0
                for i in range(n):
                    q = c[0, i] * now[i] + c[1, i] * before[i] + c[2, i] * state[i] + c[3, i] * lateral[t, i]
                    if downstream[i] >= 0:
                        now[downstream[i]] += q
                    state[i] = discharge[t, i] = q

        self.loop = loop

    def forward(self) -> Any:
        discharge = np.empty(self.inflow.shape, self.inflow.numpy().dtype)
        c, start = coefficients(self.parameters).numpy(), self.start["discharge"].numpy().copy()
        self.loop(self.network.downstream, c, self.inflow.numpy(), start, discharge)
        return discharge


class SparseSolve(River):
    """The network as a triangular matrix that is factorised once, and solved in every step; back by its transpose."""

    def __init__(self, case: Case) -> None:
        import scipy

        super().__init__(case)
        self.version = f"scipy {scipy.__version__}"

    def solved(self) -> tuple[Any, Any, Any, Any, Any]:
        """The factors, the sum over upstream neighbours as a matrix, the matrix of the state before, the coefficients,
        and the discharge ``[T + 1, N]``, that before the first step ahead."""
        from scipy import sparse
        from scipy.sparse.linalg import splu

        c = coefficients(self.parameters).numpy()
        to, n = self.network.downstream, len(c[0])
        above = np.flatnonzero(to >= 0)
        upstream = sparse.csr_array((np.ones(len(above), c.dtype), (to[above], above)), shape=(n, n))
        matrix = sparse.eye_array(n, dtype=c.dtype) - sparse.diags_array(c[0]) @ upstream
        before = (sparse.diags_array(c[1]) @ upstream + sparse.diags_array(c[2])).tocsr()
        # Upstream reaches come first, so that the matrix is triangular as it is.
        factors = splu(matrix.tocsc(), permc_spec="NATURAL", diag_pivot_thresh=0.0, options=dict(Equil=False))
        lateral = self.inflow.numpy()
        q = np.empty((len(lateral) + 1, n), c.dtype)
        q[0] = self.start["discharge"].numpy()
        for t in range(len(lateral)):
            q[t + 1] = factors.solve(before @ q[t] + c[3] * lateral[t])
        return factors, upstream, before, c, q

    def forward(self) -> Any:
        return self.solved()[-1][1:]

    def cotangent(self, x: Any) -> Any:
        return x.numpy()

    def gradient(self, cotangent: Any) -> tuple[Any, dict[str, Any]]:
        factors, upstream, before, c, q = self.solved()
        back = before.T.tocsr()
        d = np.zeros_like(c)
        d_next = np.zeros_like(c[0])
        for t in reversed(range(len(cotangent))):
            d_q = factors.solve(cotangent[t] + d_next, trans="T")
            d_next = back @ d_q
            d += d_q * np.stack([upstream @ q[t + 1], upstream @ q[t], q[t], self.inflow[t].numpy()])
        leaves = {name: x.clone().requires_grad_() for name, x in self.parameters.items()}
        slopes = torch.autograd.grad(coefficients(leaves), list(leaves.values()), torch.from_numpy(d))
        return q[1:], dict(zip(leaves, slopes, strict=True))
