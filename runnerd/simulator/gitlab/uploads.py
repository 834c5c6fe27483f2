"""Files uploaded to a project, and their addresses as notes use them.

The answer has the shape of GitLab since 17.3 (`id`, `full_path` below `/-/project/`). A file is served to anyone who
knows its address: the 32 hex digits are the secret, and the page of the simulator has no session.
"""

from __future__ import annotations

import mimetypes
import re

from runnerd.simulator import http, world
from runnerd.simulator.gitlab import access, builds, parameters, projects

LARGEST = 100 * 1024 * 1024
IMAGES = ("png", "jpg", "jpeg", "gif", "bmp", "tiff", "ico", "webp", "svg")


class Uploads:
    """Handlers of `/projects/:id/uploads` and of the files themselves."""

    def __init__(self, jobs: builds.Builds, gate: access.Access, places: projects.Projects) -> None:
        self.world = jobs.world
        self.gate = gate
        self.places = places
        self._by_address: dict[tuple[str, str], world.Upload] = {}

    def routes(self) -> list[tuple[str, str, http.Handler]]:
        return [
            ("POST", "/projects/{id}/uploads", self.create),
            ("GET", "/projects/{id}/uploads", self.list_uploads),
            ("DELETE", "/projects/{id}/uploads/{upload_id}", self.delete),
        ]

    def web_routes(self) -> list[tuple[str, str, http.Handler]]:
        """Addresses of the files outside the API; the bare one is what a relative link of a note names."""
        return [
            ("GET", "/-/project/{id}/uploads/{secret}/{filename}", self.serve),
            ("GET", "/uploads/{secret}/{filename}", self.serve),
        ]

    async def create(self, request: http.Request) -> http.Response:
        project, caller = self.places.of(request)
        file = parameters.read(request).raw("file")
        if file is None:
            raise parameters.invalid("file is missing")
        if not isinstance(file, parameters.File):
            raise parameters.invalid("file is invalid")
        if len(file.data) > LARGEST:
            raise parameters.refuse("413 Request Entity Too Large", 413)
        name = re.sub(r"[^\w.+-]", "_", file.filename.replace("\\", "/").rsplit("/", 1)[-1]) or "file"
        secret = self.world.hex(32)
        number = self.world.next_id("gitlab-upload", 20_001)
        path = f"/-/project/{project.id}/uploads/{secret}/{name}"
        kind = mimetypes.guess_type(name)[0] or file.content_type
        upload = world.Upload(number, access.FORGE, project.name, path, name, kind, file.data, self.world.now())
        self.world.uploads[number] = self._by_address[secret, name] = upload
        self.world.changed("uploads")
        image = name.rpartition(".")[2].lower() in IMAGES
        alt = name.rpartition(".")[0] if image else name
        url = f"/uploads/{secret}/{name}"
        body = {
            "id": number,
            "alt": alt,
            "url": url,
            "full_path": path,
            "markdown": f"{'!' if image else ''}[{alt}]({url})",
        }
        return http.json_response(body, 201, headers=caller.headers)

    async def list_uploads(self, request: http.Request) -> http.Response:
        project, caller = self.places.of(request)
        caller.need(access.MAINTAINER)
        found = [one for one in self.world.uploads.values() if (one.forge, one.repo) == (access.FORGE, project.name)]
        body = [
            {
                "id": one.id,
                "size": len(one.data),
                "filename": one.filename,
                "created_at": world.iso_milliseconds(one.created_at),
            }
            for one in found
        ]
        return http.json_response(body, headers=caller.headers)

    async def delete(self, request: http.Request) -> http.Response:
        project, caller = self.places.of(request)
        caller.need(access.MAINTAINER)
        number = request.params["upload_id"]
        found = self.world.uploads.get(int(number)) if number.isdecimal() else None
        if found is None or (found.forge, found.repo) != (access.FORGE, project.name):
            raise parameters.refuse("404 Upload Not Found", 404)
        del self.world.uploads[found.id]
        self._by_address = {key: one for key, one in self._by_address.items() if one is not found}
        self.world.changed("uploads")
        return http.empty(204, headers=caller.headers)

    async def serve(self, request: http.Request) -> http.Response:
        found = self._by_address.get((request.params["secret"], request.params["filename"]))
        project = request.params.get("id")
        if found is None or (project is not None and f"/-/project/{project}/" not in found.path):
            return http.text_response("Not Found\n", 404)
        headers = {"Content-Type": found.content_type, "X-Content-Type-Options": "nosniff"}
        if found.content_type == "image/svg+xml" or not found.content_type.startswith("image/"):
            headers["Content-Disposition"] = "attachment"
        return http.Response(200, found.data, headers)
