"""Which exposures are trained on and which are held back: whole fields, so that no sky is in two splits."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Literal, get_args

from training.curation.dataset import Exposure

Split = Literal["train", "validation", "test"]
Shares = tuple[float, float, float]
SPLITS: tuple[Split, ...] = get_args(Split)
SHARES: Shares = (0.81, 0.09, 0.10)
MOST_FIELDS = 8  # of which every way to split them is tried


def split_fields(exposures: Sequence[Exposure], shares: Shares = SHARES, seed: int = 1) -> dict[str, Split]:
    """Assign every exposure to a split, whole fields only.

    Parameters
    ----------
    exposures : sequence of Exposure
        In any order.
    shares : (float, float, float)
        Of the exposures in the splits for training, validation and test; they sum to 1.
    seed : int
        Chooses among the ways that are equally near to the shares.

    Returns
    -------
    dict of str to str
        "train", "validation" or "test" by the key of each exposure.

    Notes
    -----
    As near to the shares, by the number of exposures, as whole fields allow: exactly so for a few fields; many are
    dealt out from the largest on, then moved and exchanged as long as that brings the splits nearer. No split is empty
    whose share is not, if there are enough fields.
    """
    counts = Counter(exposure.field for exposure in exposures)
    fields = sorted(counts, key=lambda field: (-counts[field], _chance(seed, field)))
    sizes = [counts[field] for field in fields]
    targets = [share * len(exposures) for share in shares]
    places = _all_tried(sizes, targets) if len(sizes) <= MOST_FIELDS else _refined(sizes, targets)
    split_of = {field: SPLITS[place] for field, place in zip(fields, places, strict=True)}
    return {exposure.key: split_of[exposure.field] for exposure in exposures}


def _chance(seed: int, field: str) -> bytes:
    """Orders fields of one size in a way that depends on the seed, and not on what other fields there are."""
    return hashlib.sha256(f"{seed}:{field}".encode()).digest()


def _cost(sums: Sequence[int], targets: Sequence[float]) -> float:
    """How far the splits are from their targets; one that is empty and should not be, or the reverse, is far off."""
    wrong = sum((total == 0) != (target == 0) for total, target in zip(sums, targets, strict=True))
    distance = sum(abs(total - target) for total, target in zip(sums, targets, strict=True))
    return round(distance + 2 * sum(targets) * wrong, 6)


def _sums(sizes: Sequence[int], places: Iterable[int]) -> list[int]:
    return [sum(size for size, place in zip(sizes, places, strict=True) if place == split) for split in range(3)]


def _all_tried(sizes: Sequence[int], targets: Sequence[float]) -> list[int]:
    ways = product(range(3), repeat=len(sizes))
    return list(min(ways, key=lambda places: _cost(_sums(sizes, places), targets), default=()))


def _refined(sizes: Sequence[int], targets: Sequence[float]) -> list[int]:
    places: list[int] = []
    sums = [0, 0, 0]
    for size in sizes:
        place = max(range(3), key=lambda split: (targets[split] > 0, targets[split] - sums[split]))
        places.append(place)
        sums[place] += size
    while _better(places, sizes, targets):
        pass
    return places


def _better(places: list[int], sizes: Sequence[int], targets: Sequence[float]) -> bool:
    """Make the move of one field, or the exchange of two, that helps most; False if none does."""
    sums = _sums(sizes, places)
    # fields of one size in one split are alike: the first of each kind stands for them; size 0 is "no field"
    kinds = {
        (place, size): index for index, (place, size) in reversed(list(enumerate(zip(places, sizes, strict=True))))
    }
    empty = {(place, 0): -1 for place in range(3)}
    best, change = _cost(sums, targets), None
    for (source, size), one in kinds.items():
        for (target, back), other in (kinds | empty).items():
            if source == target:
                continue
            moved = list(sums)
            moved[source] += back - size
            moved[target] += size - back
            cost = _cost(moved, targets)
            if cost < best:
                best, change = cost, (one, target, other, source)
    if change is None:
        return False
    one, target, other, source = change
    places[one] = target
    if other >= 0:
        places[other] = source
    return True
