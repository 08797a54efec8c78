"""Writing files so that a reader, or a kill, never meets half of one, and knowing early that one can be written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from arcsolve.errors import ArcsolveError

LOCK = ".lock"


def replace_file(path: str | Path, text: str) -> None:
    """Write a text file; it is complete or not there at all.

    Raises:
        ArcsolveError: the file cannot be written.
    """
    path = Path(path)
    # In the same directory, since a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ArcsolveError(f"{path}: {error.strerror}") from None


def check_folder(path: str | Path) -> None:
    """Check that a file could be made at ``path``, before minutes of work go into what it is to hold.

    Raises:
        ArcsolveError: its folder does not exist, or is not writable.
    """
    folder = Path(path).parent
    if not folder.is_dir():
        raise ArcsolveError(f"{path}: there is no folder {folder}")
    try:
        tempfile.TemporaryFile(dir=folder).close()  # the only sure way to know
    except OSError as error:
        raise ArcsolveError(f"{path}: the folder {folder} is not writable ({error.strerror})") from None


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a run folder, so that no second process writes into it; a lock goes with its process, however that ends.

    Raises:
        ArcsolveError: another process holds it, or the folder cannot be written.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ArcsolveError(f"{folder}: in use by another arcsolve; wait for it or choose another folder") from None
    except OSError as error:
        raise ArcsolveError(f"{folder}: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()


def make_folder(path: Path) -> None:
    """Make a run folder.

    Raises:
        ArcsolveError: it cannot be made, or is not writable.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArcsolveError(f"{path}: {error.strerror or error}") from error
    check_folder(path / LOCK)
