"""How a file is read: the keywords its facts are looked up under, and what it may cost."""

from lynceus.spec import Spec


class Limits(Spec):
    """What a file may cost, checked before anything is allocated.

    Attributes
    ----------
    bytes : int
        Size of the file, compressed and after decompression.
    pixels : int
        Pixels decoded from one file.
    header_cards : int
        Cards in all headers together.
    hdus : int
        HDUs in a file.
    """

    bytes: int = 2 * 1024**3
    pixels: int = 20_000 * 20_000
    header_cards: int = 100_000
    hdus: int = 1000


class Keywords(Spec):
    """The header keywords each fact is looked up under, the first usable wins.

    Only keywords whose meaning is the fact's are here. Left out on purpose: ESO's `DET OUT1 GAIN`
    (ADU per electron, the inverse), `DATAMAX` (often just the largest pixel), `MAGZPT` and `L1ZP`
    (of 1 ADU *per second*), `FULLWELL` (electrons).
    """

    # Amateur and CMOS cameras write a setting of the amplifier as GAIN, and the gain itself as EGAIN.
    gain: tuple[str, ...] = ("EGAIN", "GAIN", "GAINEFF", "ATODGAIN", "CCDGAIN", "ESO DET OUT1 CONAD")
    read_noise: tuple[str, ...] = (
        "RDNOISE", "READNOIS", "READNOISE", "RDNOIS", "ENOISE", "RON", "READNSE", "ESO DET OUT1 RON"
    )  # fmt: skip
    saturation: tuple[str, ...] = ("SATURATE", "SATLEVEL", "SATURLEV", "MAXLIN")
    exposure_time: tuple[str, ...] = ("EXPTIME", "EXPOSURE", "EXP_TIME", "EXPOSURETIME", "ITIME")
    date_obs: tuple[str, ...] = ("DATE-OBS", "DATE-BEG", "DATE_OBS", "UTDATE")
    time_obs: tuple[str, ...] = ("TIME-OBS", "UTSTART", "UT", "UTC-OBS", "UT-OBS", "TIME_OBS", "UTC")
    mjd_obs: tuple[str, ...] = ("MJD-OBS", "MJD-BEG", "MJD_OBS")
    filter: tuple[str, ...] = ("FILTER", "FILTNAM", "FILTER1", "BAND", "ESO INS FILT1 NAME")
    zero_point: tuple[str, ...] = ("MAGZERO", "PHOTZP", "MAGZP")
    data_section: tuple[str, ...] = ("DATASEC",)
    bayer_pattern: tuple[str, ...] = ("BAYERPAT", "COLORTYP", "FILTER")
