"""HTTP requests of the daemon: a request goes in, a response or :class:`errors.TransportError` comes out.

A transport is a single method, so the simulation can answer in process and tests can lose an answer on purpose.
Retries, limits and meaning belong to the clients above; nothing here repeats a request.
"""

from __future__ import annotations

import base64
import codecs
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import aiohttp
import yarl

from provisioners.support import numbers
from runnerd import errors

#: The most bytes of an answer that are read; a forge never sends that much on purpose.
MAX_BODY_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, complete."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    #: Seconds for the whole exchange.
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP answer, complete.  Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Decode the body, with or without a byte order mark (the Actions service sends one, see actions/scaleset).

        Raises :class:`errors.ForgeUnavailable` when the body is not JSON, for example a proxy's HTML page, or holds a
        number that is not finite.
        """
        text = self.body.removeprefix(codecs.BOM_UTF8)
        try:
            return numbers.loads(text)
        except ValueError as error:
            kind = self.headers.get("content-type", "no content type")
            raise errors.ForgeUnavailable(
                f"expected JSON, got {len(text)} bytes of {kind}", status=self.status, maybe_created=True
            ) from error

    def date(self) -> float | None:
        """Return the server's time in unix seconds, from the Date header."""
        value = self.headers.get("date")
        if not value:
            return None
        try:
            return parsedate_to_datetime(value).timestamp()
        except ValueError:
            return None


class Transport(Protocol):
    """Sends requests.  Raises :class:`errors.TransportError` when no answer came."""

    async def send(self, request: Request) -> Response: ...

    async def close(self) -> None: ...


class AiohttpTransport:
    """The real network.  One connection pool per forge, so that a hanging forge cannot exhaust another's."""

    def __init__(self, *, ca_file: str | None = None, user_agent: str = "runnerd") -> None:
        self._ca_file = ca_file
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None
        #: Scheme and host -> the proxy for it, and the header with its credentials.
        self._proxies: dict[tuple[str, str], tuple[yarl.URL | None, dict[str, str]]] = {}

    def _proxy(self, url: yarl.URL) -> tuple[yarl.URL | None, dict[str, str]]:
        """Return the proxy for a host from the environment (``HTTPS_PROXY``, ``NO_PROXY``), read once.

        The session's ``trust_env`` would read it, and ~/.netrc, for every request; and it refuses to send one of ours
        to a host of which that file has an entry.
        """
        key = (url.scheme, url.host or "")
        if key not in self._proxies:
            address = None if urllib.request.proxy_bypass(key[1]) else urllib.request.getproxies().get(key[0])
            proxy = yarl.URL(address) if address else None
            headers = {}
            if proxy is not None and proxy.user is not None:
                encoded = base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
                headers["Proxy-Authorization"] = f"Basic {encoded}"
                proxy = proxy.with_user(None)
            self._proxies[key] = (proxy, headers)
        return self._proxies[key]

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = ssl.create_default_context()
            if self._ca_file:
                context.load_verify_locations(self._ca_file)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=200),
                headers={"User-Agent": self._user_agent},
                auto_decompress=True,
            )
        return self._session

    async def send(self, request: Request) -> Response:
        timeout = aiohttp.ClientTimeout(total=request.timeout, sock_connect=10)
        # The URL is sent as given: GitLab project paths carry %2F, which must survive.
        url = yarl.URL(request.url, encoded=True)
        proxy, credentials = self._proxy(url)
        try:
            async with self._open().request(
                request.method,
                url,
                proxy=proxy,
                proxy_headers=credentials,
                # Without TLS the request itself goes to the proxy, not into a tunnel through it.
                headers={**request.headers, **credentials} if url.scheme == "http" else request.headers,
                data=request.body,
                timeout=timeout,
                allow_redirects=False,
            ) as answer:
                body = await answer.content.read(MAX_BODY_BYTES) if answer.content_length != 0 else b""
                while len(body) < MAX_BODY_BYTES and not answer.content.at_eof():
                    body += await answer.content.read(MAX_BODY_BYTES - len(body))
                headers = {name.lower(): value for name, value in answer.headers.items()}
                return Response(answer.status, headers, body)
        except aiohttp.ClientConnectorError as error:
            raise errors.TransportError(f"cannot connect: {error}", maybe_applied=False) from error
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            message = str(error) or type(error).__name__
            raise errors.TransportError(f"no answer from {_host(request.url)}: {message}") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


def _host(url: str) -> str:
    return url.split("//", 1)[-1].split("/", 1)[0]
