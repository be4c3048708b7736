"""Figures are built without pyplot, say what they leave out, and are saved whole or not at all."""

import base64
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from hybridsolve import plot
from hybridsolve.plot import maps, world
from hybridsolve.plot.page import write_page
from hybridsolve.routing import RiverNetwork

NAN = float("nan")
RNG = np.random.default_rng(0)


def texts(figure):
    """Everything written in the axes of a figure."""
    out = []
    for axes in figure.axes:
        out += [axes.get_title(loc) for loc in ("left", "center", "right")]
        out += [axes.get_xlabel(), axes.get_ylabel()] + [t.get_text() for t in axes.texts]
        legend = axes.get_legend()
        out += [t.get_text() for t in legend.get_texts()] if legend else []
    return "\n".join(out)


def river(**attributes):
    """Reach 10 flows out, 20 and 30 flow to it and 40 to 30; in the network's order they are 40, 20, 30, 10."""
    at = {"lon": [5.0, 6.0, 7.0, 8.0], "lat": [50.0, 51.0, 51.0, 52.0]} | attributes
    return RiverNetwork.from_ids([10, 20, 30, 40], [0, 10, 10, 30], **at)


def build():
    days = np.datetime64("1990-10-01") + np.arange(50)
    flow = RNG.random(50)
    starts = RNG.random((8, 4))
    values = RNG.random((6, 3))
    return {
        "cdf": plot.score_distribution({"a": RNG.random(9)}, reference={"b, other forcing": RNG.random(5)}),
        "map": plot.score_map(RNG.random(9), RNG.random(9), RNG.random(9)),
        "flow": plot.hydrograph(days, flow, flow, precipitation=flow, title="x", spread=(flow, flow + 1)),
        "starts": plot.start_spread(starts, starts.argmax(1)),
        "rivers": plot.network_map(river(), [1, 3, 1, 5], gauges=[10]),
        "dry": plot.network_map(river(), [NAN, 0, 0, 0]),
        "one reach": plot.network_map(RiverNetwork.from_downstream([-1], lon=[5.0], lat=[50.0]), [1.0]),
        "errors": plot.standard_errors([[0.1, np.inf, NAN], [0.2, 0.3, NAN]], list("abc")),
        "months": plot.sensitivity_by_month(RNG.random((3, 12, 4)), list("abc")),
        "duration": plot.flow_duration(
            RNG.random((90, 4)), np.where(RNG.random((90, 4)) < 0.2, NAN, RNG.random((90, 4)))
        ),
        "against": plot.against([0.1, 0.2, NAN], [0.2, 0.1, 0.5], "baseflow index"),
        "bounds": plot.parameter_bounds(values, np.zeros(3), np.ones(3), list("abc"), values > 0.5),
    }


def test_all_are_figures_and_save(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    for name, figure in build().items():
        assert isinstance(figure, Figure)
        path = plot.save(figure, tmp_path / f"{name}.png")
        assert path.read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 12
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_distribution_is_over_all_basins():
    scores = [NAN, -3.0, 0.2, 0.4, 0.6]
    figure = plot.score_distribution({"run": scores}, "KGE", reference={"ref (NLDAS)": [0.5, 0.7]})
    text = texts(figure)
    assert "run\nmedian 0.200, n = 5, 20 % below −0.5, 1 without score" in text
    assert "ref (NLDAS)\nmedian 0.600, n = 2" in text
    assert "KGE" in figure.axes[0].get_xlabel()
    solid = [line for line in figure.axes[0].lines if line.get_label().startswith("run")][0]
    x, y = solid.get_data()
    # Two of five lie below the axis; at 0.4 four do not exceed it.
    assert y[0] == pytest.approx(0.4) and y[list(x).index(0.4)] == pytest.approx(0.8) and y[-1] == 1.0
    thin = [line for line in figure.axes[0].lines if line.get_label().startswith("ref")][0]
    assert thin.get_linewidth() < solid.get_linewidth()


def test_lines_are_told_apart_without_colours():
    figures = build() | {
        "many": plot.score_distribution({str(i): RNG.random(5) for i in range(4)}),
        "winners": plot.winner_map(np.arange(9), np.arange(9), list("abcdefghi"), list("abcdefghi")),
    }
    for name, figure in figures.items():
        for axes in figure.axes:
            lines = [x for x in axes.lines if not x.get_label().startswith("_")]
            looks = [(x._dash_pattern[1], x.get_marker(), x.get_linewidth()) for x in lines]
            assert len(set(map(str, looks))) == len(lines), name
    points = [x for x in figures["winners"].axes[0].collections if x.get_label().endswith(", 1")]
    assert len({x.get_paths()[0].vertices.tobytes() for x in points}) == len(points) == 9


def test_a_style_is_laid_over(tmp_path):
    x = [0.1, 0.5]
    plain = plot.score_distribution({"a": x})
    with plot.in_style("dark_background"):
        dark = plot.score_distribution({"a": x})
        assert plot.save(dark, tmp_path / "dark.png").stat().st_size > 0
    assert plain.get_facecolor() == (1, 1, 1, 1) and dark.get_facecolor() == (0, 0, 0, 1)
    assert plain.axes[0].lines[0].get_color() == "#0072B2" != dark.axes[0].lines[0].get_color()
    (tmp_path / "mine.mplstyle").write_text("font.size: 20\naxes.prop_cycle: cycler(color=['k'])\n")
    with plot.in_style(tmp_path / "mine.mplstyle"):
        mine = plot.hydrograph([0, 1], [1, 2], [1, 2], title="x")
    assert mine.axes[0].lines[1].get_color() == "k" and mine.axes[0].yaxis.label.get_size() == 20
    assert plot.score_distribution({"a": x}).axes[0].lines[0].get_color() == "#0072B2"
    with pytest.raises(
        ValueError, match="one of matplotlib's or a file of settings, found 'no'; known are .*grayscale"
    ):
        with plot.in_style("no"):
            pass


def test_a_map_has_coasts_and_rivers():
    figure = plot.score_map([50.5, 54.5], [6.0, 9.0], [0.5, 0.6])  # the Rhine, the Elbe and the North Sea
    river, lake, coast = (x.get_segments() for x in figure.axes[0].collections[:3])
    assert len(river) >= 2 and len(coast) >= 1
    rhine = min(np.abs(np.concatenate(river) - [6.95, 50.94]).sum(1).min(), 9)  # at Cologne
    assert rhine < 0.2
    west, east = figure.axes[0].get_xlim()
    assert 5 < west < 6 and 9 < east < 10  # what lies behind does not widen the map
    assert world.lines("coast")[0].shape[1] == 2 and world.FILE.stat().st_size < 200_000


def test_distribution_with_nothing_on_the_axis():
    text = texts(plot.score_distribution({"bad": [NAN, NAN, -9.0]}))
    assert "no median, n = 3, 33 % below −0.5, 2 without score" in text


def test_map_counts_basins_without_score():
    assert "2 without score" in texts(plot.score_map([1, 2, 3], [4, 5, 6], [0.5, NAN, NAN]))
    assert "no median" in texts(plot.score_map([1, 2], [4, 5], [NAN, NAN], "PBIAS"))


def test_map_leaves_out_what_has_no_place_or_nothing_to_be_scored_by():
    lat, lon, scores = [1, NAN, 3, 4, 5], [1, 2, 3, 4, 5], [0.5, 0.3, NAN, 0.7, NAN]
    figure = plot.score_map(lat, lon, scores, unscored=[False, False, False, False, True])
    text = texts(figure)
    # The median is over all four that can be scored, failed ones last: 0.3, 0.5, 0.7 and none.
    assert "NSE of 4 basins, median 0.400" in text and "× 1 without score, 1 not scored, 1 not placed" in text
    points = figure.axes[0].collections[len(maps.BACKGROUND)]
    assert points.get_offsets().tolist() == [[4, 4], [1, 1]]
    with pytest.raises(ValueError, match="lat and lon must be finite in one basin at least, found none"):
        plot.score_map([NAN, 1], [1, np.inf], [0.1, 0.2])
    with pytest.raises(ValueError, match="no basin that has coordinates has a score"):
        plot.score_map([1, 2], [1, 2], [NAN, NAN], unscored=[True, True])


def test_masked_values_are_missing():
    masked = np.ma.masked_equal([0.2, -999.0, 0.6], -999.0)
    assert "median 0.200, n = 3, 1 without score" in texts(plot.score_distribution({"a": masked}))
    assert "1 without score" in texts(plot.score_map([1, 2, 3], [1, 2, 3], masked))


@pytest.mark.filterwarnings("error")
def test_one_basin_and_basins_without_numbers_are_drawn(tmp_path):
    nothing, days = np.full(3, NAN), np.datetime64("2000-01-01") + np.arange(3)
    figures = [
        plot.score_distribution({"a": nothing}),
        plot.score_map([50.0], [7.0], [0.4]),
        plot.score_map([50.0], [7.0], [300.0], "fc", "mm"),
        plot.score_map([1, 2, 3], [1, 2, 3], nothing, "fc", "mm"),
        plot.hydrograph(days, nothing, nothing, precipitation=nothing, spread=(nothing, nothing)),
        plot.hydrograph(days, nothing, [1, np.inf, 2]),
        plot.hydrograph(days[:1], [1.0], [2.0]),
        plot.start_spread(np.full((3, 4), NAN), [0, 0, 0]),
        plot.parameter_bounds(np.full((3, 1), NAN), [0], [1], ["a"], np.zeros((3, 1), bool)),
        plot.standard_errors(np.full((3, 1), NAN), ["a"]),
        plot.sensitivity_by_month(np.full((1, 12, 3), NAN), ["a"]),
        plot.flow_duration(np.ones((5, 1)), np.ones((5, 1))),
        plot.against([0.4], [0.5], "runoff ratio"),
    ]
    for figure in figures[1], figures[4], figures[9]:  # a point, nothing over time, nothing on a logarithmic axis
        figure.draw_without_rendering()


def test_failed_basins_do_not_empty_the_flow_duration():
    obs = RNG.random((90, 3))
    sim = obs.copy()
    sim[4, 1] = NAN
    figure = plot.flow_duration(sim, obs)
    assert "Flow duration of 2 basins (1 left out)" in texts(figure)
    assert all(np.isfinite(line.get_ydata()).all() for line in figure.axes[0].lines)


@pytest.mark.parametrize(
    "draw, words",
    (
        (lambda: plot.flow_duration(np.ones((5, 2)), np.full((5, 2), NAN)), "no basin has observed flow"),
        (lambda: plot.flow_duration(np.full((5, 2), NAN), np.ones((5, 2))), "no basin has observed flow"),
        (
            lambda: plot.against([NAN], [0.5], "baseflow index"),
            "no basin has both a published and a simulated baseflow",
        ),
        (lambda: plot.hydrograph(np.array(["2000-01-01", "NaT"], "M8[D]"), [1, 2], [1, 2]), "found none at step 1"),
    ),
)
def test_what_cannot_be_drawn_is_said(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()


def test_network_map_draws_each_reach_to_its_downstream():
    network = river()
    assert network.ids.tolist() == [40, 20, 30, 10]
    figure = plot.network_map(network, [8.0, NAN, 2.0, 10.0], gauges=[40, 10])
    dry, wet = figure.axes[0].collections[-2:]
    assert np.array_equal(dry.get_segments(), [[[6, 51], [5, 50]]])
    # The smallest first, although it comes later in the network; the outlet has no line.
    assert np.array_equal(wet.get_segments(), [[[7, 51], [5, 50]], [[8, 52], [7, 51]]])
    assert wet.get_array().tolist() == [2, 8] and np.diff(wet.get_linewidth()) > 1
    assert wet.norm(10**0.5) == pytest.approx(np.log(10**0.5 / wet.norm.vmin) / np.log(10 / wet.norm.vmin))
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[8, 52], [5, 50]]
    text = texts(figure)
    assert "discharge (m³/s)" in text and "grey: 1 without discharge" in text and "Discharge of 4 reaches" in text


def test_network_map_spans_four_decades():
    wet = plot.network_map(river(), [1e-9, 1.0, 2.0, 10.0]).axes[0].collections[-1]
    assert (wet.norm.vmin, wet.norm.vmax) == (1e-3, 10) and wet.colorbar.extend == "min"
    assert wet.get_linewidth()[0] == pytest.approx(0.4)


def test_network_map_refuses_what_it_cannot_place():
    bare = RiverNetwork.from_downstream([-1, 0], lon=np.ones(2))
    with pytest.raises(ValueError, match="the network must have the attribute lat; found lon: give lat="):
        plot.network_map(bare, np.ones(2))
    with pytest.raises(ValueError, match="lon must be finite; found nan at reach 30: fill it"):
        plot.network_map(river(lon=[5, 6, NAN, 8]), np.ones(4))
    with pytest.raises(ValueError, match="values must have shape"):
        plot.network_map(river(), np.ones(3))
    with pytest.raises(ValueError, match="found 7"):
        plot.network_map(river(), np.ones(4), gauges=[7])


def test_hydrograph_labels():
    figure = plot.hydrograph(
        np.arange(3), [1, NAN, 3], [1, 2, 3], precipitation=[0, 5, 0], spread=([0, 1, 2], [2, 3, 4])
    )
    text = texts(figure)
    assert "spread of the starts" in text and "uncertainty" not in text and "flow (mm/d)" in text
    low, high = figure.axes[0].get_ylim()
    assert low > high == 0


def test_what_has_no_number_is_written():
    text = texts(build()["errors"])
    assert "0 % at a bound, 50 % not identified" in text and "100 % at a bound, 0 % not identified" in text
    assert "2 basins, 1 without value" in texts(build()["against"])


def test_start_spread_counts_failures():
    scores = np.array([[0.8, 0.795, NAN], [0.5, 0.2, 0.45]])
    text = texts(plot.start_spread(scores, [0, 0]))
    assert "1 of 6 starts failed" in text
    # Shortfalls of the four others: 0.005, failed, 0.3, 0.05.
    assert "25 % within 0.01" in text and "50 % within 0.1" in text
    x, y = plot.start_spread(scores, [0, 0]).axes[1].lines[0].get_data()
    # The failed start keeps the curve from 1.
    assert np.isfinite(x).all() and y[-1] == 0.75
    assert "one start only" in texts(plot.start_spread(scores[:, :1], [0, 0]))
    with pytest.raises(TypeError, match="index of the start kept"):
        plot.start_spread(scores, scores[:, 0])
    with pytest.raises(ValueError, match=r"0\.\.2"):
        plot.start_spread(scores, [0, 3])


def test_parameter_bounds_flags_the_share():
    values = np.array([[0.0, 5.0], [0.0, 6.0], [1.0, 7.0], [0.4, 8.0]])
    at_bound = np.array([[1, 0], [1, 0], [1, 0], [0, 0]], dtype=bool)
    figure = plot.parameter_bounds(values, [0, 0], [1, 10], ["K", "FC"], at_bound)
    shares = {t.get_text(): t.get_weight() for t in figure.axes[0].texts if t.get_text().endswith("%")}
    assert shares == {"75 %": "bold", "0 %": "normal"}
    with pytest.raises(ValueError, match="does not hold for FC"):
        plot.parameter_bounds(values, [0, 10], [1, 10], ["K", "FC"], at_bound)


def test_shape_errors_name_the_argument():
    with pytest.raises(ValueError, match="sim must have shape"):
        plot.hydrograph(np.arange(3), np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match=r"scores\['a'\]"):
        plot.score_distribution({"a": np.ones((2, 2))})
    with pytest.raises(ValueError, match="at least one run"):
        plot.score_distribution({})


def test_save_is_atomic(tmp_path):
    class Broken:
        def savefig(self, file, **kwargs):
            file.write(b"half a picture")
            raise RuntimeError("disk full")

    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="disk full"):
        plot.save(Broken(), target)
    assert target.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="must end in .png"):
        plot.save(Figure(), tmp_path / "a.pdf")
    with pytest.raises(FileNotFoundError, match="the folder of .* must exist"):
        plot.save(Figure(), tmp_path / "none" / "a.png")


def test_a_page_holds_its_figures(tmp_path):
    figure = plot.save(plot.score_distribution({"a": np.linspace(0, 1, 9)}, "NSE"), tmp_path / "some_scores.png")
    page = write_page(tmp_path / "report.html", "a < b", "NSE 0.5\n& more", [figure], {"steps": 40})
    figure.unlink()
    text = page.read_text(encoding="utf-8")
    assert "<h1>a &lt; b</h1>" in text and "&amp; more" in text and "<td>40</td>" in text
    image = base64.b64decode(re.search(r'alt="some scores" src="data:image/png;base64,([^"]+)"', text)[1])
    assert image.startswith(b"\x89PNG") and "http" not in text


@pytest.mark.slow
def test_a_browser_shows_the_page(tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    figure = plot.save(plot.score_distribution({"a": np.linspace(0, 1, 9)}, "NSE"), tmp_path / "scores.png")
    page = write_page(tmp_path / "report.html", "Report", "NSE 0.5", [figure])
    # What the page says once it is loaded: the size of its image, which is 0 where it could not be shown.
    probe = "<script>onload = () => document.title = 'width ' + document.images[0].naturalWidth</script></body>"
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert int(re.search(r"<title>width (\d+)</title>", done.stdout)[1]) > 500, done.stderr
