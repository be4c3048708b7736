"""Parameter networks: from attributes, or weather and attributes, to a model's parameters before the sigmoid.

A parameter network is any `torch.nn.Module` that is called with ``(attributes [B, A], weather [T, B, W] or None)`` and
returns a mapping of parameter name to numbers before the sigmoid: ``[B, C]``, or ``[T, B, C]`` for a parameter that
varies by step, and ``[B, 1]`` for those of the hydrograph. Those here lay their outputs out by a `Layout`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import models
from ..arguments import integer
from ..spec import ModelSpec


@dataclass(frozen=True)
class Layout:
    """The layout of a parameter network's output: parameter-major, component-minor, the hydrograph's last.

    Parameters
    ----------
    model : ModelSpec or str
    components : int
        Copies of the model in each basin, whose flows are averaged.
    dynamic : sequence of str
        Parameters that vary by step; one that is optional or fixed by default is learned if it is named here.
    routing : bool
        Whether the parameters of the model's hydrograph are learned too, one set a basin.
    learned : sequence of str
        Parameters that are learned although they are optional or fixed by default, and do not vary by step.

    Raises
    ------
    ValueError
        If the model has no such parameter, one is named twice, or components is less than 1.
    """

    model: ModelSpec
    components: int = 16
    dynamic: tuple[str, ...] = ()
    routing: bool = True
    learned: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", models.get(self.model))
        known = [*self.model.parameter_names, *self.model.optional_parameter_names]
        for field, aim in (("dynamic", "vary by step"), ("learned", "learn")):
            given = getattr(self, field)
            if isinstance(given, str) or not isinstance(given, Sequence):
                raise ValueError(f"{field} must be parameters' names; found {given!r}: pass a tuple of them.")
            object.__setattr__(self, field, tuple(given))
            for name in getattr(self, field):
                if name not in known:
                    raise ValueError(
                        f"model {self.model.name} has no parameter '{name}' to {aim}; expected any of "
                        f"{', '.join(known)}: correct {field}."
                    )
        for name in self.learned:
            if name in self.dynamic:
                raise ValueError(f"'{name}' is named by dynamic and by learned: name it in one of them.")
        integer("components", self.components, 1)

    @property
    def names(self) -> tuple[str, ...]:
        """All parameters that are learned, without the hydrograph's."""
        named = {*self.dynamic, *self.learned}
        return tuple(v.name for v in self.model.present_parameters(named) if v.free or v.name in named)

    @property
    def routing_names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.model.routing_parameters if v.free) if self.routing else ()

    @property
    def static_names(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name not in self.dynamic)

    @property
    def n_static(self) -> int:
        return len(self.static_names) * self.components + len(self.routing_names)

    @property
    def n_dynamic(self) -> int:
        return len(self.dynamic) * self.components

    def split(self, static: Tensor, dynamic: Tensor | None = None) -> dict[str, Tensor]:
        """Name the parts of ``static [B, n_static]`` and ``dynamic [T, B, n_dynamic]``; views, nothing is copied."""
        c = self.components
        sizes = [c] * len(self.static_names) + [1] * len(self.routing_names)
        named = dict(zip(self.static_names + self.routing_names, static.split(sizes, -1), strict=True))
        if self.dynamic and dynamic is not None:
            named |= dict(zip(self.dynamic, dynamic.split(c, -1), strict=True))
        return {name: named[name] for name in self.names + self.routing_names}


def _refuse_unfit(name: str, x: Tensor, width: int, dtype: torch.dtype) -> None:
    """Raise if a network cannot take a tensor, and name its input."""
    if x.shape[-1] != width:
        raise ValueError(f"{name} must have {width} numbers each, found {x.shape[-1]}: give those of the training.")
    if x.dtype != dtype:
        raise TypeError(
            f"{name} must be {dtype} like the network's weights, found {x.dtype}: convert one of them, "
            "such as network.float() where torch's default dtype is float64."
        )


def _of_attributes(n_attributes: int, hidden: Sequence[int], n_out: int, dropout: float) -> nn.Sequential:
    """Linear layers with ReLU and dropout between them."""
    layers: list[nn.Module] = []
    for before, n in zip([n_attributes, *hidden], hidden, strict=False):
        layers += [nn.Linear(before, n), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear([n_attributes, *hidden][-1], n_out))


class MLP(nn.Module):
    """Static parameters of the attributes alone.

    Parameters
    ----------
    layout : Layout
        Without dynamic parameters.
    n_attributes : int
    hidden : sequence of int
        Width of each hidden layer.
    dropout : float
    """

    def __init__(self, layout: Layout, n_attributes: int, hidden: Sequence[int] = (256, 256), dropout: float = 0.2):
        super().__init__()
        if layout.dynamic:
            raise ValueError(
                f"an MLP sees no weather, and dynamic names {', '.join(layout.dynamic)}: take an LSTM, or none dynamic."
            )
        if n_attributes < 1:
            raise ValueError(f"an MLP must see one attribute at least, found {n_attributes}: add one, or take an LSTM.")
        self.layout, self.n_attributes = layout, n_attributes
        self.layers = _of_attributes(n_attributes, hidden, layout.n_static, dropout)

    def forward(self, attributes: Tensor, weather: Tensor | None = None) -> dict[str, Tensor]:
        _refuse_unfit("attributes", attributes, self.n_attributes, next(self.parameters()).dtype)
        return self.layout.split(self.layers(attributes))


class Recurrent(nn.Module):
    """Weather ``[T, B, W]`` and attributes ``[B, A]`` through a linear layer and an LSTM: ``[T, B, hidden]``.

    A may be 0.
    """

    def __init__(self, n_attributes: int, n_weather: int, hidden: int, dropout: float):
        super().__init__()
        self.n_attributes, self.n_weather = n_attributes, n_weather
        self.of_weather = nn.Linear(n_weather, hidden)
        self.of_attributes = nn.Linear(n_attributes, hidden, bias=False) if n_attributes else None
        self.lstm = nn.LSTM(hidden, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, attributes: Tensor, weather: Tensor) -> Tensor:
        if weather is None:
            raise ValueError("an LSTM sees weather [T, B, W], found None: give it.")
        for name, x, width in (("weather", weather, self.n_weather), ("attributes", attributes, self.n_attributes)):
            _refuse_unfit(name, x, width, self.of_weather.weight.dtype)
        entered = self.of_weather(weather)
        if self.of_attributes is not None:
            entered = entered + self.of_attributes(attributes)  # broadcast over the steps
        passed: Tensor = self.dropout(self.lstm(torch.relu(entered))[0])
        return passed


class LSTM(nn.Module):
    """Parameters of weather and attributes: the dynamic ones of every step, the others of the last.

    Parameters
    ----------
    layout : Layout
    n_attributes, n_weather : int
    hidden : int
    dropout : float
        Of the LSTM's output.
    """

    def __init__(self, layout: Layout, n_attributes: int, n_weather: int, hidden: int = 256, dropout: float = 0.5):
        super().__init__()
        self.layout = layout
        self.recurrent = Recurrent(n_attributes, n_weather, hidden, dropout)
        self.static = nn.Linear(hidden, layout.n_static)
        self.dynamic = nn.Linear(hidden, layout.n_dynamic) if layout.dynamic else None

    def forward(self, attributes: Tensor, weather: Tensor) -> dict[str, Tensor]:
        h = self.recurrent(attributes, weather)
        # Only the static parameters of the last step are used, so the others are not computed.
        return self.layout.split(self.static(h[-1]), None if self.dynamic is None else self.dynamic(h))


class Corrected(nn.Module):
    """Numbers of the attributes alone, some of which the weather corrects: ``static [B, S], dynamic [T, B, D]``.

    An MLP of the attributes gives all S + D. A correction is added to the D of each step: a linear function, zero
    before the training, of a layer that sees the weather of the latest `period` steps, the step itself among them, the
    attributes, and the state of a recurrent unit over the periods before. Periods are counted from the first step; the
    unit reads each as a whole, once it is over, so that a year of days is some fifty recurrent steps, and nothing of a
    step depends on the weather after it. Before the first step the weather is its mean, zero. The unit is a GRU whose
    gate sees its input alone, not the state (Feng et al. 2024, arXiv 2410.01201), so that what is left of it within the
    recurrence is one interpolation.

    Parameters
    ----------
    n_attributes, n_weather, n_static, n_dynamic : int
    hidden : sequence of int
        Widths of the MLP's hidden layers.
    state : int
        Width of the recurrent unit, and of the layer after it.
    period : int
        Steps.
    dropout : float
        Of the MLP's hidden layers, and of the state, there of the same units in all steps of a basin.
    """

    def __init__(
        self,
        n_attributes: int,
        n_weather: int,
        n_static: int,
        n_dynamic: int,
        hidden: Sequence[int] = (256, 256),
        state: int = 64,
        period: int = 7,
        dropout: float = 0.2,
    ):
        super().__init__()
        for name, n in (("n_attributes", n_attributes), ("n_weather", n_weather), ("n_dynamic", n_dynamic)):
            integer(name, n, 1)
        self.n_attributes, self.n_weather, self.period = n_attributes, n_weather, integer("period", period, 1)
        self.sizes = [n_static, n_dynamic]
        self.layers = _of_attributes(n_attributes, hidden, n_static + n_dynamic, dropout)
        self.of_period = nn.Linear(n_weather * period + n_attributes, state)
        self.gate_and_candidate = nn.Linear(state, 2 * state)
        self.dropout = nn.Dropout(dropout)
        self.of_state = nn.Linear(state + n_attributes, state)
        self.of_latest = nn.Linear(n_weather * period, state, bias=False)
        self.correction = nn.Linear(state, n_dynamic, bias=False)
        nn.init.zeros_(self.correction.weight)
        # Gates that begin with memories from a period to a year of weeks.
        nn.init.uniform_(self.gate_and_candidate.bias[:state], -4.0, 0.0)

    def forward(self, attributes: Tensor, weather: Tensor) -> tuple[Tensor, Tensor]:
        if weather is None:
            raise ValueError("this network sees weather [T, B, W], found None: give it.")
        for name, x, width in (("weather", weather, self.n_weather), ("attributes", attributes, self.n_attributes)):
            _refuse_unfit(name, x, width, self.of_period.weight.dtype)
        static, base = self.layers(attributes).split(self.sizes, -1)
        steps, period = len(weather), self.period
        n = -(-steps // period)  # periods, the last of which may be cut
        # The weather of one period that ends at each step, from a period before the first on.
        padded = nn.functional.pad(weather, (0, 0, 0, 0, 2 * period - 1, n * period - steps))
        latest = padded.unfold(0, period, 1).flatten(2)
        state = self._states(attributes, latest[period - 1 :: period][:n])  # of each period's predecessor, whole
        # The large tensors are changed in place.
        seen = self.of_latest(latest[period:].unflatten(0, (n, period))).add_(state[:, None]).relu_()
        return static, self.correction(seen.flatten(0, 1)[:steps]).add_(base)

    def _states(self, attributes: Tensor, weather: Tensor) -> Tensor:
        """The states ``[n, B, state]`` after periods of weather ``[n, B, W * period]``, with the attributes."""
        attributes = attributes.expand(len(weather), *attributes.shape)
        entered = torch.relu(self.of_period(torch.cat([weather, attributes], -1)))
        gate, candidate = self.gate_and_candidate(entered).chunk(2, -1)
        states = [torch.zeros_like(candidate[0])]
        for new, weight in zip(torch.tanh(candidate).unbind(), torch.sigmoid(gate).unbind(), strict=True):
            states.append(torch.lerp(states[-1], new, weight))
        state = torch.stack(states[1:])
        state = state * self.dropout(torch.ones_like(state[:1]))
        held: Tensor = self.of_state(torch.cat([state, attributes], -1))
        return held


class GRU(nn.Module):
    """Parameters of the attributes, the dynamic ones corrected by the weather of every step; see `Corrected`.

    Parameters
    ----------
    layout : Layout
        With dynamic parameters.
    n_attributes, n_weather, hidden, state, period, dropout :
        As for `Corrected`.
    """

    def __init__(
        self,
        layout: Layout,
        n_attributes: int,
        n_weather: int,
        hidden: Sequence[int] = (256, 256),
        state: int = 64,
        period: int = 7,
        dropout: float = 0.2,
    ):
        super().__init__()
        if not layout.dynamic:
            raise ValueError("a GRU corrects dynamic parameters, and the layout has none: name some, or take an MLP.")
        self.layout = layout
        sizes = layout.n_static, layout.n_dynamic
        self.corrected = Corrected(n_attributes, n_weather, *sizes, hidden, state, period, dropout)

    def forward(self, attributes: Tensor, weather: Tensor) -> dict[str, Tensor]:
        return self.layout.split(*self.corrected(attributes, weather))
