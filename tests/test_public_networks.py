"""Networks from the NextGen hydrofabric, MERIT-Basins and HydroRIVERS: small files of their published columns."""

import struct

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from river_networks import IDS, TO, assert_in_order, assert_one_sentence, routelink, small

from hybridsolve import cli
from hybridsolve.routing.files import route_file
from hybridsolve.routing.network import RiverNetwork
from hybridsolve.score.summary import by_waterbody, median_line

pyogrio = pytest.importorskip("pyogrio", reason="public networks need pyogrio")

KM = np.array([0.5, 1.0, 7.0, 4.0, 3.0, 6.0, 2.0])
ENDS = {50: "tnx-1", 70: "cnx-2"}  # where rivers end


def refusal(action):
    with pytest.raises(ValueError) as error:
        action()
    assert_one_sentence(error)
    return str(error.value)


def write(path, layer, table):
    pyogrio.write_dataframe(pd.DataFrame(table), path, layer=layer, driver="GPKG")


def hydrofabric(folder, name="flowpath-attributes", leave_out=(), **changes):
    """A hydrofabric of the small network; `changes` are columns of its tables, None for none."""
    path = folder / "hydrofabric.gpkg"
    path.unlink(missing_ok=True)
    to_nexus = [ENDS.get(i, f"nex-{t}") for i, t in zip(IDS, TO, strict=True)]
    flowpaths = {
        "id": [f"wb-{i}" for i in IDS],
        "toid": to_nexus,
        "lengthkm": KM,
        "areasqkm": KM * 2,
        "tot_drainage_areasqkm": KM * 3,
        "vpuid": ["03S"] * 7,
    }
    nexus = {"id": ["nex-30", "nex-50", "nex-70", "tnx-1", "cnx-2"], "toid": ["wb-30", "wb-50", "wb-70", None, "wb-0"]}
    channels = {"id": flowpaths["id"][::-1], "link": flowpaths["id"][::-1], "MusX": 0.2, "MusK": 3600.0}
    names = ("n", "nCC", "So", "BtmWdth", "TopWdth", "TopWdthCC", "ChSlp")
    channels |= {c: np.arange(7)[::-1] + 10.0 * i for i, c in enumerate(names, 1)}
    channels |= {"WaterbodyID": [None] * 6 + ["None"]}
    tables = {"flowpaths": flowpaths, "nexus": nexus, name: channels}
    for layer, table in tables.items():
        if layer not in leave_out:
            table = table | {k: v for (of, k), v in changes.get("columns", {}).items() if of == layer}
            write(path, layer, {k: v for k, v in table.items() if v is not None})
    return path


def wkb():
    return struct.pack("<BIIdddd", 1, 2, 2, 0.0, 0.0, 1.0, 1.0)  # a line


def shapefile(path, **columns):
    data = [np.asarray(x) for x in columns.values()]
    lines = np.array([wkb()] * len(data[0]), dtype=object)
    options = dict(geometry_type="LineString", crs="EPSG:4326", driver="ESRI Shapefile")
    pyogrio.raw.write(path, lines, data, list(columns), **options)
    return path


MERIT = {
    "COMID": np.array(IDS, np.int32),
    "lengthkm": KM,
    "slope": KM / 1000,
    "uparea": KM * 10,
    "order": np.arange(7),
    "NextDownID": np.array(TO, np.int32),
    "up1": [30, 0, 60, 0, 10, 0, 0],
    "up2": [40, 0, 0, 0, 20, 0, 0],
    "up3": [0] * 7,
    "up4": [0] * 7,
}
HYDRORIVERS = {
    "HYRIV_ID": np.array(IDS, np.int32) + 20_000_000,
    "NEXT_DOWN": [t + 20_000_000 if t else 0 for t in TO],
    "LENGTH_KM": KM,
    "DIST_DN_KM": KM * 5,
    "CATCH_SKM": KM * 2,
    "UPLAND_SKM": KM * 3,
    "DIS_AV_CMS": KM / 10,
    "ORD_STRA": np.arange(7),
}


def of_rows(network, values):
    np.testing.assert_allclose(network.attributes["length"], np.asarray(KM)[network.order] * 1000)
    return np.asarray(values, float)[network.order]


def test_a_hydrofabric(tmp_path):
    network = RiverNetwork.from_hydrofabric(hydrofabric(tmp_path))
    assert_in_order(network, IDS, [t or None for t in TO])
    np.testing.assert_allclose(network.attributes["area"], of_rows(network, KM * 2e6))
    np.testing.assert_allclose(network.attributes["drained_area"], of_rows(network, KM * 3e6))
    for i, name in enumerate(("n", "n_cc", "slope", "bottom_width", "top_width", "top_width_cc", "side_slope"), 1):
        np.testing.assert_array_equal(network.attributes[name], of_rows(network, np.arange(7) + 10.0 * i))
    assert (network.attributes["x"] == 0.2).all() and (network.attributes["k"] == 3600).all()
    assert (network.attributes["waterbody"] == -1).all() and not network.below_waterbody.any()


def test_the_older_names_of_a_hydrofabric_and_another_table(tmp_path):
    waterbodies = ["NULL", "", None, "5,6", "NA", "lake", None]
    old = {("flowpath_attributes", "WaterbodyID"): None, ("flowpath_attributes", "rl_NHDWaterbodyComID"): waterbodies}
    network = RiverNetwork.from_hydrofabric(hydrofabric(tmp_path, "flowpath_attributes", columns=old))
    assert dict(zip(network.ids.tolist(), network.attributes["waterbody"], strict=True)) == {
        **dict.fromkeys(IDS, -1),
        40: 5,
        10: 0,
    }
    assert set(network.ids[network.below_waterbody]) == {10, 30, 40, 50}
    path = hydrofabric(tmp_path, "flowpath-attributes-ml", columns={("flowpath-attributes-ml", "id"): None})
    assert (RiverNetwork.from_hydrofabric(path, channels="flowpath-attributes-ml").attributes["x"] == 0.2).all()
    assert "no flowpath-attributes, only" in refusal(lambda: RiverNetwork.from_hydrofabric(path))


def test_a_repeated_row_of_channels_is_one(tmp_path):
    path = hydrofabric(tmp_path)
    rows = pyogrio.read_dataframe(path, layer="flowpath-attributes", read_geometry=False)
    write(path, "flowpath-attributes", pd.concat([rows, rows[:2]]))
    assert RiverNetwork.from_hydrofabric(path).n_reaches == 7
    rows.loc[1, "id"] = rows.loc[0, "id"]
    write(path, "flowpath-attributes", rows)
    assert "must be unique" in refusal(lambda: RiverNetwork.from_hydrofabric(path))


def test_merit(tmp_path):
    rivers = shapefile(tmp_path / "riv.shp", **MERIT)
    units = shapefile(tmp_path / "cat.shp", COMID=MERIT["COMID"][::-1], unitarea=KM[::-1])
    network = RiverNetwork.from_merit(rivers, units)
    assert_in_order(network, IDS, [t or None for t in TO])
    np.testing.assert_allclose(network.attributes["slope"], of_rows(network, KM / 1000))
    np.testing.assert_allclose(network.attributes["drained_area"], of_rows(network, KM * 1e7))
    np.testing.assert_allclose(network.attributes["area"], of_rows(network, KM * 1e6))
    assert "area" not in RiverNetwork.from_merit(rivers).attributes
    part = {name: np.asarray(x)[np.array(IDS) != 20] for name, x in MERIT.items()}  # which 30 names upstream
    assert RiverNetwork.from_merit(shapefile(tmp_path / "part.shp", **part)).n_reaches == 6


def test_hydrorivers(tmp_path):
    network = RiverNetwork.from_hydrorivers(shapefile(tmp_path / "rivers.shp", **HYDRORIVERS))
    assert_in_order(network, [i + 20_000_000 for i in IDS], [t + 20_000_000 if t else None for t in TO])
    np.testing.assert_allclose(network.attributes["area"], of_rows(network, KM * 2e6))
    np.testing.assert_allclose(network.attributes["drained_area"], of_rows(network, KM * 3e6))
    np.testing.assert_allclose(network.attributes["distance_to_outlet"], of_rows(network, KM * 5e3))
    np.testing.assert_allclose(network.attributes["mean_discharge"], of_rows(network, KM / 10))


def test_reaches_below_a_waterbody(tmp_path):
    """10 and 20 flow to 30, 30 and 40 to 50: a lake on 10 is above 30 and 50; it is kept by what is made of it."""
    waterbody = [-9999.0] * 7
    waterbody[IDS.index(10)] = 7.0
    network = small(waterbody=waterbody)
    assert set(network.ids[network.below_waterbody]) == {10, 30, 50}
    split, parent = network.split_long(2)
    np.testing.assert_array_equal(split.below_waterbody, network.below_waterbody[parent])
    pruned = network.prune([30])
    assert set(pruned.ids[pruned.below_waterbody]) == {10, 30}
    network.save(tmp_path / "network.nc")
    assert set(network.ids[RiverNetwork.load(tmp_path / "network.nc").below_waterbody]) == {10, 30, 50}
    link = RiverNetwork.from_routelink(routelink(tmp_path / "RouteLink.nc"))
    assert set(link.ids[link.below_waterbody]) == {20, 30, 50}
    assert not small(waterbody=[np.nan] * 7).below_waterbody.any()
    assert "give waterbody=" in refusal(lambda: small().below_waterbody)


def inflow(path, ids):
    time = pd.date_range("2000-01-01", periods=3, freq="h")
    values = (("time", "reach"), np.ones((3, len(ids))), {"units": "m3 s-1"})
    xr.Dataset({"lateral_inflow": values}, coords={"time": time, "reach": ids}).to_netcdf(path)
    return path


def test_the_discharge_says_where_it_is_below_a_waterbody(tmp_path, capsys):
    lake = {("flowpath-attributes", "WaterbodyID"): [None] * 5 + ["800020005", None]}  # of wb-10
    path, lateral = hydrofabric(tmp_path, columns=lake), inflow(tmp_path / "inflow.nc", IDS)
    out = tmp_path / "discharge.nc"
    command = ["route", lateral, path, "--scheme", "accumulate", "--gauges", "40,30,10", "--out", out]
    assert cli.main([str(word) for word in command]) == 0, capsys.readouterr().err
    with xr.open_dataset(out) as found:
        assert found["below_waterbody"].values.tolist() == [0, 1, 1]
        assert found["below_waterbody"].attrs["flag_meanings"] == "no yes"
        below = found["below_waterbody"].values
    route_file(lateral, small(), out, scheme="accumulate")
    with xr.open_dataset(out) as found:
        assert "below_waterbody" not in found  # nobody knows
    scores = {"nse": np.array([0.9, 0.1, 0.3]), "n_valid": np.full(3, 9), "n_nonfinite": np.zeros(3)}
    apart = by_waterbody(scores | {k: np.zeros(3) for k in ("kge", "pbias", "fhv", "flv")}, below)
    assert apart["no waterbody above"]["nse"].tolist() == [0.9] and apart["below a waterbody"]["nse"].tolist() == [
        0.1,
        0.3,
    ]
    assert [median_line(label, s).split()[-7] for label, s in apart.items()] == ["0.900", "0.200"]
    assert "below must be [3]" in refusal(lambda: by_waterbody(scores, below[:2]))


def refused(tmp_path, **columns):
    changes = {(of, name): x for (of, name), x in columns.pop("columns").items()}
    path = hydrofabric(tmp_path, columns=changes, **columns)
    return refusal(lambda: RiverNetwork.from_hydrofabric(path))


def test_refused_hydrofabrics(tmp_path):
    assert "no nexus, only flowpaths, flowpath-attributes" in refused(tmp_path, columns={}, leave_out=("nexus",))
    lengths = {("flowpaths", "lengthkm"): None}
    assert "flowpaths of" in (said := refused(tmp_path, columns=lengths)) and "found no lengthkm" in said
    no_id = {("flowpath-attributes", "id"): None, ("flowpath-attributes", "link"): None}
    assert "must have the column id or link" in refused(tmp_path, columns=no_id)
    names = [f"wb-{i}" for i in IDS]
    assert "found 'wb-50' more than once" in refused(tmp_path, columns={("flowpaths", "id"): [names[0], *names[:6]]})
    twice = {("nexus", "id"): ["nex-30", "nex-50", "nex-70", "nex-70", "cnx-2"]}
    assert "found 'nex-70' more than once" in refused(tmp_path, columns=twice)
    assert "found 'river' in row 0" in refused(tmp_path, columns={("flowpaths", "id"): ["river", *names[1:]]})
    unknown = {("nexus", "toid"): ["wb-30", "wb-50", "wb-99", None, "wb-0"]}
    assert "found 60 flowing to 99" in refused(tmp_path, columns=unknown)
    cycle = {("nexus", "toid"): ["wb-30", "wb-50", "wb-70", "wb-10", "wb-0"]}
    assert "must not flow in a cycle; found 10 -> 30 -> 50 -> 10" in refused(tmp_path, columns=cycle)
    lost = {("flowpaths", "toid"): ["tnx-1", "nex-30", "cnx-2", "nex-50", "nex-50", "nex-9", "nex-30"]}
    assert "found nex-9, not in it" in refused(tmp_path, columns=lost)
    network = RiverNetwork.from_hydrofabric(hydrofabric(tmp_path, columns=lost), dangling="outlet")
    assert set(network.ids[network.outlets]) == {50, 60, 70}


@pytest.mark.parametrize(
    "read", [RiverNetwork.from_hydrofabric, RiverNetwork.from_merit, RiverNetwork.from_hydrorivers]
)
def test_refused_files(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="nowhere.gpkg does not exist, expected"):
        read(tmp_path / "nowhere.gpkg")
    (tmp_path / "text.gpkg").write_text("id,toid\n1,2\n")
    said = refusal(lambda: read(tmp_path / "text.gpkg"))
    assert "could not be read as a GeoPackage or shapefile" in said and "check the file" in said
    write(tmp_path / "other.gpkg", "gauges", {"name": ["a"]})
    assert "found no " in refusal(lambda: read(tmp_path / "other.gpkg"))


def test_refused_rivers(tmp_path):
    other = MERIT | {"up1": [30, 0, 60, 0, 40, 0, 0]}
    said = refusal(lambda: RiverNetwork.from_merit(shapefile(tmp_path / "up.shp", **other)))
    assert "upstream of the one it flows to; found" in said
    twice = MERIT | {"COMID": np.array([50, 10, 70, 40, 30, 60, 10], np.int32)}
    said = refusal(lambda: RiverNetwork.from_merit(shapefile(tmp_path / "twice.shp", **twice)))
    assert "COMID of" in said and "found '10' more than once" in said
    units = shapefile(tmp_path / "cat.shp", COMID=MERIT["COMID"][1:], unitarea=KM[1:])
    rivers = shapefile(tmp_path / "riv.shp", **MERIT)
    assert "found none of 50" in refusal(lambda: RiverNetwork.from_merit(rivers, units))
    unknown = HYDRORIVERS | {"NEXT_DOWN": [5, *HYDRORIVERS["NEXT_DOWN"][1:]]}
    path = shapefile(tmp_path / "rivers.shp", **unknown)
    assert "found 20000050 flowing to 5" in refusal(lambda: RiverNetwork.from_hydrorivers(path))
    assert RiverNetwork.from_hydrorivers(path, dangling="outlet").n_reaches == 7


def test_without_the_library_the_command_says_what_to_install(tmp_path, monkeypatch, capsys):
    path, lateral = hydrofabric(tmp_path), inflow(tmp_path / "inflow.nc", IDS)
    monkeypatch.setitem(__import__("sys").modules, "pyogrio", None)
    assert cli.main(["route", str(lateral), str(path), "--out", str(tmp_path / "q.nc")]) == 2
    assert "needs pyogrio, which is not installed: pip install 'hybridsolve[nextgen]'." in capsys.readouterr().err
