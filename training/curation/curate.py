"""An archive to a data set: pairs, facts, labels, fields, and what is set apart and why."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from astropy.table import Table
from pydantic import Field
from rich.progress import track

from lynceus.durable import write_whole
from lynceus.spec import Spec
from training.curation.charts import Row
from training.curation.contact_sheet import contact_sheet
from training.curation.dataset import APART, KEPT, TABLE
from training.curation.inspection import Inspection, InspectionSpec, Store, inspect_pair, unreadable
from training.curation.labels import HandLabels, read_labels
from training.curation.pairs import Found, Pair, find_pairs
from training.curation.proposals import ProposalSpec, propose
from training.curation.sky_fields import fields_of, plain_target

SHEET, STORE, LABEL_FILE = "contact_sheet.html", ".facts", "labels.txt"
DIED = "reading it ended the process that did, for want of memory or by a fault in a library"
QUALITY = (  # facts that become columns of the table
    "background", "noise", "fwhm_px", "fwhm_arcsec", "ellipticity", "drift", "masked_share", "saturated_share",
    "saturated_area", "trail", "trail_length", "gradient", "gradient_sigma", "pattern", "largest_px", "companion_px",
    "sources", "sources_per_mpx",
)  # fmt: skip
FIT = ("rows", "rows_on_frame", "unseen", "matched", "dx", "dy")
MOSTLY_UNSEEN = 0.6  # of a catalogue's rows, from which a person is told
DIGITS = 6  # of facts in the table


class CurateSpec(Spec):
    """How an archive is curated.

    Attributes
    ----------
    inspection : InspectionSpec
        How frames are looked at.
    proposals : ProposalSpec
        From where on facts speak for a label.
    largest_shift : float
        A catalogue that is shifted by more, along x or y, is set apart; in pixels.
    overlap : float
        Two frames are of one field if they share more than this part of the smaller one's area on the sky.
    """

    inspection: InspectionSpec = InspectionSpec()
    proposals: ProposalSpec = ProposalSpec()
    largest_shift: float = Field(0.45, ge=0)
    overlap: float = Field(0.02, ge=0, le=1)


def curate(
    archive: Path,
    out: Path,
    spec: CurateSpec | None = None,
    labels: Path | None = None,
    workers: int = 2,
) -> Table:
    """Curate an archive.

    Parameters
    ----------
    archive : Path
        Folder with frames and catalogues; see `training.curation.pairs.find_pairs`.
    out : Path
        Folder of the data set. What was found of a file is kept there, and used again while the file stays the same.
    spec : CurateSpec or None
        How; the defaults where it is None.
    labels : Path or None
        What a person wrote: `<file>  OK,ESO` a line, which goes before what is proposed. By default `labels.txt` in
        the archive, if there is one.
    workers : int
        Processes.

    Returns
    -------
    Table
        One row a frame, as `frames.ecsv`; beside it lies `contact_sheet.html`.

    Raises
    ------
    TrainingError
        If there is no frame in the archive, or the label file cannot be read. A bad frame is set apart.
    """
    spec = spec or CurateSpec()
    archive = archive.resolve()
    found = find_pairs(archive)
    hand = _hand_labels(archive, labels, found)
    store = Store(out / STORE)
    inspections = inspect_all(archive, found.pairs, store, spec.inspection, workers)
    rows = _rows(found, inspections, hand, spec)
    warnings = (*hand.warnings, *_orphans(found), *_unsplittable(rows))
    table = frames_table(rows, archive, warnings)
    _write(table, out / TABLE)
    sheet = contact_sheet(archive.name, rows, warnings, store)
    write_whole(out / SHEET, sheet.encode())
    return table


def inspect_all(
    archive: Path, pairs: tuple[Pair, ...], store: Store, spec: InspectionSpec, workers: int
) -> dict[str, Inspection]:
    """Inspect all pairs, in several processes if there is more than one worker.

    A process that dies takes its pool with it. What was under way then is inspected again, each pair in a process of
    its own, and only a pair that ends that one too is given up.
    """
    found: dict[str, Inspection] = {}
    jobs = _in_turn(archive, pairs, store, spec) if workers <= 1 else _at_once(archive, pairs, store, spec, workers)
    for pair, inspection in track(jobs, "inspecting", total=len(pairs)):
        found[pair.key] = inspection
    return {pair.key: found[pair.key] for pair in pairs}


Job = tuple[Pair, Inspection]


def _in_turn(archive: Path, pairs: tuple[Pair, ...], store: Store, spec: InspectionSpec) -> Iterator[Job]:
    for pair in pairs:
        yield pair, inspect_pair(archive, pair, store, spec)


def _at_once(archive: Path, pairs: tuple[Pair, ...], store: Store, spec: InspectionSpec, workers: int) -> Iterator[Job]:
    lost: list[Pair] = []
    with ProcessPoolExecutor(workers) as pool:
        futures: dict[Future[Inspection], Pair] = {}
        for pair in pairs:
            try:
                futures[pool.submit(inspect_pair, archive, pair, store, spec)] = pair
            except BrokenProcessPool:
                lost.append(pair)
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                lost.append(futures[future])
    for pair in lost:
        with ProcessPoolExecutor(1) as pool:
            try:
                found = pool.submit(inspect_pair, archive, pair, store, spec).result()
            except BrokenProcessPool:
                found = unreadable(archive, pair, store, spec, DIED)
        yield pair, found


def frames_table(rows: tuple[Row, ...], archive: Path, warnings: tuple[str, ...]) -> Table:
    """One row a frame; paths are relative to `meta["archive"]`, what is not known is NaN or empty."""
    columns: dict[str, list[object]] = {}
    for row in rows:
        for name, value in _cells(row).items():
            columns.setdefault(name, []).append(value)
    return Table(columns, meta={"archive": str(archive), "warnings": list(warnings)})


def _cells(row: Row) -> dict[str, object]:
    found, quality, fit = row.found, row.found.quality, row.found.fit
    facts = {name: _number(getattr(quality, name, None)) for name in QUALITY}
    return {
        "key": row.pair.key,
        "frame": str(row.pair.frame),
        "catalogue": str(row.pair.catalogue or ""),
        "state": row.state,
        "reason": row.reason,
        "labels": ",".join(row.labels),
        "proposed": ",".join(row.proposed),
        "why": "; ".join(row.why),
        "by_hand": row.by_hand,
        "field": row.field,
        "sha256": found.content,
        "width": found.width,
        "height": found.height,
        "object": found.target,
        "instrument": found.instrument,
        "date_obs": found.date_obs,
        "filter": found.filter,
        "exptime": _number(found.exptime),
        "ra": round(found.place.ra, 6) if found.place else float("nan"),
        "dec": round(found.place.dec, 6) if found.place else float("nan"),
        "pixel_scale": _number(found.pixel_scale),
        **facts,
        **{name: _number(getattr(fit, name, None)) for name in FIT},
        "fit": fit.verdict if fit else "",
        "ignored": found.ignored,
        "unlisted": found.unlisted,
        "warnings": "; ".join(found.warnings),
    }


def _number(value: object) -> float:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, int | float) else float("nan")


def _write(table: Table, path: Path) -> None:
    text = StringIO()
    table.write(text, format="ascii.ecsv")
    write_whole(path, text.getvalue().encode())


def _hand_labels(archive: Path, labels: Path | None, found: Found) -> HandLabels:
    if labels is None and (archive / LABEL_FILE).is_file():
        labels = archive / LABEL_FILE
    return read_labels(labels, found.pairs) if labels else HandLabels({})


def _rows(found: Found, inspections: Mapping[str, Inspection], hand: HandLabels, spec: CurateSpec) -> tuple[Row, ...]:
    """What becomes of each pair."""
    reasons = {pair.key: _fault(pair, inspections[pair.key], spec) for pair in found.pairs}
    for same in (_content, _exposure):
        _set_duplicates_apart(found.pairs, inspections, reasons, same)
    kept = {key: inspections[key] for key, reason in reasons.items() if not reason}
    fields = fields_of(kept, spec.overlap)
    return tuple(_row(pair, inspections[pair.key], reasons[pair.key], fields, hand, spec) for pair in found.pairs)


def _row(
    pair: Pair, found: Inspection, reason: str, fields: Mapping[str, str], hand: HandLabels, spec: CurateSpec
) -> Row:
    proposed = propose(found.quality, spec.proposals, found.target) if found.quality else None
    written = hand.labels.get(pair.key)
    own = proposed.labels if proposed else ("KO",)
    return Row(
        pair=pair,
        found=found,
        state=APART if reason else KEPT,
        reason=reason or _remark(found),
        labels=written or own,
        proposed=own,
        why=proposed.why if proposed else (f"KO: {found.fault}",),
        by_hand=written is not None,
        field=fields.get(pair.key, ""),
    )


def _fault(pair: Pair, found: Inspection, spec: CurateSpec) -> str:
    """Why a pair cannot be used by itself; empty if it can."""
    if found.fault:
        return f"the frame cannot be read: {found.fault}"
    if pair.catalogue is None:
        return "it has no catalogue"
    if found.catalogue_fault:
        return f"the catalogue cannot be used: {found.catalogue_fault}"
    fit = found.fit
    if fit is None or fit.rows == 0:
        return "the catalogue is empty"
    if fit.rows_on_frame == 0:
        return f"not one of the {fit.rows} rows of the catalogue lies on the frame"
    far = max(abs(fit.dx), abs(fit.dy)) > spec.largest_shift
    if fit.verdict in ("other_field", "no_overlap") or (fit.verdict == "shifted" and far):
        return fit.text
    return ""


def _remark(found: Inspection) -> str:
    """What a person should know of a pair that is kept."""
    fit = found.fit
    if fit is None:
        return ""
    told = [fit.text] if fit.verdict in ("unknown", "shifted") else []
    if fit.unseen > MOSTLY_UNSEEN * fit.rows_on_frame:
        told.append(
            f"{fit.unseen} of {fit.rows_on_frame} rows are not seen on the frame: does the catalogue list noise?"
        )
    return "; ".join(told)


@dataclass(frozen=True)
class _Same:
    """By what two frames are the same, and how to call it."""

    identity: tuple[str, ...]
    text: str


def _content(found: Inspection) -> _Same | None:
    return _Same((found.content,), "its pixels are those of {}") if found.content else None


def _exposure(found: Inspection) -> _Same | None:
    """By the header: the start to the second and better, the object, the filter, and what took it."""
    if "T" not in found.date_obs:
        return None
    size = f"{found.width} x {found.height}"
    identity = (found.date_obs, plain_target(found.target), found.filter, found.instrument, size)
    return _Same(identity, "by its header it is the same exposure as {}")


def _set_duplicates_apart(
    pairs: tuple[Pair, ...],
    inspections: Mapping[str, Inspection],
    reasons: dict[str, str],
    same: Callable[[Inspection], _Same | None],
) -> None:
    """Keep the first of the frames that are one, among those that nothing else is said against."""
    first: dict[tuple[str, ...], Pair] = {}
    for pair in pairs:
        one = same(inspections[pair.key])
        if one is None or reasons[pair.key]:
            continue
        if first.setdefault(one.identity, pair) is not pair:
            reasons[pair.key] = one.text.format(first[one.identity].frame)


def _orphans(found: Found) -> tuple[str, ...]:
    if not found.orphans:
        return ()
    names = ", ".join(str(path) for path in found.orphans[:5])
    more = f" and {len(found.orphans) - 5} more" if len(found.orphans) > 5 else ""
    return (f"catalogues without a frame: {names}{more}",)


def _unsplittable(rows: tuple[Row, ...]) -> tuple[str, ...]:
    """Warn of too few fields to keep training and test apart."""
    fields = {row.field for row in rows if row.state == KEPT}
    if not fields:
        return ("not one frame is kept",)
    if len(fields) < 3:
        text = f"the kept frames show {len(fields)} field{'s' if len(fields) > 1 else ''} of the sky"
        return (f"{text}: training, validation and test need three, or they share sources",)
    return ()
