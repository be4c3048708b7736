"""What must not change: the bits of a set of runs, by backend, as reference_bits.json and reference_bits.npz hold them.

Runs (fluxes, final states, all gradients, derivatives carried forward) and rivers are held to the bit, by a digest of
each kind of result. What passes the unit hydrograph (routed flow, its gradients, Jacobian, normal equations) is held
within `ROUTED` of the largest value, so that the values themselves are kept.

An entry belongs to what computes: an instruction set of the CPU, CUDA's sources compiled for the CPU, Triton's
interpreter, or a card by its name. Where there is no entry for what is at hand, the test is skipped. Inputs are made
here, of torch's uniform numbers by + - * / and comparisons, which round alike everywhere.

`python tests/test_reference_bits.py` writes the entries of all that runs on this machine, and leaves the others.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import hybridsolve as hs
from hybridsolve.routing import RiverNetwork, route
from hybridsolve.solve.sensitivity import normal_equations

DIGESTS, VALUES = (Path(__file__).with_name(f"reference_bits.{kind}") for kind in ("json", "npz"))
WRITE = "HYBRIDSOLVE_WRITE_BITS"  # set by this file as a program
# Largest difference over the largest value of routed flow, its gradients and the normal equations. Until ordinates are
# handed in to the convolution it is 0; from then on 1e-14 in float64 and 2e-7 in float32.
ROUTED = {torch.float64: 1e-14, torch.float32: 2e-7}

STATES = ("snowpack", "meltwater", "sm", "suz", "slz")
FLUXES = (
    "streamflow q0 q1 q2 aet swe recharge excess infiltration percolation evapfactor rain snowfall melt refreezing"
).split()
RANGES = dict(beta=(1, 6), fc=(50, 1000), k0=(0.05, 0.9), k1=(0.01, 0.5), k2=(0.001, 0.2), lp=(0.25, 1), perc=(0, 10))
RANGES |= dict(uzl=(0, 100), tt=(-2.5, 2.5), cfmax=(0.5, 10), cfr=(0, 0.1), cwh=(0, 0.2), betaet=(0.5, 5), c=(0, 1))
PARAMETERS = tuple(RANGES)[:12]
VARIANTS = {
    "hbv10": ("hbv10", PARAMETERS, FLUXES),
    "hbv10 betaet": ("hbv10", (*PARAMETERS, "betaet"), FLUXES),
    "hbv11p": ("hbv11p", tuple(RANGES), [*FLUXES, "capillary"]),
}
# On these every kink of HBV is met exactly, many times over.
COARSE = dict(prcp=(0, 0, 0, 8, 16), tmean=(-1, 0, 0, 1, 2), pet=(0, 0, 1, 2), tt=(-1, 0, 1), uzl=(0, 4))
COARSE |= dict(perc=(0, 1, 2), cfmax=(1, 2), cfr=(0, 0.0625), cwh=(0, 0.125), fc=(64, 128), lp=(0.5, 1), beta=(1, 2))
COARSE |= dict(betaet=(1, 2), c=(0, 0.25, 1))


def uniform(name, *shape, lower=0.0, upper=1.0):
    """Float64 numbers that belong to the name."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return lower + (upper - lower) * torch.rand(shape, generator=generator, dtype=torch.float64)


def pick(name, values, *shape):
    return torch.tensor(values, dtype=torch.float64)[(uniform(name, *shape) * len(values)).long()]


def make(names, T, B, C, kind="", moving=(), weights=False, raw=False):
    """All inputs of a run by kind and name; the parameters that `moving` names have a value for every step."""
    shape = {n: (T, B, C) if n in moving else (B, C) for n in names}
    forcing = dict(
        prcp=torch.where(uniform("dry", T, B) < 0.5, 0.0, uniform("prcp", T, B, upper=30)),
        tmean=uniform("tmean", T, B, lower=-8, upper=16),
        pet=torch.where(uniform("dark", T, B) < 0.2, 0.0, uniform("pet", T, B, upper=5)),
    )
    given = {n: uniform(n, *shape[n], lower=RANGES[n][0], upper=RANGES[n][1]) for n in names}
    full = dict(snowpack=30, meltwater=3, sm=300, suz=30, slz=60)
    state = {n: torch.where(uniform(f"no {n}", B, C) < 0.3, 0.0, uniform(n, B, C, upper=full[n])) for n in STATES}
    if kind == "ties":
        forcing = {n: pick(n, COARSE[n], T, B) for n in forcing}
        given |= {n: pick(n, COARSE[n], *shape[n]) for n in names if n in COARSE}
        state["sm"] = torch.where(uniform("fill", B, C) < 0.5, given["fc"], 0.0)
    if kind == "empty":
        state = {n: torch.zeros(B, C, dtype=torch.float64) for n in STATES}
        forcing["prcp"][: T // 2] = 0.0
    if kind == "full":
        state = {n: x + full[n] for n, x in state.items()}
        state["sm"] = torch.where(uniform("fill", B, C) < 0.5, given["fc"], given["fc"] + 20)
    if kind == "frost":
        forcing["tmean"] = torch.where(torch.arange(T)[:, None] % 4 == 3, forcing["tmean"], forcing["tmean"] - 14)
    if kind == "shared axes":
        forcing = {n: x[:, :1] if n == "tmean" else x[:1] if n == "pet" else x for n, x in forcing.items()}
        every, first = slice(None), slice(1)
        cuts = dict(beta=(..., first), k0=(every, first), k2=(first,), fc=(..., first), k1=(first,), lp=(first, first))
        given = {n: x[cuts.get(n, ())] for n, x in given.items()}
    if raw:
        given = {n: uniform(f"raw {n}", *x.shape, lower=-4, upper=4) for n, x in given.items()}
    kinds = dict(forcing=forcing, parameters=given, initial_state=state)
    return kinds | (dict(weights=dict(weights=uniform("w", B, C, lower=-0.5, upper=1.5))) if weights else {})


def convert(tree, change):
    return {kind: {n: change(x) for n, x in part.items()} for kind, part in tree.items()}


def backward(outputs, leaves):
    """Gradients by kind of input, for cotangents that belong to the outputs' names."""
    d_outputs = {n: uniform(f"d {n}", *x.shape, lower=-1).to(x) for n, x in outputs.items()}
    flat = [x for part in leaves.values() for x in part.values()]
    found = iter(torch.autograd.grad(list(outputs.values()), flat, list(d_outputs.values())))
    return {f"d {kind}": {n: next(found) for n in part} for kind, part in leaves.items()}


# --- Held to the bit: kinds of results by case -----------------------------------------------------------------------

SEVERAL = ("streamflow", "q2", "aet", "recharge", "sm", "slz", "swe")
# The cases that the interpreter, which takes half a second for one, runs of a variant; all where nothing stands.
TINY = {
    ("hbv10", torch.float64): ("all", "ties"),
    ("hbv10", torch.float32): (),
    ("hbv10 betaet", torch.float64): ("all", "ties", "raw"),
    ("hbv10 betaet", torch.float32): (),
    ("hbv11p", torch.float32): ("streamflow", "raw", "ties"),
}
# Of those, what it runs every day; the others at night.
DAILY = ("hbv10, float64, all", "hbv10 betaet, float64, ties", "hbv11p, float32, raw")
DAILY += tuple(
    f"hbv11p, float64, {case}"
    for case in ("streamflow", "weights, per-step", "raw, per-step, each", "shared axes", "ties", "empty")
)


def run_cases(C):
    """Names, options of `make` and of a run, `of` being the kinds of inputs whose derivatives are taken."""
    moving = list(RANGES)[::2]
    yield "all", {}, {}
    yield "streamflow", {}, dict(fluxes=("streamflow",))
    yield "parameters alone", {}, dict(fluxes=("streamflow",), of=("parameters",))
    yield "each", {}, dict(components="each")
    yield "each, streamflow", {}, dict(fluxes=("streamflow",), components="each")
    yield "weights, per-step", dict(weights=True, moving=moving), dict(fluxes=SEVERAL)
    yield "weights, streamflow", dict(weights=True), dict(fluxes=("streamflow",))
    yield "all per-step", dict(moving=list(RANGES)), dict(fluxes=("streamflow",))
    yield "raw", dict(raw=True), dict(fluxes=SEVERAL)
    yield "raw, per-step, each", dict(raw=True, moving=moving), dict(fluxes=SEVERAL, components="each")
    yield "shared axes", dict(kind="shared axes", moving=moving), dict(fluxes=SEVERAL)
    for kind in ("ties", "empty", "full", "frost"):
        yield kind, dict(kind=kind), {}
    if C > 2:  # the interpreter's sums of more would be in the order of numpy
        yield "many components", dict(B=2, C=35), dict(fluxes=SEVERAL)


def interpreted(backend, device):
    return backend == "triton" and device == "cpu"


def runs(backend, device, only=None):
    tiny = interpreted(backend, device)
    sizes = dict(T=6, B=3, C=2) if tiny else dict(T=19, B=37, C=3)
    for variant, (model, names, every) in VARIANTS.items():
        for dtype in (torch.float64, torch.float32):
            for case, inputs, options in run_cases(sizes["C"]):
                name = f"{variant}, {str(dtype)[6:]}, {case}"
                if tiny and case not in TINY.get((variant, dtype), [case]) or only and name not in only:
                    continue
                options = dict(fluxes=(*every, *STATES), raw="raw" in case, backend=backend) | options
                of = options.pop("of", ("forcing", "parameters", "initial_state", "weights"))
                x = convert(make(names, **sizes | inputs), lambda v, to=(device, dtype): v.to(*to))
                yield name, a_run(model, x, of, options)


def a_run(model, x, of, options):
    def outputs(moved):
        given = x | moved
        weights = given.get("weights", {}).get("weights")
        given = {kind: given[kind] for kind in ("forcing", "parameters", "initial_state")}
        run = hs.simulate(model, **given, weights=weights, **options)
        return run.fluxes | {f"final {n}": v for n, v in run.final_state.items()}

    def parts(found):
        final = {n: v for n, v in found.items() if n.startswith("final")}
        return {"fluxes": {n: v for n, v in found.items() if n not in final}, "final": final}

    leaves = convert({kind: part for kind, part in x.items() if kind in of}, lambda v: v.detach().requires_grad_())
    found = outputs(leaves)
    results = parts(found) | backward(found, leaves)
    if options["backend"] != "triton":  # which has no such kernel
        moved = convert(leaves, torch.Tensor.detach)
        along = {
            kind: {n: uniform(f"t {n}", *v.shape, lower=-1).to(v) for n, v in part.items()}
            for kind, part in moved.items()
        }
        tangents = parts(torch.func.jvp(outputs, (moved,), (along,))[1])
        results |= {f"t {kind}": part for kind, part in tangents.items()}
    return results


def rivers(backend, device):
    n, channel = 45, dict(n=(0.02, 0.1), p=(5, 60), q=(0.05, 0.9), slope=(1e-4, 0.03), length=(800, 7000))
    channel |= dict(x=(0.1, 0.35), k=(1800, 9000))
    near = (uniform("downstream", n) * torch.arange(n).clamp(max=9)).long() + 1
    net = RiverNetwork.from_downstream((torch.arange(n) - near).clamp(min=-1).tolist())
    names = dict(todini=("n", "p", "q", "slope", "length"), muskingum=("k", "x"), accumulate=())
    names |= dict(ddr=(*names["todini"], "x"))
    for scheme, dtype in ((s, t) for s in names for t in (torch.float64, torch.float32)):
        x = dict(lateral=uniform("lateral", 12, n, upper=5), discharge=uniform("discharge", n, upper=20))
        x |= dict(storage=uniform("storage", n, upper=3e4)) if scheme == "todini" else {}
        x |= {name: uniform(name, n, lower=channel[name][0], upper=channel[name][1]) for name in names[scheme]}
        leaves = {name: v.to(device, dtype).requires_grad_() for name, v in x.items()}
        given = {name: leaves[name] for name in names[scheme]}
        state = {name: leaves[name] for name in ("discharge", "storage") if name in leaves}
        options = dict(ids="network", dt=3600.0, repeat=2, scheme=scheme, backend=backend)
        run = route(net, leaves["lateral"], given, initial_state=None if scheme == "accumulate" else state, **options)
        if scheme == "accumulate":
            del leaves["discharge"]
        found = {"discharge": run.discharge} | {f"final {name}": v for name, v in run.final_state.items()}
        results = {"discharge": found} | backward(found, {name: {name: v} for name, v in leaves.items()})
        if scheme in ("todini", "ddr"):
            # Constants of reaches are made by torch, which does not round these alike everywhere.
            v = uniform("torch", 4000, lower=1e-4, upper=100).to(dtype)
            results["torch"] = dict(log2=v.log2(), exp2=(-v).exp2(), power=v**0.3, log=v.log(), root=v.sqrt())
        yield f"{scheme}, {str(dtype)[6:]}", results


# --- Held within ROUTED: tensors by case -----------------------------------------------------------------------------


def routed(backend, device):
    T, B = (4, 3) if interpreted(backend, device) else (20, 5)
    for dtype in (torch.float64, torch.float32):
        x = dict(q=uniform("q", T, B, upper=9), a=uniform("a", B, lower=-0.5, upper=2.9))
        x |= dict(b=uniform("b", B, lower=-0.5, upper=6.5), memory=uniform("memory", 14, B, upper=9))
        leaves = {n: v.to(device, dtype).requires_grad_() for n, v in x.items()}
        found = {"routed": hs.unit_hydrograph(*leaves.values(), backend=backend)}
        yield f"unit hydrograph, {str(dtype)[6:]}", found | backward(found, {"all": leaves})["d all"]
    if backend == "triton":  # which has no such kernels
        return
    for variant, (model, names, _) in VARIANTS.items():
        for dtype in (torch.float64, torch.float32) if model == "hbv11p" else (torch.float64,):
            for case, sizes in (("jacobian", (20, 1, 2)), ("normal equations", (70, 2, 1))):
                x = make(names, *sizes)
                x["parameters"] |= dict(route_a=uniform("a", *sizes[1:], upper=2.9))
                x["parameters"] |= dict(route_b=uniform("b", *sizes[1:], upper=6.5))
                x = convert(x, lambda v, to=(device, dtype): v.to(*to))
                if case == "jacobian":
                    flow, columns = hs.jacobian(model, **x, backend=backend)
                    results = {"flow": flow, "jacobian": torch.stack([columns[n] for n in sorted(columns)])}
                else:
                    observed = (uniform(n, *sizes[:2]).to(device, dtype) for n in ("target", "weight"))
                    options = dict(transform="box_cox") if dtype == torch.float32 else {}
                    shift = torch.full((sizes[1],), 0.5, device=device, dtype=dtype)
                    made = normal_equations(model, *[x["forcing"], x["parameters"]], *observed, shift=shift, **options)
                    results = dict(matrix=made.matrix, gradient=made.gradient, cost=made.cost)
                yield f"{variant}, {str(dtype)[6:]}, {case}", results


# --- The entries -----------------------------------------------------------------------------------------------------


def place(backend, device):
    """What computes here, as an entry is named."""
    if backend == "cpu":
        from hybridsolve import _cpu

        return f"cpu {_cpu.isa()}"
    if device == "cpu":
        return {"triton": "triton in its interpreter", "cuda": "cuda compiled for the CPU"}[backend]
    return f"{backend} on {torch.cuda.get_device_name()}"


def digest(tensors):
    """Of names, types, shapes and bits; a zero's sign aside, as for torch.equal."""
    parts = [(n, str(x.dtype), str(list(x.shape)), (x.detach().cpu() + 0.0).contiguous()) for n, x in tensors.items()]
    text = [x.encode() if isinstance(x, str) else x.numpy().tobytes() for part in sorted(parts) for x in part]
    return hashlib.sha256(b"|".join(text)).hexdigest()[:12]


def stored():
    """Digests by group, entry, case and kind; what several entries agree on stands under all their names at once."""
    return json.loads(DIGESTS.read_text()) if DIGESTS.exists() else {}


def keep(group, where, found, values):
    """Replace one entry of a group."""
    everything = stored()
    entries = {}
    for names, entry in everything.get(group, {}).items():
        if names := ", ".join(n for n in names.split(", ") if n != where):
            entries[names] = entry
    same = next((names for names, entry in entries.items() if entry == found), None)
    if same:
        del entries[same]
    entries[", ".join(sorted(filter(None, [*(same or "").split(", "), where])))] = found
    everything[group] = dict(sorted(entries.items()))
    DIGESTS.write_text(json.dumps(dict(sorted(everything.items())), indent=1) + "\n")
    if values:
        if VALUES.exists():
            with np.load(VALUES) as old:
                values = dict(old) | values
        used = {h for entry in entries.values() for case in entry.values() for h in case.values()}
        np.savez_compressed(VALUES, **{h: x for h, x in values.items() if h in used})


def distance(found, name):
    """The largest difference from the values kept, over the largest of them."""
    with np.load(VALUES) as file:
        kept = torch.from_numpy(file[name])
    if found.shape != kept.shape or found.dtype != kept.dtype:
        return float("inf")
    return float((found.detach().cpu() - kept).abs().max() / kept.abs().max())


def check(group, backend, device, only=None):
    only = None if os.environ.get(WRITE) else only  # an entry is written whole
    where, cases = place(backend, device), dict(group(backend, device, *filter(None, [only])))
    if group is routed:
        cases = {case: {n: {n: x} for n, x in results.items()} for case, results in cases.items()}
    found = {case: {kind: digest(x) for kind, x in results.items()} for case, results in cases.items()}
    if os.environ.get(WRITE):
        values = [(h, cases[case][n][n]) for case, kinds in found.items() for n, h in kinds.items() if group is routed]
        keep(group.__name__, where, found, {h: x.detach().cpu().numpy() for h, x in values})
        pytest.skip(f"wrote the entry of {where}")
    entries = stored()[group.__name__].items()
    kept = next((entry for names, entry in entries if where in names.split(", ")), None)
    if kept is None:
        pytest.skip(f"no entry of {group.__name__} by {where} in {DIGESTS.name}: write one where the bits are right")
    assert found.keys() == (set(only) if only else kept.keys())
    elsewhere = {case for case in found if found[case].get("torch") != kept[case].get("torch")}
    wrong = []
    for case in sorted(found.keys() - elsewhere):
        assert found[case].keys() == kept[case].keys(), case
        for kind, x in cases[case].items():
            if found[case][kind] == kept[case][kind]:
                continue
            if group is not routed:
                wrong.append(f"{case}: {kind}")
            elif not (off := distance(x[kind], kept[case][kind])) <= ROUTED[x[kind].dtype]:
                wrong.append(f"{case}: {kind}, {off:.3g} of the largest value off")
    assert not wrong, f"by {where} these are not as {DIGESTS.name} has them:\n" + "\n".join(wrong)
    if elsewhere:
        pytest.skip(
            f"torch rounds log2 or pow otherwise than where the bits were written: {', '.join(sorted(elsewhere))}"
        )


@pytest.mark.parametrize("group", (runs, rivers, routed))
def test_cpu(group):
    check(group, "cpu", "cpu")


@pytest.mark.parametrize(
    "group, only",
    ((runs, DAILY), pytest.param(runs, None, marks=pytest.mark.nightly), (routed, None)),
    ids=("runs, daily", "runs", "routed"),
)
def test_triton(group, only):
    pytest.importorskip("triton", reason="triton is not installed")
    check(group, "triton", "cuda" if torch.cuda.is_available() else "cpu", only)


@pytest.mark.parametrize("group", (runs, rivers, routed))
def test_cuda(group, cuda_device):
    check(group, "cuda", cuda_device)


if __name__ == "__main__":
    from hybridsolve import _cpu

    for isa in _cpu.isas():
        which = () if isa == _cpu.isas()[-1] else ("-k", "test_cpu")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, *which]
        subprocess.run(command, env=os.environ | {WRITE: "1", "HYBRIDSOLVE_ISA": isa}, check=True)
