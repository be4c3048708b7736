"""Published medians of NSE on CAMELS-US, which a report sets beside its own."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """A row of the report's table; `ensemble` is how many members a flow is the mean of."""

    model: str
    basins: int
    forcing: str
    train: str
    test: str
    ensemble: int
    median_nse: float
    source: str


SHORT, LONG = ("1999-10..2008-09", "1989-10..1999-09"), ("1980-10..1995-09", "1995-10..2010-09")
PUBLISHED = (
    Published("LSTM", 531, "Maurer", *SHORT, 1, 0.731, "Kratzert et al. 2019, HESS 23:5089"),
    Published("LSTM", 531, "Maurer", *SHORT, 8, 0.758, "Kratzert et al. 2019, HESS 23:5089"),
    Published("LSTM (hydroDL)", 531, "Daymet", *SHORT, 1, 0.74, "mhpi.github.io, benchmarks"),
    Published("dHBV 1.0, beta and betaet by day", 671, "Daymet", *LONG, 1, 0.732, "Feng et al. 2022, WRR 58"),
    Published("dHBV, static", 671, "Daymet", *LONG, 1, 0.69, "mhpi.github.io, benchmarks"),
    Published("SAC-SMA", 671, "Daymet", *LONG, 1, 0.66, "mhpi.github.io, benchmarks"),
)
