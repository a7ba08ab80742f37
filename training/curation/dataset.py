"""A data set: the frames of an archive that curation kept, and where they and their catalogues are."""

from dataclasses import dataclass
from pathlib import Path

from astropy.table import Table

from training.errors import TrainingError

TABLE = "frames.ecsv"
KEPT, APART = "kept", "apart"
NEEDED = ("key", "frame", "catalogue", "state", "labels", "field")


@dataclass(frozen=True)
class Exposure:
    """One frame of a data set.

    Attributes
    ----------
    key : str
        Names it in its data set; no two have the same.
    frame : Path
        The FITS file, absolute.
    catalogue : Path or None
        Its catalogue, absolute.
    labels : tuple of str
        What it is good for: `OK`, `ESO`, and so on.
    field : str
        The part of the sky; exposures of one field show the same sources.
    """

    key: str
    frame: Path
    catalogue: Path | None
    labels: tuple[str, ...]
    field: str


def read_dataset(folder: Path) -> list[Exposure]:
    """Read the exposures that curation kept.

    Parameters
    ----------
    folder : Path
        A data set, as `curate` writes it.

    Returns
    -------
    list of Exposure
        In the order of its table; those set apart are left out.

    Raises
    ------
    TrainingError
        If the folder is no data set, or its archive is gone.
    """
    table = read_frames_table(folder)
    archive = Path(table.meta["archive"])
    if not archive.is_dir():
        raise TrainingError(f"the archive of the data set {folder} is not at {archive} any more: curate it again")
    return [_exposure(archive, row) for row in table if row["state"] == KEPT]


def read_frames_table(folder: Path) -> Table:
    """The whole table of a data set, one row a frame, also those set apart.

    Parameters
    ----------
    folder : Path
        A data set.

    Returns
    -------
    Table
        Paths are relative to `meta["archive"]`.

    Raises
    ------
    TrainingError
        If the folder is no data set.
    """
    path = folder / TABLE
    if not path.is_file():
        raise TrainingError(f"{folder} is no data set: it has no {TABLE}; make one with `curate`")
    try:
        table = Table.read(path, format="ascii.ecsv")
    except Exception as error:
        raise TrainingError(f"{path} cannot be read as an ECSV table ({type(error).__name__})") from error
    missing = [name for name in NEEDED if name not in table.colnames]
    if missing or not isinstance(table.meta.get("archive"), str):
        raise TrainingError(f"{path} is no table of a data set: it lacks {', '.join(missing) or 'the archive'}")
    for name in NEEDED:
        if table[name].dtype.kind != "U":  # keys and fields that are all digits come back as numbers
            table[name] = table[name].astype(str)
        table[name] = table[name].filled("") if hasattr(table[name], "filled") else table[name]
    return table


def _exposure(archive: Path, row: Table.Row) -> Exposure:
    catalogue = str(row["catalogue"])
    labels = tuple(label for label in str(row["labels"]).split(",") if label)
    return Exposure(
        str(row["key"]),
        archive / str(row["frame"]),
        archive / catalogue if catalogue else None,
        labels,
        str(row["field"]),
    )
