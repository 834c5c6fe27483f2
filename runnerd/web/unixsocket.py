"""The Unix socket of commands: who may connect, and where it lies.

The kernel reports the caller's user (SO_PEERCRED), so there is no password to lose; the file's mode keeps every other
user from even connecting.  A socket file that a process still listens on is never replaced.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path

from aiohttp import web

from runnerd import errors

#: ``struct ucred`` of Linux: process, user and group id; unix(7), SO_PEERCRED.
_CREDENTIALS = struct.Struct("3i")
#: Seconds that a listener has to accept before its socket file counts as in use.
PROBE_TIMEOUT_S = 2.0
#: Connections that wait to be accepted.
BACKLOG = 64


def caller(request: web.Request) -> str:
    """Return a description of the caller for the audit trail.  Raises :class:`errors.Refused` (403)."""
    return admitted(_peer(request))


def _peer(request: web.Request) -> tuple[int, int]:
    """Return process and user id of the caller, as the kernel recorded them when it connected."""
    sock = request.transport.get_extra_info("socket") if request.transport else None
    if sock is None or sock.family != socket.AF_UNIX:
        raise errors.Refused("the caller is unknown", status=403)
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid


def admitted(peer: tuple[int, int]) -> str:
    """Return a description of a peer.  Raises :class:`errors.Refused` (403) for other users."""
    pid, uid = peer
    if uid not in (0, os.geteuid()):
        raise errors.Refused(
            f"user id {uid} may not command this daemon; run this as root or as user id {os.geteuid()}"
        )
    return f"by user id {uid}, process {pid}"


def bind(path: Path) -> tuple[socket.socket, tuple[int, int]]:
    """Return a listening socket at ``path`` with mode 0600, and the device and inode of its file.

    Raises OSError when the directory is not safe, another file is there, or a process already listens.
    """
    folder = path.parent
    if not folder.is_dir():
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(
                f"the directory of the socket {path} cannot be created: {reason}; "
                "create it for the user of the daemon, or set listen.socket"
            ) from error
    status = folder.stat()
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise PermissionError(f"any user of this host can replace files in {folder}; choose another directory")
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.bind(str(path))
        # No connection succeeds before listen(), so the mode is right from the first one on.
        path.chmod(0o600)
        found = path.lstat()
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise OSError(f"the socket {path} cannot be created: {error.strerror or error}") from error
    return sock, (found.st_dev, found.st_ino)


def _clear(path: Path) -> None:
    """Remove a socket file that no process listens on any more."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise FileExistsError(f"{path} exists and is not a socket; it is left in place")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            raise OSError(f"{path}: {error.strerror or error}") from error
    raise FileExistsError(
        f"another process is listening on {path}; stop it first, or set listen.socket to another path"
    )
