"""Files that are written whole or not at all, whether the process that made one lives, and the check of paths that users type."""

from __future__ import annotations

import errno
import json
import os
import secrets
import tempfile
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE, S_ISREG
from typing import TYPE_CHECKING, Any

from .errors import BundlecacheError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

MAX_NAME_BYTES = 255  # of one name in a path, on all usual file systems
MAX_SHOWN_CHARS = 80  # of a path that is too long


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of an empty temporary file beside ``path`` to write to; afterwards sync it and rename it to ``path``.

    A killed process, or an error inside the block, leaves the old file as it was.

    Raises
    ------
    BundlecacheError
        When the folder cannot be made or written (no permission, disk full, name too long).
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        # Not by tempfile, whose files are private: this one has the rights of any new file, a catalogue is shared.
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        temporary = name
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def share(folder: Path) -> None:
    """Give the files below ``folder`` that their owner alone may read the rights of any new file: safetensors writes such ones."""
    private = [path for path in folder.rglob("*") if path.is_file() and not path.stat().st_mode & 0o077]
    if not private:
        return
    probe = folder / f".{secrets.token_hex(4)}.tmp"
    os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in private:
        path.chmod(mode)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by a UTF-8 file of ``text``, whole or not at all; see `replacing`.

    Raises
    ------
    BundlecacheError
        When it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name as a NumPy archive (.npz), whole or not at all."""
    import numpy as np

    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """What :func:`write_arrays` wrote; None where the file is missing or damaged, for what can be made again."""
    import zlib
    from tokenize import TokenError
    from zipfile import BadZipFile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as saved:
            return {name: saved[name] for name in saved.files}
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, BadZipFile, zlib.error):
        return None
    except (SyntaxError, TokenError, OverflowError, NotImplementedError):  # numpy evaluates the header of an array
        return None


def read_json(path: Path) -> Any:
    """What a JSON file of ours holds.

    Raises
    ------
    OSError
        When it cannot be read.
    ValueError
        When it is not UTF-8, not JSON, nested too deeply, or has an integer too long for Python.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error


def make_folder(folder: Path) -> None:
    """Make ``folder`` and try to write into it, before minutes are spent on what it is to hold.

    Raises
    ------
    BundlecacheError
        When it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


def user_path(given: Path | str, what: str = "The path") -> Path:
    """A path that a user typed, once the file system has been asked about it; it need not exist.

    Every path of a command line or of a library call passes here before it is used, so that a name that is too long,
    a NUL character, a circle of links or a folder without permission is one sentence, wherever the path is used later.

    Parameters
    ----------
    given
        As typed. ``~`` is not expanded: shells do that.
    what
        What the path is, as the start of a sentence: "The workspace".

    Raises
    ------
    BundlecacheError
        When it is empty, has a NUL character, or the file system refuses to look it up.
    """
    text = os.fspath(given)
    shown = text if len(text) <= MAX_SHOWN_CHARS else f"{text[:40]}...{text[-20:]}"
    if not text.strip():
        raise BundlecacheError(f"{what} is empty.", hint="give a file or folder, for instance ./data")
    longest = 0
    try:
        longest = max((len(os.fsencode(part)) for part in Path(text).parts), default=0)
        if longest > MAX_NAME_BYTES:  # also below a folder that does not exist yet
            raise OSError(errno.ENAMETOOLONG, "File name too long")
        os.lstat(text)
    except FileNotFoundError:
        pass
    except NotADirectoryError as error:
        raise BundlecacheError(
            f"{what} {shown!r} leads through a file as if it were a folder.", hint="correct the path"
        ) from error
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            raise BundlecacheError(
                f"{what} {shown!r} is too long for the file system: {len(os.fsencode(text)):,} bytes, its longest name "
                f"{longest:,}; allowed are about 4,000, and {MAX_NAME_BYTES} a name.",
                hint="give a shorter path",
            ) from error
        reason = getattr(error, "strerror", None) or "it holds a character that no path may have"
        raise BundlecacheError(
            f"{what} {shown!r} cannot be looked up: {reason}.", hint="correct the path or its permissions"
        ) from error
    return Path(text)


def process_lives(pid: int) -> bool:
    """Whether this machine has a process of that id; True where the system cannot be asked (Windows, another user's)."""
    if os.name != "posix":  # there, signal 0 is not a question but Ctrl+C
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def is_regular(path: Path) -> bool:
    """Whether ``path`` is a file with an end: no folder, device, pipe or socket, and no link to one."""
    try:
        return S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def _unwritable(path: Path, error: OSError) -> BundlecacheError:
    hint = "free some space, mend the permissions or choose another folder"
    name = path.name
    if error.errno == errno.ENAMETOOLONG:
        name, hint = f"{name[:40]}...", "choose a shorter name"
    return BundlecacheError(f"{path.with_name(name)} cannot be written: {error.strerror or error}.", hint=hint)
