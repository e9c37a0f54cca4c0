"""The lock of an output folder: one run at a time writes there."""

import contextlib
import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout, UnixFileLock

from ckd_trainer.utils.errors import TemporaryError, input_error, is_mendable
from ckd_trainer.utils.processes import broadcast_from_main

logger = logging.getLogger(__name__)

# `Trainer` uploads the output folder, except files whose names begin with an underscore.
LOCK, HOLDER = "_lock", "_lock_holder.json"
_SECONDS_OF_WORKERS = 30
_CANNOT_LOCK = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextlib.contextmanager
def run_lock(output_dir: str) -> Iterator[None]:
    """Locks an output folder for the run, and makes it if it is missing.

    The main process holds the lock for all processes of the run. The operating system releases it when that process
    ends, however it ends. On exit the lock's files are deleted, and so are the folders made here, if they are empty.

    Raises:
        TemporaryError: another run holds the lock, or the disk has no room or cannot be written.
        InputError: there can be no such folder.
    """
    with contextlib.ExitStack() as stack:
        broadcast_from_main(lambda: stack.enter_context(_locked(Path(output_dir))))
        yield


def is_locked(output_dir: str | Path) -> bool:
    """Returns whether a run on this machine holds the lock of a folder; False on a file system without locks."""
    path = Path(output_dir) / LOCK
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError) as error:
        if not _has_no_locks(error):
            raise
        return False


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = FileLock(folder / LOCK)
    try:
        _acquire(lock, folder)
        yield
    finally:
        if lock.is_locked:
            (folder / HOLDER).unlink(missing_ok=True)
            if isinstance(lock, UnixFileLock):  # the other kind of lock is the file itself
                (folder / LOCK).unlink(missing_ok=True)
            lock.release()
        with contextlib.suppress(OSError):  # not empty
            for path in made:
                path.rmdir()


def _acquire(lock: FileLock, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not _is_dead(folder):
                raise
            # With older versions of filelock, data loader workers hold the lock until they notice that their run died.
            lock.acquire(timeout=_SECONDS_OF_WORKERS)
    except Timeout:
        raise TemporaryError(
            f"output_dir {folder} is in use by another run ({_holder(folder)}): wait until it ends, or give "
            "another output_dir."
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and not _has_no_locks(error):
            if not is_mendable(error):
                raise
            message = f"output_dir {folder} cannot be written ({error.strerror}): give another folder."
            raise input_error(error)(message) from error
        logger.warning("The file system of %s has no locks: do not start a second run there.", folder)
    else:
        holder = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        with contextlib.suppress(OSError):  # the lock works even if the disk is full
            (folder / HOLDER).write_text(json.dumps(holder), encoding="utf-8")


def _has_no_locks(error: OSError | NotImplementedError) -> bool:
    return isinstance(error, NotImplementedError) or error.errno in _CANNOT_LOCK


def _is_dead(folder: Path) -> bool:
    """Returns whether the process that took the lock ran on this machine and has ended."""
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        if holder["host"] != socket.gethostname():
            return False
        os.kill(holder["process"], 0)  # sends nothing
    except ProcessLookupError:
        return True
    except (OSError, ValueError, LookupError, TypeError):  # not written yet, or another user's process
        return False
    return False


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {holder['process']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, LookupError, TypeError):  # not written yet, or its disk was full
        return "its process is unknown"
