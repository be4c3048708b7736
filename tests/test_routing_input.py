"""What routing is told wrongly, and how it says so."""

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import uniform
from river_networks import DT, reaches

from hybridsolve.routing import RiverNetwork, route
from hybridsolve.routing.schemes import CHANNEL


def bad(change, match, error=ValueError, scheme="todini", **options):
    def attempt():
        net = reaches(12, 9)
        lateral = uniform(4, 12)
        given = dict(network=net, lateral=lateral, parameters={}, ids="network", dt=DT, scheme=scheme)
        change(given)
        route(given.pop("network"), given.pop("lateral"), given.pop("parameters"), **given, **options)

    return attempt, match, error


def attempted(given):
    return route(given["network"], given["lateral"], ids="network", dt=DT)


def put(key, place, value):
    def change(given):
        given[key] = given[key].clone()
        given[key][place] = value

    return change


def named(**values):
    return lambda given: given.update(values)


def parameter(name, place, value):
    def change(given):
        x = torch.from_numpy(given["network"].attributes[name]).clone()
        x[place] = value
        given["parameters"] = {name: x}

    return change


NAN = float("nan")
BAD = {
    "negative inflow": bad(put("lateral", (2, 3), -1.0), r"lateral must be .*; found -1 in row 2 of reach 10\d\d"),
    "a gap": bad(put("lateral", (0, 11), NAN), r"lateral must be .*; found nan in row 0 of reach 10\d\d: fill"),
    "a gap, reference": bad(put("lateral", (0, 11), NAN), "lateral .* found nan in row 0", backend="reference"),
    "n": bad(parameter("n", 3, 0.0), r"parameter 'n' must lie in \[0.0001, 10\] s m-1/3; found 0 at reach 10\d\d"),
    "length": bad(parameter("length", 3, NAN), r"parameter 'length' must lie in .* m; found nan at reach 10\d\d"),
    "slope": bad(parameter("slope", 0, -1e-3), r"parameter 'slope' must lie in .* 1; found -0.001 at reach"),
    "x": bad(parameter("x", 0, 0.7), "parameter 'x' must lie in .*; found 0.7", scheme="muskingum"),
    "a parameter of others": bad(
        named(parameters={"x": torch.ones(1).double()}), "scheme 'todini' takes no parameter 'x', only n, p, q"
    ),
    "an unknown parameter": bad(named(parameters={"manning": 0}), "parameters has 'manning'; expected n, p, q"),
    "a number": bad(named(parameters={"n": 0.03}), "parameter 'n' must be a torch tensor; found float"),
    "a shape": bad(named(parameters={"n": torch.ones(3)}), r"'n' must be \[12\] or \[1\], .*found \[3\]"),
    "a scheme": bad(named(scheme="cunge"), "unknown scheme 'cunge'; expected one of todini, ddr"),
    "columns": bad(named(lateral=torch.ones(4, 11)), r"lateral must be \[T / repeat, 12\] .*; found \[4, 11\]"),
    "integers": bad(named(lateral=torch.ones(4, 12).int()), "lateral must be float32 or float64; found torch.int32"),
    "other ids": bad(named(ids=np.arange(12)), r"lateral has no column of reach 10\d\d, and 12 reaches .* lack one"),
    "too few ids": bad(named(ids=np.arange(5)), r"ids must be \[12\], one for each column; found \[5\]"),
    "a word for ids": bad(named(ids="position"), "ids must be .*, or 'network'; found 'position'"),
    "dt": bad(named(dt=0), "dt must be the seconds of a step, more than 0; found 0"),
    "repeat": bad(named(repeat=1.5), "repeat must be a whole number, 1 or more; found 1.5"),
    "too much inflow": bad(put("lateral", (1, 2), 9.97e36), r"0 to 1e\+09 m3/s .*; found 9.97e\+36 in row 1 of reach"),
    "gauges": bad(named(gauges=[1001, 1001]), "gauges must be unique; found '1001' more than once, in rows 0, 1"),
    "no gauges": bad(named(gauges=[]), r"gauges must be a list of reaches; found \[\]"),
    "a table of gauges": bad(named(gauges=[[1001]]), r"ids must be whole numbers \[N\]; found int64 \[1, 1\]"),
    "words for gauges": bad(named(gauges=["1001", "x"]), "ids must be whole numbers; found 'x' in row 1"),
    "half a gauge": bad(named(gauges=[1001.5]), "ids must be whole numbers.*found 1001.5 in row 0"),
    "masked gauges": bad(named(gauges=np.ma.masked_equal([1001, 1], 1)), "ids must all be there; found masked ones"),
    "short gauges": bad(named(gauges=np.float32([2**24])), r"ids must be .* as float32 below 2\^24"),
    "short ids": bad(named(ids=np.float32(2**24 + np.arange(12))), r"ids of the columns of lateral .* below 2\^24"),
    "masked ids": bad(named(ids=np.ma.masked_equal(1000 + np.arange(12), 1003)), "found masked ones"),
    "ids twice": bad(named(ids=[*range(1000, 1011), 1000]), "ids of the columns .* found '1000' more than once"),
    "an unknown gauge": bad(named(gauges=[7]), "found 7, not in it"),
    "substeps": bad(named(substeps=17), "substeps must be whole numbers from 1 to 16"),
    "substeps of ddr": bad(named(substeps=2, scheme="ddr"), "substeps belong to scheme 'todini'"),
    "true for substeps": bad(named(substeps=True), "substeps must be a whole number"),
    "part of a substep": bad(named(substeps=1.5), "substeps must be whole numbers"),
    "interval": bad(named(checkpoint_interval=0), "checkpoint_interval must be .*; found 0"),
    "state": bad(named(initial_state={"discharge": -torch.ones(12).double()}), "'discharge' must lie .* found -1"),
    "half a state": bad(named(initial_state={"storage": torch.ones(12).double()}), "initial_state lacks 'discharge'"),
    "a state's name": bad(named(initial_state={"depth": 1}), "initial_state has 'depth'; expected discharge, storage"),
    "a DataArray": bad(lambda g: g.update(lateral=xr.DataArray(g["lateral"])), r"lateral must be a torch tensor; found "
                       r"DataArray: convert it with torch.as_tensor\(x.values\)"),
    "a Dataset for state": bad(named(initial_state=xr.Dataset({"discharge": ("reach", np.ones(12))})),
                               "'discharge' must be a torch tensor; found DataArray: convert it with"),
    "a masked array": bad(lambda g: g.update(lateral=np.ma.masked_less(g["lateral"].numpy(), 0.1)),
                          "lateral must be a torch tensor; found MaskedArray"),
    "a device": bad(named(lateral=torch.ones(4, 12, device="meta")), "on CPU or CUDA tensors; found tensors on meta"),
    "a run for its state": bad(lambda g: g.update(initial_state=attempted(g)), "found a Routed: pass its final"),
    "a list for parameters": bad(named(parameters=[1]), "parameters must map names to tensors; found list"),
    "a word for substeps": bad(named(substeps="2"), r"substeps must be a whole number, or a tensor \[12\]"),
    "substeps of others": bad(named(substeps=torch.ones(3)), r"substeps must be a whole number, or a tensor \[12\]"),
    "a list for the scheme": bad(named(scheme=["ddr"]), "unknown scheme"),
    "a list for the network": bad(named(network=[-1, 0]), "network must be a RiverNetwork; found list"),
    "triton": bad(named(backend="triton"), "routing has no kernels in Triton; expected backend 'cpu', 'cuda'"),
}  # fmt: skip


@pytest.mark.parametrize("attempt, match, error", BAD.values(), ids=BAD)
def test_bad_input_is_said(attempt, match, error):
    with pytest.raises(error, match=match) as caught:
        attempt()
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message


def test_a_network_without_slopes():
    net = RiverNetwork.from_downstream([-1, 0], **{n: np.ones(2) for n in CHANNEL if n != "slope"})
    with pytest.raises(ValueError, match="scheme 'todini' needs 'slope' .of the bed., which neither parameters nor"):
        route(net, torch.ones(3, 2), ids="network", dt=DT)
