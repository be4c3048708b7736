"""What is checked before a run, in one sentence each: names, shapes, types and devices; values are for the kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from .. import models
from ..arguments import integer
from ..compiler.tracing import networks_of
from ..spec import DAY, ModelSpec
from . import backends
from .problem import Problem

Tensors = dict[str, Tensor]
FLOATS = (torch.float32, torch.float64)


def dense(x: object, what: str) -> Tensor:
    """The tensor itself; raise if it is none, or not laid out with strides."""
    if not isinstance(x, Tensor):
        how = "torch.as_tensor(x.values)" if hasattr(x, "values") else "torch.as_tensor(x)"
        how = "pass what it gives, module()" if isinstance(x, torch.nn.Module) else f"convert it with {how}"
        raise ValueError(f"{what} must be a torch tensor; found {type(x).__name__}: {how}.")
    if x.layout != torch.strided:
        raise ValueError(f"{what} must be dense; found {x.layout}: convert it with .to_dense().")
    return x


def mapping(x: object, what: str) -> dict[str, Any]:
    """A copy of a mapping of names; raise if it is none."""
    if hasattr(x, "final_state"):
        raise ValueError(f"{what} must map names to tensors; found a {type(x).__name__}: pass its final_state.")
    if not isinstance(x, Mapping):
        raise ValueError(f"{what} must map names to tensors; found {type(x).__name__}: pass a dict.")
    return dict(x)


def problem(
    model: ModelSpec | str,
    forcing: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor] | None,
    step: int,
    initial_state: Mapping[str, Tensor] | None,
    fluxes: Sequence[str] | None,
    components: str,
    weights: Tensor | None,
    interval: int | None,
    raw: bool,
    backend: str,
    networks: Mapping[str, Tensor] | None = None,
) -> Problem:
    """The run that `simulate` is asked for; see there."""
    model = models.get(model)
    given = {
        "forcing": mapping(forcing, "forcing"),
        "parameters": mapping(parameters, "parameters"),
        "inputs": {} if inputs is None else mapping(inputs, "inputs"),
        "networks": {} if networks is None else mapping(networks, "networks"),
        "initial_state": {} if initial_state is None else mapping(initial_state, "initial_state"),
    }
    if not isinstance(raw, bool):
        raise ValueError(f"raw must be True or False; found {raw!r}: say whether the parameters come unscaled.")
    model.check_step(integer("step", step, 1))
    outputs = output_names(model, fluxes)
    if components not in ("mean", "each"):
        raise ValueError(f"components must be 'mean' or 'each'; found {components!r}.")
    if components == "each" and weights is not None:
        raise ValueError("weights apply to the sum over components; with components='each' leave them out.")

    forcing = _take(given, "forcing", model.forcing_names, model)
    inputs = _take(given, "inputs", model.input_names, model)
    rows = model.present_parameters(given["parameters"])
    absent = {v.name: v.default for v in rows if v.default is not None and v.name not in given["parameters"]}
    parameters = _take(given, "parameters", [v.name for v in rows if v.name not in absent], model)
    _refuse_unknown(given["initial_state"], (*model.state_names, *model.line_names), "initial_state", model)
    optional = tuple(v.name for v in rows[len(model.parameters) :])
    inside = networks_of(model.key, optional)
    networks = _take(given, "networks", [network.name for network in inside], model)
    sizes = _sizes(model, forcing, parameters, inputs, networks, given["initial_state"], weights)
    for network in inside:
        if networks[network.name].shape[-1] != network.weights:
            raise ValueError(
                f"networks '{network.name}' must have {network.weights} weights, of {network.words}; found shape "
                f"{list(networks[network.name].shape)}: make it by hybridsolve.nn.FluxNetwork."
            )
    like = next(iter(forcing.values()))
    backend = backends.choose(backend, like.device, model.kernel_name(optional))
    interval = _interval(interval, sizes[0], backends.most_interval(backend, model, like.element_size()))
    if raw and (absent or step != DAY or (inside and backend == "triton")):  # what the kernels do not scale
        parameters = model.parameters_from_unit({name: torch.sigmoid(p) for name, p in parameters.items()})
        raw = False
    parameters |= {name: like.new_full((1, 1), default) for name, default in absent.items()}
    parameters = {v.name: parameters[v.name] for v in rows}
    state = _initial_state(model, given["initial_state"], parameters, like, sizes[1:], raw)
    if step != DAY:
        parameters = model.parameters_at_step(parameters, step)
    return Problem(
        backend,
        model,
        list(forcing.values()),
        list(inputs.values()),
        list(parameters.values()),
        state,
        weights,
        sizes,
        outputs,
        each=components == "each",
        raw=raw,
        optional=optional,
        step=step,
        interval=interval if torch.is_grad_enabled() else 0,  # without gradient no checkpoint is needed
        networks=list(networks.values()),
    )


def _initial_state(
    model: ModelSpec, given: Tensors, parameters: Tensors, like: Tensor, cells: Sequence[int], raw: bool
) -> Tensor:
    """The states ``[S, B, C]`` and the contents of the delay lines behind: what is given, else what the table says."""
    if not all(name in given for name in model.state_names):
        first: Tensors = {}
        if any(callable(s.initial) for s in model.states):
            first = {name: p if p.dim() == 2 else p[0] for name, p in parameters.items()}
            if raw:
                first = model.parameters_from_unit({name: torch.sigmoid(p) for name, p in first.items()})
        given = model.initial_state(first) | given
    starts = [given[name] for name in model.state_names]
    start = starts[0]
    if isinstance(start, float) and all(isinstance(x, float) and x == start for x in starts):
        state = like.new_full((len(starts), *cells), start)  # one tensor takes less time than many
    else:
        state = torch.stack([start_of(model, *one, like, cells) for one in zip(model.state_names, starts, strict=True)])
    if not model.lines:
        return state
    empty = {line.name: like.new_zeros(line.slots - 1, 1, 1) for line in model.lines}
    return torch.cat([state, *((empty | given)[name].expand(-1, *cells) for name in model.line_names)])


def start_of(model: ModelSpec, name: str, x: Tensor | float, like: Tensor, cells: Sequence[int]) -> Tensor:
    """A state before the first step ``[B, C]``: what is given has been checked, a function of the table has not."""
    if isinstance(x, Tensor) and x.dim() == 2 and x.dtype == like.dtype:
        if all(n in (1, m) for n, m in zip(x.shape, cells, strict=True)):
            return x.expand(cells)
    if isinstance(x, int | float):
        return like.new_full(cells, x)
    raise ValueError(
        f"the start of state '{name}' of model {model.name} must be a number or a {like.dtype} tensor [B, C], here "
        f"{list(cells)}; found {f'{x.dtype} {list(x.shape)}' if isinstance(x, Tensor) else repr(x)}: make it of the "
        "parameters."
    )


def output_names(model: ModelSpec, fluxes: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the series asked for, None for the outflow; empty, unknown and repeated ones are refused."""
    if fluxes is None:
        return (model.outflow,)
    if isinstance(fluxes, Tensor) or not isinstance(fluxes, str | Sequence | Set):
        raise ValueError(f"fluxes must be names of series; found {type(fluxes).__name__}: pass a tuple of names.")
    names = [fluxes] if isinstance(fluxes, str) else list(fluxes)
    if not names:
        raise ValueError(f"fluxes is empty; expected at least one of {', '.join(model.output_names)}.")
    for name in names:
        if name not in model.output_names:
            raise ValueError(
                f"model {model.name} has no flux '{name}'; expected any of {', '.join(model.output_names)}."
            )
    if len(set(names)) < len(names):
        raise ValueError(f"fluxes names a series twice: {', '.join(names)}; name each once.")
    return tuple(names)


def _take(given: Mapping[str, Tensors], what: str, names: Sequence[str], model: ModelSpec) -> dict[str, Tensor]:
    """The tensors of these names, in order; raise if one is missing, or there are others."""
    found = {name: _named(given, what, name) for name in names}
    _refuse_unknown(given[what], names, what, model)
    return found


def _named(given: Mapping[str, Tensors], what: str, name: str) -> Tensor:
    there = given[what]
    if name not in there:
        misplaced = [f"it is in {other}: move it" for other in given if other != what and name in given[other]]
        beside = ", ".join(map(str, there)) or "nothing"
        add = "learn it by hybridsolve.train, or make it by hybridsolve.nn.FluxNetwork"
        remedies = (*misplaced, add if what == "networks" else "add it")
        raise ValueError(f"{what} lacks '{name}'; expected it beside {beside}: {remedies[0]}.")
    return dense(there[name], f"{what} '{name}'")


def _refuse_unknown(given: Tensors, known: Sequence[str], what: str, model: ModelSpec) -> None:
    for name in given:
        if name not in known:
            raise ValueError(
                f"{what} has '{name}', which {model.name} does not take; expected {', '.join(known) or 'none'}: "
                "remove or rename it."
            )


def _sizes(
    model: ModelSpec,
    forcing: Tensors,
    parameters: Tensors,
    inputs: Tensors,
    networks: Tensors,
    state: Tensors,
    weights: Tensor | None,
) -> list[int]:
    """T, B and C, which all inputs must agree on or have as 1; and that all share one dtype and device."""
    every = [("forcing", n, x, "tb") for n, x in forcing.items()]
    every += [("parameter", n, x, "bc" if x.dim() == 2 else "tbc") for n, x in parameters.items()]
    every += [("inputs", n, x, "b") for n, x in inputs.items()]
    for n, x in networks.items():
        if x.dim() not in (1, 2) or x.shape[-1] == 0:
            raise ValueError(f"networks '{n}' must be [W] or [B, W]; found shape {list(x.shape)}: reshape it.")
        every.append(("networks", n, x[..., 0].reshape(-1), "b"))
    slots = {line.name: line.slots - 1 for line in model.lines}
    for n, x in state.items():
        x = dense(x, f"initial_state '{n}'")
        if n in slots and (x.dim() != 3 or x.shape[0] != slots[n]):
            raise ValueError(
                f"initial_state '{n}' must be [{slots[n]}, B, C], the contents of a delay line; found "
                f"{list(x.shape)}: pass what a run has given."
            )
        every.append(("initial_state", n, x[0] if n in slots else x, "bc"))
    if weights is not None:
        every.append(("weights", "", dense(weights, "weights"), "bc"))
    first = every[0]
    dtype, device = first[2].dtype, first[2].device
    sizes: dict[str, int] = {}
    origin: dict[str, tuple] = {}
    for one in every:
        _, _, x, axes = one
        shape = x.shape
        if len(shape) != len(axes) or x.dtype != dtype or x.device != device or dtype not in FLOATS:
            _refuse_tensor(first, one)
        for axis, size in zip(axes, shape, strict=True):
            if size == 1:
                continue
            if size == 0:
                raise ValueError(
                    f"{_label(one)} is empty: axis {axis.upper()} has size 0 in {list(shape)}; expected at least "
                    "one step, basin and component."
                )
            if sizes.setdefault(axis, size) != size:
                raise ValueError(
                    f"{_label(one)} has {axis.upper()} = {size}, but {_label(origin[axis])} has {sizes[axis]}; "
                    "expected the same, or 1: forcing is [T, B], parameters are [B, C] or [T, B, C]."
                )
            origin.setdefault(axis, one)
    for name, x in inputs.items():
        if x.requires_grad:
            raise ValueError(f"inputs '{name}' has no gradient, but requires one: detach() it, or make it a parameter.")
    return [sizes.get(axis, 1) for axis in "tbc"]


def _label(one: tuple) -> str:
    kind, name, _, _ = one
    return f"{kind} '{name}'" if name else kind


def _refuse_tensor(first: tuple, one: tuple) -> None:
    """Say what is wrong with one of the tensors of a run, beside the first of them."""
    (kind, _, x, axes), (_, _, like, _) = one, first
    if like.dtype not in FLOATS:
        raise ValueError(f"{_label(first)} must be float32 or float64; found {like.dtype}: convert it with .to().")
    if x.dim() != len(axes):
        shape = "[B, C] or [T, B, C]" if kind == "parameter" else f"[{', '.join(axes.upper())}]"
        raise ValueError(f"{_label(one)} must be {shape}; found shape {list(x.shape)}: reshape it.")
    if x.dtype != like.dtype:
        raise ValueError(
            f"{_label(one)} must be {like.dtype} as {_label(first)} is; found {x.dtype}: convert it with .to()."
        )
    raise ValueError(
        f"{_label(one)} must be on {like.device} as {_label(first)} is; found {x.device}: move it with .to()."
    )


def _interval(interval: int | None, n_steps: int, most: int | None) -> int:
    if interval is None:
        return backends.check_interval(n_steps, most)
    return min(integer("checkpoint_interval", interval, 1), n_steps)
