"""Finding the files of Keras's data sets on this machine, and having Keras download them if there are none.

A download is made in a temporary folder inside Keras's cache, checked there, and moved to its place in one step.
Whenever the program is stopped, be it by ``kill -9``, the place of the data holds nothing or all of it; what may stay
behind is a folder ``.bncourse-...``, which nobody reads and which may be deleted.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bncourse.data.splits import DataError

#: The folder from which Keras's own ``keras.datasets`` are served.
ORIGIN = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
#: Name of the environment variable that names a reader's folder of data.
VARIABLE = "BNCOURSE_DATA"
#: Seconds without any answer after which a download is given up; Python's default is to wait for ever.
_PATIENCE = 30.0


@dataclass(frozen=True)
class FileSet:
    """The files that make up one data set.

    Parameters
    ----------
    title
        Name of the data set, for messages.
    subfolder
        Where the files lie below a data folder; ``""`` for directly in it, with one file then.
    checksums
        File names, each with the checksum that a download must have.
    algorithm
        ``"sha256"`` or ``"md5"``.
    """

    title: str
    subfolder: str
    checksums: Mapping[str, str]
    algorithm: str

    def describe(self) -> str:
        """Return the files as paths relative to a data folder."""
        names = ", ".join(self.checksums)
        return f"{self.subfolder}/{{{names}}}" if self.subfolder else names


@dataclass(frozen=True)
class Place:
    """A folder in which data may lie, and what to call it in words that hold on every machine."""

    folder: Path
    words: str


def keras_cache() -> Place:
    """Return the folder in which Keras keeps its data sets: ``$KERAS_HOME/datasets`` or ``~/.keras/datasets``."""
    home = os.environ.get("KERAS_HOME") or "~/.keras"
    return Place(Path(home).expanduser() / "datasets", "Keras's cache")


def places(folder: str | os.PathLike[str] | None) -> list[Place]:
    """Return where to look, in this order: `folder`, the folder that BNCOURSE_DATA names, Keras's cache.

    Raises
    ------
    TypeError
        If `folder` is no path.
    DataError
        If `folder` or BNCOURSE_DATA names something that is not a folder. (An empty BNCOURSE_DATA counts as unset.)
    """
    found = []
    if folder is not None:
        if not isinstance(folder, (str, os.PathLike)):
            raise TypeError(f"folder must be a path or None, got {folder!r}")
        found.append(Place(Path(folder).expanduser(), "the folder given as argument"))
    if named := os.environ.get(VARIABLE):
        found.append(Place(Path(named).expanduser(), f"the folder that {VARIABLE} names"))
    for place in found:
        if not place.folder.is_dir():
            raise DataError(
                f"{place.folder}, {place.words}, is not a folder. Name an existing one, or leave it out to use "
                "Keras's cache."
            )
    return [*found, keras_cache()]


def obtain(files: FileSet, *, folder: str | os.PathLike[str] | None, download: bool) -> tuple[Path, str]:
    """Return the folder that holds all the files, downloading them if no place has any; and the place in words.

    Raises
    ------
    TypeError, DataError
        As `places`; DataError also if a place holds only some of the files, if no place has them and `download` is
        False, or if the download fails. Nothing is then left in any place.
    """
    looked = places(folder)
    for place in looked:
        home = place.folder / files.subfolder
        if is_complete(files, home):
            return home, place.words
    listing = "; ".join(f"{place.words} ({place.folder})" for place in looked)
    help_yourself = (
        f"Looked for {files.describe()} in: {listing}. What you can do: put what is missing there; or set "
        f"{VARIABLE} to a folder that has it; or work with the digits that need no download, "
        "bncourse.data.load_digits()."
    )
    if not download:
        raise DataError(f"{files.title} was not found, and download=False. {help_yourself}")
    try:
        home = _download(files, keras_cache().folder)
    except Exception as error:  # Keras reports a failed download as a bare Exception
        raise DataError(
            f"{files.title} was not found and could not be downloaded from {ORIGIN} ({error}). {help_yourself}"
        ) from error
    return home, f"{keras_cache().words}, downloaded from {ORIGIN}"


def is_complete(files: FileSet, home: Path) -> bool:
    """Return whether a folder has all the files (True) or none of them (False).

    Raises
    ------
    DataError
        If it has only some, or if the place of the subfolder is taken by something else.
    """
    if files.subfolder and os.path.lexists(home) and not home.is_dir():
        raise DataError(f"{home} is not a folder, but {files.title} belongs into a folder of that name. Move it away.")
    # A dangling link counts as present: opening it then says what is wrong, instead of a download hiding it.
    missing = [name for name in files.checksums if not os.path.lexists(home / name)]
    if missing and len(missing) < len(files.checksums):
        raise DataError(
            f"{home} holds {files.title} only in part; missing: {', '.join(missing)}. Add what is missing, or delete "
            "the rest to have the data looked for elsewhere."
        )
    return not missing


def _download(files: FileSet, cache: Path) -> Path:
    """Fetch all the files, check them, and move them into the cache in one step; return their folder."""
    home = cache / files.subfolder
    if files.subfolder and home.is_dir() and any(home.iterdir()):
        raise DataError(f"{home} is in the way: it has other contents; move it away")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bncourse-", dir=cache) as temporary:
        fresh = Path(temporary) / "fresh"
        for name, checksum in files.checksums.items():
            _fetch(ORIGIN + name, fresh / name, checksum, files.algorithm)
        _publish(files, fresh, home)
    return home


def _publish(files: FileSet, fresh: Path, home: Path) -> None:
    """Move checked files to their place by a single rename, so that nobody ever sees a part of them."""
    if not files.subfolder:
        (name,) = files.checksums
        (fresh / name).replace(home / name)
        return
    with contextlib.suppress(OSError):
        home.rmdir()  # an empty folder would be in the way on Windows; a filled one is left alone
    try:
        fresh.replace(home)
    except OSError:
        # Another process may have downloaded the same files in the meantime.
        if not is_complete(files, home):
            raise


def _fetch(url: str, target: Path, checksum: str, algorithm: str) -> None:
    """Have Keras download one file and compare its checksum; raise whatever Keras raises."""
    get_file = _keras_get_file()
    # Keras draws a progress bar on standard output, which would end up in stored notebooks.
    with contextlib.redirect_stdout(io.StringIO()), _patience(_PATIENCE):
        get_file(
            fname=target.name,
            origin=url,
            file_hash=checksum,
            hash_algorithm=algorithm,
            cache_dir=str(target.parent.parent),
            cache_subdir=target.parent.name,
        )


def _keras_get_file() -> Callable[..., str]:
    """Import Keras, and only when a download needs it: it takes seconds and brings TensorFlow along."""
    if "tensorflow" not in sys.modules:
        # Whoever imports TensorFlow first decides for the whole process whether tf.layers works in it.
        importlib.import_module("bncourse.tf_layers.runtime")
    get_file: Callable[..., str] = importlib.import_module("keras.utils").get_file
    return get_file


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Give up network connections that stay silent for so many seconds."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
