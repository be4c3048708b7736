"""Times every case of cases.py: `pytest benchmarks`, or `pytest benchmarks --full`. See README.md."""

import torch

from . import implementations
from .cases import FORWARD, GRADIENT, inputs


def test_speed(case, implementation, benchmark, threads, record):
    run = implementations.build(implementation, case.model)
    implementations.check(implementation, run, case)
    forcing, parameters = inputs(case)
    cotangent = implementations.cotangent(case)
    learned = implementations.leaves(parameters)

    def forward():
        with torch.no_grad():
            run(forcing, parameters)

    def backward(flow):
        torch.autograd.grad(flow, list(learned.values()), cotangent)

    def both():
        backward(run(forcing, learned))

    # A baseline takes seconds a round, ours milliseconds: more rounds cost nothing and quiet the median.
    rounds = 15 if implementation == implementations.OURS else 3
    setup = (lambda: ((run(forcing, learned),), {})) if case.mode == GRADIENT else None
    work = {FORWARD: forward, GRADIENT: backward}.get(case.mode, both)
    benchmark.pedantic(work, setup=setup, rounds=rounds, warmup_rounds=2)
    record(case, implementation, benchmark)
