"""The honest bars: the package's own oracle step in a loop, eagerly and under torch.compile.

The physics is the model's `reference_step`; here is only what makes its loop as fast as torch allows. Each
choice was tried on 671x16x730 and 1000x1x3650:

* Rows and states are 2-D, and parameters one packed tensor, so that autograd adds up one gradient a step and
  not twelve. Of all fluxes only streamflow is kept, stacked once.
* Guards are skipped: the loop calls one graph with one set of shapes.
* The backward pass recomputes a step instead of loading its intermediates (`activation_memory_budget`).
* Several steps in one graph save dispatches and memory traffic, for a compilation of minutes.

Without clear effect: cpp_wrapper, flushing denormals, allocator settings, the mean inside the step.
"""

from __future__ import annotations

import torch
import torch._functorch.config
import torch._inductor.config

from hybridsolve import models


class StepLoop:
    """A loop over `model.reference_step`: called with forcing and parameters, it gives streamflow ``[T, B]``.

    Parameters
    ----------
    model : str
    steps_per_call : int
        How many steps one compiled graph holds; must divide T. 0: eager, no compilation.
    """

    def __init__(self, model: str, steps_per_call: int):
        self.model = models.get(model)
        self.stride = max(steps_per_call, 1)
        self.calls = {False: self.steps, True: self.steps}
        if steps_per_call:
            torch._dynamo.reset()
            # The number of threads is compiled in, and the cache of compiled code must know it.
            torch._inductor.config.cpp.threads = torch.get_num_threads()
            torch._functorch.config.activation_memory_budget = 0.0
            # A graph of its own with and without grad, because without guards none would be chosen.
            options = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
            for grad in self.calls:
                self.calls[grad] = torch.compile(self.steps, fullgraph=True, dynamic=False, options=options)

    def steps(self, rows, packed, names, state):
        parameters = dict(zip(names, packed.unbind(0), strict=True))
        streamflow = []
        for row in rows:
            forcing = dict(zip(self.model.forcing_names, row, strict=True))
            new, flux = self.model.reference_step(
                forcing, {}, parameters, dict(zip(self.model.state_names, state, strict=True))
            )
            state = tuple(new[name] for name in self.model.state_names)
            streamflow.append(flux["streamflow"])
        return state, streamflow

    def __call__(self, forcing, parameters):
        grad = torch.is_grad_enabled()
        series = (forcing[name].unsqueeze(-1).unbind(0) for name in self.model.forcing_names)
        rows = list(zip(*series, strict=True))
        packed = torch.stack(list(parameters.values()))
        # Without guards the first call's graph serves all: its state must require grad as all later ones do.
        start = self.model.initial_state(parameters).values()
        state = tuple(torch.full_like(packed[0], x).requires_grad_(grad) for x in start)
        call, names = self.calls[grad], tuple(parameters)
        streamflow = []
        for t in range(0, len(rows), self.stride):
            state, flows = call(tuple(rows[t : t + self.stride]), packed, names, state)
            streamflow += flows
        return torch.stack(streamflow).mean(-1)
