"""The images of reports: uploaded by jobs, stored by content, served at an address that cannot be guessed.

A file's address is a MAC over its content: the same image is stored once, and no database is needed to find it again.
An upload needs the capability of a live instance, which its jobs find in ``CML_ASSET_URL``.  The first bytes decide the
type of a file; types that a browser may run as a page are refused.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import os
import re
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from provisioners.offload import Offload
from runnerd import config, errors, model
from runnerd.runtime import alarms

#: Bytes of content that decide the type.
HEAD = 4096
#: Bytes that are written at once.
PIECE = 256 * 1024
#: The share of the store that one instance may fill.
SHARE = 10
#: Seconds after which an unfinished upload is swept.
STALE_S = 3600.0

#: Kind -> (suffix, media type).
KINDS = {
    "png": ("png", "image/png"),
    "jpeg": ("jpg", "image/jpeg"),
    "gif": ("gif", "image/gif"),
    "webp": ("webp", "image/webp"),
    "svg": ("svg", "image/svg+xml"),
    "pdf": ("pdf", "application/pdf"),
}
_MEDIA = dict(KINDS.values())
_NAME = re.compile(r"([a-z2-7]{40})\.([a-z]{3,4})\Z")
_CAPABILITY = re.compile(r"([a-z0-9][a-z0-9-]{0,63})\.([a-z2-7]{40})\Z")
# Atomic groups: comments that could be cut in many ways must not cost time.
_SVG = re.compile(
    r"\s*+(?:<\?xml[^>]{0,200}+>\s*+)?+(?:(?><!--.*?-->)\s*+|(?><!DOCTYPE svg[^>\[]{0,300}+>)\s*+)*+<svg[\s>]",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Found:
    """A file that may be served."""

    path: Path
    mime: str
    size: int
    #: The part of the name that stands for the content.
    address: str


class Assets:
    """The store, in one directory of the state."""

    def __init__(
        self,
        settings: config.Assets,
        directory: Path,
        key: bytes,
        now: Callable[[], float],
        *,
        public_url: str | None,
        alive: Callable[[model.InstanceId], bool],
        offload: Offload,
        alarms: alarms.Alarms | None = None,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._key = key
        self._now = now
        self._public_url = (public_url or "").rstrip("/")
        #: True while an instance lives; its capability ends with it.
        self._alive = alive
        self._offload = offload
        self._alarms = alarms
        #: Bytes in the store, uploads in flight included; None until it was first swept.
        self._used: int | None = None
        self._looking = asyncio.Lock()
        self._under_way = 0
        self._serial = 0
        #: Bytes by instance, since the start of the process.
        self._by_instance: dict[model.InstanceId, int] = {}
        # A file is renewed and swept from threads, which must exclude each other.
        self._disk = threading.Lock()

    @property
    def settings(self) -> config.Assets:
        return self._settings

    def configure(self, settings: config.Assets, public_url: str | None) -> None:
        """Apply a reloaded configuration; existing addresses stay valid."""
        self._settings = settings
        self._public_url = (public_url or "").rstrip("/")

    # -- addresses ---------------------------------------------------------------------------------------------

    def upload_url(self, instance: model.InstanceId, *, base: str = "") -> str:
        """Return the address to which jobs of an instance upload images; empty when images are not served.

        ``base`` is the address under which the instance reaches the daemon, the public one when empty.
        """
        if not self._public_url or self._settings.to is not config.AssetsTo.STORE:
            return ""
        return f"{(base or self._public_url).rstrip('/')}/assets/upload/{self.capability(instance)}"

    def capability(self, instance: model.InstanceId) -> str:
        """Return the capability with which an instance uploads while it lives."""
        return f"{instance}.{self._mac('upload', instance.encode())}"

    def holder(self, capability: str) -> model.InstanceId:
        """Return the instance of a capability.  Raises :class:`errors.Refused`: 401 invalid, 403 it has ended."""
        found = _CAPABILITY.match(capability)
        if found is None or not hmac.compare_digest(found[2], self._mac("upload", found[1].encode())):
            raise errors.Refused("not an upload address of this controller", status=401)
        instance = model.InstanceId(found[1])
        if not self._alive(instance):
            raise errors.Refused("the instance of this upload address has ended", status=403)
        return instance

    def _mac(self, purpose: str, what: bytes) -> str:
        made = hmac.new(self._key, b"runnerd-assets\0" + purpose.encode() + b"\0" + what, hashlib.sha256).digest()
        # 200 bits in 40 characters that survive file systems and people.
        return base64.b32encode(made[:25]).decode().lower()

    # -- uploads ------------------------------------------------------------------------------------------------

    async def receive(self, capability: str, chunks: AsyncIterator[bytes], *, length: int | None = None) -> str:
        """Store an upload and return its public address.

        Raises :class:`errors.Refused`: 400 empty, 401 or 403 for the capability, 413 too large, 415 a type that is not
        accepted, 429 more than one instance may store, 507 the store is full; and
        :class:`errors.StoreUnwritable`.
        """
        instance = self.holder(capability)
        if not self._public_url:
            raise errors.Refused("public_url is not configured, so images are not served", status=503)
        self._fits(length or 0)
        await self._look()
        self._full(length or 0)
        self._under_way += 1
        self._serial += 1
        draft = _Draft(self._directory / "tmp" / f"{os.getpid()}-{self._serial}.part")
        kept = looked = False
        try:
            try:
                await self._offload(draft.open)
                async for chunk in chunks:
                    self._fits(draft.size + len(chunk))
                    self._count(instance, len(chunk))
                    draft.add(chunk)
                    if not looked and draft.size >= HEAD:
                        self._kind(draft)
                        looked = True
                    if draft.pending >= PIECE:
                        await self._offload(draft.flush)
                kind = self._kind(draft)
                name = f"{self._mac('address', draft.digest())}.{KINDS[kind][0]}"
                target = self._directory / name[:2] / name
                kept = await self._offload(lambda: self._keep(draft, target))
            except OSError as error:
                raise errors.StoreUnwritable(f"the image store cannot be written: {error.strerror}") from error
        finally:
            self._under_way -= 1
            if not kept:
                self._count(instance, -draft.size, check=False)
                await asyncio.shield(self._offload(draft.discard))
        return f"{self._public_url}/assets/{name}"

    def _fits(self, size: int) -> None:
        if size > self._settings.max_bytes:
            raise errors.Refused(
                f"{size} bytes, at most {self._settings.max_bytes} are accepted (assets.max_bytes)", status=413
            )

    def _count(self, instance: model.InstanceId, size: int, *, check: bool = True) -> None:
        self._used = max(0, (self._used or 0) + size)
        mine = self._by_instance[instance] = max(0, self._by_instance.get(instance, 0) + size)
        most = max(self._settings.max_bytes, self._settings.total_bytes // SHARE)
        if not check:
            return
        # The caller discards the draft and releases what was counted before.
        if mine > most:
            self._count(instance, -size, check=False)
            raise errors.Refused(f"one instance may store at most {most} bytes of images", status=429)
        try:
            self._full(0)
        except errors.Refused:
            self._count(instance, -size, check=False)
            raise

    def _full(self, more: int) -> None:
        most = self._settings.total_bytes
        if (self._used or 0) + more > most:
            words = f"the image store is full ({most} bytes, assets.total_bytes); uploads are refused"
            if self._alarms is not None:
                self._alarms.ring("daemon", "assets", "store-full", words)
            raise errors.Refused(words, status=507)

    def _kind(self, draft: _Draft) -> str:
        if not draft.size:
            raise errors.Refused("the file is empty", status=400)
        kind = sniff(draft.head)
        if kind not in self._settings.types:
            what = "the file is of no known image type" if not kind else f"{kind} is not accepted"
            raise errors.Refused(f"{what}; assets.types has {', '.join(self._settings.types)}", status=415)
        return kind

    def _keep(self, draft: _Draft, target: Path) -> bool:
        """Give the draft its name; return False when the store has the same file already, which is renewed."""
        draft.finish()
        now = self._now()
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._disk:
            if target.exists():
                os.utime(target, (now, now))
                return False
            os.utime(draft.path, (now, now))
            os.replace(draft.path, target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return True

    # -- downloads ------------------------------------------------------------------------------------------------

    async def find(self, name: str) -> Found | None:
        """Return the file of that name; None for any name that is not exactly one of ours."""
        read = _NAME.match(name)
        if read is None or read[2] not in _MEDIA:
            return None
        path = self._directory / name[:2] / name

        def look() -> Found | None:
            try:
                facts = path.lstat()
            except OSError:
                return None
            if facts.st_mtime + self._settings.retention < self._now():
                return None
            return Found(path, _MEDIA[read[2]], facts.st_size, read[1])

        return await self._offload(look)

    async def read(self, found: Found) -> AsyncIterator[bytes]:
        """Yield the content in chunks."""
        file = await self._offload(lambda: found.path.open("rb"))
        try:
            while piece := await self._offload(lambda: file.read(PIECE)):
                yield piece
        finally:
            file.close()

    # -- upkeep ------------------------------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """Bytes in the store; 0 until it was first used or swept."""
        return self._used or 0

    async def sweep(self) -> int:
        """Delete files older than ``assets.retention`` and unfinished uploads; return their number.

        Raises :class:`errors.StoreUnwritable`.
        """
        quiet = self._under_way == 0
        serial = self._serial
        try:
            gone, freed, left = await self._offload(self._sweep)
        except OSError as error:
            raise errors.StoreUnwritable(f"the image store cannot be swept: {error.strerror}") from error
        if self._used is None or (quiet and serial == self._serial):
            self._used = left
        else:
            self._used = max(0, self._used - freed)
        if self._alarms is not None and self._used < self._settings.total_bytes:
            self._alarms.clear("daemon", "assets", "store-full")
        for instance in [one for one in self._by_instance if not self._alive(one)]:
            del self._by_instance[instance]
        return gone

    async def _look(self) -> None:
        async with self._looking:
            if self._used is None:
                await self.sweep()

    def _sweep(self) -> tuple[int, int, int]:
        """Return the number of deleted files, and the bytes freed and left."""
        gone = freed = left = 0
        now = self._now()
        with contextlib.suppress(FileNotFoundError):
            for path in self._directory.glob("*/*"):
                draft = path.parent.name == "tmp"
                limit = STALE_S if draft else self._settings.retention
                with self._disk:
                    try:
                        facts = path.lstat()
                        old = facts.st_mtime + limit < now
                        if old:
                            path.unlink()
                    except FileNotFoundError:
                        continue
                gone += old
                if not draft:
                    freed += facts.st_size if old else 0
                    left += 0 if old else facts.st_size
        return gone, freed, left


class _Draft:
    """A file that is being received."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.head = b""
        self._hash = hashlib.sha256()
        self._pieces: list[bytes] = []
        self.pending = 0
        self._handle: int | None = None

    def open(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A killed process with the same id may have left one.
        self.path.unlink(missing_ok=True)
        self._handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def add(self, chunk: bytes) -> None:
        """Add a chunk; :meth:`flush` writes it."""
        if len(self.head) < HEAD:
            self.head += chunk[: HEAD - len(self.head)]
        self._hash.update(chunk)
        self._pieces.append(chunk)
        self.pending += len(chunk)
        self.size += len(chunk)

    def flush(self) -> None:
        assert self._handle is not None
        data = memoryview(b"".join(self._pieces))
        self._pieces.clear()
        self.pending = 0
        while data:
            data = data[os.write(self._handle, data) :]

    def finish(self) -> None:
        self.flush()
        assert self._handle is not None
        os.fsync(self._handle)
        os.close(self._handle)
        self._handle = None

    def discard(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def digest(self) -> bytes:
        return self._hash.digest()


def sniff(head: bytes) -> str:
    """Return the type of a file by its first bytes; empty for an unknown one."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head.startswith(b"%PDF-"):
        return "pdf"
    if b"\x00" not in head and _SVG.match(head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "ignore")):
        return "svg"
    return ""
