"""Which version serves which track, and which one a frame gets."""

from dataclasses import dataclass, replace

from service.refusals import UnknownModelError
from service.served import Served
from service.versions import CANARY, STABLE

HASH_DIGITS = 8  # hexadecimal digits of a frame's sha256 that draw its version


@dataclass(frozen=True, eq=False)
class Lineup:
    """The versions that are loaded; a change makes a new one, so that nobody ever sees half of it.

    Attributes
    ----------
    stable : Served
        Serves whoever asks for nothing else.
    canary : Served or None
        The version that is tried out.
    """

    stable: Served
    canary: Served | None = None

    @property
    def all(self) -> list[Served]:
        """What is loaded, stable first."""
        return [self.stable] + ([self.canary] if self.canary else [])

    @property
    def other(self) -> Served | None:
        """The canary, if it is another version than stable."""
        return self.canary if self.canary and self.canary.bundle is not self.stable.bundle else None

    def with_served(self, track: str, served: Served | None) -> "Lineup":
        """The same with another version, or none, for a track."""
        if track == CANARY:
            return replace(self, canary=served)
        assert served is not None
        return replace(self, stable=served)

    def on_track(self, track: str) -> Served | None:
        """What serves a track."""
        return {STABLE: self.stable, CANARY: self.canary}[track]

    def asked(self, name: str | None) -> Served | None:
        """The version of that name; None if the request names none.

        Raises
        ------
        UnknownModelError
            If it is not loaded.
        """
        if name is None:
            return None
        for served in self.all:
            if name in served.names:
                return served
        loaded = ", ".join(f"{served.ref} as {served.track}" for served in self.all)
        raise UnknownModelError(f"no version or track {name[:40]!r} is loaded; there is {loaded}")

    def drawn(self, sha256: str, canary_share: float) -> Served:
        """The version of a frame that asks for none: the same frame always draws the same."""
        if self.other is None or draw(sha256) >= canary_share:
            return self.stable
        return self.other


def draw(sha256: str) -> float:
    """A number in [0, 1) that depends on the frame alone."""
    return float(int(sha256[:HASH_DIGITS], 16) / 16**HASH_DIGITS)
