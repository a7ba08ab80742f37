"""The figures of the real tests."""

from lynceus.figures import Figures
from training.scenarios.confirmed import Missing
from training.scenarios.field import TruthLimits


class Finding(Figures):
    """How one finder does against the truth of a frame; chance matches count as wrong.

    Attributes
    ----------
    completeness_at : dict of str to float
        The highest completeness of any threshold that is at least so reliable; 0 where none is.
    most_reliable : float
        The highest reliability from 2 % completeness up.
    best_f1 : float
        As counted.
    curve : tuple of (float, float)
        Completeness and reliability.
    """

    completeness_at: dict[str, float]
    most_reliable: float
    best_f1: float
    curve: tuple[tuple[float, float], ...]


class Against(Figures):
    """Every finder against one truth.

    Attributes
    ----------
    finders : dict of str to Finding
        By name, ours first.
    shipped : (float, float) or None
        Our completeness and reliability at the shipped threshold.
    sure_matched : float or None
        The share of sure detections with an object: no list can be much more reliable than this.
    allowed : (float, float)
        The range of reliability that the truth allows: from what sure detections reach down to a half.
    lead : (float, float)
        Our completeness less that of the best rival over that range: the least and the mean.
    """

    finders: dict[str, Finding]
    shipped: tuple[float, float] | None
    sure_matched: float | None
    allowed: tuple[float, float]
    lead: tuple[float, float] | None


class BandFigures(Figures):
    """One band of the field.

    Attributes
    ----------
    about : str
        What it tests.
    seeing : float
        Pixels, FWHM.
    seconds : float or None
        Ours took for the frame; None where the list was kept from before.
    limits : TruthLimits
        What the truth allows.
    extracted : Against
        The truth as it was extracted.
    missing : Missing or None
        What it lacks; None where the frames that tell are absent.
    completed : Against or None
        The truth with that.
    """

    about: str
    seeing: float
    seconds: float | None
    limits: TruthLimits
    extracted: Against
    missing: Missing | None
    completed: Against | None


class Control(Figures):
    """A frame without stars: detections from the shipped threshold up, and in a million pixels."""

    pixels: int
    detections: int
    per_megapixel: float
    surest: float | None


class CatalogueFigures(Figures):
    """Against a catalogue that a program wrote, at the shipped threshold and at the best one."""

    sources: int
    completeness: float
    reliability: float
    f1: float
    best_f1: float
    best_threshold: float


class RealFigures(Figures):
    """All real tests of one bundle."""

    bundle: str
    threshold: float
    bands: dict[str, BandFigures]
    catalogue: CatalogueFigures | None
    controls: dict[str, Control]
