"""What the folder watcher watches, and what it names its files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from lynceus.arrivals import FRAME_SUFFIX, OWN, PATTERNS
from lynceus.client import EXTENSIONS


@dataclass(frozen=True)
class Watched:
    """What is watched, and what is done with it.

    Attributes
    ----------
    folder : Path
        Where frames arrive.
    out : Path or None
        Where results go, with the sub-folders of the frames; beside the frames by default.
    format : str
        One of the service's.
    patterns : sequence of str
        Of file names, in lower case.
    recursive : bool
        Whether frames arrive in sub-folders too.
    dead_letters, state : Path or None
        Folders for reasons and for the spool; `dead-letters` and `.lynceus` in the folder by default.
    move : bool
        Whether a frame that is given up is moved to its reason.
    poll : float or None
        Seconds between two looks, for file systems that do not report changes; None to trust reports in between.
    settle, give_up : float
        Seconds a file must be at rest to be sent, and after which one that is incomplete is given up.
    tries : int
        How often the service may fail on a frame.
    concurrency : int
        Frames in flight.
    grace : float
        Seconds that those have when the watcher is stopped.
    once : bool
        Whether to stop when every frame has its result or reason.
    query : mapping
        Parameters of `/detect`.
    """

    folder: Path
    out: Path | None = None
    format: str = "votable"
    patterns: Sequence[str] = PATTERNS
    recursive: bool = False
    dead_letters: Path | None = None
    state: Path | None = None
    move: bool = False
    poll: float | None = None
    settle: float = 1.0
    give_up: float = 600.0
    tries: int = 5
    concurrency: int = 2
    grace: float = 30.0
    once: bool = False
    query: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state_folder(self) -> Path:
        """Where the spool is."""
        return self.state or self.folder / ".lynceus"

    @property
    def dead_folder(self) -> Path:
        """Where the reasons are."""
        return self.dead_letters or self.folder / "dead-letters"

    def skipped(self) -> list[Path]:
        """Folders that hold no frames, though they may lie among them."""
        own = [self.state_folder, self.dead_folder, *([self.out] if self.out else [])]
        return [path for path in own if path.resolve() != self.folder.resolve()]

    def results(self, name: str) -> Iterator[Path]:
        """Names for the result of a frame, the best first: `a.fits` gives `a.vot`, `a.fits.vot`, `a.fits.2.vot`, ..."""
        below = Path(name)
        folder = (self.out or self.folder).absolute() / below.parent
        extension = OWN if self.format == "fits" else EXTENSIONS[self.format]
        yield folder / (FRAME_SUFFIX.sub("", below.name) + extension)
        yield folder / (below.name + extension)
        for number in count(2):
            yield folder / f"{below.name}.{number}{extension}"

    def reason(self, name: str) -> Path:
        """Where the reason of a frame goes."""
        return self.dead_folder / f"{name}.reason.json"
