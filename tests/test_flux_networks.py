"""Networks inside a step: values, gradients and tangents against the oracle, bits, water, and what is refused."""

import random
import shutil

import pytest
import torch
from conftest import assert_close, assert_same_bits

import hybridsolve as hs
from hybridsolve.calibration.fit import check_arguments
from hybridsolve.compiler import StepError, cpp
from hybridsolve.compiler.evaluate import evaluate
from hybridsolve.compiler.graph import Graph
from hybridsolve.compiler.program import Program
from hybridsolve.compiler.reversal import reverse
from hybridsolve.compiler.tracing import Symbol, networks_of
from hybridsolve.models.primitives import exp, minimum, mlp, relu, repeat, sigmoid, weights_of_networks
from hybridsolve.solve.check import dense
from hybridsolve.solve.sensitivity import normal_equations
from hybridsolve.spec import Forcing, Parameter, State, Variable

compiled = [
    pytest.mark.compile,
    pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler is installed"),
]
TABLE = dict(
    forcings=(Forcing("prcp", "mm d-1", "rain", 0.0, 1e5), Forcing("pet", "mm d-1", "demand", 0.0, 1e3)),
    parameters=(Parameter("m", "mm", "capacity", 20.0, 800.0), Parameter("k", "d-1", "share that leaves", 0.002, 0.5)),
    states=(
        State("soil", "mm", "water in the soil", 0.0, 1e30, initial=10.0, wet=100.0),
        State("ground", "mm", "groundwater", 0.0, 1e30, initial=10.0, wet=100.0),
    ),
    fluxes=(Variable("flow", "mm d-1", "flow"), Variable("aet", "mm d-1", "evapotranspiration")),
    outflow="flow",
)


def step(f, k, p, s):
    """Three networks, of one, two and one hidden layers; the second is called twice, of its own result."""
    wetness = s["soil"] / p["m"]
    demand, thirst = mlp("evaporation", [wetness, f["pet"] / 5, f["prcp"] / 20], hidden=(7,), outputs=2)
    aet = minimum(s["soil"], f["pet"] * sigmoid(demand))
    soil = s["soil"] + (f["prcp"] - aet)
    (z,) = mlp("drainage", [soil / p["m"], s["ground"] / 100], hidden=(5, 4), activation="sigmoid")
    (again,) = mlp("drainage", [z, thirst], hidden=(5, 4), activation="sigmoid")
    (last,) = mlp("last", [again, exp(-wetness)], hidden=(3,), activation="relu")
    drainage = soil * sigmoid(z + last - 2)
    ground = s["ground"] + drainage
    flow = p["k"] * ground
    return dict(soil=soil - drainage, ground=ground - flow), dict(flow=flow, aet=aet)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("HYBRIDSOLVE_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield hs.models.define(name="networked", **TABLE)(step)
    hs.models.MODELS.pop("networked")
    patch.undo()


def inputs(model, T, B, C, dtype=torch.float64, of_basins=False):
    """Forcing, parameters, weights and state, by kind and name."""
    draw = torch.Generator().manual_seed(T + 10 * B + 100 * C)
    uniform = lambda *shape: torch.rand(shape, generator=draw, dtype=torch.float64).to(dtype)  # noqa: E731
    shape = (B,) if of_basins else ()
    return {
        "forcing": dict(prcp=relu(30 * uniform(T, B) - 15), pet=5 * uniform(T, B)),
        "parameters": dict(m=50 + 200 * uniform(B, C), k=0.05 + 0.3 * uniform(B, C)),
        "networks": {n.name: 2 * uniform(*shape, n.weights) - 1 for n in networks_of(model.key)},
        "initial_state": dict(soil=50 * uniform(B, C), ground=relu(40 * uniform(B, C) - 10)),
    }


def leaves_of(given):
    return {f"{kind} {name}": x for kind, named in given.items() for name, x in named.items()}


def with_leaves(given, leaves):
    return {kind: {name: leaves[f"{kind} {name}"] for name in named} for kind, named in given.items()}


def outputs(model, given, **options):
    forcing, parameters, more = (
        given["forcing"],
        given["parameters"],
        {k: given[k] for k in ("networks", "initial_state")},
    )
    run = hs.simulate(model, forcing, parameters, fluxes=("flow", "aet", "soil"), **more, **options)
    return run.fluxes | {f"end {n}": x for n, x in run.final_state.items()}


def both_ways(model, given, **options):
    """All outputs, and the gradients of all inputs."""
    leaves = {n: x.detach().clone().requires_grad_() for n, x in leaves_of(given).items()}
    found = outputs(model, with_leaves(given, leaves), **options)
    draw = torch.Generator().manual_seed(3)
    cotangents = [torch.rand(x.shape, generator=draw, dtype=torch.float64).to(x) for x in found.values()]
    gradients = torch.autograd.grad(list(found.values()), list(leaves.values()), cotangents)
    return {n: x.detach() for n, x in found.items()} | {f"d {n}": g for n, g in zip(leaves, gradients, strict=True)}


# --- Without a compiler -------------------------------------------------------------------------------------------


@pytest.mark.fast
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
def test_graphs_have_autograds_gradients(activation):
    dice = random.Random(activation)
    draw = lambda n: [dice.uniform(-1, 1) for _ in range(n)]  # noqa: E731

    def function(x):
        a, b = mlp("one", [x[0], x[1], 1.5], (4, 3), 2, activation)
        c, d = mlp("one", [a, b, x[0]], (4, 3), 2, activation)  # the same weights again
        (e,) = mlp("other", [d], (2,), activation=activation)
        mlp("other", [c], (2,), activation=activation)  # of which nothing is made
        return [c * b, e]

    weights, d_roots = {"one": draw(16 + 15 + 8), "other": draw(4 + 3)}, draw(2)
    if activation == "relu":  # units that are exactly at the kink
        weights["one"][:4], weights["one"][12] = [0.0] * 4, 0.0
    x = draw(2)
    tensors = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in x]
    vectors = {n: torch.tensor(w, dtype=torch.float64, requires_grad=True) for n, w in weights.items()}
    with weights_of_networks(vectors):
        expected = function([t[None, None] for t in tensors])
    loss = sum(d * y.sum() for d, y in zip(d_roots, expected, strict=True))
    *d_x, d_one, d_other = torch.autograd.grad(loss, [*tensors, *vectors.values()])

    graph = Graph()
    graph.is_step = True
    roots = [y.index for y in function([Symbol(graph, graph.leaf("s", n)) for n in range(2)])]
    adjoint = reverse(cpp._simplified(Program(graph, {"q": roots})), {"s": 2, "n": 2})
    given = {("s", n): v for n, v in enumerate(x)} | {("d_q", n): d for n, d in enumerate(d_roots)}
    given |= {("n", n): w for n, w in enumerate(weights.values())}
    given |= {("d_n", n): [1.0] * len(w) for n, w in enumerate(weights.values())}  # to which they are added
    made = evaluate(adjoint.program.graph, [*adjoint.program.roots["q"], *adjoint.d_leaves.values()], given)
    assert made[:2] == pytest.approx([float(y.detach()) for y in expected], rel=1e-13)
    d_found = dict(zip(adjoint.d_leaves, made[2:], strict=True))
    assert [d_found[("s", n)] for n in range(2)] == pytest.approx([float(d) for d in d_x], rel=1e-11)
    for n, d in enumerate((d_one, d_other)):
        assert torch.tensor(d_found[("n", n)], dtype=torch.float64).sub(1).sub(d).abs().max() <= 1e-11 * d.abs().max()


@pytest.mark.fast
def test_weights_lie_as_those_of_torch(model):
    """The vector is that of a chain of Linear, and what the chain puts out is what the step computes with."""
    network = hs.nn.FluxNetwork(model, "drainage").double()
    assert torch.equal(network(), torch.nn.utils.parameters_to_vector(network.chains[0].parameters()))
    x = torch.rand(4, 3, 2, dtype=torch.float64)
    with weights_of_networks({"drainage": network()}):
        (found,) = mlp("drainage", x.unbind(-1), (5, 4), activation="sigmoid")
    assert_close({"y": found}, {"y": network.chains[0](x)[..., 0]}, 1e-14)


@pytest.mark.fast
@pytest.mark.parametrize(
    "call, match",
    [
        (lambda f, p: mlp("a", [f["pet"]], (3,), 2) * 2.0, "multiply sequence"),
        (lambda f, p: (lambda x, y: x)(*mlp("a", [f["pet"]], (3,), 1)), "positional argument"),
        (lambda f, p: mlp("a", [f["pet"]], (), 1)[0], r"one or more hidden layers .* found hidden=\(\)"),
        (lambda f, p: mlp("a", [f["pet"]], (3,), 0)[0], "whole sizes from 1 on; found hidden=.*outputs=0"),
        (lambda f, p: mlp("a b", [f["pet"]])[0], "needs a name of letters.*found 'a b'"),
        (lambda f, p: mlp("a", [f["pet"]], activation="swish")[0], "tanh, sigmoid or relu; found 'swish'"),
        (lambda f, p: mlp("a", [f["pet"]])[0] + mlp("a", [f["pet"], p["k"]])[0], "'a' must have one shape wherever"),
        (
            lambda f, p: repeat(1 + 0 * f["pet"], 2, lambda x: dict(y=mlp("a", [x["y"]])[0]), dict(y=f["pet"]))["y"],
            "neither in a loop nor in prepare",
        ),
    ],
)
def test_a_wrong_call_is_refused_at_its_line(call, match):
    with pytest.raises(StepError, match=match) as caught:
        hs.models.define(name="wrong", **TABLE)(
            lambda f, k, p, s: (dict(soil=s["soil"], ground=s["ground"]), dict(flow=call(f, p), aet=f["pet"]))
        )
    assert "test_flux_networks.py:" in str(caught.value)


@pytest.mark.fast
@pytest.mark.parametrize(
    "networks, match",
    [
        (None, "networks lacks 'evaporation'"),
        (dict(last=lambda w: w[:-1]), r"'last' must have 13 weights, of 2 - 3 - 1 units; found shape \[12\]"),
        (
            dict(last=lambda w: w.float()),
            "'last' must be torch.float64 as forcing 'prcp' is; found torch.float32",
        ),
        (dict(last=lambda w: w.to("meta")), "networks 'last' must be on cpu .*; found meta"),
        (dict(last=lambda w: w.expand(3, -1)), "networks 'last' has B = 3, but forcing 'prcp' has 2"),
        (dict(last=lambda w: w[None, None]), r"networks 'last' must be \[W\] or \[B, W\]; found shape \[1, 1, 13\]"),
        (dict(last=lambda w: torch.nn.Linear(2, 3)), "networks 'last' must be a torch tensor; found Linear"),
        (dict(other=lambda w: w), "networks has 'other', which networked does not take"),
        (
            dict(last=lambda w: w.where(torch.arange(13) != 4, torch.nan)),
            "'last' must have finite weights; .* at weight 4",
        ),
    ],
)
@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=compiled)])
def test_wrong_weights_are_refused(model, networks, match, backend):
    given = inputs(model, 3, 2, 1)
    if networks is None:
        given["networks"] = {}
    else:
        ((name, change),) = networks.items()
        given["networks"][name] = change(given["networks"]["last"])
    with pytest.raises(ValueError, match=match):
        outputs(model, given, backend=backend)


@pytest.mark.fast
def test_other_backends_and_searches_refuse_networks(model):
    given = inputs(model, 3, 2, 1)
    series = torch.ones(3, 2, dtype=torch.float64)
    for of in (hs.jacobian, lambda *given, **options: normal_equations(*given, series, series, **options)):
        with pytest.raises(
            ValueError, match="found the network 'last' of 13 weights .*: learn it with hybridsolve.train"
        ):
            of(model, given["forcing"], given["parameters"], networks=given["networks"], names=("k", "last"))
    for method in ("lm", "gradient"):
        with pytest.raises(
            ValueError, match="calls the network 'evaporation' of 44 weights .*: learn .* hybridsolve.train"
        ):
            check_arguments(model, train="2000-01-01:2000-12-31", method=method)
    with pytest.raises(ValueError, match="has no networks|calls the networks evaporation, drainage, last"):
        hs.nn.FluxNetwork(model)
    with pytest.raises(ValueError, match="model hbv10 calls no network in its step"):
        hs.nn.FluxNetwork("hbv10", "last")
    with pytest.raises(ValueError, match=r"must be a torch tensor; found Linear: pass what it gives, module\(\)"):
        dense(torch.nn.Linear(1, 1), "networks 'evaporation'")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton's interpreter is off here")
@pytest.mark.parametrize("of_basins", [False, True])
def test_in_triton(model, of_basins):
    pytest.importorskip("triton")
    given = inputs(model, 3, 4, 3, of_basins=of_basins)
    expected = both_ways(model, given, backend="reference")
    assert_close(both_ways(model, given, backend="triton"), expected, 1e-10)
    raw = given | {"parameters": {n: x / 100 for n, x in given["parameters"].items()}}
    expected = both_ways(model, raw, raw=True, backend="reference")
    assert_close(both_ways(model, raw, raw=True, backend="triton"), expected, 1e-10)
    given["networks"]["last"][..., 4] = torch.nan
    with pytest.raises(ValueError, match="network 'last' must have finite weights; found nan at weight 4"):
        outputs(model, given, backend="triton")


# --- Compiled -----------------------------------------------------------------------------------------------------

SIZES = [(1, 1, 1), (9, 5, 3), (30, 37, 1), (5, 3, 17), (4, 1, 2)]


@pytest.mark.parametrize("T, B, C", [pytest.param(*sizes, marks=compiled) for sizes in SIZES])
@pytest.mark.parametrize("of_basins", [False, True])
@pytest.mark.parametrize("components", ["mean", "each"])
def test_values_and_gradients(model, T, B, C, of_basins, components):
    given = inputs(model, T, B, C, of_basins=of_basins)
    expected = both_ways(model, given, components=components, backend="reference")
    assert_close(both_ways(model, given, components=components), expected, 1e-10)


class TestCompiled:
    pytestmark = compiled

    def test_finite_differences(self, model):
        given = inputs(model, 4, 2, 2)

        def flow(*weights):
            networks = dict(zip(given["networks"], weights, strict=True))
            return outputs(model, given | {"networks": networks})["flow"]

        assert torch.autograd.gradcheck(flow, [w.requires_grad_() for w in given["networks"].values()], fast_mode=True)

    def test_single_precision(self, model):
        given = inputs(model, 20, 21, 3, torch.float32)
        expected = both_ways(model, {k: {n: x.double() for n, x in v.items()} for k, v in given.items()})
        assert_close(both_ways(model, given), {n: x.float() for n, x in expected.items()}, 2e-5)

    def test_bits_do_not_depend_on_threads_and_interval(self, model):
        given, before = inputs(model, 23, 75, 3), torch.get_num_threads()
        expected = both_ways(model, given, checkpoint_interval=23)
        try:
            for threads, interval in ((1, 1), (1, 7), (3, 5)):
                torch.set_num_threads(threads)
                assert_same_bits(both_ways(model, given, checkpoint_interval=interval), expected)
        finally:
            torch.set_num_threads(before)

    @pytest.mark.parametrize("of_basins", [False, True])
    def test_chunks_of_basins(self, model, of_basins):
        """All the same bits but for what all basins share."""
        given = inputs(model, 11, 53, 2, of_basins=of_basins)
        axes = dict(forcing=1, parameters=0, networks=0 if of_basins else None, initial_state=0)

        def gradients(part):
            leaves = {n: x.clone().requires_grad_() for n, x in leaves_of(part).items()}
            y = outputs(model, with_leaves(part, leaves), components="each")
            (y["flow"].square() + y["aet"]).sum().backward()
            return {n: x.grad for n, x in leaves.items()}

        def cut(rows):
            take = lambda x, axis: x if axis is None else x.narrow(axis, *rows)  # noqa: E731
            return {kind: {n: take(x, axes[kind]) for n, x in named.items()} for kind, named in given.items()}

        first, second, whole = (gradients(part) for part in (cut((0, 19)), cut((19, 34)), given))
        for n, d in whole.items():
            axis = axes[n.split()[0]]
            if axis is None:
                assert_close({n: first[n] + second[n]}, {n: d}, 1e-12)
            else:
                assert torch.equal(torch.cat([first[n], second[n]], axis), d), n

    @pytest.mark.parametrize("of_basins", [False, True])
    def test_derivatives_forward(self, model, of_basins):
        given = inputs(model, 12, 5, 3, of_basins=of_basins)
        values = leaves_of(given)
        draw = torch.Generator().manual_seed(5)
        along = {n: torch.rand(x.shape, generator=draw, dtype=x.dtype) for n, x in values.items()}

        def tangents(backend):
            of = lambda leaves: outputs(model, with_leaves(given, leaves), backend=backend)  # noqa: E731
            return torch.func.jvp(of, (values,), (along,))[1]

        assert_close(tangents("cpu"), tangents("reference"), 1e-11)

    def test_transforms_of_torch(self, model):
        given = inputs(model, 6, 3, 2)

        def loss(networks):
            return outputs(model, given | {"networks": networks})["flow"].square().sum()

        expected = {n: d for n, d in both_loss(loss, given["networks"]).items()}
        assert_close(torch.func.grad(loss)(given["networks"]), expected, 1e-13)
        batch = {n: torch.stack([w, 0.5 * w]) for n, w in given["networks"].items()}
        assert torch.equal(torch.vmap(loss)(batch)[0], loss(given["networks"]))
        graph = torch.compile(loss, fullgraph=True, backend="aot_eager")
        assert_close(both_loss(graph, given["networks"]), expected, 1e-13)

    def test_derivatives_along_parameters_with_given_weights(self, model):
        given = inputs(model, 12, 5, 2)
        forcing, parameters, more = (
            given["forcing"],
            given["parameters"],
            {k: given[k] for k in ("networks", "initial_state")},
        )
        _, found = hs.jacobian(model, forcing, parameters, **more)
        values = {n: x.clone().requires_grad_() for n, x in parameters.items()}
        run = hs.simulate(model, forcing, values, components="each", backend="reference", **more)
        for t in (0, 11):
            expected = torch.autograd.grad(run.fluxes["flow"][t].sum(), list(values.values()), retain_graph=True)
            assert_close({n: x[t] for n, x in found.items()}, dict(zip(values, expected, strict=True)), 1e-11)

    def test_no_weights_make_water(self, model):
        given = inputs(model, 40, 6, 2)
        for scale in (1.0, 30.0, -30.0):
            networks = {n: scale * w for n, w in given["networks"].items()}
            y = outputs(model, given | {"networks": networks}, components="each")
            before, after = (
                sum(s.values()) for s in (given["initial_state"], {n: y[f"end {n}"] for n in ("soil", "ground")})
            )
            gained = given["forcing"]["prcp"].sum(0)[:, None] - (y["flow"] + y["aet"]).sum(0)
            assert_close({"water": after - before}, {"water": gained}, 1e-12)
            assert min(float(x.min()) for x in y.values()) >= 0

    def test_a_network_learns_and_is_kept(self, model, tmp_path):
        given = inputs(model, 60, 8, 1)
        truth = outputs(model, given)["aet"]
        torch.manual_seed(0)
        network = hs.nn.FluxNetwork(model, "evaporation").double()

        def loss():
            networks = given["networks"] | {"evaporation": network()}
            return (outputs(model, given | {"networks": networks})["aet"] - truth).square().mean()

        first, optimiser = loss().item(), torch.optim.Adam(network.parameters(), 0.05)
        for _ in range(60):
            optimiser.zero_grad()
            error = loss()
            error.backward()
            optimiser.step()
        assert error.item() < 0.1 * first
        torch.save(network.state_dict(), tmp_path / "network.pt")
        again = hs.nn.FluxNetwork(model, "evaporation").double()
        again.load_state_dict(torch.load(tmp_path / "network.pt"))
        assert torch.equal(again(), network())
        assert hs.nn.FluxNetwork(model, "last", basins=3)().shape == (3, 13)


def both_loss(loss, networks):
    leaves = {n: w.clone().requires_grad_() for n, w in networks.items()}
    return dict(zip(leaves, torch.autograd.grad(loss(leaves), list(leaves.values())), strict=True))
