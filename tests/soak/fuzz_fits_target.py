"""What atheris runs over and over, in a process of its own: `python -m tests.soak.fuzz_fits_target OPTIONS CORPUS`."""

import sys
from contextlib import suppress
from random import Random

import atheris

with atheris.instrument_imports(include=["lynceus", "astropy.io.fits"]):
    from lynceus.errors import LynceusError
    from lynceus.fits_file import Limits
    from lynceus.frame import read_frame, read_frames
    from lynceus.tables import read_catalogue

from tests.fuzz.words import NAMES, VALUES

CARD = 80
LIMITS = Limits(pixels=1_000_000, bytes=20_000_000)


def one_input(data: bytes) -> None:
    """Read some bytes in every way that an upload is read; only errors of ours may come of it."""
    for read in (_frames, _named, read_catalogue):
        with suppress(LynceusError):
            read(data)


def _frames(data: bytes) -> None:
    for frame in read_frames(data, limits=LIMITS):
        assert frame.pixels.size <= LIMITS.pixels
        assert len(frame.warnings) <= 10


def _named(data: bytes) -> None:
    read_frame(data, "1", limits=LIMITS)


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """Half of the time change a card, as a FITS file has it; else whatever libFuzzer thinks of."""
    random = Random(seed)
    if random.random() < 0.5 or not data.startswith(b"SIMPLE"):
        return atheris.Mutate(data, most)
    at = random.randrange(max(1, min(len(data), 8640) // CARD)) * CARD
    name = data[at : at + 8] if random.random() < 0.6 else random.choice(NAMES).encode().ljust(8)[:8]
    card = (name + b"= " + random.choice(VALUES).encode().rjust(20)).ljust(CARD)[:CARD]
    return (data[:at] + card + data[at + random.choice((0, CARD, CARD)) :])[:most]


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input, custom_mutator=mutate)
    atheris.Fuzz()
