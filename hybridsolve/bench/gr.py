"""Other programs for the GR models, through what their users call: one basin after another, in float64.

grsuite compiles by numba, hydrogr is in Rust; neither has a gradient. hydrologeez has one of GR6J by JAX; its unit
hydrographs put out what came in the day before, so that its flow is a day late, and is held against the oracle's after
the start has been forgotten. Its HBV has other equations than ours, and is left out.
"""

from __future__ import annotations

import os
import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from .cases import Case, forcing_and_parameters
from .implementations import Runner


class Program(Runner):
    """Rain and evapotranspiration ``[T, B]``, and of each basin its parameters in the order of their numbers."""

    package = ""

    def __init__(self, case: Case) -> None:
        forcing, parameters = forcing_and_parameters(case)
        self.case, self.version = case, f"{self.package} {version(self.package)}, float64"
        self.rain, self.demand = (x.double().numpy() for x in forcing.values())
        self.names = tuple(parameters)
        self.sets = torch.stack(list(parameters.values()), -1)[:, 0].double().numpy()
        self.days = np.datetime64("2000-01-01") + np.arange(case.T)


class Grsuite(Program):
    """Its arrays and options are made beforehand."""

    package = "grsuite"

    def __init__(self, case: Case) -> None:
        import grsuite

        super().__init__(case)
        self.run, self.given = grsuite.run_model, []
        for b in range(case.B):
            inputs = grsuite.InputsModel(self.days, self.rain[:, b].copy(), self.demand[:, b].copy())
            with warnings.catch_warnings():  # that there is no year before the first, to warm up in
                warnings.simplefilter("ignore")
                options = grsuite.RunOptions(inputs, case.model.upper(), np.arange(case.T))
            self.given.append((inputs, options, list(self.sets[b])))

    def forward(self) -> Any:
        return np.stack([self.run(*given)["Qsim"] for given in self.given], 1)


class Hydrogr(Program):
    """Its frames are made beforehand; a model keeps its state, so that each run has a new one."""

    package = "hydrogr"

    def __init__(self, case: Case) -> None:
        import hydrogr
        import pandas as pd

        super().__init__(case)
        self.model = getattr(hydrogr, f"Model{case.model.capitalize()}")
        self.named = [{f"X{k + 1}": x for k, x in enumerate(row)} for row in self.sets]
        self.frames = []
        for b in range(case.B):
            columns = {"precipitation": self.rain[:, b], "evapotranspiration": self.demand[:, b]}
            frame = pd.DataFrame(columns, index=pd.DatetimeIndex(self.days, name="date"))
            self.frames.append(hydrogr.InputDataHandler(self.model, frame).data)

    def forward(self) -> Any:
        pairs = zip(self.named, self.frames, strict=True)
        return np.stack([self.model(given).run(frame)["flow"].to_numpy() for given, frame in pairs], 1)


class Hydrologeez(Program):
    """GR6J of every basin by `vmap`, jitted whole; a day more is run, so that the first may be left out."""

    package = "hydrologeez"

    def __init__(self, case: Case) -> None:
        os.environ["JAX_ENABLE_X64"] = "1"  # which the package asks for
        import jax
        import jax.numpy as jnp
        from hydrologeez.models.gr6j import GR6J, GR6JForcing

        super().__init__(case)
        self.jnp = jnp
        rain, demand = (jnp.asarray(np.concatenate([x, x[-1:]]).T) for x in (self.rain, self.demand))
        self.given = jnp.asarray(self.sets)

        def of_basin(row, rain, demand):
            model = GR6J(**dict(zip(self.names, row, strict=True)))
            return model.run(GR6JForcing(precip=rain, pet=demand))[1:]

        def flow(sets):
            return jax.vmap(of_basin)(sets, rain, demand).T

        @jax.jit
        def both(sets, cotangent):
            found, back = jax.vjp(flow, sets)
            return found, back(cotangent)[0]

        self.run, self.both = jax.jit(flow), both

    def forward(self) -> Any:
        return self.run(self.given).block_until_ready()

    def cotangent(self, x: Any) -> Any:
        return self.jnp.asarray(x.double().numpy())

    def gradient(self, cotangent: Any) -> tuple[Any, dict[str, Any]]:
        found, slopes = self.both(self.given, cotangent)
        slopes.block_until_ready()
        return found, dict(zip(self.names, np.asarray(slopes).T[..., None], strict=True))
