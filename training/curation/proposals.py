"""From the facts of a frame to the labels that are proposed for it, each with its reason."""

import re
from dataclasses import dataclass

from pydantic import Field

from lynceus.spec import Spec
from training.curation.labels import in_order
from training.curation.quality import SHARPEST, Quality

HARMFUL = ("TRACE", "LIGHT", "background_pattern", "KO")  # a frame with one of them is not `OK`
COMET_NAME = re.compile(r"(?i)\b(?:[CPDXAI]/\s*-?\d{1,4}\s*[A-Z]{1,2}\d*|\d{1,3}[PD](?:[/\s-]|$)|comet)")


class ProposalSpec(Spec):
    """From where on a fact speaks for a label.

    Attributes
    ----------
    saturated_share, saturated_area : float, int
        ESO: share of the frame's pixels, or pixels of one spot, that are saturated.
    trail, trail_length : float
        TRACE: significance of a line, and its length over the shorter side of the frame.
    large : float
        GALAXY, COMET: diameter of an object, in FWHM of point sources; and so many pixels in any case.
    large_px : float
        See `large`.
    sharp : float
        An object with higher `sharpness` is a star.
    over_pattern : float
        And it rises by so many times the spread of the background's pattern.
    lopsided : float
        COMET: the brightest part is so far from the middle, in radii.
    outstanding : float
        COMET: it is so many times larger than any other large object.
    leak_share : float
        LIGHT: extended light that goes beyond the frame's edge covers so much of it; `halo_share` where its brightest
        part is a saturated star.
    halo_share : float
        See `leak_share`.
    gradient, gradient_sigma : float
        LIGHT: the smooth background changes by more, over its level and in units of its noise, both.
    pattern : float
        background_pattern: spread of what a smooth background leaves, in units of the sky noise.
    crowded : float
        No pattern is proposed where there are more sources on a Mpx: their light makes one.
    companion_chance : float
        BINARY: such pairs of stars that chance gives, at most.
    drift : float
        KO: point sources share a greater ellipticity.
    fwhm_px : float
        KO: point sources are larger.
    masked_share, all_saturated : float
        KO: more of the frame is masked, or saturated.
    fewest_sources : int
        KO: the frame has fewer.
    """

    saturated_share: float = Field(2e-4, ge=0)
    saturated_area: int = Field(60, ge=1)
    trail: float = Field(10.0, gt=0)
    trail_length: float = Field(0.3, ge=0)
    large: float = Field(8.0, gt=0)
    large_px: float = Field(40.0, gt=0)
    sharp: float = Field(SHARPEST, gt=0)
    over_pattern: float = Field(6.0, ge=0)
    lopsided: float = Field(0.22, gt=0)
    outstanding: float = Field(1.5, ge=1)
    leak_share: float = Field(0.02, gt=0)
    halo_share: float = Field(0.15, gt=0)
    gradient: float = Field(0.6, gt=0)
    gradient_sigma: float = Field(5.0, gt=0)
    pattern: float = Field(0.25, gt=0)
    crowded: float = Field(8000.0, gt=0)
    companion_chance: float = Field(0.02, ge=0)
    drift: float = Field(0.45, gt=0)
    fwhm_px: float = Field(16.0, gt=0)
    masked_share: float = Field(0.5, ge=0)
    all_saturated: float = Field(0.05, ge=0)
    fewest_sources: int = Field(3, ge=0)


@dataclass(frozen=True)
class Proposal:
    """Labels for a frame, and why: a reason for each, in the user's words, in the order of the labels."""

    labels: tuple[str, ...]
    why: tuple[str, ...]


def propose(quality: Quality, spec: ProposalSpec, target: str = "") -> Proposal:
    """Propose labels for a frame.

    Parameters
    ----------
    quality : Quality
        Its facts.
    spec : ProposalSpec
        From where on they speak for a label.
    target : str
        OBJECT of its header, which may name a comet.

    Returns
    -------
    Proposal
        `OK` unless something harmful was found; others beside it.
    """
    found = {
        "ESO": _saturated(quality, spec),
        "TRACE": _trail(quality, spec),
        "COMET": _comet(quality, spec, target),
        "GALAXY": _galaxy(quality, spec),
        "BINARY": _binary(quality, spec),
        "LIGHT": _light(quality, spec),
        "background_pattern": _pattern(quality, spec),
        "KO": _useless(quality, spec),
    }
    reasons = {label: why for label, why in found.items() if why}
    if not any(label in reasons for label in HARMFUL):
        reasons["OK"] = "nothing speaks against it"
    labels = in_order(reasons)
    return Proposal(labels, tuple(f"{label}: {reasons[label]}" for label in labels))


def _saturated(quality: Quality, spec: ProposalSpec) -> str:
    if quality.saturated_area >= spec.saturated_area:
        return f"a saturated spot of {quality.saturated_area} px"
    if quality.saturated_share >= spec.saturated_share:
        return f"{100 * quality.saturated_share:.2g} % of the pixels are saturated"
    return ""


def _trail(quality: Quality, spec: ProposalSpec) -> str:
    if quality.trail < spec.trail or quality.trail_length < spec.trail_length:
        return ""
    x0, y0, x1, y1 = (round(end) for end in quality.trail_ends)
    return f"a straight line from ({x0}, {y0}) to ({x1}, {y1}), {quality.trail:.0f} sigma over what is beside it"


def _large(quality: Quality, spec: ProposalSpec) -> list[dict[str, float]]:
    """Objects that are large, whole, and no stars."""
    least = max(spec.large * (quality.fwhm_px or 0.0), spec.large_px)
    return [
        one
        for one in quality.extended
        if one["diameter"] >= least
        and one["sharpness"] <= spec.sharp
        and one["height"] >= spec.over_pattern * quality.pattern
        and not (one["saturated"] or one["at_edge"])
    ]


def _comet(quality: Quality, spec: ProposalSpec, target: str) -> str:
    if COMET_NAME.search(target):
        return f"OBJECT is {target!r}"
    large = _large(quality, spec)
    if not large or large[0]["lopsided"] < spec.lopsided:
        return ""
    if len(large) > 1 and large[0]["diameter"] < spec.outstanding * large[1]["diameter"]:
        return ""  # in a field of galaxies two of them overlap sooner than that a comet comes by
    return f"{_where(large[0])} whose brightest part is at one side"


def _galaxy(quality: Quality, spec: ProposalSpec) -> str:
    large = _large(quality, spec)
    even = [one for one in large if one["lopsided"] < spec.lopsided]
    if even:
        return _where(even[0])
    return _where(large[0]) if large and not _comet(quality, spec, "") else ""


def _where(one: dict[str, float]) -> str:
    return f"an object of {one['diameter']:.0f} px at ({one['x']:.0f}, {one['y']:.0f})"


def _binary(quality: Quality, spec: ProposalSpec) -> str:
    if quality.companion_px is None or (quality.companion_chance or 0.0) > spec.companion_chance:
        return ""
    return f"two of the brightest stars are {quality.companion_px:.1f} px apart"


def _light(quality: Quality, spec: ProposalSpec) -> str:
    for one in quality.extended:
        if one["at_edge"] and one["share"] >= (spec.halo_share if one["saturated"] else spec.leak_share):
            return f"light from beyond the edge on {100 * one['share']:.0f} % of the frame"
    if quality.gradient > spec.gradient and quality.gradient_sigma > spec.gradient_sigma:
        return f"the background changes by {100 * quality.gradient:.0f} % over the frame"
    return ""


def _pattern(quality: Quality, spec: ProposalSpec) -> str:
    if quality.pattern < spec.pattern or quality.sources_per_mpx > spec.crowded or _light(quality, spec):
        return ""  # what light from beyond the edge leaves is no pattern of its own
    return f"the background has structure of {quality.pattern:.2f} sigma that no smooth surface follows"


def _useless(quality: Quality, spec: ProposalSpec) -> str:
    drift, fwhm = quality.drift or 0.0, quality.fwhm_px or 0.0
    faults = (
        (quality.masked_share > spec.masked_share, f"{100 * quality.masked_share:.0f} % of the pixels have no value"),
        (quality.saturated_share > spec.all_saturated, f"{100 * quality.saturated_share:.0f} % of it is saturated"),
        (quality.sources < spec.fewest_sources, f"{quality.sources} sources are seen on it"),
        (drift > spec.drift, f"stars are drawn out to lines, all one way: ellipticity {drift:.2f}"),
        (fwhm > spec.fwhm_px, f"stars are out of focus: FWHM {fwhm:.1f} px"),
    )
    return "; ".join(text for fault, text in faults if fault)
