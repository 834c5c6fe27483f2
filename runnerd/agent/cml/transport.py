"""HTTP for the forges and the asset store, by the standard library: bounded in time, size and tries.

Never sends a token to another host by a redirect, nor a request twice when the first may have been executed.
"""

from __future__ import annotations

import dataclasses
import email.utils
import http.client
import json
import socket
import ssl
import typing
import urllib.error
import urllib.parse
import urllib.request

from runnerd.agent.cml import context as contexts
from runnerd.agent.cml import failures

USER_AGENT = "runnerd-cml/0.20.6"

#: Seconds one request may take to connect, and to answer between two reads.
_TIMEOUT = 60.0
#: Bytes of an answer that are read at most.
_LARGEST_ANSWER = 32 * 1024 * 1024
#: How often a rate-limited request is repeated; the same number as upstream's throttling.
_RATE_LIMIT_TRIES = 5
#: Seconds that one command waits for rate limits, in total.
_PATIENCE = 900.0
#: Seconds between the tries of a request that changes nothing, after the forge or the network failed.
_DELAYS = (1.0, 2.0, 4.0)
#: The same for an idempotent request to a server that may be restarting: a minute in all.
_PATIENT_DELAYS = (1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 8.0, 8.0, 15.0, 15.0)
_REDIRECTS = 5
#: Failures before anything was sent, so that even a POST may be repeated.
_UNSENT = (ConnectionRefusedError, socket.gaierror)


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer of a server."""

    status: int
    #: Lower-case names.
    headers: typing.Mapping[str, str]
    body: bytes
    url: str

    @property
    def text(self) -> str:
        return self.body.decode("utf-8-sig", "replace")

    def json(self) -> typing.Any:
        """Parse the body; raises :class:`failures.Failure` when it is not JSON, such as a proxy's login page."""
        try:
            return json.loads(self.text)
        except ValueError:
            raise failures.Failure(
                f"{place(self.url)} answered {self.status}, not with JSON: {excerpt(self.text)!r}",
                "check that --repo is the address as a browser shows it, and that no proxy answers instead",
            ) from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Returns redirects as answers: by default the Authorization header would go to the other host."""

    def redirect_request(self, *_: typing.Any, **__: typing.Any) -> None:
        return None


class Transport:
    """Sends the requests of one command."""

    def __init__(self, context: contexts.Context) -> None:
        self._context = context
        self._waited = 0.0
        # A CA bundle that cannot be read causes a warning, not a failure.
        trust = ssl.create_default_context()
        for name in ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"):
            path = context.env.get(name)
            if path:
                try:
                    trust.load_verify_locations(cafile=path)
                except (OSError, ssl.SSLError) as error:
                    context.warn(f"{name}={path} cannot be used: {error}")
        self._opener = urllib.request.build_opener(
            _NoRedirects, urllib.request.HTTPSHandler(context=trust), urllib.request.ProxyHandler()
        )

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: typing.Mapping[str, str],
        body: bytes | None = None,
        secret_path: bool = False,
        once: bool = False,
        patient: bool = False,
        timeout: float = _TIMEOUT,
    ) -> Answer:
        """Send one request and return the last answer, even one with an error status.

        :param secret_path: name only the host in messages; the path is what protects the address.
        :param once: try a single time, for requests whose answer is not needed.
        :param patient: repeat it for a minute after failures of the network or the server, even a POST.
        :raises failures.Failure: when there is no answer.
        """
        where = host(url) if secret_path else place(url)
        limited = failed = redirected = 0
        delays = _PATIENT_DELAYS if patient else _DELAYS
        while True:
            try:
                answer = self._once(method, url, headers, body, timeout)
            except (OSError, http.client.HTTPException) as error:
                cause = _cause(error)
                repeatable = patient or method == "GET" or isinstance(cause, _UNSENT)
                hopeless = isinstance(cause, ssl.SSLCertVerificationError)
                if once or hopeless or not repeatable or failed >= len(delays):
                    raise _unreachable(method, where, cause) from error
                self._context.debug(f"{method} {where}: {cause}; again in {delays[failed]:g} s")
                self._context.sleep(delays[failed])
                failed += 1
                continue
            self._context.debug(f"{method} {where} -> {answer.status}")
            if once:
                return answer
            pause = self._pause(answer, limited)
            if pause is not None:
                limited += 1
                self._context.info(f"{host(url)} limits the rate of requests; again in {pause:.0f} s")
                self._context.sleep(pause)
                self._waited += pause
            elif (patient or method == "GET") and answer.status in (500, 502, 503, 504) and failed < len(delays):
                self._context.sleep(delays[failed])
                failed += 1
            elif answer.status in (301, 302, 303, 307, 308) and "location" in answer.headers:
                redirected += 1
                url = _redirected(method, url, answer, redirected, where)
            else:
                return answer

    def _once(
        self, method: str, url: str, headers: typing.Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        request = urllib.request.Request(url, data=body, method=method)
        request.add_header("User-Agent", USER_AGENT)
        for name, value in headers.items():
            request.add_unredirected_header(name, value)
        try:
            response = self._opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            data = response.read(_LARGEST_ANSWER + 1)
            if len(data) > _LARGEST_ANSWER:
                raise http.client.HTTPException(f"the answer is larger than {_LARGEST_ANSWER} bytes")
            named = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, named, data, url)

    def _pause(self, answer: Answer, tries: int) -> float | None:
        """Return the seconds to wait if this answer is about the rate, None if it is about something else."""
        headers = answer.headers
        delay = _retry_after(headers.get("retry-after", ""), self._context.now())
        if answer.status == 429:
            rate_limited = True
        elif answer.status == 403:
            # GitHub: a primary limit has no requests remaining, a secondary one states a delay or says so in its text.
            rate_limited = delay is not None or headers.get("x-ratelimit-remaining") == "0"
            rate_limited = rate_limited or "secondary rate limit" in answer.text.lower()
        else:
            return None
        if not rate_limited or tries >= _RATE_LIMIT_TRIES:
            return None
        if delay is None:
            reset = headers.get("x-ratelimit-reset") or headers.get("ratelimit-reset") or ""
            delay = float(reset) - self._context.now() + 1.0 if reset.isascii() and reset.isdigit() else 60.0
        delay = max(1.0, delay)
        return delay if self._waited + delay <= _PATIENCE else None


def place(url: str) -> str:
    """Return a URL as it may be shown: without user, password and query values."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, _host_port(parts), parts.path, "", ""))


def host(url: str) -> str:
    """Return scheme and host of a URL, for addresses whose path is secret."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{_host_port(parts)}"


def excerpt(text: str, length: int = 300) -> str:
    """Return the beginning of a body on one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[:length] + "..."


def _host_port(parts: urllib.parse.SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _cause(error: BaseException) -> BaseException:
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return error.reason
    return error


def _unreachable(method: str, where: str, cause: BaseException) -> failures.Failure:
    if isinstance(cause, ssl.SSLError):
        remedy = "for an authority of your own, set SSL_CERT_FILE or NODE_EXTRA_CA_CERTS to its PEM file"
    elif isinstance(cause, socket.gaierror):
        remedy = "check the host name, and the proxy variables if this machine needs a proxy"
    elif method != "GET" and not isinstance(cause, _UNSENT):
        remedy = "the request may have arrived: check its effect before you run this again"
    else:
        remedy = "check that this machine can reach the server, and run this again"
    return failures.Failure(f"no answer to {method} {where}: {cause or type(cause).__name__}", remedy)


def _retry_after(value: str, now: float) -> float | None:
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() - now
    except (TypeError, ValueError, IndexError):
        return None


def _redirected(method: str, url: str, answer: Answer, count: int, where: str) -> str:
    target = urllib.parse.urljoin(url, answer.headers["location"])
    old, new = urllib.parse.urlsplit(url), urllib.parse.urlsplit(target)
    same = (old.scheme, _host_port(old)) == (new.scheme, _host_port(new))
    repeatable = method == "GET" or answer.status in (307, 308)
    if count > _REDIRECTS or not same or not repeatable:
        raise failures.Failure(
            f"{method} {where} is redirected ({answer.status}) to {host(target)}, and is not followed there",
            "give the new address of the repository with --repo, or of the asset store with its publish URL",
        )
    return target
