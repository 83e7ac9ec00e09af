"""Writing so that a crash at any moment leaves either the whole episode or nothing that counts.

An episode is written into a hidden directory beside its place, every file is flushed to the disk, and one
``rename`` publishes it. The hidden directory's name says who is writing (host, process, the process's start),
so that the leftovers of a killed writer can be told from the work of a living one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from failwise.errors import StoreError
from failwise.store.naming import LOCK, META, SHARDS, WRITING

FOREIGN_LEFTOVER_AGE_S = 3600.0
"""Another host's writer counts as dead when its hidden directory has not changed for this long.

A commit takes seconds, and nothing but a commit has such a directory."""


def write_file(path: Path, content: bytes) -> None:
    """Create a file and force it to the disk. Raises ``OSError``, also when it is already there."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def publish(root: Path, name: str, files: Mapping[str, bytes]) -> bool:
    """Write ``files`` as the directory ``root/name``, all or nothing. ``meta.json`` is written last.

    Returns:
        True if this call published it, False if a complete ``root/name`` was there first (which then stays as
        it is).

    Raises:
        StoreError: the disk refused, or a damaged directory occupies the place. Nothing is left behind.
    """
    if (root / name / META).is_file():
        return False
    writing = root / writing_name()
    try:
        writing.mkdir()
        for file in sorted(files, key=lambda file: (file == META, file)):
            write_file(writing / file, files[file])
        sync_directory(writing)
        writing.rename(root / name)
        sync_directory(root)
    except OSError as error:
        shutil.rmtree(writing, ignore_errors=True)
        # rename(2) replaces an empty directory, never one with files: the first writer wins without a lock.
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            if (root / name / META).is_file():
                return False
            raise StoreError(
                f"{root / name}: a damaged episode is in the way; first run 'failwise store repair {root}'"
            ) from error
        raise StoreError(f"cannot write {root / name}: {error.strerror or error}; {_remedy(error)}") from error
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)
        raise
    return True


def leftovers(root: Path, now: float | None = None) -> list[Path]:
    """Hidden directories and half shards of writers that live no more, sorted. ``now``: seconds since the epoch."""
    moment = time.time() if now is None else now
    found = [*root.glob(f"{WRITING}*"), *(root / SHARDS).glob(f"{WRITING}*")]
    return sorted(path for path in found if _is_abandoned(path, moment))


def remove_leftover(path: Path) -> None:
    """Remove what a killed writer left: a directory, or the file of a half-written shard."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_abandoned(writing: Path, now: float) -> bool:
    parts = writing.name.removeprefix(WRITING).split("--")
    if len(parts) == 4 and parts[0] == _host() and parts[1].isdigit():
        return _process_start(int(parts[1])) != parts[2]
    try:
        return now - writing.stat().st_mtime > FOREIGN_LEFTOVER_AGE_S
    except FileNotFoundError:
        return False


def writing_name() -> str:
    """A hidden name that says who is writing: host, process, its start."""
    return f"{WRITING}{_host()}--{os.getpid()}--{_process_start(os.getpid())}--{secrets.token_hex(4)}"


def _host() -> str:
    return re.sub("[^A-Za-z0-9.]+", "-", socket.gethostname()).strip("-") or "host"


def _process_start(pid: int) -> str | None:
    """When a living process began, in the kernel's ticks ("0" where it does not tell); None for a dead one.

    Process ids are reused; a process id and its start are not.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
        return _signalled(pid)
    except (ProcessLookupError, PermissionError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _signalled(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "0"


def sync_directory(path: Path) -> None:
    """Force a directory's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remedy(error: OSError) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "free some space and run the same command again: what is already committed is kept"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "make the folder writable or choose another one"
        case errno.ENOENT:
            return "the store's folder has gone; was it moved while episodes were being written?"
        case _:
            return "check the disk and run the same command again: what is already committed is kept"


@contextmanager
def locked(root: Path, shared: bool = False) -> Iterator[None]:
    """Keep others from rearranging a store meanwhile: compacting, repairing and checking exclude each other.

    Recording and reading need no lock. Where nothing can be written, nothing can be rearranged either.

    Raises:
        StoreError: somebody else is at it, or it cannot be made sure that nobody is.
    """
    try:
        descriptor = os.open(root / LOCK, os.O_RDONLY | os.O_CREAT, 0o644)
    except OSError as error:
        if error.errno == errno.EROFS or not os.access(root, os.W_OK):
            yield
            return
        raise StoreError(f"cannot lock {root}: {error.strerror}; free some space or mend its rights") from error
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"{root} is being packed, repaired or checked by another process; wait for it") from error
        except OSError as error:  # a file system without locks; looking does no harm there
            if not shared:
                raise StoreError(
                    f"cannot lock {root}: {error.strerror}; rearrange it on the machine that has its disk"
                ) from error
        yield
    finally:
        os.close(descriptor)
