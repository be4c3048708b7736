"""CSV files and frames, as people write them."""

import numpy as np
import pandas as pd
import pytest
from foreign import DAYS, IDS, LAT, TRUTH, one_sentence, opened

from hybridsolve import data


def frame(n=60, b=0):
    columns = {"prcp [mm/d]": "prcp", "tmin [degC]": "tmin", "tmax [degC]": "tmax", "Q (mm/d)": "qobs"}
    return pd.DataFrame(
        {"date": DAYS[:n].strftime("%Y-%m-%d")} | {c: TRUTH[v][:n, b].round(6) for c, v in columns.items()}
    )


def text(table=None, **options):
    return (frame() if table is None else table).to_csv(index=False, **options)


TABLES = {
    "plain.csv": lambda: text(),
    "index.csv": lambda: frame().to_csv(),
    "no_name.csv": lambda: frame().set_index("date").rename_axis(None).to_csv(),
    "comment.csv": lambda: "# a station\n\n# of ours\n" + text(),
    "semicolon.csv": lambda: text(sep=";"),
    "decimal_comma.csv": lambda: text(sep=";", decimal=","),
    "tab.tsv": lambda: text(sep="\t"),
    "german.csv": lambda: text(frame().assign(date=DAYS[:60].strftime("%d.%m.%Y"))),
    "british.csv": lambda: text(frame().assign(date=DAYS[:60].strftime("%d/%m/%Y"))),
    "american.csv": lambda: text(frame().assign(date=DAYS[:60].strftime("%m/%d/%Y"))),
    "compact.csv": lambda: text(frame().assign(date=DAYS[:60].strftime("%Y%m%d"))),
    "parts.csv": lambda: text(
        frame().drop(columns="date").assign(YYYY=DAYS[:60].year, MM=DAYS[:60].month, DD=DAYS[:60].day), sep=";"
    ),
    "blanks.txt": lambda: text(frame().rename(columns=lambda c: c.replace(" ", "")), sep=" "),
    "last.csv": lambda: text(frame()[[*frame().columns[1:], "date"]].rename(columns={"date": "Datum"})),
    "units.csv": lambda: "Date,P,Tmin,Tmax,Q\n#,mm/day,°C,[deg C],(mm/d)\n" + text().split("\n", 1)[1],
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_as_people_write_them(name, tmp_path):
    (tmp_path / name).write_text(TABLES[name](), encoding="utf-8")
    ds = opened(tmp_path / name, names={"lat": 47} | ({"time": "datum"} if name == "last.csv" else {}))
    data.check_dataset(ds, forcing_names=("prcp", "tmean", "pet"), need_qobs=True)
    assert list(ds.basin.values) == [name.split(".")[0]] and ds.time.values[0] == DAYS[0]
    for v in ("prcp", "tmin", "tmax", "qobs"):
        np.testing.assert_allclose(ds[v].values[:, 0], TRUTH[v][:60, 0], atol=1e-5)


def test_encodings_of_tables(tmp_path):
    file = tmp_path / "x.csv"
    for encoding in ("utf-8-sig", "utf-16"):
        file.write_bytes(text().replace("degC", "°C").encode(encoding))
        assert opened(file, names="lat=47").sizes["time"] == 60
    file.write_bytes(text().replace("degC", "°C").encode("latin-1"))
    with pytest.raises(ValueError, match="x.csv must be a text file in UTF-8, a table; found other bytes"):
        opened(file)


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "must be a table with a header"),
        (text().splitlines()[0], "date of x.csv must hold dates .* found no row"),
        ("\0\1", "found binary data"),
        (text(frame().drop(columns="date")), "must have a column of dates"),
        (text().replace("1999-10-05", "1999-13-05"), "found '1999-13-05' in row 4"),
        (text().replace("1999-10-05", ""), "found 'nan' in row 4"),
        (text(frame(2).assign(date=["01/02/2000", "02/02/2000"])), "must tell day from month, found '01/02/2000'"),
        (
            text().replace("\n1999-10-05,", "\n1999-10-05,Ice"),
            "prcp .* must hold numbers, found 'Ice.* in basin x on 1999-10-05",
        ),
        (text().replace("tmin", "tmax"), "columns of .*x.csv must be unique"),
        (
            "\n".join(line + ",1" * (i > 0) for i, line in enumerate(text().splitlines())),
            "has rows with more cells than its header of 5 columns",
        ),
        (text(frame().assign(gauge_id=["a"] * 59 + ["b"])), "must hold one basin, found 2 in the column 'gauge_id'"),
        (text(frame().assign(**{"Q (m3/s)": 1.0})), "found Q_mm_d, Q_m3_s|2 that may be it, Q_mm_d, Q_m3_s"),
        (text(), "must hold lat to compute pet by hargreaves, found none; .* or a number for one basin"),
    ],
)
def test_tables_that_are_refused(content, message, tmp_path):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        opened(tmp_path / "x.csv")
    one_sentence(error)


def test_a_table_with_its_id_and_two_flows(tmp_path):
    (tmp_path / "x.csv").write_text(text(frame().assign(**{"gauge_id": "007", "Q (m3/s)": 1.0})))
    ds = opened(tmp_path / "x.csv", names="lat=47,qobs=Q (mm/d)")
    assert list(ds.basin.values) == ["007"]
    np.testing.assert_allclose(ds.qobs.values[:, 0], TRUTH["qobs"][:60, 0], atol=1e-5)
    ds = opened(tmp_path / "x.csv", names="lat=47,qobs=Q_m3_s,area_km2=86.4")
    np.testing.assert_allclose(ds.qobs.values[:, 0], 1.0)


def test_a_folder_whose_records_differ(tmp_path):
    for name, table in (("a", frame()), ("b", frame(b=1).iloc[5:])):
        (tmp_path / f"{name}.csv").write_text(text(table))
    (tmp_path / "attributes.csv").write_text("id,lat,soil\nb,44,x\na,47,\n")
    ds = opened(tmp_path)
    assert ds.sizes["time"] == 60 and np.isnan(ds.prcp.values[:5, 1]).all() and list(ds.soil.values) == ["", "x"]
    assert opened(tmp_path, basins=["b"]).time.values[0] == DAYS[5]
    for attributes, message in (
        ("id,lat\na,47\nc,44\n", "must have a row for each basin, found none for 'b'"),
        ("id,lat\na,47\nB,44\n", "found none for 'b' .*write it as there, 'B'"),
        ("id,lat\na,47\na,48\nb,44\n", "must be unique; found 'a'"),
        ("id,lat\na,47\n,44\nb,44\n", "missing or blank one in row 1"),
    ):
        (tmp_path / "attributes.csv").write_text(attributes)
        with pytest.raises(ValueError, match=message) as error:
            opened(tmp_path)
        one_sentence(error)
    (tmp_path / "attributes.csv").unlink()
    (tmp_path / "b.csv").write_text(text(frame().rename(columns={"prcp [mm/d]": "prcp [in/d]"})))
    with pytest.raises(ValueError, match="prcp must have one unit in all files .* 'mm/d' in a.csv and 'in/d' in b.csv"):
        opened(tmp_path)
    (tmp_path / "b.csv").write_text(text(pd.concat([frame(), frame()])))
    with pytest.raises(ValueError, match="dates of .*b.csv must be unique"):
        opened(tmp_path)


def test_ids_within_the_names_of_files(tmp_path):
    names = {"27001": 0, "101": 1}
    files = {i: tmp_path / f"CAMELS_GB_hydromet_timeseries_{i}_19991001-19991129.csv" for i in names}
    for i, b in names.items():
        files[i].write_text(text(frame(b=b)))
    (tmp_path / "GB_topographic_attributes.csv").write_text("gauge_id,gauge_lat\n101,44\n27001,47\n")
    (tmp_path / "GB_climatic_attributes.csv").write_text("gauge_id,p_mean\n27001,3.5\n101,2\n")
    ds = opened(tmp_path)
    assert list(ds.basin.values) == ["101", "27001"] and list(ds.lat.values) == [44, 47]
    assert list(ds.p_mean.values) == [2, 3.5]
    np.testing.assert_allclose(ds.prcp.sel(basin="27001"), opened(files["27001"], names="lat=47").prcp[:, 0])
    assert list(opened(tmp_path, basins=["27001"]).basin.values) == ["27001"]
    (tmp_path / "27001.csv").write_text(text(frame()))
    with pytest.raises(ValueError, match="one file a basin, found 27001.csv and CAMELS_GB.*csv for '27001'") as error:
        opened(tmp_path)
    one_sentence(error)


def test_frames():
    table = frame().drop(columns="date").set_index(DAYS[:60])
    for kind in (table, table.convert_dtypes(), table.tz_localize("UTC"), table.reset_index(names="date"), frame()):
        ds = opened(kind, names={"lat": 47.0, "area_km2": 12.0})
        np.testing.assert_allclose(ds.prcp.values[:, 0], TRUTH["prcp"][:60, 0], atol=1e-5)
        assert ds.sizes["basin"] == 1 and float(ds.area_km2[0]) == 12
    with pytest.raises(ValueError, match="the frame must have a column of dates"):
        opened(table.reset_index(drop=True))
    many = pd.concat({b: frame(b=i).set_index(DAYS[:60]) for i, b in enumerate(IDS)}, names=["gauge_id", "time"])
    with pytest.raises(ValueError, match="found a MultiIndex; open frame.to_xarray"):
        opened(many)
    ds = opened(many.drop(columns="date").to_xarray().assign(lat=("gauge_id", LAT)))
    assert list(ds.basin.values) == IDS
    np.testing.assert_allclose(ds.qobs, TRUTH["qobs"][:60], atol=1e-5)
