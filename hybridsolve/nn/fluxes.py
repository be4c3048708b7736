"""The networks inside a step as modules of torch: any initialisation, optimiser or checkpoint serves them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import models
from ..compiler.program import Network
from ..compiler.tracing import networks_of
from ..spec import ModelSpec

ACTIVATIONS = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "relu": nn.ReLU}


class FluxNetwork(nn.Module):
    """A network that a model's step calls (`hybridsolve.models.primitives.mlp`); called itself, it gives its weights.

    Parameters
    ----------
    model : ModelSpec or str
    name : str, optional
        Which of the model's networks; it may be left out where there is one.
    basins : int, optional
        A set of weights for each of so many basins; one for all if left out.

    Attributes
    ----------
    chains : ModuleList
        Of each set of weights the layers, a Sequential of Linear and the activation: ``chain(x [.., inputs])`` is what
        the network puts out inside the step.

    Raises
    ------
    ValueError
        If the model has no such network.

    Examples
    --------
    >>> evaporation = hs.nn.FluxNetwork("my_model", "evaporation")
    >>> run = hs.simulate("my_model", forcing, parameters, networks={"evaporation": evaporation()})
    """

    def __init__(self, model: ModelSpec | str, name: str | None = None, *, basins: int | None = None):
        super().__init__()
        if basins is not None and (isinstance(basins, bool) or not isinstance(basins, int) or basins < 1):
            raise ValueError(f"basins must be a whole number from 1 on, or None; found {basins!r}: correct it.")
        self.network = _find(models.get(model), name)
        self.of_each_basin = basins is not None
        self.chains = nn.ModuleList(_chain(self.network) for _ in range(basins or 1))

    def forward(self) -> Tensor:
        """The weights ``[W]``, or ``[B, W]`` of basins, as `simulate` takes them."""
        vectors = [torch.cat([p.flatten() for p in chain.parameters()]) for chain in self.chains]
        return torch.stack(vectors) if self.of_each_basin else vectors[0]


def _find(model: ModelSpec, name: str | None) -> Network:
    found = {network.name: network for network in networks_of(model.key, model.optional_parameter_names)}
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise ValueError(
            f"model {model.name} calls no network in its step, expected one that does; define one with "
            "hybridsolve.models.primitives.mlp."
        )
    if name not in found:
        raise ValueError(
            f"model {model.name} calls the networks {', '.join(found) or 'none'} in its step; found {name!r}: name one "
            "of them."
        )
    return found[name]


def _chain(network: Network) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n, m in zip(network.sizes, network.sizes[1:], strict=False):
        layers += [nn.Linear(n, m), ACTIVATIONS[network.activation]()]
    return nn.Sequential(*layers[:-1])
