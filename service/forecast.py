"""Whether frames can be answered in time: deadlines against tiles, in the order of the deadlines."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

CAUTION = 0.6  # of the time left may be spoken for when an upload is let in: forecasts err
CERTAINTY = 0.7  # the same, once the tiles are known
PRESSED = 0.5  # of the time left, spoken for, and frames go by their deadlines instead of by turns


class Need(NamedTuple):
    """The tiles of one frame that the network must still see, and when it must be done with them (monotonic)."""

    tiles: float
    due: float


def finishes(needs: Iterable[Need], tile_seconds: float, now: float) -> Iterator[tuple[Need, float]]:
    """When each is done, in seconds from now, if they go by their deadlines.

    What cannot be done in time even alone is left out: it goes last and delays nobody.
    """
    finish = 0.0
    for need in sorted(needs, key=lambda one: one.due):
        own = need.tiles * tile_seconds
        if own <= need.due - now:
            finish += own
            yield need, finish


def lateness(new: Need, others: Sequence[Need], tile_seconds: float, now: float, spare: float = 0.0) -> float:
    """By how many seconds a frame, or one that it delays, would be late; 0 if none.

    Parameters
    ----------
    new : Need
        Asks to be admitted.
    others : sequence of Need
        Those that are.
    tile_seconds : float
        Of the device, a tile.
    now : float
        Monotonic time.
    spare : float
        Seconds before it is due that it must be done. It still goes when it is due, and those due earlier go before it.
    """
    own = new.tiles * tile_seconds
    ahead, late = 0.0, 0.0
    for need, finish in finishes(others, tile_seconds, now):
        if need.due <= new.due:
            ahead = finish
        elif finish <= need.due - now:  # in time without the new one
            late = max(late, finish + own - (need.due - now))
    return max(late, ahead + own + spare - (new.due - now))


def is_pressed(needs: Iterable[Need], tile_seconds: float, now: float) -> bool:
    """Whether some frame would soon be late if others, due later, went before it."""
    return any(finish > PRESSED * (need.due - now) for need, finish in finishes(needs, tile_seconds, now))
