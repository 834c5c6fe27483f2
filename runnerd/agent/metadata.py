"""The instance metadata service of a cloud: which cloud this is, and one bounded request to the service.

The service is asked directly: never through a proxy, even if the environment sets one, redirects are not followed,
and no name is resolved.  The answer is not trusted; a job with root can answer in the service's place.
"""

from __future__ import annotations

import calendar
import email.message
import email.utils
import enum
import http.client
import io
import pathlib
import socket
import time
import typing
import urllib.parse
from dataclasses import dataclass

#: The service's address at all three clouds (their documentation of the instance metadata service).
ADDRESS = "http://169.254.169.254"
#: Seconds for a request that is not held open, from the connection to the last byte.
TIMEOUT_S = 3.0
_ANSWER_LIMIT = 64 * 1024
_DMI = pathlib.Path("/sys/class/dmi/id")
_PCI = pathlib.Path("/sys/bus/pci/devices")
#: The same on every machine of Azure ("Azure Instance Metadata Service", and cloud-init's and WALinuxAgent's checks).
_AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"
_NVIDIA = "0x10de"


class Cloud(enum.Enum):
    """The clouds whose notices are understood; the values are those of agent.json."""

    #: Amazon EC2.
    AWS = "aws"
    #: Google Compute Engine.
    GCP = "gcp"
    #: Microsoft Azure.
    AZURE = "azure"
    #: A machine in none of these: no service is polled.
    NONE = ""


def detect(dmi: pathlib.Path = _DMI) -> Cloud:
    """Return the cloud according to the firmware; no request is sent."""
    if "Amazon EC2" in (_line(dmi / "sys_vendor"), _line(dmi / "board_vendor"), _line(dmi / "chassis_asset_tag")):
        return Cloud.AWS
    # Xen machines, some of which have a V100.
    if _line(dmi / "sys_vendor") == "Xen" and "amazon" in _line(dmi / "bios_version").lower():
        return Cloud.AWS
    # Google makes laptops too; only the product name is distinctive.
    if _line(dmi / "product_name") == "Google Compute Engine":
        return Cloud.GCP
    # Every Hyper-V machine names Microsoft; only Azure has this tag.
    if _line(dmi / "chassis_asset_tag") == _AZURE_TAG:
        return Cloud.AZURE
    return Cloud.NONE


def has_gpu(pci: pathlib.Path = _PCI) -> bool:
    """Return True when there is an NVIDIA device, with or without its driver."""
    try:
        return any(_line(path) == _NVIDIA for path in pci.glob("*/vendor"))
    except OSError:
        return False


def _line(path: pathlib.Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(200).strip()
    except OSError:
        return ""


class NoAnswer(Exception):
    """The service gave no usable answer.  The message quotes nothing of the answer."""


@dataclass(frozen=True)
class Answer:
    """An answer of the service."""

    status: int
    text: str
    headers: email.message.Message

    def header(self, name: str) -> str:
        return str(self.headers.get(name, "")).strip()

    def until(self, when: time.struct_time) -> float:
        """Return the seconds from the answer to a time in UTC, by the service's own clock where it sends one."""
        try:
            date = calendar.timegm(email.utils.parsedate(self.header("Date")) or ())
        except (TypeError, ValueError, OverflowError, IndexError):
            date = int(time.time())
        return float(calendar.timegm(when) - date)


class Service:
    """One metadata service."""

    def __init__(self, url: str = ADDRESS, *, timeout: float = TIMEOUT_S) -> None:
        parts = urllib.parse.urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._authority = parts.netloc
        #: Seconds for a request that is not held open.
        self.timeout = timeout

    def ask(
        self,
        path: str,
        headers: typing.Mapping[str, str],
        *,
        method: str = "GET",
        timeout: float = 0.0,
    ) -> Answer:
        """Send one request; it ends within its time-out even if the answer trickles in.  Raises :class:`NoAnswer`."""
        timeout = timeout or self.timeout
        deadline = time.monotonic() + timeout
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._authority}", "Connection: close"]
        if method != "GET":
            lines.append("Content-Length: 0")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        request = "\r\n".join((*lines, "", "")).encode("latin-1")
        try:
            with socket.create_connection((self._host, self._port), timeout=timeout) as line:
                line.sendall(request)
                # The response needs only the file of its socket.
                response = http.client.HTTPResponse(typing.cast("socket.socket", _Reading(line, deadline)))
                with response:
                    response.begin()
                    data = _body(response)
                    return Answer(response.status, data.decode("utf-8", "replace"), response.headers)
        except socket.timeout:  # noqa: UP041 - not yet the same as TimeoutError in Python 3.9
            raise NoAnswer(f"no answer within {timeout:g} seconds") from None
        except OSError as error:
            raise NoAnswer(error.strerror or type(error).__name__) from None
        except (http.client.HTTPException, ValueError) as error:
            raise NoAnswer(f"an answer that is not HTTP ({type(error).__name__})") from None


def _body(response: http.client.HTTPResponse) -> bytes:
    data = b""
    while chunk := response.read1(_ANSWER_LIMIT):
        data += chunk
        if len(data) > _ANSWER_LIMIT:
            raise NoAnswer("an answer that is too large")
    if response.length:
        raise NoAnswer("an answer that was cut off")
    return data


class _Reading(io.RawIOBase):
    """Reads from a socket until a deadline: a socket time-out alone lets an answer trickle in forever."""

    def __init__(self, line: socket.socket, deadline: float) -> None:
        super().__init__()
        self._line, self._deadline = line, deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: typing.Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout  # noqa: UP041 - as above
        self._line.settimeout(left)
        return self._line.recv_into(buffer)
