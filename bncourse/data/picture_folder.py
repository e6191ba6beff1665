"""Which files of a folder are pictures that can be used, and why the others are not."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tqdm import tqdm

from bncourse.data.picture_files import PictureError, PixelArray, decode
from bncourse.data.splits import DataError

#: Longer files are not read: no photograph of at most MAX_PIXELS needs more.
MAX_BYTES = 1 << 28
#: The folders of the article's layout; the last one may be missing.
PARTS = ("train", "validation", "test")
#: How many skipped files are shown, and how many are named in an error.
_SHOWN, _NAMED = 20, 3


@dataclass(frozen=True)
class Skipped:
    """A file or folder that is not used.

    Attributes
    ----------
    name : str
        Its place below the folder, `printable`.
    reason : str
        Why.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What a folder held.

    Attributes
    ----------
    used : int
        Number of pictures that are used.
    skipped : tuple of Skipped
        All that is not, in the order of reading.
    """

    used: int
    skipped: tuple[Skipped, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.used:,} pictures are used; {len(self.skipped):,} files and folders are not."]
        lines += [f"  {item.name}: {item.reason}" for item in self.skipped[:_SHOWN]]
        if len(self.skipped) > _SHOWN:
            lines.append(f"  ... and {len(self.skipped) - _SHOWN:,} more, see .skipped")
        return "\n".join(lines)


@dataclass(frozen=True)
class Found:
    """A file that was decoded once without fault.

    Attributes
    ----------
    path : Path
        The file.
    name : str
        Its place below the folder, `printable`.
    digest : bytes
        SHA-256 of its content.
    """

    path: Path
    name: str
    digest: bytes


#: Pictures by part ("" if there are no parts) and by the name of the class's folder.
Finding: TypeAlias = dict[str, dict[str, list[Found]]]


def printable(name: str) -> str:
    r"""Return `name` with everything escaped that would not show as a character: a line break becomes ``\n``.

    Names come from whoever made the folder. This makes them harmless in a terminal; before they go into a web page
    they must be escaped for that as well.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def read_file(path: Path) -> bytes:
    """Return the content of a regular file.

    Raises
    ------
    PictureError
        If it cannot be read, or is too long.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PictureError(f"cannot be read ({error.strerror})") from error
    if len(content) > MAX_BYTES:
        raise PictureError(f"longer than {MAX_BYTES >> 20} MiB")
    return content


def scan(folder: str | os.PathLike[str], *, progress: bool = False) -> tuple[Finding, list[Skipped]]:
    """Look at every file of a folder: each picture is decoded once, one at a time.

    Used are regular files that stand in a class's folder, directly. What is not used is listed with its reason:
    hidden files, files and folders in the wrong place, folders inside a class, symbolic links (but for links to a
    file inside `folder`), files that cannot be read, are no pictures or are damaged, and files that repeat an earlier
    one byte for byte, so that no picture is in two parts.

    Parameters
    ----------
    folder : path
        Holds folders of classes, or folders ``train`` and ``validation`` (and perhaps ``test``) that do.
    progress : bool
        Whether a progress bar is shown on standard error.

    Returns
    -------
    pictures : dict of str to dict of str to list of Found
        By part (``""`` if there are no parts) and class; names sorted.
    skipped : list of Skipped

    Raises
    ------
    DataError
        If `folder` is no folder, or cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{printable(str(root))} is no folder. Name a folder with one folder for each class.")
    root = root.resolve()
    search = _Search(root)
    parts = [name for name in PARTS if _is_folder(root / name)]
    if not {"train", "validation"} <= set(parts):
        parts = [""]
    found: Finding = {part: {} for part in parts}
    with tqdm(desc="pictures", unit="file", disable=not progress) as bar:
        if parts != [""]:
            for entry in search.entries(root):
                if entry.name not in parts:
                    search.skip(entry, "lies outside train, validation and test")
        for part in parts:
            for entry in search.folders(root / part):
                found[part][entry.name] = []
                for file in search.entries(entry):
                    bar.update()
                    picture = search.picture(file)
                    if picture is not None:
                        found[part][entry.name].append(picture)
    return found, search.skipped


class _Search:
    """Remembers what was skipped, and what was seen."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.skipped: list[Skipped] = []
        self._seen: dict[bytes, str] = {}

    def name(self, path: Path) -> str:
        return printable(path.relative_to(self.root).as_posix())

    def skip(self, path: Path, reason: str) -> None:
        self.skipped.append(Skipped(self.name(path), reason))

    def entries(self, folder: Path) -> list[Path]:
        """Return what is in a folder and not hidden, sorted by name."""
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208 (names are sorted as text on every system)
        except OSError as error:
            if folder == self.root:
                raise DataError(f"{printable(str(folder))} cannot be read ({error.strerror}).") from error
            self.skip(folder, f"cannot be read ({error.strerror})")
            return []
        for name in names:
            if name.startswith("."):
                self.skip(folder / name, "hidden")
        return [folder / name for name in names if not name.startswith(".")]

    def folders(self, folder: Path) -> Iterator[Path]:
        for entry in self.entries(folder):
            try:
                kind = entry.lstat().st_mode
            except OSError as error:
                self.skip(entry, f"cannot be read ({error.strerror})")
                continue
            if stat.S_ISDIR(kind):
                yield entry
            elif stat.S_ISLNK(kind):
                self.skip(entry, "a link where a class's folder belongs: not followed")
            else:
                self.skip(entry, "lies in no class's folder")

    def picture(self, path: Path) -> Found | None:
        try:
            self._check_place(path)
            content = read_file(path)
            decode(content, 8)
        except PictureError as error:
            self.skip(path, printable(str(error)))
            return None
        digest = hashlib.sha256(content).digest()
        if digest in self._seen:
            self.skip(path, f"the same bytes as {self._seen[digest]}")
            return None
        self._seen[digest] = self.name(path)
        return Found(path, self.name(path), digest)

    def _check_place(self, path: Path) -> None:
        """Refuse what is no regular file, without opening it, and links that lead out of the folder."""
        link = path.is_symlink()
        try:
            target = path.resolve(strict=True)
            kind = target.stat().st_mode
        except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself, up to Python 3.12
            reason = getattr(error, "strerror", None) or "it leads to itself"
            raise PictureError(f"{'a link that leads nowhere' if link else 'cannot be read'} ({reason})") from error
        if link and not target.is_relative_to(self.root):
            raise PictureError("a link that leads out of the folder: refused")
        if stat.S_ISDIR(kind):
            raise PictureError("a folder inside a class: not searched")
        if not stat.S_ISREG(kind):
            raise PictureError("no regular file")


def _is_folder(path: Path) -> bool:
    """Tell whether `path` is a folder and no link; what cannot be looked at is none."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def first_few(skipped: list[Skipped]) -> str:
    """Return a sentence on what was skipped, for an error; "" if nothing was."""
    if not skipped:
        return ""
    named = "; ".join(f"{item.name}: {item.reason}" for item in skipped[:_NAMED])
    more = f"; and {len(skipped) - _NAMED:,} more" if len(skipped) > _NAMED else ""
    return f" Not used: {named}{more}."


def read_picture(found: Found, size: int, **how: object) -> PixelArray:
    """Decode a picture that `scan` found; arguments of `decode`.

    Raises
    ------
    DataError
        If the file has changed since, so that it is no picture any more.
    """
    try:
        return decode(read_file(found.path), size, **how)  # type: ignore[arg-type]
    except PictureError as error:
        raise DataError(f"{found.name} has changed since the folder was searched: {error}. Load it again.") from error
