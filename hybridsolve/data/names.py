"""Which variable of a file is precipitation, temperature or flow: by aliases, CF standard names, or the user's word."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import xarray as xr

from .ids import listed

SERIES = ("prcp", "tmean", "tmin", "tmax", "pet", "qobs")
STATIC = ("lat", "lon", "area_km2")
KEYS = (*SERIES, *STATIC, "basin", "time")

# Compared without letters' case, with "_" for blanks, dots and dashes, and without a product's or a unit's ending.
ALIASES = {
    "prcp": (
        "prcp", "pr", "precip", "precipitation", "precipitations", "precipitation_sum", "precipitation_mean",
        "precipitation_amount", "precipitation_rate", "precipitation_flux", "total_precipitation",
        "total_precipitation_sum", "total_precip", "precipitationcal", "precipitation_cal", "tp", "mtpr", "rain",
        "rainfall", "rainfall_amount", "p", "ppt", "rr", "pcp", "prec", "preciptot", "tsd_prec",
    ),
    "tmean": (
        "tmean", "tas", "t2m", "tg", "tavg", "tair", "temp", "temperature", "temperature_mean", "temp_mean",
        "mean_temperature", "air_temperature", "air_temp", "temperature_2m", "temperature_2m_mean", "2m_temperature",
        "2m_temp_mean", "tm", "ta", "t", "t_mean", "tsd_temp",
    ),
    "tmin": (
        "tmin", "tasmin", "tn", "mn2t", "temperature_min", "temp_min", "min_temperature", "temperature_2m_min",
        "2m_temp_min", "t_min", "tsd_temp_min",
    ),
    "tmax": (
        "tmax", "tasmax", "tx", "mx2t", "temperature_max", "temp_max", "max_temperature", "temperature_2m_max",
        "2m_temp_max", "t_max", "tsd_temp_max",
    ),
    "pet": (
        "pet", "pev", "evspsblpot", "evpot", "potevap", "et0", "eto", "etp", "potential_evaporation",
        "potential_evapotranspiration", "potential_evapotransp", "potential_evaporation_sum",
        "reference_evapotranspiration", "tsd_pet_ou", "tsd_pet_pe", "tsd_pet_pm",
    ),
    "qobs": (
        "qobs", "q", "q_obs", "obs_q", "discharge", "discharge_spec", "discharge_vol", "discharge_spec_obs",
        "discharge_vol_obs", "observed_discharge", "streamflow", "stream_flow", "flow", "runoff", "runoff_mean",
        "tsd_q_l", "tsd_q_mm",
    ),
    "lat": (
        "lat", "latitude", "gauge_lat", "gauge_latitude", "lat_gauge", "station_lat", "basin_lat",
        "lat_outlet", "lat_centroid",
    ),
    "lon": (
        "lon", "longitude", "gauge_lon", "gauge_longitude", "lon_gauge", "station_lon", "basin_lon", "lon_outlet",
        "lon_centroid", "long", "lng",
    ),
    "area_km2": (
        "area_km2", "area", "area_gages2", "area_geospa_fabric", "catchment_area", "basin_area", "drainage_area",
        "drain", "area_calc", "upstream_area", "area_forcing",
    ),
}  # fmt: skip
STANDARD_NAMES = {
    "precipitation_flux": "prcp",
    "precipitation_amount": "prcp",
    "lwe_precipitation_rate": "prcp",
    "lwe_thickness_of_precipitation_amount": "prcp",
    "air_temperature": "tmean",
    "water_potential_evaporation_flux": "pet",
    "water_potential_evaporation_amount": "pet",
    "lwe_thickness_of_water_potential_evaporation_amount": "pet",
    "water_volume_transport_in_river_channel": "qobs",
    "latitude": "lat",
    "longitude": "lon",
}
# Endings that name a data product and not another quantity.
_PRODUCTS = (
    "agcd", "awap", "silo", "cr2met", "chirps", "mswep", "tmpa", "cpc", "gleam", "hargreaves", "era5", "era5_land",
    "daymet", "maurer", "nldas", "imerg", "gpm", "eobs", "hyras", "fao_penman_monteith",
)  # fmt: skip
# Endings that say the unit, as national data sets write them.
_UNITS = {
    "mmd": "mm d-1", "mm_d": "mm d-1", "mmday": "mm d-1", "mm_day": "mm d-1", "mmh": "mm h-1", "mm_h": "mm h-1",
    "mmhr": "mm h-1", "mm_hr": "mm h-1", "mm": "mm", "m3s": "m3 s-1", "m3_s": "m3 s-1", "cms": "m3 s-1",
    "cfs": "ft3 s-1", "ft3s": "ft3 s-1", "ft3_s": "ft3 s-1", "mld": "ML d-1", "l_s": "l s-1", "degc": "degC",
    "degf": "degF", "km2": "km2", "sqkm": "km2", "m2": "m2", "mi2": "mi2", "sqmi": "mi2", "ha": "ha",
}  # fmt: skip
_DOCUMENTED_UNITS = {"area_gages2": "km2", "area_geospa_fabric": "km2"}  # Addor et al. 2017

_MEANING = {key: ours for ours, keys in ALIASES.items() for key in keys}
_HEADER = re.compile(r"(?P<name>.*\S)\s*(?:\[(?P<unit>[^\[\]]*)\]|\((?P<other>[^()]*(?:\([^()]*\)[^()]*)*)\))\s*")
_SUM = re.compile(r"((?:\w+\s*:\s*)+)sum\b")


@dataclass(frozen=True)
class NameOption:
    """What the user says of one name: a variable or a number; its unit, whether it is a sum, its code for missing."""

    variable: str | None = None
    number: float | None = None
    unit: str | None = None
    summed: bool = False
    missing: float | None = None


def split_header(text: str) -> tuple[str, str | None]:
    """Name and unit of a header such as ``prcp [mm/d]`` or ``QObs(mm/d)``."""
    match = _HEADER.fullmatch(str(text).strip())
    if match is None:
        return str(text).strip(), None
    return match["name"].strip(), (match["unit"] or match["other"] or "").strip()


def split_unit(text: str) -> tuple[str | None, bool, float | None]:
    """Unit, whether a sum, and the code for missing, of ``mm sum missing -999``."""
    words, summed, missing = text.split(), False, None
    if "missing" in words:
        at = words.index("missing")
        try:
            missing = float(words[at + 1])
        except (IndexError, ValueError):
            raise ValueError(
                f"'missing' in '[{text}]' must be followed by a number, as in [mm d-1 missing -999]; correct it."
            ) from None
        del words[at : at + 2]
    if "sum" in words:
        words.remove("sum")
        summed = True
    return " ".join(words) or None, summed, missing


def parse_names(names, more: Sequence[str] = ()) -> dict[str, NameOption]:
    """What the user says of names: ``"prcp=pr,tmean=tas[K],qobs=Q[mm sum missing -999],lat=50.9"``, or a mapping.

    Known names are `KEYS` and `more`, those of a model's forcings.

    Raises
    ------
    ValueError
        Malformed, an unknown name, or a name given twice.
    """
    if not names:
        return {}
    if isinstance(names, str):
        pairs = []
        for part in re.split(r",(?![^\[]*\])", names):
            key, equals, value = part.partition("=")
            if not (equals and key.strip() and value.strip()):
                raise ValueError(
                    f"names must be written prcp=pr,tmean=tas[K], found '{part.strip()}'; write NAME=VARIABLE with "
                    "commas between."
                )
            pairs.append((key.strip(), value.strip()))
    elif isinstance(names, Mapping):
        pairs = [(str(key), value) for key, value in names.items()]
    else:
        raise ValueError(f"names must be text or a mapping, found {type(names).__name__}; write {{'prcp': 'pr'}}.")
    asked: dict[str, NameOption] = {}
    for key, value in pairs:
        known = list(dict.fromkeys([*more, *KEYS]))
        if key not in known:
            raise ValueError(f"names knows {', '.join(known)}, found '{key}'; write NAME=VARIABLE, as in prcp=pr.")
        if key in asked:
            raise ValueError(f"names must give '{key}' once, found it twice; keep one of them.")
        asked[key] = _asked(key, str(value))
    return asked


def _asked(key: str, text: str) -> NameOption:
    match = re.fullmatch(r"(?P<variable>[^\[\]]*[^\[\]\s])\s*(?:\[(?P<unit>[^\[\]]*)\])?", text.strip())
    if match is None:
        raise ValueError(f"names must give '{key}' as VARIABLE or VARIABLE[unit], found '{text}'; correct it.")
    unit, summed, missing = split_unit(match["unit"] or "")
    if key in STATIC:
        try:
            return NameOption(number=float(match["variable"]), unit=unit)
        except ValueError:
            pass  # a variable's name
    return NameOption(match["variable"], None, unit, summed, missing)


def key_of(name) -> str:
    """A name as it is compared."""
    return re.sub(r"[\s.\-]+", "_", split_header(name)[0]).strip("_").casefold()


def role_of(name: str) -> str:
    """Our name of what a model calls by another, as rainfall is prcp; else that name itself."""
    return _MEANING.get(key_of(name), name)


def of_role(ds: xr.Dataset, role: str) -> str | None:
    """The series over time and basin that has one of our names, or whose name means the same; None if none has."""
    series = [str(name) for name in ds.data_vars if set(ds[name].dims) == {"time", "basin"}]
    return role if role in series else next((name for name in series if role_of(name) == role), None)


def _endings(key: str):
    """The name, and what is left of it without a product or a unit at its end."""
    yield key
    for ending in (*_PRODUCTS, *_UNITS):
        if key.endswith(f"_{ending}"):
            yield key[: -len(ending) - 1]


def _unit_ending(key: str) -> str | None:
    if key in _DOCUMENTED_UNITS:
        return _DOCUMENTED_UNITS[key]
    fitting = [e for e in _UNITS if key.endswith(f"_{e}")]
    return _UNITS[max(fitting, key=len)] if fitting else None


def meaning(name, variable: xr.DataArray) -> str | None:
    """Our name of a variable, or None."""
    ours = next((_MEANING[key] for key in _endings(key_of(name)) if key in _MEANING), None)
    standard = str(variable.attrs.get("standard_name", "")).strip()
    if ours is None or (standard and len(key_of(name)) == 1):  # p, q and t are pressure and humidity elsewhere
        ours = STANDARD_NAMES.get(standard)
    if ours == "tmean":  # extremes have the standard name of the mean
        methods = str(variable.attrs.get("cell_methods", ""))
        ours = "tmin" if "minimum" in methods else "tmax" if "maximum" in methods else ours
    return ours


def unit_of(name, variable: xr.DataArray) -> str | None:
    """The unit that a variable's attribute says, else its header or the ending of its name; None where none does."""
    said = variable.attrs.get("units")
    if said is not None and str(said).strip():
        return str(said).strip()
    header = split_header(name)[1]
    return header or _unit_ending(key_of(name))


def is_sum(variable: xr.DataArray, time_names) -> bool:
    """Whether ``cell_methods`` says that values are sums over time."""
    found = _SUM.findall(str(variable.attrs.get("cell_methods", "")))
    return any(over.strip().casefold() in time_names for dims in found for over in dims.split(":"))


def refer(ds: xr.Dataset, wanted: str | None, what: str, where: str) -> str:
    """The variable that the user means, or raise."""
    found = _meant(ds, wanted)
    if found is None:
        raise ValueError(
            f"names says {what}={wanted}, and {where} must hold that variable, found {listed(ds.variables)}; correct "
            "the name."
        )
    return found


def _meant(ds: xr.Dataset, wanted: str | None) -> str | None:
    """The only variable of that name, that header, or that name but for letters' case."""
    for same in (
        lambda v: str(v) == wanted,
        lambda v: ds[v].attrs.get("long_name") == wanted,
        lambda v: key_of(v) == key_of(wanted),
    ):
        found = [v for v in ds.variables if same(v)]
        if len(found) == 1:
            return str(found[0])
    return None


def choose(ds: xr.Dataset, candidates, asked: Mapping[str, NameOption], wanted, where: str, *, strict: bool) -> dict:
    """Our names and the variables for them: what the user says, else our own name, else the only one of that meaning.

    Where several have one meaning: refused if `strict`, else none of them is chosen.
    """
    named = [name for name in wanted if name in asked]
    wrong = [name for name in named if not _meant(ds, asked[name].variable)]
    if len(wrong) > 1:
        raise ValueError(
            f"names says {', '.join(f'{name}={asked[name].variable}' for name in wrong)}, and {where} must hold these "
            f"variables, found {listed(ds.variables)}; correct the names."
        )
    chosen = {name: refer(ds, asked[name].variable, name, where) for name in named}
    for name, variable in chosen.items():
        if variable not in candidates:
            raise ValueError(
                f"names says {name}={variable}, which has dimensions ({', '.join(map(str, ds[variable].dims))}) in "
                f"{where} and cannot be {name}; choose another variable."
            )
    taken = set(chosen.values())
    if len(taken) < len(chosen):
        raise ValueError(f"names must give each variable once, found {chosen}; name another for one of them.")
    rest = [v for v in candidates if v not in taken]
    chosen |= {name: name for name in wanted if name not in chosen and name in rest}
    meanings = {v: meaning(v, ds[v]) for v in rest if v not in chosen.values()}
    for name in (name for name in wanted if name not in chosen):
        free = [v for v in meanings if v not in chosen.values()]
        found = [v for v in free if meanings[v] == role_of(name) or key_of(v) == key_of(name)]
        if len(found) > 1 and strict:
            raise ValueError(
                f"{name} must be one variable, and {where} has {len(found)} that may be it, {listed(found)}; say which "
                f"with names, as in --names {name}={found[0]}."
            )
        if len(found) == 1:
            chosen[name] = found[0]
    return {name: chosen[name] for name in wanted if name in chosen}
