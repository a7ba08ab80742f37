"""What the folder watcher must not forget: one row a frame, in a database that survives a crash."""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from lynceus.arrivals import Sighting
from lynceus.errors import SpoolError

PENDING, SENDING, DONE, DEAD = "pending", "sending", "done", "dead"
VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS frames (
    name TEXT PRIMARY KEY,           -- path below the folder
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    state TEXT NOT NULL,             -- pending, sending, done, dead
    seen_at REAL NOT NULL,           -- when it had come to rest
    retry_at REAL NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0,          -- failures that count against the frame
    interruptions INTEGER NOT NULL DEFAULT 0,  -- tries that somebody's crash or a lost connection ended
    sha256 TEXT,                     -- of the content whose result was written
    result TEXT UNIQUE,              -- the file that holds, or is to hold, its result
    ended_at REAL,
    code TEXT                        -- why it is dead
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS waiting ON frames (interruptions, mtime_ns DESC, name) WHERE state = 'pending';
CREATE INDEX IF NOT EXISTS due ON frames (retry_at) WHERE state = 'pending';
CREATE INDEX IF NOT EXISTS open ON frames (seen_at) WHERE state IN ('pending', 'sending');
"""
THIS = "name = :name AND size = :size AND mtime_ns = :mtime_ns"  # not a newer file of the same name


@dataclass(frozen=True)
class Entry:
    """A frame in the spool.

    Attributes
    ----------
    sighting : Sighting
        The file.
    seen_at : float
        When it had come to rest, in seconds since 1970.
    tries, interruptions : int
        Failures that count against it, and tries that broke off.
    sha256 : str or None
        Of the content that the present result belongs to.
    result : str or None
        Path of the file that holds, or is to hold, its result.
    """

    sighting: Sighting
    seen_at: float
    tries: int
    interruptions: int
    sha256: str | None
    result: str | None

    @property
    def name(self) -> str:
        """Path below the folder."""
        return self.sighting.name


class Spool:
    """The frames of one folder and how far each has come.

    Only one process may hold it. Every change is on the disk when its method returns. Methods may be called from
    any thread; sqlite3's errors pass through, so that a full disk can be told from a damaged file.

    Parameters
    ----------
    folder : Path
        Where its files are kept; made if need be.

    Raises
    ------
    SpoolError
        If another process holds it, or its files are damaged or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._mutex = threading.RLock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder / "lock")
        except OSError as error:
            raise SpoolError(f"the state folder {folder} cannot be used: {error.strerror}") from error
        try:
            self._open(folder / "spool.sqlite")
        except sqlite3.Error as error:
            self._lock.close()
            raise SpoolError(f"the spool in {folder} cannot be used ({error}); is it damaged?") from error

    def _open(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # a result must never be on the disk before its claim
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise sqlite3.DatabaseError(f"it is of version {version}, this program of version {VERSION}")
        self._db.executescript(SCHEMA)
        self._db.execute(f"PRAGMA user_version = {VERSION}")
        rows = self._db.execute("SELECT name, size, mtime_ns, result FROM frames").fetchall()
        self._known = {_text(row["name"]): (row["size"], row["mtime_ns"]) for row in rows}
        self._owners = {_text(row["result"]): _text(row["name"]) for row in rows if row["result"] is not None}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        with self._mutex:
            self._db.close()
            self._lock.close()

    def knows(self, sighting: Sighting) -> bool:
        """Whether this very file, by size and time of change, is in the spool."""
        return self._known.get(sighting.name) == (sighting.size, sighting.mtime_ns)

    def is_result(self, path: str) -> bool:
        """Whether a file is one that results were written to."""
        return path in self._owners

    def see(self, sightings: Collection[Sighting], now: float) -> None:
        """Take up files that are new or have changed: they are pending from now on."""
        rows = [{**_key(sighting), "now": now} for sighting in sightings]
        statement = """
            INSERT INTO frames (name, size, mtime_ns, state, seen_at) VALUES (:name, :size, :mtime_ns, 'pending', :now)
            ON CONFLICT (name) DO UPDATE SET size = :size, mtime_ns = :mtime_ns, state = 'pending', seen_at = :now,
                retry_at = 0, tries = 0, interruptions = 0, ended_at = NULL, code = NULL
        """
        with self._mutex, _transaction(self._db):
            self._db.executemany(statement, rows)
        self._known |= {sighting.name: (sighting.size, sighting.mtime_ns) for sighting in sightings}

    def take(self, now: float) -> Entry | None:
        """The next frame to send, which is being sent from now on; None if none is due.

        The newest comes first, because the night goes on; one that broke off comes after those that did not, because
        it may be what breaks the service.
        """
        rows = self._write(
            """
            UPDATE frames SET state = 'sending' WHERE name = (
                SELECT name FROM frames WHERE state = 'pending' AND retry_at <= :now
                ORDER BY interruptions, mtime_ns DESC, name LIMIT 1
            ) RETURNING *
            """,
            {"now": now},
        )
        return _entry(rows[0]) if rows else None

    def claim(self, entry: Entry, candidates: Iterable[Path], exists: Callable[[Path], bool] = Path.exists) -> Path:
        """Choose the file for a result: the first candidate that is neither another frame's nor a stranger's.

        Parameters
        ----------
        entry : Entry
            Whose result it is; it keeps what it has claimed before.
        candidates : iterable of Path
            In order of preference, without end.
        exists : callable
            Tells whether a file is there.

        Returns
        -------
        Path
            Known to the spool as this frame's before anything is written to it.
        """
        for path in candidates:
            owner = self._owners.get(str(path))
            if owner == entry.name:
                return path
            if owner is None and not exists(path):
                self._write(f"UPDATE frames SET result = :result WHERE {THIS}", _key(entry.sighting, result=str(path)))
                self._owners.pop(entry.result or "", None)
                self._owners[str(path)] = entry.name
                return path
        raise ValueError("the candidates came to an end")

    def finish(self, entry: Entry, sha256: str, now: float) -> None:
        """Its result is written."""
        self._write(
            f"UPDATE frames SET state = 'done', sha256 = :sha256, ended_at = :now WHERE {THIS}",
            _key(entry.sighting, sha256=sha256, now=now),
        )

    def bury(self, entry: Entry, code: str, now: float) -> None:
        """It will not be tried again, until it changes."""
        self._write(
            f"UPDATE frames SET state = 'dead', code = :code, ended_at = :now WHERE {THIS}",
            _key(entry.sighting, code=code, now=now),
        )

    def put_back(self, entry: Entry, retry_at: float = 0.0, failed: bool = False, interrupted: bool = False) -> None:
        """It is pending again, and due at the time given.

        Parameters
        ----------
        entry : Entry
            As it was taken.
        retry_at : float
            In seconds since 1970.
        failed, interrupted : bool
            What the try was: a failure that counts against the frame, or one that broke off.
        """
        self._write(
            f"""UPDATE frames SET state = 'pending', retry_at = :retry_at, tries = tries + :failed,
                interruptions = interruptions + :interrupted WHERE {THIS}""",
            _key(entry.sighting, retry_at=retry_at, failed=failed, interrupted=interrupted),
        )

    def forget(self, entry: Entry) -> None:
        """The file is gone."""
        self._write(f"DELETE FROM frames WHERE {THIS}", _key(entry.sighting))
        self._owners.pop(entry.result or "", None)
        if self.knows(entry.sighting):
            del self._known[entry.name]

    def recover(self) -> list[Entry]:
        """After a crash: what was being sent is pending again, and everything pending is due.

        Returns
        -------
        list of Entry
            What was being sent, and may have left something unfinished behind.
        """
        with self._mutex, _transaction(self._db):
            rows = self._db.execute("SELECT * FROM frames WHERE state = 'sending'").fetchall()
            self._db.execute("UPDATE frames SET interruptions = interruptions + 1 WHERE state = 'sending'")
            self._db.execute("UPDATE frames SET state = 'pending', retry_at = 0 WHERE state IN ('sending', 'pending')")
        return [_entry(row) for row in rows]

    def prune(self, present: Collection[str], before: float) -> None:
        """Forget frames that ended before a time and whose files are no longer there."""
        with self._mutex:
            ended = self._db.execute("SELECT name, result FROM frames WHERE ended_at < ?", (before,)).fetchall()
            gone = [row for row in ended if _text(row["name"]) not in present]
            with _transaction(self._db):
                self._db.executemany("DELETE FROM frames WHERE name = ?", [(row["name"],) for row in gone])
            for row in gone:
                self._known.pop(_text(row["name"]), None)
                self._owners.pop(_text(row["result"] or ""), None)

    def waiting(self) -> tuple[int, float | None]:
        """How many frames have neither a result nor a reason, and when the oldest of them was seen."""
        with self._mutex:
            count, oldest = self._db.execute(
                "SELECT count(*), min(seen_at) FROM frames WHERE state IN ('pending', 'sending')"
            ).fetchone()
        return int(count), oldest

    def due_at(self) -> float | None:
        """When the next pending frame is due; None if none is pending."""
        with self._mutex:
            due: float | None = self._db.execute("SELECT min(retry_at) FROM frames WHERE state = 'pending'").fetchone()[
                0
            ]
        return due

    def counts(self) -> dict[str, int]:
        """Frames by state."""
        with self._mutex:
            rows = self._db.execute("SELECT state, count(*) FROM frames GROUP BY state").fetchall()
        return dict(rows)

    def _write(self, statement: str, values: dict[str, Any]) -> list[sqlite3.Row]:
        with self._mutex:
            return self._db.execute(statement, values).fetchall()


class _transaction:  # noqa: N801 -- reads as the statement it is
    """All or nothing; sqlite3's own context manager starts none where statements commit by themselves."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def __enter__(self) -> None:
        self.db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.db.execute("COMMIT")
        finally:
            if self.db.in_transaction:  # a full disk may have ended it already
                self.db.execute("ROLLBACK")


def _lock(path: Path) -> IO[str]:
    """Hold a file for as long as this process lives."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise SpoolError(f"another watcher is at work with the state folder {path.parent}") from None
    return file


def _entry(row: sqlite3.Row) -> Entry:
    return Entry(
        sighting=Sighting(_text(row["name"]), row["size"], row["mtime_ns"]),
        seen_at=row["seen_at"],
        tries=row["tries"],
        interruptions=row["interruptions"],
        sha256=row["sha256"],
        result=None if row["result"] is None else _text(row["result"]),
    )


def _key(sighting: Sighting, **more: Any) -> dict[str, Any]:
    values = {"name": sighting.name, "size": sighting.size, "mtime_ns": sighting.mtime_ns, **more}
    return values | {key: _storable(value) for key, value in values.items() if isinstance(value, str)}


def _storable(text: str) -> str | bytes:
    """A file name may be any bytes; what is not UTF-8 is stored as those."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return os.fsencode(text)


def _text(stored: str | bytes) -> str:
    return os.fsdecode(stored)
