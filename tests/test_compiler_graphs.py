"""Graphs of the model compiler without a compiler: random ones against autograd, and what a definition refuses."""

import math
import os
import random
import subprocess
import sys

import pytest
import torch
from models.everything import everything

import hybridsolve.models.primitives as primitives
from hybridsolve.compiler import StepError, cpp, header, jacobian
from hybridsolve.compiler.evaluate import evaluate
from hybridsolve.compiler.graph import Graph, needed
from hybridsolve.compiler.program import Program
from hybridsolve.compiler.reversal import reverse
from hybridsolve.compiler.simplify import made_once, replaced
from hybridsolve.compiler.tracing import Symbol
from hybridsolve.spec import Forcing, ModelSpec, Parameter, State, Variable

COUNTS = {"f": 2, "p": 3, "s": 3}
GRID = {"f": [-1.0, 0.0, 0.5, 1.0, 2.0], "p": [0.5, 1.0, 2.0, 3.0], "s": [0.0, 0.0, 0.5, 1.0, 2.0]}
UNARY = "relu tanh sigmoid softplus sin cos floor".split()


def random_step(dice: random.Random, length: int):
    """A function of leaves, numbers or symbols alike, of so many random operations; the same each time it is called."""
    seed = dice.random()

    def step(leaves):
        rng = random.Random(seed)
        values, masks = list(leaves), []

        def value():
            return values[rng.randrange(len(values))]

        def positive():
            return leaves[COUNTS["f"] + rng.randrange(COUNTS["p"])]

        for _ in range(length):
            kind = rng.choice(
                "add sub mul scale div over extreme bound clip unary exp log sqrt power mask select".split()
            )
            x, y = value(), value()
            if kind == "add":
                made = x + y if rng.random() < 0.8 else 1.5 - x
            elif kind == "sub":
                made = x - y if rng.random() < 0.8 else -x
            elif kind == "mul":
                made = x * y if rng.random() < 0.8 else x**3
            elif kind == "scale":
                made = x * rng.choice([-2.0, -1.0, 0.25, 3.0]) + rng.choice([-1.0, 0.0, 1.0])
            elif kind == "div":
                made = x / positive() if rng.random() < 0.5 else x / (positive() * positive())
            elif kind == "over":
                made = rng.choice([1.0, 2.0]) / (1.0 + y * y) if rng.random() < 0.5 else x / (1.0 + y * y)
            elif kind == "extreme":
                made = rng.choice([primitives.minimum, primitives.maximum])(x, y)
            elif kind == "bound":
                made = rng.choice([primitives.minimum, primitives.maximum])(x, rng.choice([0.0, 1.0, -1.0]))
            elif kind == "clip":
                made = primitives.clip(x, 0.0, 1.0)
            elif kind == "unary":
                made = getattr(primitives, rng.choice(UNARY))(x)
            elif kind == "exp":
                made = primitives.exp(primitives.tanh(x))
            elif kind in ("log", "sqrt"):
                made = getattr(primitives, kind)(primitives.relu(x) + rng.choice([0.5, 1.0]))
            elif kind == "power":
                base = primitives.relu(x) / positive() if rng.random() < 0.5 else primitives.relu(x)
                made = primitives.power(base, positive() + 0.75)
                if rng.random() < 0.5:
                    made = primitives.clip(made, 0.0, 1.0)
            elif kind == "mask":
                mask = rng.choice([x >= y, x <= y, x >= 0.5])
                masks.append(~mask if rng.random() < 0.3 else mask)
                if len(masks) > 1 and rng.random() < 0.4:
                    masks.append(masks[-1] & masks[-2] if rng.random() < 0.5 else masks[-1] | masks[-2])
                continue
            else:
                if not masks:
                    continue
                made = primitives.select(rng.choice(masks), x, y)
            if rng.random() < 0.3:  # large values would hide all others
                made = primitives.tanh(made)
            values.append(made)
        return values[-4:]

    return step


def leaves_of(dice: random.Random, ties: bool):
    return [
        dice.choice(GRID[kind]) if ties else dice.choice(GRID[kind]) + 0.3 * dice.random()
        for kind, count in COUNTS.items()
        for _ in range(count)
    ]


def keys():
    return [(kind, n) for kind, count in COUNTS.items() for n in range(count)]


simplified = cpp._simplified


def compare(step, numbers, dice, case):
    """Values and gradients of a step by its graph against autograd; False where autograd has no number."""
    tensors = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in numbers]
    expected = step(tensors)
    d_roots = [dice.uniform(-1, 1) for _ in expected]
    loss = sum(d * x for d, x in zip(d_roots, expected, strict=True))
    d_expected = torch.autograd.grad(loss, tensors, materialize_grads=True)
    if not all(map(math.isfinite, map(float, (*expected, *d_expected)))):
        return False

    graph = Graph()
    symbols = [Symbol(graph, graph.leaf(kind, n, positive=kind == "p")) for kind, n in keys()]
    traced = step(symbols)
    program = simplified(Program(graph, {"q": [x.index for x in traced]}))
    # What is made once is a program of its own, whose cotangents the step adds to.
    once = made_once(program.graph, program.every_root)
    prepare = reverse(Program(program.graph, {"d": once}), {"p": COUNTS["p"]})
    program = program.with_graph(*replaced(program.graph, program.every_root, once))
    adjoint = reverse(program, COUNTS | {"d": len(once)})

    given = dict(zip(keys(), numbers, strict=True))
    made = evaluate(prepare.program.graph, prepare.program.roots["d"], given)
    given |= {("d", n): x for n, x in enumerate(made)}
    given |= {("d_q", n): d for n, d in enumerate(d_roots)}
    given |= {(f"d_{kind}", n): 0.0 for kind, n in adjoint.d_leaves if kind != "s"}
    found = evaluate(adjoint.program.graph, adjoint.program.roots["q"], given)
    d_found = dict(
        zip(adjoint.d_leaves, evaluate(adjoint.program.graph, list(adjoint.d_leaves.values()), given), strict=True)
    )
    given |= {("d_d", n): d_found[("d", n)] for n in range(len(once))}
    given |= {("d_p", n): d_found[("p", n)] for n in range(COUNTS["p"])}
    d_p = evaluate(prepare.program.graph, list(prepare.d_leaves.values()), given)
    d_found |= {("p", n): d for n, d in enumerate(d_p)}

    scale = max(1.0, *(abs(float(x)) for x in expected))
    for a, b in zip(found, expected, strict=True):
        assert abs(a - float(b)) <= 1e-11 * scale, case
    scale = max(1.0, *(abs(float(d)) for d in d_expected))
    for key, d in zip(keys(), d_expected, strict=True):
        assert abs(d_found[key] - float(d)) <= 1e-11 * scale, (case, key, d_found[key], float(d))
    return True


@pytest.mark.fast
@pytest.mark.parametrize("seed", range(8))
def test_random_graphs_have_autograds_gradients(seed):
    dice, compared = random.Random(seed), 0
    for case in range(50):
        step = random_step(dice, dice.randrange(3, 25))
        numbers = leaves_of(dice, ties=case % 2 == 0)
        compared += compare(step, numbers, dice, (seed, case))
    assert compared >= 40


@pytest.mark.fast
@pytest.mark.parametrize("seed", range(8))
def test_random_steps_move_with_their_parameters(seed):
    """The linearised step along every parameter, of states that move already, against autograd."""
    dice, compared, gone = random.Random(seed), 0, 0
    for case in range(50):
        step = random_step(dice, dice.randrange(3, 25))
        numbers = leaves_of(dice, ties=case % 2 == 0)
        tensors = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in numbers]
        rows = [torch.autograd.grad(y, tensors, retain_graph=True, materialize_grads=True) for y in step(tensors)]
        if not all(d.isfinite() for row in rows for d in row):
            continue
        graph = Graph()
        traced = [x.index for x in step([Symbol(graph, graph.leaf(*key, positive=key[0] == "p")) for key in keys()])]
        states = [n % len(traced) for n in range(COUNTS["s"])]
        program = simplified(Program(graph, {"s": [traced[n] for n in states], "q": traced}))
        once = made_once(program.graph, program.every_root)
        prepare = Program(program.graph, {"d": once})
        program = program.with_graph(*replaced(program.graph, program.every_root, once))
        slopes = [(("d", n), p) for n, of in enumerate(jacobian.depends(prepare)) for p in sorted(of)]
        given = dict(zip(keys(), numbers, strict=True))
        prepare = reverse(prepare, {"p": COUNTS["p"]})
        given |= {("d", n): x for n, x in enumerate(evaluate(prepare.program.graph, prepare.program.roots["d"], given))}
        for n, ((_, d), p) in enumerate(slopes):
            at = given | {("d_d", m): float(m == d) for m in range(len(once))} | {("d_p", p): 0.0}
            (given["slope", n],) = evaluate(prepare.program.graph, [prepare.d_leaves["p", p]], at)
        results = list(program.every_result)
        linear = jacobian.linearise(program, results, slopes, {})
        g = linear.graph
        gone += any(isinstance(v, int) for v in linear.edges)
        for p in range(COUNTS["p"]):
            s_dot = [dice.uniform(-1, 1) if p in linear.moved.get(g.leaf("s", n), ()) else 0.0 for n in range(3)]
            tangents = {g.leaf("s", n): x for n, x in enumerate(s_dot)} | {
                g.leaf("p", n): float(n == p) for n in range(3)
            }
            for v, along in linear.edges.items():
                terms = zip(evaluate(g, list(along.values()), given), along, strict=True)
                tangents[v] = sum(c * tangents[a] for c, a in terms if p in linear.moved[a])
            for kind, n in results:
                row = dict(zip(keys(), rows[states[n] if kind == "s" else n], strict=True))
                parts = [float(row["p", p]), *(float(row["s", m]) * x for m, x in enumerate(s_dot))]
                scale = max(1.0, *(abs(float(d)) for d in row.values()))
                assert abs(tangents.get((kind, n), 0.0) - sum(parts)) <= 1e-11 * scale, (seed, case, p, kind, n)
        compared += 1
    assert compared >= 40 and gone  # in some a vertex between is left


def drained(x):
    """A store that drains in as many parts as it holds, each of which captures what is around it."""
    forcing, k, store = x[0], x[2], x[5]
    gain = forcing * k

    def part(s):
        flow = primitives.minimum(k * s["store"] / (1.0 + s["store"]), s["store"]) + 0.1 * gain
        return {"store": s["store"] - flow, "sum": s["sum"] + flow * primitives.exp(-k)}

    n = primitives.floor(1.0 + 2.0 * store)
    after = primitives.repeat(n, 8, part, {"store": store, "sum": 0.0 * k})
    return [after["store"] * k, after["sum"], gain]


def heights(x):
    table = [x[0], 0.5, x[2] * x[3], 2.0, 1.0]
    return [primitives.interpolate(table, x[4]), primitives.interpolate([0.1, 0.4, 0.2], x[5])]


@pytest.mark.fast
@pytest.mark.parametrize("step", [drained, heights])
@pytest.mark.parametrize("ties", [False, True])
def test_loops_and_tables_have_autograds_gradients(step, ties):
    for seed in range(30):
        assert compare(step, leaves_of(random.Random(seed), ties), random.Random(seed), seed)


@pytest.mark.fast
def test_more_passes_than_there_may_be_make_no_number():
    for n in (9.0, math.nan):
        graph = Graph()
        x = Symbol(graph, graph.leaf("s", 0))
        made = primitives.repeat(x, 8, lambda s: {"y": s["y"] + 1.0}, {"y": x})["y"]
        assert math.isnan(evaluate(graph, [made.index], {("s", 0): n})[0])
        x = torch.tensor(n, dtype=torch.float64)
        assert primitives.repeat(x, 8, lambda s: {"y": s["y"] + 1.0}, {"y": x})["y"].isnan()


def test_equal_expressions_are_one_and_numbers_are_folded():
    graph = Graph()
    x, y = (Symbol(graph, graph.leaf("s", n)) for n in range(2))
    assert (x * y + 1).index == (y * x + 1).index and (x - y).index == (-(y - x)).index
    assert graph.number((primitives.exp(0 * x + 1) - primitives.exp(0 * y + 1)).index) is None
    one = Symbol(graph, graph.const(1.0))
    assert graph.number((one * 2 + 3).index) == 5 and (x * 1 + 0).index == x.index
    assert graph.number(primitives.exp(one).index) == math.e
    assert primitives.clip(x, lower=0.0, upper=1.0).index == primitives.clip(x, 0.0, 1.0).index


def test_reciprocals_are_shared_and_what_parameters_make_is_made_once():
    graph = Graph()
    sm = Symbol(graph, graph.leaf("s", 0))
    fc, lp = (Symbol(graph, graph.leaf("p", n, positive=True)) for n in range(2))
    program = simplified(Program(graph, {"q": [(sm / fc).index, (sm / (lp * fc)).index]}))
    divisions = [i for i in needed(program.graph, program.every_root) if program.graph.op(i) == "reciprocal"]
    assert len(divisions) == 1
    once = made_once(program.graph, program.every_root)
    step = program.with_graph(*replaced(program.graph, program.every_root, once))
    left = {step.graph.op(i) for i in needed(step.graph, step.every_root)}
    assert len(once) == 2 and left == {"leaf", "mul", "quotient"}


# What a definition refuses: the statement, and what is said of its line.
REFUSED = {
    "if s['store'] >= 1:\n        pass": "no `if`, `and`, `or` or `not` on values",
    "x = s['store'] >= 0 and s['store']": "no `if`, `and`",
    "x = s['store'] > 0": "write >= or <=",
    "x = min(s['store'], 1.0)": "write >= or <=",
    "x = s['store'] == 0": "rounding would decide",
    "x = f['rainfall']": "no forcing 'rainfall'; its table has rain, demand",
    "x = p['kk']": "no parameter 'kk'; its table has k",
    "x = s['soil']": "no state 'soil'; its table has store",
    "x = k['area']": "no input 'area'; its table has dt",
    "s['store'] = s['store'] + f['rain']": "the step writes state 'store'",
    "x = s['store'] ** p['k']": "needs a whole number y",
    "x = s['store'] ** 0.5": "found 0.5: write power(x, y)",
    "x = 2 ** s['store']": "write exp",
    "x = torch.exp(s['store'])": "must not call torch.exp",
    "x = torch.where(s['store'] >= 1, f['rain'], 0.0)": "must not call torch.where",
    "x = np.exp(s['store'])": "must not call numpy.exp",
    "x = np.ones(1) * s['store']": "must not call numpy.multiply",
    "x = np.where(s['store'] >= 1, f['rain'], 0.0)": "must not call numpy.where",
    "x = math.exp(s['store'])": "functions of math or numpy do not take it",
    "x = s['store'].clamp(min=0)": "no method or attribute 'clamp'",
    "x = s['store'] + torch.ones(1)": "found a Tensor",
    "x = s['store'] + np.ones(1)": "ndarray",
    "x = select(s['store'], 1.0, 0.0)": "take conditions",
    "x = (s['store'] >= 1) + f['rain']": "a condition is no number",
    "x = s['store'] / 0": "must not divide by 0",
    "x = clip(s['store'], 0.0, f['rain'])": "two plain numbers",
    "for x in s['store']:\n        pass": "a value is no array",
    "x = forever(s['store'])": "must not call itself",
    "x = unknown(s['store'])": "NameError: name 'unknown' is not defined",
}
STEP = """
import math
import numpy as np
import torch
from hybridsolve.models.primitives import clip, select

def forever(x):
    return forever(x + 1)

def step(f, k, p, s):
    {statement}
    return {state}, {fluxes}
"""


def bucket(
    tmp_path, statement="pass", state="{'store': s['store'] * (1 - p['k'])}", fluxes="{'flow': p['k'] * s['store']}"
):
    """A model whose step is in a file of its own."""
    file = tmp_path / "bucket.py"
    file.write_text(STEP.format(statement=statement, state=state, fluxes=fluxes))
    names: dict = {}
    exec(compile(file.read_text(), str(file), "exec"), names)
    return ModelSpec(
        name="bucket",
        title="A store",
        source="this test",
        forcings=(Forcing("rain", "mm d-1", "rain"), Forcing("demand", "mm d-1", "demand")),
        parameters=(Parameter("k", "d-1", "share that leaves", 0.01, 0.9),),
        states=(State("store", "mm", "water"),),
        fluxes=(Variable("flow", "mm d-1", "flow"),),
        reference_step=names["step"],
        outflow="flow",
    )


@pytest.mark.fast
@pytest.mark.parametrize("statement", REFUSED)
def test_what_a_step_must_not_do_is_said_with_its_line(statement, tmp_path):
    with pytest.raises(StepError) as error:
        header(bucket(tmp_path, statement))
    line = 8 if "forever" in statement else 11
    assert str(error.value).startswith(f"{tmp_path / 'bucket.py'}:{line}: ")
    assert REFUSED[statement] in str(error.value) and "\n" not in str(error.value)


@pytest.mark.fast
@pytest.mark.parametrize(
    "state, fluxes, message",
    [
        ("{}", "{'flow': s['store']}", "never sets state 'store'"),
        ("{'store': s['store']}", "{}", "never sets flux 'flow'"),
        (
            "{'store': s['store'], 'snow': 0.0}",
            "{'flow': s['store']}",
            "returns state 'snow', which the table does not",
        ),
        ("{'store': s['store']}", "{'flow': s['store'], 'q0': 0.0}", "returns flux 'q0'"),
        ("{'store': None}", "{'flow': s['store']}", "must return a value as state 'store'; found NoneType"),
        ("{'store': s['store'] >= 0}", "{'flow': s['store']}", "returns a condition as state 'store'"),
        ("[s['store']]", "{'flow': s['store']}", "must return two mappings"),
        ("s['store']", "0, 1", "must return two mappings"),
    ],
)
def test_a_step_and_a_table_that_differ(state, fluxes, message, tmp_path):
    with pytest.raises(StepError, match=message) as error:
        header(bucket(tmp_path, state=state, fluxes=fluxes))
    assert str(error.value).startswith(f"{tmp_path / 'bucket.py'}:10: ")


def test_a_title_of_two_lines_is_a_remark_of_one():
    assert everything.title.count("\n") == 1
    assert "// Every primitive in two lines. these tests\n" in header(everything)


def test_it_needs_neither_torch_nor_numpy():
    program = (
        "import sys; sys.modules['torch'] = sys.modules['numpy'] = None\n"
        "from hybridsolve import models\n"
        "from hybridsolve.compiler import header\n"
        "assert 'step_adj' in header(*models.MODELS.values())\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_same_model_gives_the_same_text(tmp_path):
    text = header(bucket(tmp_path))
    assert text == header(bucket(tmp_path)) and "// 12: return" in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_no_order_of_a_set_is_in_the_text():
    program = (
        "import hashlib; from hybridsolve import models; from hybridsolve.compiler import header\n"
        "print(hashlib.sha256(header(*models.MODELS.values()).encode()).hexdigest())\n"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1
