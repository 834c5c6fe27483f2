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
        raise errors.Refused(f"user id {uid} may not command this daemon; become root or user id {os.geteuid()}")
    return f"by user id {uid}, process {pid}"


def bind(path: Path) -> tuple[socket.socket, tuple[int, int]]:
    """A listening socket at ``path`` with mode 0600, and which file it is.

    Raises OSError when the directory is not safe, something else is there, or somebody listens already.
    """
    folder = path.parent
    if not folder.is_dir():
        folder.mkdir(mode=0o700)
    status = folder.stat()
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise PermissionError(f"every user of this host may replace files in {folder}; choose another place")
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.bind(str(path))
        # Before listen() nobody can connect, so there is no moment at which the mode matters and is wrong.
        path.chmod(0o600)
        found = path.lstat()
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise OSError(f"the socket {path} cannot be made: {error.strerror or error}") from error
    return sock, (found.st_dev, found.st_ino)


def _clear(path: Path) -> None:
    """Remove a socket file that nobody listens on any more."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise FileExistsError(f"{path} is there and is not a socket; it is left alone")
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
    raise FileExistsError(f"another process listens on {path}; stop it first, or set listen.socket to another path")
