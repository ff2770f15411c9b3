"""Reading and writing files: writes are atomic, and every error names the file."""

from __future__ import annotations

import json
import os
import pwd
import re
import sys
import tempfile
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import count
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, TextIO

from partita.errors import InputError, PartitaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEEPEST = 50
"""Most levels of nesting in a document; Partita's own formats have six."""

_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a]")
"""Bytes that no text has in any encoding; the escape of terminals is allowed."""
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


def home() -> Path:
    """Return the user's home folder; `/` where none is known, as container runtimes have it for such users."""
    try:
        return Path.home()
    except RuntimeError:  # no HOME, and a user id of no account
        return Path("/")


def file_stamp(path: Path) -> tuple[int, int, int, int] | None:
    """Return what changes when a file's contents, owner or mode may have changed; None for what is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not S_ISREG(found.st_mode):
        return None  # a pipe can be read once
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


@lru_cache(maxsize=1024)
def user_name(uid: int) -> str:
    """Return the name of a user; the number where there is no such account."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def reading_rights(path: Path) -> str:
    """Return a hint for a file or folder that this user may not read: who may, and where the right is missing."""
    who = "its owner"
    for each in (path, *path.parents):
        with suppress(OSError):
            who = user_name(each.stat().st_uid)
            break
    return f"run this as {who}, or have {who} let you read it; `namei -l {path}` shows which right is missing"


def read_text(path: Path | str) -> str:
    """Return the text of a file; `-` reads stdin.

    Reads UTF-8, with or without a byte order mark, and UTF-16.

    Raises:
        InputError: it is missing, a directory, unreadable or not text.
    """
    return decoded(read_bytes(path), "<stdin>" if str(path) == "-" else str(path))


def read_bytes(path: Path | str) -> bytes:
    """Return the content of a file; `-` reads stdin.

    Raises:
        InputError: it is missing, a directory, unreadable, or `path` is not a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"the path of a file is needed, not a {type(path).__name__}")
    if str(path) == "-":
        stream = getattr(sys.stdin, "buffer", None)
        return sys.stdin.read().encode() if stream is None else stream.read()
    with reading(path):
        return Path(path).read_bytes()


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turn errors of reading a file in a block into input errors.

    Raises:
        InputError: it is missing, a directory or unreadable.
    """
    try:
        yield
    except FileNotFoundError:
        raise InputError("no such file", where=str(path), hint="see `ls` for the name") from None
    except IsADirectoryError:
        raise InputError("this is a directory, not a file", where=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None


def decoded(content: bytes, name: str) -> str:
    """Return the text of a file's content, UTF-8 or UTF-16.

    Raises:
        InputError: it is neither; `where` is `name`.
    """
    encoding = _encoding(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise InputError(
                f"not UTF-16 text (byte {error.start})", where=name, hint="save the file as UTF-8"
            ) from None
        if _CONTROLS.search(content[:4096]):
            raise InputError("this is not a text file", where=name, hint="is it compressed?") from None
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"not UTF-8 text (byte 0x{content[error.start]:02x} in this line)",
            where=f"{name}:{line}",
            hint="save it as UTF-8 (in Excel `CSV UTF-8`), or: iconv -f windows-1252 -t utf-8",
        ) from None


def _encoding(content: bytes) -> str:
    """Return the encoding that the first bytes show: a byte order mark, or a NUL in every second byte."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    start = content[:64]
    half = len(start) // 2
    if half > 1 and start.count(0) == half:
        if not any(start[1 : 2 * half : 2]):
            return "utf-16-le"
        if not any(start[0 : 2 * half : 2]):
            return "utf-16-be"
    return "utf-8-sig"


def json_value(text: str | bytes, on_object: Callable[[list[tuple[str, Any]]], object] | None = None) -> Any:  # noqa: ANN401 -- JSON
    """Return the value of an untrusted JSON text.

    Args:
        text: UTF-8 if it is bytes.
        on_object: returns the value of an object from its pairs, as `object_pairs_hook` of `json.loads`.

    Raises:
        json.JSONDecodeError: it is not JSON, is nested more than `DEEPEST` deep, or has a number of thousands of
        digits.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    try:
        value = json.loads(text, object_pairs_hook=on_object)
    except RecursionError:
        raise _too_deep(text) from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise json.JSONDecodeError(str(error).partition(";")[0], text, 0) from None
    level = _inside([value])
    for _ in range(DEEPEST):
        level = _inside(
            [each for outer in level for each in (outer.values() if type(outer) is dict else outer)]
        )
    if level:
        raise _too_deep(text)
    return value


def json_fault(error: json.JSONDecodeError) -> str:
    """Return what is wrong with a text that is not JSON, for an error that names its line.

    Args:
        error: as `json_value` raises it. Some messages of Python end with `at`, for the place that follows.
    """
    what = error.msg.removesuffix(" at").removesuffix(" starting")
    column = f" at column {error.colno}" if error.pos else ""
    return f"not JSON: {what[:1].lower()}{what[1:]}{column}"


def _inside(values: list[Any]) -> list[Any]:
    return [each for each in values if type(each) is dict or type(each) is list]


def _too_deep(text: str) -> json.JSONDecodeError:
    depth = position = 0
    for mark in _MARKS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(mark[0], 0)
        position = mark.start()
        if depth > DEEPEST:
            break
    return json.JSONDecodeError(f"Nested more than {DEEPEST} deep", text, position)


@contextmanager
def replacing(path: Path | str) -> Iterator[TextIO]:
    """Open a temporary file beside `path`, which is renamed to it when the block ends without an error.

    Raises:
        InputError: no file can be created there.
        PartitaError: writing failed, for instance as the disk is full.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError("this is a directory, not a file", where=str(path))
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(path)) from None
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except OSError as error:
        raise PartitaError(f"could not be written: {error.strerror}", where=str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a file or folder that is in the way, so that nothing is lost; return its new path.

    Raises:
        PartitaError: it cannot be renamed.
    """
    for number in count(1):
        aside = path.with_name(f"{path.name}.aside-{number}")
        if not os.path.lexists(aside):
            break
    try:
        path.rename(aside)
    except OSError as error:
        raise PartitaError(f"cannot be set aside: {error.strerror}", where=str(path)) from error
    return aside


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
