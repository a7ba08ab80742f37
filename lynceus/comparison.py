"""A comparison of two versions: who was asked, how, and all that came of it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field

from lynceus.decision import Decision, DecisionSpec
from lynceus.errors import ComparisonError
from lynceus.evidence import Evidence, Version
from lynceus.injection import PlantSpec
from lynceus.pairing import Pairing
from lynceus.spec import Spec

SCHEMA_VERSION = "1.0"
MODEL = re.compile(r"[A-Za-z0-9][\w.+-]*(/[A-Za-z0-9][\w.+-]*)?")


class CompareSpec(Spec):
    """How two versions are compared.

    Attributes
    ----------
    plant : PlantSpec
        How stars are planted in the frames; a count of 0 plants none.
    faint_below : float
        Planted stars of a lower signal to noise are the faint ones.
    invert : bool
        Whether the frames are shown upside down too.
    decision : DecisionSpec
        Confidence and tolerances.
    allow_same : bool
        Whether a version may be compared with itself.
    drawn : int
        How many of the most different frames are kept to be drawn.
    timeout : float
        Seconds that an answer may take.
    seed : int
        Of the planted stars.
    """

    plant: PlantSpec = PlantSpec()
    faint_below: float = Field(10.0, gt=0)
    invert: bool = True
    decision: DecisionSpec = DecisionSpec()
    allow_same: bool = False
    drawn: int = Field(4, ge=0)
    timeout: float = Field(300.0, gt=0)
    seed: int = 0


@dataclass(frozen=True)
class Endpoint:
    """One version on one server.

    Attributes
    ----------
    url : str
        Of the server.
    model : str
        A track, a version, or `name/version`.
    """

    url: str
    model: str = "stable"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `http://host:3000`, which means its stable version, or `http://host:3000@canary`.

        Raises
        ------
        ComparisonError
            If it is no such address.
        """
        url, at, model = text.strip().rpartition("@")
        if not at:
            url, model = text.strip(), "stable"
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not MODEL.fullmatch(model):
            raise ComparisonError(
                f"{text!r} is no version on a server; write http://host:3000, http://host:3000@canary or "
                "http://host:3000@name/version"
            )
        return cls(url, model)

    def __str__(self) -> str:
        return f"{self.url}@{self.model}"


@dataclass(frozen=True, eq=False)
class Difference:
    """A frame that the versions see differently."""

    path: Path
    pairing: Pairing

    @property
    def amount(self) -> float:
        """Detections that only one has, and what the boxes of the others lack in overlap."""
        alone = int(self.pairing.lost.sum()) + int(self.pairing.gained.sum())
        return alone + float((1 - self.pairing.shifts["box_iou"]).sum())


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two versions compared.

    Attributes
    ----------
    stable, canary : Version
        Who was compared.
    endpoints : (Endpoint, Endpoint)
        Where they were asked.
    decision : Decision
        What is to be done with the canary.
    evidence : Evidence
        What was seen, frame by frame.
    differences : tuple of Difference
        The most different frames, most different first.
    spec : CompareSpec
        How it was done.
    made : str
        When, ISO 8601, UTC.
    """

    stable: Version
    canary: Version
    endpoints: tuple[Endpoint, Endpoint]
    decision: Decision
    evidence: Evidence
    differences: tuple[Difference, ...]
    spec: CompareSpec
    made: str

    def described(self) -> dict[str, Any]:
        """All of it in plain types, fit for JSON."""
        versions = zip(("stable", "canary"), (self.stable, self.canary), self.endpoints, strict=True)
        return {
            "schema_version": SCHEMA_VERSION,
            "outcome": self.decision.outcome.value,
            "exit_code": self.decision.outcome.exit_code,
            "reasons": list(self.decision.reasons),
            "versions": {role: version.model_dump() | {"endpoint": str(end)} for role, version, end in versions},
            "made": self.made,
            "quantities": [one.model_dump(mode="json") for one in self.decision.quantities],
            **self.evidence.model_dump(mode="json"),
            "settings": self.spec.model_dump(mode="json"),
        }
