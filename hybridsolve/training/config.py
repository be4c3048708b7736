"""The settings of a training: a typed schema, read from YAML, and the recipes that come with the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from .. import models
from ..compiler.tracing import networks_of
from ..configuration import Section, checked, read_yaml
from ..data.dataset import overlap, parse_period
from ..nn.networks import Layout
from ..score import losses
from ..spec import ModelSpec

LEAST_DAYS = 30  # days observed in a window, for a score of its own
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # the seeds that torch takes


class Network(Section):
    """The network: an MLP on attributes, or an LSTM or a GRU on weather and attributes.

    `state` and `period`, in steps of the data, are a gru's; see `hybridsolve.nn.networks.Corrected`.
    """

    kind: Literal["mlp", "lstm", "gru"]
    hidden: list[Positive] = [256]
    state: Positive | None = None
    period: Positive | None = None
    dropout: Share = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"


class Batch(Section):
    """A batch: so many basins, each with a window of its own of warm-up and scored days, whatever the data's step."""

    basins: Positive = 100
    days: Positive = 365
    warmup: Annotated[int, Field(ge=0)] = 365
    warmup_gradient: bool = True


class Optimiser(Section):
    """Of `torch.optim`, its learning rate over the training, and the largest norm of a gradient."""

    name: Literal["adam", "adamw", "adadelta"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    clip: Annotated[float, Field(gt=0)] | None = 1.0


class Periods(Section):
    """First and last day, both included; the test period is used once, after training."""

    train: str
    validation: str | None = None
    test: str | None = None

    @field_validator("train", "validation", "test")
    @classmethod
    def _dates(cls, value):
        if value is not None:
            parse_period(value)
        return value

    @model_validator(mode="after")
    def _apart(self):
        if shared := overlap(dict(self)):
            raise ValueError(f"{shared}: part them.")
        return self


class Inside(Section):
    """What a report draws of the networks inside the step: of each the fluxes that it makes, and the model whose
    formulas for these it replaces.
    """

    fluxes: dict[str, list[str]]
    formulas: str | None = None


class Config(Section):
    """All that a training depends on besides the data.

    `model` is a process model's name, or "none" for a network alone. `attributes` are the data's variables that the
    network sees (an lstm may do without; those of `hybridsolve.data.climate_attributes` follow from the forcing of the
    training period), `fill` those of them whose NaN is filled by the median of the training
    basins, `weather` the series, `pet` how potential evapotranspiration is computed (what the data hold, if left out).
    Parameters that vary by step are `dynamic`; `learned` are those that are learned although the model's table has them
    optional or fixed. `inside` is of a model whose step calls networks, see `Inside`. A model is chosen by
    `periods.validation`, if there is one: the best epoch, and when to stop (after `patience` validations that are no
    better).
    """

    name: str
    model: str
    network: Network
    components: Positive = 16
    dynamic: list[str] = []
    learned: list[str] = []
    dynamic_dropout: Share = 0.0
    inside: Inside | None = None
    attributes: list[str]
    fill: list[str] = []
    weather: list[str] = []
    pet: Literal["hargreaves", "oudin", "oudin-airgr", "priestley-taylor"] | None = None
    periods: Periods
    warmup_years: Annotated[float, Field(ge=0)] = 1.0
    batch: Batch = Batch()
    loss: str
    optimiser: Optimiser = Optimiser()
    epochs: Positive
    steps_per_epoch: Positive
    validate_every: Positive = 1
    patience: Positive | None = None
    seed: Seed = 0

    @property
    def process_model(self) -> ModelSpec | None:
        """The model, or None of a network alone."""
        return None if self.model == "none" else models.get(self.model)

    @property
    def forcing_names(self) -> tuple[str, ...]:
        """The series that the data must hold besides `qobs`; of a network alone its weather."""
        return tuple(self.weather) if self.model == "none" else models.get(self.model).forcing_names

    @property
    def input_names(self) -> tuple[str, ...]:
        """The static inputs of the model, which the data must hold too."""
        return () if self.model == "none" else models.get(self.model).input_names

    @property
    def layout(self) -> Layout:
        """Which parameters the network gives to the model."""
        return Layout(models.get(self.model), self.components, tuple(self.dynamic), learned=tuple(self.learned))

    @field_validator("model")
    @classmethod
    def _known_model(cls, value):
        return value if value == "none" else models.get(value).name

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, value):
        return losses.written(value)

    @model_validator(mode="after")
    def _fits(self):
        for name in ("attributes", "fill", "weather", "dynamic", "learned"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ValueError(f"{name} names something twice: remove the repetition.")
        kind = self.network.kind
        if kind != "lstm" and not self.attributes:
            what = "an mlp, which sees nothing else" if kind == "mlp" else "a gru, which begins with them"
            raise ValueError(f"attributes must name one at least for {what}: add one.")
        if unlisted := [name for name in self.fill if name not in self.attributes]:
            raise ValueError(f"fill names '{unlisted[0]}', which is not among the attributes: remove or add it.")
        if (kind != "mlp") != bool(self.weather):
            raise ValueError(f"weather must be {'' if self.weather else 'not '}empty for a network of this kind.")
        if kind == "lstm" and len(self.network.hidden) != 1:
            raise ValueError("network.hidden must be one width for an lstm, such as [256]: correct it.")
        if kind == "mlp" and (self.dynamic or self.model == "none"):
            raise ValueError("an mlp sees no weather: take kind lstm or gru, or a model without dynamic parameters.")
        for name in ("state", "period"):
            if (kind == "gru") != (getattr(self.network, name) is not None):
                raise ValueError(f"network.{name} belongs to a gru, and a gru needs it: add it there, or leave it out.")
        if kind == "gru" and self.model != "none" and not self.dynamic:
            raise ValueError("a gru corrects dynamic parameters; found none: name some, or take kind mlp.")
        if self.model == "none" and (self.dynamic or self.learned or self.network.precision != "float32"):
            raise ValueError(
                "dynamic, learned and network.precision belong to a process model, and there is none: leave them out."
            )
        if self.dynamic_dropout and not self.dynamic:
            raise ValueError("dynamic_dropout needs dynamic parameters; found none: name them, or leave it out.")
        if self.periods.validation is None and self.patience is not None:
            raise ValueError("patience needs periods.validation, by which to stop; found none: add it.")
        if self.periods.validation is not None and self.epochs % self.validate_every:
            raise ValueError(
                f"epochs must be a multiple of validate_every, that the last can be chosen; found {self.epochs} and "
                f"{self.validate_every}: change one of them."
            )
        if self.model != "none":
            self.layout  # noqa: B018 - raises where a parameter is not the model's
        self._check_inside()
        if any(kind.per_series for _, kind in losses.parts(self.loss)) and self.batch.days < LEAST_DAYS:
            raise ValueError(f"loss '{self.loss}' needs batch.days of {LEAST_DAYS} or more; found {self.batch.days}.")
        return self

    def _check_inside(self) -> None:
        """Raise unless the networks, fluxes and formulas of `inside` are there."""
        if self.inside is None:
            return
        model, formulas = self.process_model, self.inside.formulas
        if model is None:
            raise ValueError("inside is of a process model, and there is none: leave it out.")
        known = [n.name for n in networks_of(model.key, model.optional_parameter_names)]
        other = model if formulas is None else models.get(formulas)
        for network, fluxes in self.inside.fluxes.items():
            if network not in known:
                raise ValueError(
                    f"inside.fluxes names the network '{network}', which the step of {model.name} does not call; "
                    f"expected any of {', '.join(known) or 'none'}: correct it."
                )
            for flux in fluxes:
                for spec in (model, other):
                    if flux not in spec.flux_names:
                        raise ValueError(
                            f"inside.fluxes names '{flux}', which is no flux of {spec.name}; expected any of "
                            f"{', '.join(spec.flux_names)}: correct it, or inside.formulas."
                        )
        if other.lines or networks_of(other.key, ()):
            raise ValueError(f"inside.formulas must be a model without networks and delay lines; found {formulas}.")
        for names, theirs in (
            (model.forcing_names, other.forcing_names),
            (model.input_names, other.input_names),
            (model.state_names, other.state_names),
        ):
            if lacking := [name for name in theirs if name not in names]:
                raise ValueError(
                    f"inside.formulas must be a model of the same stores and weather; found {other.name} with "
                    f"'{lacking[0]}', which {model.name} lacks: name another, or leave it out."
                )
        own = {v.name: v for v in model.parameters}
        for v in (v for v in other.parameters if v.name in own):
            if own[v.name].lower < v.taken[0] or own[v.name].upper > v.taken[1]:
                raise ValueError(
                    f"inside.formulas must take '{v.name}' as {model.name} has it, from {own[v.name].lower:g} to "
                    f"{own[v.name].upper:g}; found {other.name} with {v.taken[0]:g} to {v.taken[1]:g}: name another."
                )


def recipes() -> tuple[str, ...]:
    """The names of the recipes that come with the package."""
    return tuple(sorted(f.name.removesuffix(".yaml") for f in _folder().iterdir() if f.name.endswith(".yaml")))


def read_config(source: str | Path | Mapping | Config, changes: Sequence[str] = ()) -> Config:
    """A checked configuration.

    Parameters
    ----------
    source : path, str or mapping
        A YAML file, the name of a recipe, or what a YAML file would hold.
    changes : sequence of str
        ``"batch.days=730"``: values in place of the source's, in YAML.

    Raises
    ------
    ValueError
        If a key is unknown, missing or ill-typed; the message names it.
    """
    if not isinstance(source, (str, Path, Mapping, Config)):
        raise ValueError(f"config must be a path, a recipe's name or a mapping; found {type(source).__name__}.")
    if isinstance(source, Config):
        values, where = source.model_dump(), "the config"
    elif isinstance(source, Mapping):
        values, where = dict(source), "the config"
    elif str(source) in recipes():
        where = f"recipe {source}"
        values = read_yaml((_folder() / f"{source}.yaml").read_bytes(), where)
    elif Path(source).is_file():
        where = str(source)
        values = read_yaml(Path(source).read_bytes(), where)
    else:
        raise ValueError(
            f"config '{source}' is neither a file nor a recipe; expected a path, or one of {', '.join(recipes())}."
        )
    return checked(Config, values, where, changes)


def _folder():
    return files("hybridsolve") / "recipes"
