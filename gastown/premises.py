"""The town's folder as its daemon holds it: the lock, the sockets, the first admin token, daemon.json.

Law: nothing that is not proven to be ours and dead is removed; a link, a stranger's file or somebody's live socket
refuses the start. Everything made here is its owner's alone. Whatever goes wrong is Refusal with an exit code.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

LEDGER_REFUSED: Final = 65
LEADERSHIP_LOST: Final = 75
PERMISSION: Final = 77
CONFIGURATION: Final = 78

LOCK: Final = "ledger.lock"
HTTP_SOCKET: Final = "gastown.sock"
LINES_SOCKET: Final = "lines.sock"
DAEMON: Final = "daemon.json"
ADMIN_TOKEN: Final = "admin.token"
SOCKET_PATH_BYTES_MAX: Final = 100  # sockaddr_un has 104 on macOS, 108 on Linux
HASH_CHARS: Final = 12  # of the folder's name in the runtime folder: 48 bits
LOCK_S: Final = 0.5  # somebody who only looks whether the lock is held has it for an instant
LOCK_POLL_S: Final = 0.02


class Refusal(Exception):
    """The daemon cannot start: a line for a person and the exit code."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# ---------------------------------------------------------------- folder and lock


def own_folder(state: Path) -> None:
    """Makes sure that `state` is a folder of ours that nobody else can enter."""
    try:
        state.mkdir(mode=0o700, exist_ok=True)
        found = state.stat()
        if found.st_uid != os.geteuid():
            raise Refusal(PERMISSION, f"{state} belongs to another user")
        if found.st_mode & 0o077:
            state.chmod(0o700)
    except OSError as error:
        raise _told(error, state) from None


def take_lock(state: Path) -> int:
    """The file descriptor that holds the ledger for as long as this process lives. Refusal 75 when somebody has it."""
    try:
        lock = os.open(state / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _told(error, state / LOCK) from None
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES) or time.monotonic() > deadline:
                os.close(lock)
                raise _held(error, state) from None
            time.sleep(LOCK_POLL_S)


def _held(error: OSError, state: Path) -> Refusal:
    if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
        return _told(error, state / LOCK)
    holder = read_daemon(state).get("pid")
    who = f"pid {holder} serves it" if holder else "another process has it"
    return Refusal(LEADERSHIP_LOST, f"the ledger in {state} is taken: {who}")


def _told(error: OSError, path: Path) -> Refusal:
    code = PERMISSION if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP) else CONFIGURATION
    return Refusal(code, f"{path}: {error.strerror}")


# ---------------------------------------------------------------- sockets


def socket_folder(state: Path) -> Path:
    """Where the sockets go: beside the ledger, or where the path is short enough for the system."""
    state = state.absolute()
    if _fits(state):
        return state
    digest = hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:HASH_CHARS]
    for parent, name in (
        (os.environ.get("XDG_RUNTIME_DIR", ""), f"gastown-{digest}"),
        ("/tmp", f"gastown-{os.geteuid()}-{digest}"),
    ):
        folder = Path(parent) / name
        if parent and folder.parent.is_dir() and _fits(folder):
            return folder
    raise Refusal(CONFIGURATION, f"{state}: the path is too long for a socket; set XDG_RUNTIME_DIR to a short one")


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / HTTP_SOCKET)) <= SOCKET_PATH_BYTES_MAX


def private_folder(folder: Path) -> None:
    """Makes the folder for the sockets, which must be ours alone and no link."""
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        raise _told(error, folder) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise Refusal(PERMISSION, f"{folder} must be a folder that only its owner, this user, can enter")


def bind_unix(path: Path) -> socket.socket:
    """A bound socket, mode 0600, in place of a dead one. Refusal 78 for a link, another kind of file or a live socket.

    Call it with the ledger's lock held: two daemons of one town never look at the same path at once.
    """
    _clear(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)
    try:
        made.bind(str(path))
    except OSError as error:
        made.close()
        raise _told(error, path) from None
    finally:
        os.umask(umask)
    made.setblocking(False)
    return made


def _clear(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _told(error, path) from None
    if not stat.S_ISSOCK(found.st_mode):
        raise Refusal(CONFIGURATION, f"{path} is in the way and is not a socket: move it")
    if found.st_uid != os.geteuid() or not _is_dead(path):
        raise Refusal(CONFIGURATION, f"{path} is somebody's live socket: stop whoever listens on it")
    path.unlink(missing_ok=True)


def _is_dead(path: Path) -> bool:
    """Whether surely nobody listens: only a refused connection proves it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def bind_tcp(listen: str, explicit: bool) -> tuple[socket.socket, bool]:
    """A listening socket on `host:port`, and whether the port asked for was taken and a free one stands in for it."""
    host, _, port = listen.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        return _listening(host, int(port)), False
    except OSError as error:
        if error.errno != errno.EADDRINUSE or explicit:
            raise Refusal(CONFIGURATION, f"cannot listen on {listen}: {error.strerror}") from None
    try:
        return _listening(host, 0), True
    except OSError as error:
        raise Refusal(CONFIGURATION, f"cannot listen on {host}: {error.strerror}") from None


def _listening(host: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen()  # only this tells two daemons apart that bind the same port at once
    except OSError:
        made.close()
        raise
    made.setblocking(False)
    return made


def address(sock: socket.socket) -> str:
    """host:port of a bound TCP socket."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# ---------------------------------------------------------------- files


def check_admin_token(state: Path) -> bool:
    """Whether there is an admin.token; Refusal 77 when somebody else could read or have planted it."""
    path = state / ADMIN_TOKEN
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _told(error, path) from None
    if not stat.S_ISREG(found.st_mode):
        raise Refusal(PERMISSION, f"{path} must be a plain file")
    if found.st_uid != os.geteuid():
        raise Refusal(PERMISSION, f"{path} belongs to another user")
    if found.st_mode & 0o077:
        raise Refusal(PERMISSION, f"{path} can be read by others: chmod 600 it, or revoke the token")
    return True


def write_private(path: Path, text: bytes) -> None:
    """Writes a file of mode 0600 in one step: who reads it sees the old or the new one, whole."""
    spare = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        spare.unlink(missing_ok=True)
        out = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(out, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        spare.replace(path)
    except OSError as error:
        spare.unlink(missing_ok=True)
        raise _told(error, path) from None


def read_daemon(state: Path) -> dict[str, Any]:
    """daemon.json, or {} when there is none that can be read."""
    try:
        told = orjson.loads((state / DAEMON).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return told if isinstance(told, dict) else {}


def tidy(state: Path, sockets: list[Path]) -> None:
    """Removes what only a living daemon may leave behind. Call it with the lock held."""
    for path in (state / DAEMON, *sockets):
        with suppress(OSError):
            path.unlink(missing_ok=True)
    folder = socket_folder(state) if sockets else state
    if folder != state.absolute():
        with suppress(OSError):
            folder.rmdir()
