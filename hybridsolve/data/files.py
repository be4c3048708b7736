"""What keeps a user's files whole: no output over an input or half written, and one run at a time in a folder."""

from __future__ import annotations

import errno
import io
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def refuse_overwriting(outputs: Mapping[str, str | Path | None], inputs: Mapping[str, str | Path | None]) -> None:
    """Raise if an output would take the place of an input, or of another output.

    Parameters
    ----------
    outputs, inputs : mapping of str to path or None
        By the option or argument that names them; None where it was not given. An input may be a folder, whose files
        are inputs too.
    """
    wanted = {name: Path(path) for name, path in outputs.items() if path is not None}
    given = {name: Path(path) for name, path in inputs.items() if path is not None}
    for name, path in wanted.items():
        for other, there in given.items():
            if _same(path, there) or (there.is_dir() and _real(there) in _real(path).parents and path.exists()):
                raise ValueError(f"{name} must not be {other}, found both {path}; name another file to write to.")
    names = list(wanted)
    for i, name in enumerate(names):
        for other in names[:i]:
            if _same(wanted[name], wanted[other]):
                raise ValueError(f"{name} and {other} must differ, found both {wanted[name]}; name two files.")


def check_target(name: str, path: str | Path) -> None:
    """Raise, before the work, if a file could not be written there: no folder to hold it, or a folder itself."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{name} must be a file to write, found the folder {path}; add a file name to it.")
    if path.exists() and not path.is_file():  # such as /dev/null, whose place a new file would take
        raise ValueError(f"{name} must be a file to write, found the device or pipe {path}; name a file.")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"the folder of {name} {path} must exist, found none; create {path.parent}, or name another."
        )
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"the folder of {name} {path} must be writable, found it is not; name another.")


def write_atomic(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Write a file by `write`, which is given a temporary path in the same folder: whole or not at all.

    What is written is flushed to the disk and moved over the old file in one step, so that a killed run or a full disk
    never leaves half a file or destroys the previous result.

    Raises
    ------
    OSError
        The folder does not exist, is not writable, or the disk is full; the former file is untouched.
    """
    path = Path(path)
    check_target("the output", path)
    temp = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        write(temp)
        with open(temp, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temp, path)
    except (OSError, RuntimeError) as error:
        # a full disk comes out of the HDF5 library as RuntimeError("NetCDF: HDF error")
        free = shutil.disk_usage(path.parent).free / 2**20
        reason = (getattr(error, "strerror", None) or str(error)).rstrip(".")
        raise OSError(
            f"could not write {path} ({reason}; {free:.0f} MiB free in its folder), nothing was changed "
            "there; free space or permissions on that disk, or choose another path."
        ) from error
    finally:
        temp.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return path


def write_text_atomic(path: str | Path, text: str) -> Path:
    """Write a text file (UTF-8, newlines as given) atomically; errors as in `write_atomic`."""
    return write_atomic(path, lambda temp: temp.write_bytes(text.encode("utf-8")))


def load_weights_only(path: Path, expected: str, remedy: str = "give that") -> dict:
    """The mapping that a file of `torch.save` holds; nothing in it is run.

    Raises
    ------
    ValueError
        If the file is damaged, or of another kind.
    """
    import torch

    raw = io.BytesIO(path.read_bytes())
    try:
        content = torch.load(raw, weights_only=True, map_location="cpu")
    except Exception:  # torch raises what the bytes happen to lead to, and advises to run what the file holds
        raise ValueError(f"{path} is damaged or not {expected}: {remedy}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not {expected}, found a {type(content).__name__}: {remedy}.")
    return content


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the platform allows to open a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems refuse this; the file itself is already safe
    finally:
        os.close(handle)


def refuse_file(folder: Path) -> None:
    """Raise if what should be a folder for results is a file."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} must be a folder for results, found a file; name another.")


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises at a loop of links


def _same(one: Path, other: Path) -> bool:
    if _real(one) == _real(other):
        return True
    try:
        return os.path.samefile(one, other)  # hard links, and file systems that do not tell cases apart
    except OSError:
        return False


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Keep other runs out of a folder, which is made if absent, until this one ends or its process dies.

    Raises
    ------
    ValueError
        If another run is in it; the message says which.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    refuse_file(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{folder} must be a folder for results, could not be made ({error}); name another."
        ) from error
    lock, about = folder / ".lock", folder / ".lock.txt"
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        who = about.read_text().strip() if about.exists() else "another process"
        raise ValueError(f"{folder} is in use by {who}; wait for it to end, or name another folder.") from None
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            raise ValueError(f"{folder} must be writable, found that it is not ({error}); name another.") from error
        raise ValueError(
            f"{folder} must lie on a file system with locks, by which runs are kept apart, found none ({error}); name "
            "a folder on a local disk."
        ) from error
    try:
        now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        about.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {now}\n")
        yield
    finally:
        about.unlink(missing_ok=True)
        held.release()  # its file stays: who removes it may remove the next one's lock
