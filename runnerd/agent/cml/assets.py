"""Uploads of files that a comment shows: to the operator's asset store, or to GitLab itself.

Contract of a store (upstream's, reference section 3.5): POST of the raw bytes with type, length and name; the
answer's body is the URL. There is no default store: a public third party is used only when its address is given.
"""

from __future__ import annotations

import base64
import binascii
import mimetypes
import pathlib
import re
import stat
import typing
import urllib.parse

from runnerd.agent.cml import context as contexts
from runnerd.agent.cml import driver, failures, transport

#: Largest file in bytes that is published; it is held in memory.
_LARGEST_FILE = 256 * 1024 * 1024
#: Seconds between two reads while a store takes a file.
_TIMEOUT = 300.0

#: First bytes by which a type is known.
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
    (b"\x1aE\xdf\xa3", "video/webm"),
)
#: Types that Python's own table lacks in some versions and on some systems.
_SUFFIXES = {".md": "text/markdown", ".svg": "image/svg+xml", ".json": "application/json"}


class Publisher:
    """Uploads the files of one command.

    :param url: the asset store; empty if there is none.
    :param forge: the forge to keep files on when ``native``; None when the command may do without a forge.
    """

    def __init__(
        self,
        context: contexts.Context,
        http: transport.Transport,
        *,
        url: str,
        native: bool,
        forge: driver.Driver | None,
        watermark: bool = True,
    ) -> None:
        self._context = context
        self._http = http
        self._url = url
        self.native = native
        self._forge = forge
        self._watermark = watermark

    def publish(self, upload: driver.Upload) -> str:
        """Upload and return the URL to refer to."""
        if self.native:
            assert self._forge is not None
            return self._forge.upload(upload)
        if not self._url:
            raise failures.Failure(
                f"{upload.name} must be uploaded to be shown in a comment, and no asset store is set",
                "set CML_ASSET_URL to your asset store (the operator of runnerd sets it under `assets`), "
                "or leave files out of the report with --publish=false",
            )
        answer = self._send(upload)
        url = answer.text.strip()
        if answer.status >= 400 or not url.startswith(("http://", "https://")):
            raise failures.Failure(
                f"the asset store at {transport.host(self._url)} did not take {upload.name}: "
                f"{answer.status} {transport.excerpt(url) or 'without a URL'}",
                "check CML_ASSET_URL, and the size and type limits of the store",
            )
        if self._watermark:
            url = with_parameter(url, "cml", upload.mime.partition("/")[2] or "octet-stream")
        # A forge's image proxy keeps what it has seen under a URL; a report that is updated must show the new
        # image.
        return with_parameter(url, "cache-bypass", self._context.new_uuid())

    def _send(self, upload: driver.Upload) -> transport.Answer:
        scheme = urllib.parse.urlsplit(self._url).scheme
        if scheme not in ("http", "https"):
            raise failures.Failure("the asset store's address is no http or https URL", "check CML_ASSET_URL")
        # A bare host gets its slash, as a browser would send it.
        parts = urllib.parse.urlsplit(self._url)
        url = urllib.parse.urlunsplit(parts._replace(path=parts.path or "/"))
        plain = upload.name.encode("ascii", "replace").decode().replace("?", "_")
        plain = re.sub(r'[\x00-\x1f"\\]', "_", plain)
        headers = {
            "Accept": "*/*",
            "Content-Type": upload.mime,
            "Content-Length": str(len(upload.data)),
            "Content-Disposition": f'inline; filename="{plain}"',
        }
        # The store keeps equal files once, so a retry is safe; runnerd's store may be down during a restart.
        return self._http.send(
            "POST", url, headers=headers, body=upload.data, secret_path=True, patient=True, timeout=_TIMEOUT
        )


def read(path: pathlib.Path, mime: str = "") -> driver.Upload | None:
    """Read a file for upload; None if there is no regular file of that name."""
    try:
        facts = path.stat()
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(facts.st_mode):
        return None
    if facts.st_size > _LARGEST_FILE:
        raise failures.Failure(
            f"{path} has {facts.st_size} bytes, at most {_LARGEST_FILE} are published",
            "keep it as an artifact of the job",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise failures.Failure(f"{path} cannot be read: {error.strerror}") from error
    return driver.Upload(path.name, mime or sniff(data, path.name), data)


def embedded(url: str) -> driver.Upload | None:
    """Decode a ``data:image/...`` URL; None if it is none that can be decoded."""
    head, comma, payload = url.partition(",")
    if not comma or ";base64" not in head:
        return None
    mime = head[len("data:") :].partition(";")[0]
    payload = urllib.parse.unquote(payload)
    try:
        data = base64.b64decode(payload + "=" * (-len(payload) % 4))
    except (binascii.Error, ValueError):
        return None
    return driver.Upload(f"file.{mime.partition('/')[2]}", mime, data) if data else None


def sniff(data: bytes, name: str) -> str:
    """Tell the content type, by the content first and by the name where text looks alike."""
    for signature, mime in _SIGNATURES:
        if data.startswith(signature):
            return mime
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp":
        return "video/mp4"
    suffix = pathlib.PurePath(name).suffix.lower()
    guessed = _SUFFIXES.get(suffix) or mimetypes.guess_type(name)[0] or ""
    begin = data[:4096]
    if b"\x00" in begin:
        plausible = guessed and not guessed.startswith(("text/", "image/"))
        return guessed if plausible else "application/octet-stream"
    if re.match(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*|<!DOCTYPE[^>]*>\s*)*<svg[\s>]", begin, re.DOTALL):
        return "image/svg+xml"
    return guessed if guessed and not guessed.startswith("image/") else "text/plain"


def with_parameter(url: str, name: str, value: str) -> str:
    """Set one query parameter of a URL, in place if it is there."""
    parts = urllib.parse.urlsplit(url)
    pairs = urllib.parse.parse_qsl(parts.query, keep_blank_values=True)
    kept: list[tuple[str, str]] = []
    done = False
    for pair in pairs:
        if pair[0] != name:
            kept.append(pair)
        elif not done:
            kept.append((name, value))
            done = True
    if not done:
        kept.append((name, value))
    return urllib.parse.urlunsplit(parts._replace(path=parts.path or "/", query=urllib.parse.urlencode(kept)))


def as_markdown(url: str, mime: str, *, title: str, name: str) -> str:
    """Return the markdown that shows an image or video, or links anything else."""
    if mime.startswith(("image/", "video/")):
        return f'![]({url} "{title}")' if title else f"![]({url})"
    return f"[{title or name}]({url})"


def store_url(values: typing.Iterable[str]) -> str:
    """Return the first address that is set."""
    return next((value for value in values if value), "")
