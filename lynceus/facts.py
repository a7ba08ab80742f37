"""What a header says of the exposure, in the dialects that observatories speak."""

import re
from dataclasses import dataclass
from math import inf

from astropy.io.fits import Header
from astropy.time import Time, TimeDelta

from lynceus.fits_file import number, quiet, text
from lynceus.reading import Keywords

OLD_DATE = re.compile(r"(\d\d)/(\d\d)/(\d\d)")  # DD/MM/YY, until 1999
DATE = re.compile(r"\d{4}-\d\d-\d\d")
CLOCK = re.compile(r"\d{1,2}:\d{1,2}(:\d{1,2}(\.\d*)?)?")
# Anything else counts as UTC: UT1 differs by less than a second, and would need tables from the network.
TIME_SCALES = {"TAI": "tai", "TT": "tt", "TDT": "tt", "TDB": "tdb"}
LONGEST_EXPOSURE = 1e8  # seconds
FAINTEST_ZERO_POINT = 100.0  # magnitudes


@dataclass(frozen=True)
class Facts:
    """What the header says of the exposure; None where it says nothing usable.

    Attributes
    ----------
    gain : float or None
        Electrons per ADU.
    read_noise : float or None
        Electrons, root mean square.
    saturation : float or None
        The level, in ADU, from which a pixel counts as saturated.
    exposure_time : float or None
        Seconds.
    date_obs : str or None
        Start of the exposure, ISO 8601, UTC; the date alone where no time is known.
    filter : str or None
        Name of the filter.
    zero_point : float or None
        Magnitude of a source of 1 ADU.
    """

    gain: float | None = None
    read_noise: float | None = None
    saturation: float | None = None
    exposure_time: float | None = None
    date_obs: str | None = None
    filter: str | None = None
    zero_point: float | None = None

    @property
    def mid_time(self) -> str | None:
        """Middle of the exposure, ISO 8601, UTC; None where date, time or exposure time is unknown."""
        if self.date_obs is None or "T" not in self.date_obs or self.exposure_time is None:
            return None
        with quiet():
            middle = Time(self.date_obs, scale="utc") + TimeDelta(self.exposure_time / 2, format="sec")
            return str(middle.isot)


def read_facts(headers: tuple[Header, ...], keywords: Keywords) -> Facts:
    """Look the facts up.

    Parameters
    ----------
    headers : tuple of Header
        The HDU's own first, then the primary's.
    keywords : Keywords
        Under which names.

    Returns
    -------
    Facts
        A zero where only a positive number makes sense is how some cameras say "unknown", and
        is left out, as are strings where numbers belong.
    """
    tiny = 5e-324
    zero_point = _first_number(headers, keywords.zero_point, -FAINTEST_ZERO_POINT, FAINTEST_ZERO_POINT)
    return Facts(
        gain=_first_number(headers, keywords.gain, tiny),
        read_noise=_first_number(headers, keywords.read_noise, tiny),
        saturation=_first_number(headers, keywords.saturation, tiny),
        exposure_time=_first_number(headers, keywords.exposure_time, 0.0, LONGEST_EXPOSURE),
        date_obs=_start(headers, keywords),
        filter=first_text(headers, keywords.filter),
        zero_point=zero_point or None,
    )


def first_text(headers: tuple[Header, ...], keys: tuple[str, ...]) -> str | None:
    """Look up the first keyword that holds a string, in the first header that has one."""
    return next((found for header in headers for key in keys if (found := text(header, key))), None)


def _first_number(headers: tuple[Header, ...], keys: tuple[str, ...], low: float, high: float = inf) -> float | None:
    """Look up the first keyword that holds a number between two bounds."""
    numbers = (number(header, key) for header in headers for key in keys)
    return next((found for found in numbers if found is not None and low <= found <= high), None)


def _start(headers: tuple[Header, ...], keywords: Keywords) -> str | None:
    """Start of the exposure: DATE-OBS where it has a time, DATE-OBS and a clock, MJD-OBS, or the date alone."""
    scale = TIME_SCALES.get((first_text(headers, ("TIMESYS",)) or "UTC").upper(), "utc")
    date = _iso_date(first_text(headers, keywords.date_obs) or "")
    clocks = (text(header, key) or "" for header in headers for key in keywords.time_obs)
    clock = next((clock for clock in clocks if CLOCK.fullmatch(clock)), None)
    mjd = _first_number(headers, keywords.mjd_obs, 1.0, 1e6)
    if "T" not in date and date and clock:
        date = f"{date}T{clock}"
    start = _utc(date, scale) if "T" in date else None
    if start is None and mjd is not None:
        start = _utc(mjd, scale)
    return start or (date if DATE.fullmatch(date) and _utc(date, scale) else None)


def _iso_date(date: str) -> str:
    """Spell a date in the dialects of FITS as ISO 8601 does."""
    if old := OLD_DATE.fullmatch(date):
        day, month, year = old.groups()
        return f"19{year}-{month}-{day}"
    return date.removesuffix("Z").replace(" ", "T", 1)


def _utc(moment: str | float, scale: str) -> str | None:
    """A moment in UTC, ISO 8601 to the millisecond; None where it makes no sense."""
    try:
        with quiet():
            time = Time(moment, format="mjd" if isinstance(moment, float) else "isot", scale=scale)
            return str(time.utc.isot)
    except Exception:  # the date parsers of astropy and ERFA fail in many ways
        return None
