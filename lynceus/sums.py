"""The seal of a bundle: `SHA256SUMS`, which covers every other file of its folder; works without torch."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

from lynceus.errors import BundleError

MANIFEST, WEIGHTS, REPORT, CARD = "manifest.json", "weights.safetensors", "report.json", "card.md"
SUMS = "SHA256SUMS"
REQUIRED = (MANIFEST, WEIGHTS, REPORT, CARD)
PICKLED = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill"})
NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"
)  # of bundles, versions, tracks and files: no path can be made of it
LINE = re.compile(rf"([0-9a-f]{{64}}) [ *]({NAME.pattern})")  # as `sha256sum` writes them


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def format_sums(sums: Mapping[str, str]) -> bytes:
    """Write sums as `sha256sum` does, in the order of the names.

    Parameters
    ----------
    sums : mapping of str to str
        File name to hexadecimal sha256.

    Returns
    -------
    bytes
        One line a file; the same sums always give the same bytes.
    """
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()


def parse_sums(data: bytes, label: str) -> dict[str, str]:
    """Read what `format_sums` or `sha256sum` wrote, and check that it can be the seal of a bundle.

    Parameters
    ----------
    data : bytes
        Of the file.
    label : str
        What to call the bundle in errors.

    Returns
    -------
    dict of str to str
        File name to hexadecimal sha256.

    Raises
    ------
    BundleError
        If a line is not understood or cut off, a name is listed twice, a file that every bundle has is not
        listed, or a pickle is.
    """
    *lines, rest = data.decode("ascii", "replace").split("\n")
    found = [LINE.fullmatch(line) for line in lines]
    if rest or not all(found):
        raise BundleError(f"{label}: {SUMS} is damaged")
    sums = {match[2]: match[1] for match in found if match}
    if len(sums) < len(lines) or SUMS in sums:
        raise BundleError(f"{label}: {SUMS} lists a file twice, or itself")
    for name in REQUIRED:
        if name not in sums:
            raise BundleError(f"{label}: {SUMS} does not list {name}")
    refuse_pickles(sums, label)
    return sums


def refuse_pickles(names: Iterable[str], label: str) -> None:
    """Raise BundleError if a name is one that pickles go by: reading such a file can run anything."""
    for name in names:
        if PurePath(name).suffix.lower() in PICKLED:
            raise BundleError(f"{label} holds {name}: only safetensors are allowed, never a pickle")


def seal(folder: Path) -> dict[str, str]:
    """Write `SHA256SUMS` over the files of a folder.

    Parameters
    ----------
    folder : Path
        Holds the files of a bundle and nothing else.

    Returns
    -------
    dict of str to str
        File name to hexadecimal sha256.

    Raises
    ------
    BundleError
        If a file is missing, has a name that `SHA256SUMS` cannot hold, or is a pickle.
    """
    data = format_sums({path.name: sha256_of(path) for path in folder.iterdir() if path.name != SUMS})
    sums = parse_sums(data, label_of(folder))
    (folder / SUMS).write_bytes(data)
    return sums


def verify(folder: Path) -> dict[str, str]:
    """Check every file of a bundle against its `SHA256SUMS`.

    A file that is not listed is left alone, because nothing reads it; only a pickle is refused even then.

    Parameters
    ----------
    folder : Path
        `<name>/<version>/`.

    Returns
    -------
    dict of str to str
        File name to hexadecimal sha256.

    Raises
    ------
    BundleError
        If `SHA256SUMS` is missing or damaged, or a file is missing or not what it says; the file is named.
    """
    label = label_of(folder)
    sums = parse_sums(read_file(folder, SUMS), label)
    refuse_pickles((path.name for path in folder.iterdir()), label)
    for name, expected in sums.items():
        try:
            found = sha256_of(folder / name)
        except OSError as error:
            raise BundleError(f"{label} holds no readable {name}") from error
        if found != expected:
            raise BundleError(f"{label}: {name} is damaged, its sha256 is not the one in {SUMS}")
    return sums


def read_file(folder: Path, name: str) -> bytes:
    """Read one small file of a bundle.

    Raises
    ------
    BundleError
        If there is none.
    """
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise BundleError(f"{label_of(folder)} holds no readable {name}") from error


def label_of(folder: Path) -> str:
    """`name/version` of a bundle's folder: what errors call it."""
    return str(Path(*folder.parts[-2:]))
