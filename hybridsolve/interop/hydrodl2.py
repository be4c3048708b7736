"""`Hbv` and `Hbv_1_1p` with the calling convention of hydrodl2 1.4.0: its users change one import.

Config keys, attributes, layouts and names are that convention's; every key is honoured or refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import models
from ..arguments import integer
from ..models.hbv import EPS
from ..nn.differentiable import drop_dynamic
from ..routing import unit_hydrograph
from ..routing.unit_hydrograph import LENGTH
from ..solve.simulate import simulate

DEFAULTS: dict[str, Any] = dict(
    warmup=0,
    warmup_states=True,
    dy_drop=0.0,
    dynamic_params=None,
    variables=["prcp", "tmean", "pet"],
    routing=True,
    comprout=False,
    nearzero=EPS,
    nmul=1,
    cache_states=False,
)
ROUTED = {"streamflow": ("streamflow", "Qsim_tail"), "srflow": ("q0", "Q0_tail"), "ssflow": ("q1", "Q1_tail"),
          "gwflow": ("q2", "Q2_tail")}  # fmt: skip
FLUXES = {"AET_hydro": "aet", "SWE": "swe", "recharge": "recharge", "excs": "excess", "evapfactor": "evapfactor",
          "tosoil": "infiltration", "percolation": "percolation", "capillary": "capillary"}  # fmt: skip


class _DropIn(nn.Module):
    """See `Hbv` and `Hbv_1_1p`.

    Parameters
    ----------
    config : mapping, optional
        Keys of `DEFAULTS`; `dynamic_params` maps the class's name to per-step parameters such as "parBETA".
    device : torch.device, optional

    Raises
    ------
    ValueError
        If a key is unknown, or its value is one that these kernels do not have.
    """

    spec: str

    def __init__(self, config: Mapping | None = None, device=None):
        super().__init__()
        settings = self._settings({} if config is None else dict(config))
        self.device = torch.device("cpu" if device is None else device)
        self.model = models.get(self.spec)
        self.name = self.model.title
        self.warmup, self.warmup_states = settings["warmup"], settings["warmup_states"]
        self.dy_drop, self.routing, self.nmul = settings["dy_drop"], settings["routing"], settings["nmul"]
        self.variables, self.cache_states = list(settings["variables"]), settings["cache_states"]
        every = {f"par{v.name.upper()}": v for v in self.model.parameters + self.model.optional_parameters}
        dynamic = settings["dynamic_params"] or {}
        if not isinstance(dynamic, Mapping) or (dynamic and type(self).__name__ not in dynamic):
            raise ValueError(
                f"config dynamic_params must map {type(self).__name__} to a list of parameters; found {dynamic!r}."
            )
        asked = dynamic.get(type(self).__name__) or []
        for name in asked:
            if name not in every:
                raise ValueError(
                    f"dynamic_params names '{name}', which {type(self).__name__} does not have; expected any of "
                    f"{', '.join(every)}: correct it."
                )
        self.dynamic = [every[name].name for name in asked]
        rows = self.model.present_parameters(self.dynamic)
        self.parameter_bounds = {f"par{v.name.upper()}": [v.lower, v.upper] for v in rows}
        self.routing_parameter_bounds = {v.name: [v.lower, v.upper] for v in self.model.routing_parameters}
        self.phy_param_names = list(self.parameter_bounds)
        self.routing_param_names = list(self.routing_parameter_bounds) if self.routing else []
        self.learnable_param_count = len(rows) * self.nmul + len(self.routing_param_names)
        self.state_names = [name.upper() for name in self.model.state_names]
        own = {theirs: ours for theirs, ours in FLUXES.items() if ours in self.model.flux_names}
        self._fluxes = own
        self.flux_names = [*ROUTED, *(f"{name}_no_rout" for name in ROUTED), "PET_hydro", *own, "BFI"]
        self._states: tuple[Tensor, ...] | None = None
        self._tails: dict[str, Tensor] | None = None

    @classmethod
    def _settings(cls, config: dict) -> dict:
        for key in config:
            if key not in DEFAULTS:
                raise ValueError(f"config has the key '{key}'; expected any of {', '.join(DEFAULTS)}: remove it.")
        settings = DEFAULTS | config
        if settings["comprout"]:
            raise ValueError("config comprout asks for a unit hydrograph of each component; it must be False here.")
        if settings["nearzero"] != EPS:
            raise ValueError(
                f"config nearzero must be {EPS:g}, as the kernels have it; found {settings['nearzero']!r}."
            )
        if sorted(settings["variables"] or []) != sorted(DEFAULTS["variables"]):
            raise ValueError(f"config variables must order prcp, tmean and pet; found {settings['variables']!r}.")
        for key, least in (("warmup", 0), ("nmul", 1)):
            integer(f"config {key}", settings[key], least)
        for key in ("warmup_states", "routing", "comprout", "cache_states"):
            if not isinstance(settings[key], bool):
                raise ValueError(f"config {key} must be true or false; found {settings[key]!r}: correct it.")
        if not isinstance(settings["dy_drop"], int | float) or not 0 <= settings["dy_drop"] <= 1:
            raise ValueError(f"config dy_drop must be a probability; found {settings['dy_drop']!r}: correct it.")
        return settings

    def forward(self, x_dict: Mapping[str, Tensor], parameters: Tensor) -> dict[str, Tensor]:
        """Fluxes ``[T - warmup, B, 1]`` by the convention's names; `BFI` ``[B]``, percent.

        Parameters
        ----------
        x_dict : mapping
            "x_phy" ``[T, B, 3]`` in the order of `variables`; optionally "muwts" ``[B, nmul]``.
        parameters : Tensor ``[T, B, learnable_param_count]`` or ``[B, learnable_param_count]``
            Before the sigmoid, parameter-major, component-minor, the unit hydrograph's last.
        """
        if "x_phy" not in x_dict or x_dict["x_phy"].dim() != 3 or x_dict["x_phy"].shape[-1] != len(self.variables):
            raise ValueError(f"x_dict must have 'x_phy' [T, B, 3] of {', '.join(self.variables)}: give it so.")
        forcing = dict(zip(self.variables, x_dict["x_phy"].unbind(-1), strict=True))
        n_steps, weights = len(forcing["prcp"]), x_dict.get("muwts")
        if parameters.shape[-1] != self.learnable_param_count:
            raise ValueError(
                f"parameters must have {self.learnable_param_count} numbers for each basin; found "
                f"{parameters.shape[-1]}: make the network's last layer as wide as learnable_param_count."
            )
        shape = x_dict["x_phy"].shape[:2]
        if parameters.dim() == 2 and self.dynamic:
            raise ValueError(
                f"parameters must be [T, B, n], since {', '.join(self.dynamic)} vary by step; found [B, n]."
            )
        if parameters.shape[:-1] != (shape if parameters.dim() == 3 else shape[1:]):
            raise ValueError(
                f"parameters must have the steps and basins of x_phy, {list(shape)}; found {list(parameters.shape)}."
            )
        if not self.warmup < n_steps:
            raise ValueError(f"warmup is {self.warmup} and x_phy has {n_steps} steps: lengthen it.")
        raw, routing = self._named(parameters)
        states = self._states if self.cache_states else None
        first = 0
        if self.warmup and self.warmup_states:
            # As in hydrodl2: without gradient, and with every parameter static.
            first = self.warmup
            with torch.no_grad():
                held = {name: x[-1] if x.dim() == 3 else x for name, x in raw.items()}
                states = self._run(forcing, held, slice(0, first), states, ("streamflow",), None)[1]
        if self.training and self.dy_drop:
            raw = drop_dynamic(raw, self.dy_drop)
        names = [ours for ours, _ in ROUTED.values()] + list(self._fluxes.values())
        series, states = self._run(forcing, raw, slice(first, n_steps), states, names, weights)
        tails = self._tails if self.cache_states and not first else None
        out, self._tails = {}, {}
        for theirs, (ours, tail) in ROUTED.items():
            out[theirs] = out[f"{theirs}_no_rout"] = series[ours]
            if self.routing:
                (a, b), before = routing, None if tails is None else tails[tail]
                out[theirs], self._tails[tail] = unit_hydrograph(series[ours], a, b, before, return_memory=True)
        out["PET_hydro"] = forcing["pet"][first:]
        out |= {theirs: series[ours] for theirs, ours in self._fluxes.items()}
        cut = self.warmup - first
        out = {name: x[cut:] for name, x in out.items()}
        bfi = 100 * out["gwflow"].sum(0) / (out["streamflow"].sum(0) + EPS)
        self._states = tuple(x.detach() for x in states)
        self._tails = {name: x.detach() for name, x in self._tails.items()}
        return {name: out[name].unsqueeze(-1) for name in self.flux_names if name != "BFI"} | {"BFI": bfi}

    def _named(self, parameters: Tensor):
        """Parameters before the sigmoid by the names of this package; those of the hydrograph in their units."""
        sizes = [self.nmul] * len(self.phy_param_names) + [1] * len(self.routing_param_names)
        parts = parameters.split(sizes, -1)
        raw = {}
        for theirs, x in zip(self.phy_param_names, parts, strict=False):
            name = theirs.removeprefix("par").lower()
            raw[name] = x if x.dim() == 2 or name in self.dynamic else x[-1]
        last = [x if x.dim() == 2 else x[-1] for x in parts[len(raw) :]]
        unit = {n: torch.sigmoid(x.squeeze(-1)) for n, x in zip(self.routing_param_names, last, strict=True)}
        return raw, list(self.model.parameters_from_unit(unit).values())

    def _run(self, forcing, raw, steps: slice, states, fluxes, weights):
        run = simulate(
            self.model,
            {name: x[steps] for name, x in forcing.items()},
            {name: x[steps] if x.dim() == 3 else x for name, x in raw.items()},
            initial_state=None if states is None else dict(zip(self.model.state_names, states, strict=True)),
            fluxes=fluxes,
            weights=weights,
            raw=True,
        )
        return run.fluxes, tuple(run.final_state.values())

    def get_states(self) -> tuple[Tensor, ...] | None:
        """Final states of the last run ``[B, nmul]``, in the order of `state_names`."""
        return self._states

    def load_states(self, states: tuple[Tensor, ...]) -> None:
        """States to go on from, where the config has cache_states."""
        if not self.cache_states:
            raise ValueError("load_states needs cache_states in the config; found it False: set it.")
        if len(states) != len(self.state_names):
            raise ValueError(f"states must be {', '.join(self.state_names)}; found {len(states)} tensors: give all.")
        self._states = tuple(x.detach().to(self.device) for x in states)
        self._tails = None  # of another run; load_routing_state comes after

    def get_routing_state(self) -> dict[str, Tensor] | None:
        """The last unrouted flows ``[14, B]``, from which the unit hydrograph goes on, by name of the tail."""
        return self._tails

    def load_routing_state(self, state: Mapping[str, Tensor]) -> None:
        """Tails to go on from, where the config has cache_states and no warm-up of its own."""
        if not (self.cache_states and self.routing) or (self.warmup and self.warmup_states):
            raise ValueError(
                "load_routing_state needs cache_states, routing and no warm-up of the states: set the config so."
            )
        for _, tail in ROUTED.values():
            if tail not in state or len(state[tail]) != LENGTH - 1:
                raise ValueError(f"the routing state must have '{tail}' [{LENGTH - 1}, B]: give get_routing_state().")
        self._tails = {name: x.detach().to(self.device) for name, x in state.items()}


class Hbv(_DropIn):
    """HBV 1.0; parBETAET is learned where it is dynamic."""

    spec = "hbv10"


class Hbv_1_1p(_DropIn):  # noqa: N801 - the convention's name
    """HBV 1.1p, with capillary rise."""

    spec = "hbv11p"


for _class in (Hbv, Hbv_1_1p):
    _class.__init__.__doc__ = _DropIn.__doc__
