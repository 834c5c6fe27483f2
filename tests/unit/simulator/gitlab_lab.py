"""A simulated GitLab on a virtual clock, and the few requests that most of its tests make."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from runnerd.simulator import app, gitlab, gitlab_runner, http, world
from tests.support.virtual import Loop as VirtualLoop

T = TypeVar("T")
#: A Monday, on a full hour.
START = 1_780_307_600.0 // 3600 * 3600
FEATURES = {"variables": True, "refspecs": True, "two_phase_job_commit": True, "cancel_gracefully": True}


class Lab:
    """One world with one GitLab; `run` drives it in virtual time."""

    def __init__(self, **settings: Any) -> None:
        self.loop = VirtualLoop()
        self.delivered: list[tuple[str, Mapping[str, str], bytes]] = []
        #: what the webhook target answers; 0 = cannot be reached
        self.hook_status = 200
        self.world = world.World(lambda: START + self.loop.time(), asyncio.sleep, 7, deliver=self._deliver)
        self.gitlab = gitlab.Gitlab(self.world, options=gitlab.Settings(**settings))
        self.app = app.App(self.world, gitlab_half=self.gitlab)

    async def _deliver(self, url: str, headers: Mapping[str, str], body: bytes) -> world.HookAnswer:
        self.delivered.append((url, headers, body))
        if not self.hook_status:
            raise OSError("connection refused")
        return world.HookAnswer(self.hook_status)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def wait(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.run(asyncio.sleep(seconds))

    def close(self) -> None:
        self.run(self.world.close())
        self.loop.close()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Requests

    async def asend(
        self,
        method: str,
        path: str,
        data: Any = None,
        *,
        token: str | None = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> http.Response:
        """Send to /api/v4 (or to a full path); token "" is the default token, None is no token."""
        sent = dict(headers or {})
        if token is not None:
            sent.setdefault("PRIVATE-TOKEN", token or self.gitlab.token)
        target = path if path.startswith(("/api/", "/_sim/", "/-/", "/uploads/", "http")) else "/api/v4" + path
        request = http.request(
            method, target, headers=sent, json_body=data, body=body, base_url="http://gitlab.test:8080"
        )
        return await self.app.handle(request)

    def send(self, method: str, path: str, data: Any = None, **options: Any) -> http.Response:
        return self.run(self.asend(method, path, data, **options))

    def get(self, path: str, **options: Any) -> Any:
        response = self.send("GET", path, **options)
        assert response.status == 200, response.text
        return response.json()

    # What tests need most

    def queue(self, *labels: str, repo: str = "acme/ml", count: int = 1, **extra: Any) -> list[int]:
        body = {"forge": "gitlab", "repo": repo, "labels": list(labels), "count": count, **extra}
        response = self.send("POST", "/_sim/jobs", body)
        assert response.status == 201, response.text
        ids = response.json()["ids"]
        assert isinstance(ids, list)
        return ids

    def project_id(self, repo: str = "acme/ml") -> int:
        return int(self.get(f"/projects/{repo.replace('/', '%2F')}")["id"])

    def group_id(self, path: str = "acme") -> int:
        return int(self.get(f"/groups/{path.replace('/', '%2F')}")["id"])

    def runner(self, *tags: str, **values: Any) -> dict[str, Any]:
        """A group runner of `acme`."""
        data = {"runner_type": "group_type", "group_id": self.group_id(), "tag_list": list(tags), **values}
        data.setdefault("run_untagged", not tags)
        response = self.send("POST", "/user/runners", data)
        assert response.status == 201, response.text
        made = response.json()
        assert isinstance(made, dict)
        return made

    async def aask(
        self, token: str, *, last_update: str = "", system_id: str = "s_1", **features: bool
    ) -> http.Response:
        info = {"name": "gitlab-runner", "version": "19.4.0", "features": {**FEATURES, **features}}
        body = {"token": token, "system_id": system_id, "info": info, "last_update": last_update}
        return await self.asend("POST", "/jobs/request", body, token=None)

    def ask(self, token: str, **options: Any) -> http.Response:
        return self.run(self.aask(token, **options))

    def put(self, job: Mapping[str, Any], state: str, **fields: Any) -> http.Response:
        return self.send("PUT", f"/jobs/{job['id']}", {"token": job["token"], "state": state, **fields}, token=None)

    def patch(self, job: Mapping[str, Any], start: int, chunk: bytes) -> http.Response:
        headers = {"JOB-TOKEN": str(job["token"]), "Content-Range": f"{start}-{start + len(chunk) - 1}"}
        headers["Content-Type"] = "text/plain"
        return self.send("PATCH", f"/jobs/{job['id']}/trace", token=None, headers=headers, body=chunk)

    def job(self, id: int, repo: str = "acme/ml") -> dict[str, Any]:
        found = self.get(f"/projects/{repo.replace('/', '%2F')}/jobs/{id}")
        assert isinstance(found, dict)
        return found

    def running(self, *tags: str, **values: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """A runner with a job that it has begun: (runner, payload)."""
        made = self.runner(*tags, **values)
        self.queue(*tags)
        payload = self.ask(made["token"]).json()
        assert self.put(payload, "running").status == 200
        return made, payload


class Served:
    """A simulator in a process of its own, and the control requests that tests make."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "runnerd.simulator", "--listen", "127.0.0.1:0", "--json", *arguments]
        self.started: list[subprocess.Popen[str]] = []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.facts = json.loads(self.process.stdout.readline())
        self.url = str(self.facts["url"])
        self.token = str(self.facts["tokens"]["gitlab"]["token"])
        self.context = ssl.create_default_context(cafile=self.facts["ca"]) if self.facts["ca"] else None

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *exception: object) -> None:
        for started in self.started:
            if started.poll() is None:
                started.kill()
            started.communicate()
        self.process.terminate()
        assert self.process.wait(timeout=10) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()

    def call(self, method: str, path: str, data: Any = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        headers = {"Content-Type": "application/json", "PRIVATE-TOKEN": self.token}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=10, context=self.context) as response:
            raw = response.read()
            return json.loads(raw) if "json" in response.headers.get("Content-Type", "") else raw

    def queue(self, *labels: str, **extra: Any) -> list[int]:
        body = {"forge": "gitlab", "repo": "acme/ml", "labels": list(labels), **extra}
        ids = self.call("POST", "/_sim/jobs", body)["ids"]
        assert isinstance(ids, list)
        return ids

    def runner(self, *tags: str) -> str:
        group = self.call("GET", "/api/v4/groups/acme")["id"]
        data = {"runner_type": "group_type", "group_id": group, "tag_list": list(tags), "run_untagged": False}
        return str(self.call("POST", "/api/v4/user/runners", data)["token"])

    def job(self, id: int) -> dict[str, Any]:
        found = self.call("GET", f"/api/v4/projects/acme%2Fml/jobs/{id}")
        assert isinstance(found, dict)
        return found

    def log(self, id: int) -> str:
        return bytes(self.call("GET", f"/_sim/jobs/{id}/log")).decode()

    def until(self, id: int, status: str) -> dict[str, Any]:
        """Wait a few real seconds for a job to get there."""
        for _ in range(100):
            found = self.job(id)
            if found["status"] == status:
                return found
            time.sleep(0.05)
        raise AssertionError(f"job {id} is {found['status']}, not {status}")

    def start(self, token: str, builds: Path, *flags: str) -> subprocess.Popen[str]:
        """`gitlab-runner run-single` as an instance would start it, with short intervals."""
        command = [sys.executable, gitlab_runner.__file__, "run-single", "--builds-dir", str(builds)]
        command += ["--max-builds", "1", "--wait-timeout", "5", "--executor", "shell", *flags]
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(builds),
            "CI_SERVER_URL": self.url,
            "CI_SERVER_TOKEN": token,
            "SIMULATED_CHECK_INTERVAL": "0.1",
            "SIMULATED_TRACE_INTERVAL": "0.1",
        }
        if self.facts["ca"]:
            env["SSL_CERT_FILE"] = self.facts["ca"]
        self.started.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
        return self.started[-1]
