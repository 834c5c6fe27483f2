"""A stand-in for ``gitlab-runner run-single``, so that the demo and the tests need no downloaded binary.

It speaks the public runner protocol, prints the same JSON log lines and dies the way the real program dies (TERM
reports a failed job, QUIT finishes it, an unhealthy server is left alone for five minutes, the exit code never tells
how the job went). It uses the standard library only and may be run as a plain file by any Python from 3.9 on. It
refuses to be a sandbox: scripts run as the user that started it, like the real shell executor, and see its environment.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import hmac
import io
import json
import os
import platform
import re
import secrets
import signal
import ssl
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

# Run as a plain file, this directory comes first on the path, and its http.py would hide the one of the library.
if __name__ == "__main__" and sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    del sys.path[0]

import urllib.error
import urllib.parse
import urllib.request

VERSION = "19.4.0"
#: Statuses that the real client tries again by itself, up to five times (runner 19.x, network/retry_requester.go).
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
FEATURES = (
    "variables image services artifacts cache fallback_cache_keys shared upload_multiple_artifacts"
    " upload_raw_artifacts session terminal refspecs masking proxy raw_variables artifacts_exclude multi_build_steps"
    " trace_reset trace_checksum trace_size"
    " vault_secrets cancelable return_exit_code service_variables service_multiple_aliases image_executor_opts"
    " service_executor_opts cancel_gracefully native_steps_integration two_phase_job_commit job_inputs"
)


class Answer(NamedTuple):
    """One response; status 0 means that the server could not be reached."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """Return the body as an object, or nothing when it is not one."""
        try:
            data = json.loads(self.body or b"{}")
        except ValueError:
            return {}
        return data if isinstance(data, dict) else {}


class Log:
    """Lines as logrus prints them: one object, keys in alphabetical order, on standard error."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def line(self, level: str, msg: str, **fields: object) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self.as_json:
            record = {**fields, "level": level, "msg": msg, "time": stamp}
            text = json.dumps(record, sort_keys=True, separators=(",", ":"))
        else:
            text = " ".join([msg.ljust(50), *(f"{key}={value}" for key, value in sorted(fields.items()))]).rstrip()
        # One write past Python's buffers and without a lock: signal handlers log as well, in the middle of a line.
        os.write(sys.stderr.fileno(), f"{text}\n".encode())


class Api:
    """The few calls that a runner makes, with the retries of the real client."""

    def __init__(self, url: str, *, ca_file: str | None, timeout: float, attempts: int = 5) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.attempts = attempts
        # create_default_context honours SSL_CERT_FILE by itself.
        self.context = ssl.create_default_context(cafile=ca_file) if self.url.startswith("https:") else None

    def call(self, method: str, path: str, body: bytes | None = None, *, headers: Mapping[str, str]) -> Answer:
        """Send one request; answers of the retried kind are tried again with the delay that the server asks for."""
        delay = 0.1
        for attempt in range(self.attempts):
            answer = self._once(method, path, body, headers=headers)
            if answer.status not in RETRIED or attempt == self.attempts - 1:
                return answer
            asked = answer.headers.get("retry-after", "")
            time.sleep(min(60.0, float(asked) if asked.isdigit() else delay))
            delay = min(60.0, delay * 2)
        raise AssertionError("unreachable: the last attempt always returns")

    def _once(self, method: str, path: str, body: bytes | None, *, headers: Mapping[str, str]) -> Answer:
        request = urllib.request.Request(self.url + "/api/v4" + path, data=body, method=method)  # noqa: S310 - main() admits http(s) only
        request.add_header("User-Agent", f"gitlab-runner {VERSION} (simulated; python)")
        request.add_header("X-Request-Id", secrets.token_hex(16))
        for name, value in headers.items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout, context=self.context) as response:  # noqa: S310
                return Answer(response.status, _lower(response.headers), response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, _lower(error.headers), error.read())
        except (OSError, ValueError) as error:
            return Answer(0, {}, str(error).encode())

    def post(self, path: str, data: Mapping[str, Any], *, method: str = "POST", **headers: str) -> Answer:
        """Send an object as JSON."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = json.dumps(data).encode()
        return self.call(
            method, path, body, headers={"Content-Type": "application/json", "Accept": "application/json", **named}
        )


def _lower(headers: Any) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in headers.items()}


class Trace:
    """The job log: grows under a lock, hides masked values, remembers what the server has."""

    def __init__(self, masked: Sequence[str]) -> None:
        self.data = bytearray()
        self.sent = 0
        self._masked = sorted((value for value in masked if value), key=len, reverse=True)
        self._lock = threading.Lock()

    def write(self, text: str) -> None:
        for value in self._masked:
            text = text.replace(value, "[MASKED]")
        with self._lock:
            self.data += text.encode("utf-8", "replace")

    def unsent(self) -> tuple[int, bytes]:
        with self._lock:
            return self.sent, bytes(self.data[self.sent :])

    def summary(self) -> dict[str, Any]:
        with self._lock:
            return {"checksum": f"crc32:{zlib.crc32(bytes(self.data)):08x}", "bytesize": len(self.data)}


class Ended(NamedTuple):
    """The outcome of a job."""

    state: str
    failure_reason: str | None
    exit_code: int | None
    error: str | None


class Build:
    """One job from the payload to the final update."""

    def __init__(self, api: Api, payload: Mapping[str, Any], options: argparse.Namespace) -> None:
        self.api = api
        self.payload = payload
        self.options = options
        self.id = int(payload["id"])
        self.token = str(payload["token"])
        variables = payload.get("variables") or []
        self.variables: list[Mapping[str, Any]] = [v for v in variables if isinstance(v, dict) and "key" in v]
        self.trace = Trace([str(v.get("value", "")) for v in self.variables if v.get("masked")])
        #: Set by TERM: end the script at once and report.
        self.interrupted = threading.Event()
        #: What the server said through Job-Status: canceled, canceling, failed, forbidden.
        self.job_status: str | None = None
        self._next_flush = 0.0
        self._last_update = time.monotonic()
        self._interval = float(options.trace_interval)

    # The server's side

    def _headers(self) -> dict[str, str]:
        return {"JOB_TOKEN": self.token}

    def _heard(self, answer: Answer) -> None:
        self._last_update = time.monotonic()
        if answer.status == 403:
            self.job_status = "forbidden"
        elif answer.headers.get("job-status") in ("canceled", "canceling", "failed"):
            self.job_status = answer.headers["job-status"]
        asked = answer.headers.get("x-gitlab-trace-update-interval", "")
        if asked.isdigit() and int(asked) > 0 and not self.options.fixed_trace_interval:
            self._interval = float(asked)

    def update(self, state: str, **fields: object) -> Answer:
        """PUT the state of the job, as the heartbeat does and as the end does."""
        data = {"token": self.token, "info": runner_info(self.options), "state": state, **fields}
        answer = self.api.post(f"/jobs/{self.id}", data, method="PUT", **self._headers())
        self._heard(answer)
        return answer

    def flush(self) -> bool:
        """Send what the server does not have yet; true when it has all of it."""
        for _ in range(4):
            start, chunk = self.trace.unsent()
            if not chunk:
                return True
            chunk = chunk[: 1 << 20]
            headers = {
                "Content-Type": "text/plain",
                "Content-Range": f"{start}-{start + len(chunk) - 1}",
                "JOB-TOKEN": self.token,
            }
            answer = self.api.call("PATCH", f"/jobs/{self.id}/trace?debug_trace=false", chunk, headers=headers)
            self._heard(answer)
            if answer.status == 202:
                self.trace.sent = start + len(chunk)
            elif answer.status == 416:
                match = re.fullmatch(r"0-(\d+)", answer.headers.get("range", ""))
                if match is None:
                    return False
                self.trace.sent = min(int(match.group(1)), len(self.trace.data))
            else:
                return False
        return not self.trace.unsent()[1]

    def beat(self) -> None:
        """Keep the job alive: log when there is some, a running update after 30 s of silence."""
        now = time.monotonic()
        if now < self._next_flush:
            return
        self._next_flush = now + self._interval
        if self.trace.unsent()[1]:
            self.flush()
        elif now - self._last_update >= self.options.heartbeat:
            self.update("running")

    def finish(self, ended: Ended) -> bool:
        """Report the end until the server has taken it; false when it never did."""
        if self.job_status == "forbidden":
            return False
        self.flush()
        fields: dict[str, object] = {"output": self.trace.summary(), "checksum": self.trace.summary()["checksum"]}
        if ended.failure_reason:
            fields["failure_reason"] = self._known(ended.failure_reason)
        if ended.exit_code is not None:
            fields["exit_code"] = ended.exit_code
        delay = 0.2
        for _ in range(8):
            answer = self.update(ended.state, **fields)
            if answer.status in (200, 403, 404, 409):
                return answer.status == 200
            time.sleep(delay)
            delay = min(5.0, delay * 2)
        return False

    def _known(self, reason: str) -> str:
        """The real mapper sends unknown_failure for a reason that the server does not declare (runner 19.x)."""
        declared = (self.payload.get("features") or {}).get("failure_reasons") or []
        return reason if reason in declared else "unknown_failure"

    # The machine's side

    def run(self) -> Ended:
        """Run every step of the job; the script's failure wins over what comes after it."""
        where = Path(self.options.builds_dir).resolve()
        names = {str(v["key"]): str(v.get("value", "")) for v in self.variables}
        project = where / self.options.token[5:13] / "0" / names.get("CI_PROJECT_PATH", f"project-{self.id}")
        try:
            environment = self._environment(where, project)
            project.mkdir(parents=True, exist_ok=True)
            self.trace.write(
                f"Running with gitlab-runner {VERSION} (simulated)\n"
                f"  on {self.options.name}, system ID: {self.options.system_id or system_id()}\n"
            )
            self._sources(names, project)
        except (OSError, tarfile.TarError, ValueError) as error:
            self.trace.write(f"ERROR: Job failed (system failure): {error}\n")
            return Ended("failed", "runner_system_failure", None, str(error))
        ended = Ended("success", None, 0, None)
        limit = time.monotonic() + float((self.payload.get("runner_info") or {}).get("timeout") or 3600)
        for step in self.payload.get("steps") or []:
            when = step.get("when", "on_success")
            wanted = when == "always" or (when == "on_success") == (ended.state == "success")
            if not wanted or self.job_status or self.interrupted.is_set():
                continue
            got = self._step(step, environment, project, limit=limit)
            if got.state == "failed" and ended.state == "success" and not step.get("allow_failure"):
                ended = got
        ended = self._verdict(ended)
        colour, text = (
            ("32", "Job succeeded") if ended.state == "success" else ("31", f"ERROR: Job failed: {ended.error}")
        )
        self.trace.write(f"\x1b[{colour};1m{text}\x1b[0;m\n")
        return ended

    def _verdict(self, ended: Ended) -> Ended:
        if self.interrupted.is_set():
            reason = "runner_system_failure" if self.options.before_19_1 else "runner_interrupted"
            return Ended("failed", reason, None, "aborted: terminated")
        if self.job_status in ("canceled", "canceling"):
            return Ended("failed", "job_canceled", None, "canceled")
        return ended

    def _environment(self, builds: Path, project: Path) -> dict[str, str]:
        environment = dict(os.environ)
        files = project.with_name(project.name + ".tmp")
        for variable in self.variables:
            key, value = str(variable["key"]), str(variable.get("value", ""))
            if variable.get("file"):
                files.mkdir(parents=True, exist_ok=True)
                (files / key).write_text(value)
                value = str(files / key)
            elif not variable.get("raw"):
                value = (
                    re.sub(r"\$\{?(\w+)\}?", lambda m: environment.get(m.group(1), ""), value)
                    if "$" in value
                    else value
                )
            environment[key] = value
        environment.update(CI_BUILDS_DIR=str(builds), CI_PROJECT_DIR=str(project), CI_RUNNER_VERSION=VERSION)
        environment.setdefault("CI", "true")
        environment.setdefault("GITLAB_CI", "true")
        return environment

    def _sources(self, names: Mapping[str, str], project: Path) -> None:
        """Make the job's folder a repository of its own, with the files of the archive that the simulator offers.

        The archive stands in for a Git server. `GIT_STRATEGY` is left aside: the simulator sends `none` for the sake
        of real runners, which would find no Git server.
        """
        url = names.get("SIMULATED_ARCHIVE_PATH", "")
        answer = self.api.call("GET", url, headers={"JOB-TOKEN": self.token}) if url else None
        if answer is not None and answer.status != 200:
            raise ValueError(f"fetching the repository answered {answer.status}")
        if answer is not None:
            with tarfile.open(fileobj=io.BytesIO(answer.body), mode="r:gz") as archive:
                for member in archive.getmembers():
                    target = (project / member.name).resolve()
                    if project.resolve() not in [target, *target.parents] or not (member.isfile() or member.isdir()):
                        raise ValueError(f"the archive holds an unwelcome member: {member.name}")
                    archive.extract(member, project, set_attrs=True)
        if (project / ".git").is_dir():
            self.trace.write("Reinitialized existing Git repository\n")
        else:
            self.trace.write("Created fresh repository.\n")
        facts = self.payload.get("git_info") or {}
        write_repository(project, origin=str(facts.get("repo_url", "")), sha=str(facts.get("sha", "")))
        self.trace.write(
            f"Checking out {names.get('CI_COMMIT_SHA', '')[:8]} as detached HEAD"
            f" (ref is {names.get('CI_COMMIT_REF_NAME', '')})...\n"
        )

    def _step(self, step: Mapping[str, Any], environment: Mapping[str, str], project: Path, *, limit: float) -> Ended:
        lines = [str(line) for line in step.get("script") or []]
        text = "set -eo pipefail\nset +o noclobber\n"
        for line in lines:
            text += f"printf '%s\\n' {_quoted('$ ' + line)}\n{line}\n"
        process = subprocess.Popen(
            ["bash", "-c", text],
            cwd=project,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **_OWN_GROUP,
        )
        reader = threading.Thread(target=self._copy, args=(process.stdout,), daemon=True)
        reader.start()
        timed_out = False
        while process.poll() is None:
            self.beat()
            timed_out = time.monotonic() > limit
            if self.interrupted.is_set() or self.job_status or timed_out:
                _end_group(process)
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.05)
        code = process.wait()
        # A background child may hold the pipe open; what it prints after this is not ours to wait for.
        reader.join(timeout=1.0)
        if timed_out:
            return Ended("failed", "job_execution_timeout", None, "execution took longer than the timeout of the job")
        if code != 0:
            return Ended("failed", "script_failure", code if code > 0 else 128 - code, f"exit status {code}")
        return Ended("success", None, 0, None)

    def _copy(self, pipe: Any) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in iter(pipe.readline, b""):
                self.trace.write(line.decode("utf-8", "replace"))
            pipe.close()


def write_repository(project: Path, *, origin: str, sha: str) -> None:
    """Write the parts of `.git` that tell where a checkout comes from; no object is in it, and no git is needed.

    As the real runner leaves it (shells/abstract.go: `git init`, `git remote add origin REPO_URL` or `set-url`,
    `git checkout -f SHA`): origin is the job's `repo_url`, with `gitlab-ci-token:TOKEN@` in it, and HEAD is detached.
    The newest runners keep the credentials in an included file instead; the older form is the harder one for what
    reads the remote.
    """
    git = project / ".git"
    for folder in ("objects", "refs"):
        (git / folder).mkdir(parents=True, exist_ok=True)
    (git / "config").write_text(
        "[core]\n\trepositoryformatversion = 0\n\tbare = false\n"
        f'[remote "origin"]\n\turl = {origin}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n'
    )
    (git / "HEAD").write_text(f"{sha}\n" if sha else "ref: refs/heads/none\n")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\"'\"'") + "'"


#: The script leads a process group in our session, as with the shell executor: the supervisor of the session finds it.
_OWN_GROUP: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"preexec_fn": os.setpgrp}


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=1.0)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def system_id() -> str:
    """Return ``s_`` and 12 hex digits from the machine id, or a random ``r_`` where there is none.

    A kept ``.runner_system_id`` wins, as in the real runner (docs/fleet_scaling and common/system_id_state.go).
    """
    kept = Path.home() / ".gitlab-runner" / ".runner_system_id"
    with contextlib.suppress(OSError):
        text = kept.read_text().strip()
        if re.fullmatch(r"[sr]_[0-9a-zA-Z]{12}", text):
            return text
    for name in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with contextlib.suppress(OSError):
            machine = Path(name).read_text().strip()
            if machine:
                return "s_" + hmac.new(machine.encode(), b"gitlab-runner", hashlib.sha256).hexdigest()[:12]
    return "r_" + secrets.token_hex(6)


def runner_info(options: argparse.Namespace) -> dict[str, Any]:
    """Return the features that the runner declares; a job that needs an undeclared feature is dropped by the server."""
    return {
        "name": "gitlab-runner",
        "version": VERSION,
        "revision": "00000000",
        "platform": sys.platform,
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        "executor": options.executor,
        "shell": "bash",
        "features": dict.fromkeys(FEATURES.split(), True),
        "config": {"gpus": options.docker_gpus},
        "labels": {},
    }


class Single:
    """The loop of run-single and its signals."""

    def __init__(self, options: argparse.Namespace, log: Log) -> None:
        self.options = options
        self.log = log
        # Longer than the server's long poll, so that an idle runner is not taken for an unhealthy one.
        self.api = Api(options.url, ca_file=options.tls_ca_file, timeout=float(options.request_timeout))
        self.short = options.token[5:14] if options.token.startswith("glrt-") else options.token[:9]
        self.build: Build | None = None
        self.finished = False
        self.stopping = False
        self.last_update = ""
        self.system_id = options.system_id or system_id()

    def on_quit(self, signum: int, frame: FrameType | None) -> None:
        """Take no more work; the running job goes on."""
        self.finished = True
        self.log.line(
            "warning",
            "Starting graceful shutdown, waiting for builds to finish",
            StopSignal=signal.Signals(signum).name,
        )

    def on_term(self, signum: int, frame: FrameType | None) -> None:
        """End now: an idle runner is gone at once, a busy one reports first, a second signal forces."""
        if self.stopping:
            self.log.line("fatal", "Forced exit: received another stop signal")
            os._exit(1)
        self.stopping = self.finished = True
        self.log.line("warning", "Starting forceful shutdown", StopSignal=signal.Signals(signum).name)
        if self.build is None:
            raise SystemExit(0)
        watchdog = threading.Timer(30.0, os._exit, args=(1,))
        watchdog.daemon = True
        watchdog.start()
        self.build.interrupted.set()

    def run(self) -> int:
        """Take jobs until a limit is reached; answers 0 however the jobs went."""
        self.log.line("info", f"Starting runner for {self.options.url} with token {self.short} ...")
        left, last_build = self.options.max_builds, time.monotonic()
        while not self.finished:
            payload, healthy = self.request()
            if payload is not None:
                self.work(payload)
                last_build = time.monotonic()
                left -= 1
            elif not healthy:
                self.log.line("info", "Runner is not healthy!")
                time.sleep(self.options.unhealthy_interval)
            else:
                time.sleep(self.options.check_interval)
            if self.options.max_builds > 0 and left < 1:
                self.log.line("info", "This runner has processed its build limit, so now exiting")
                break
            if self.options.wait_timeout > 0 and time.monotonic() - last_build > self.options.wait_timeout:
                self.log.line(
                    "info", f"This runner has not received a job in {self.options.wait_timeout} seconds, so now exiting"
                )
                break
        return 0

    def request(self) -> tuple[Mapping[str, Any] | None, bool]:
        """Ask for a job: (job or nothing, whether the server seems well)."""
        body = {
            "token": self.options.token,
            "system_id": self.system_id,
            "last_update": self.last_update,
            "info": runner_info(self.options),
        }
        answer = self.api.post("/jobs/request", body, RUNNER_TOKEN=self.options.token)
        self.last_update = answer.headers.get("x-gitlab-last-update", self.last_update)
        if answer.status == 201:
            payload = answer.json()
            if "id" in payload and "token" in payload:
                repository = (payload.get("git_info") or {}).get("repo_url", "")
                shown = re.sub(r"//[^@/]*@", "//", str(repository))
                self.log.line(
                    "info", "Checking for jobs... received", job=payload["id"], repo_url=shown, runner=self.short
                )
                return payload, True
            self.log.line("error", "Checking for jobs... error", runner=self.short, status="malformed body")
            return None, False
        if answer.status == 204:
            return None, True
        if answer.status == 403:
            self.log.line("error", "Checking for jobs... forbidden", runner=self.short, status="403 Forbidden")
            return None, False
        if answer.status == 0:
            self.log.line(
                "error", "Checking for jobs... error", runner=self.short, status=answer.body.decode("utf-8", "replace")
            )
            return None, False
        self.log.line("warning", "Checking for jobs... failed", runner=self.short, status=str(answer.status))
        return None, True

    def work(self, payload: Mapping[str, Any]) -> None:
        """Run one job and report it."""
        self.build = build = Build(self.api, payload, self.options)
        started = time.monotonic()
        project = (payload.get("job_info") or {}).get("project_id")
        try:
            if build.update("running").status == 409:
                # The assignment timed out before we accepted it: another runner has the job.
                self.log.line(
                    "warning", "Appending trace to coordinator... job failed", job=build.id, runner=self.short
                )
                return
            ended = build.run()
            if build.finish(ended):
                self.log.line("info", "Updating job... ok", job=build.id, runner=self.short)
            elif build.job_status != "forbidden":
                self.log.line("error", "Updating job... failed", job=build.id, runner=self.short)
        finally:
            self.build = None
        fields: dict[str, Any] = {
            "duration_s": round(time.monotonic() - started, 6),
            "job": build.id,
            "project": project,
        }
        if ended.state == "success":
            self.log.line("info", "Job succeeded", runner=self.short, **fields)
        else:
            self.log.line("warning", "Job failed: " + str(ended.error), error=ended.error, runner=self.short, **fields)


def parser() -> argparse.ArgumentParser:
    """The flags of run-single that anything here uses; the last group is for tests and has no counterpart."""
    env = os.environ.get
    parser = argparse.ArgumentParser(prog="gitlab-runner run-single", description=__doc__, allow_abbrev=False)
    parser.add_argument("command", nargs="?", default="run-single", choices=["run-single"])
    parser.add_argument("-u", "--url", default=env("CI_SERVER_URL", ""))
    parser.add_argument("-t", "--token", default=env("CI_SERVER_TOKEN", ""))
    parser.add_argument("--executor", default=env("RUNNER_EXECUTOR", "shell"))
    parser.add_argument("--name", default=env("RUNNER_NAME", platform.node()))
    parser.add_argument("--max-builds", type=int, default=int(env("RUNNER_MAX_BUILDS", "0")))
    parser.add_argument("--wait-timeout", type=int, default=int(env("RUNNER_WAIT_TIMEOUT", "0")))
    parser.add_argument("--builds-dir", default=env("RUNNER_BUILDS_DIR", "builds"))
    parser.add_argument("--cache-dir", default=env("RUNNER_CACHE_DIR", "cache"))
    parser.add_argument("--tls-ca-file", default=env("CI_SERVER_TLS_CA_FILE"))
    parser.add_argument("--docker-image", default=env("DOCKER_IMAGE", ""))
    parser.add_argument("--docker-gpus", default=env("DOCKER_GPUS", ""))
    parser.add_argument("--docker-runtime", default="")
    parser.add_argument("--shell", default=env("RUNNER_SHELL", "bash"))
    parser.add_argument("--log-format", choices=["json", "text", "runner"], default=env("LOG_FORMAT", "json"))
    parser.add_argument("--check-interval", type=float, default=float(env("SIMULATED_CHECK_INTERVAL", "3")))
    parser.add_argument("--trace-interval", type=float, default=float(env("SIMULATED_TRACE_INTERVAL", "3")))
    parser.add_argument("--fixed-trace-interval", action="store_true", default="SIMULATED_TRACE_INTERVAL" in os.environ)
    parser.add_argument("--heartbeat", type=float, default=30.0)
    parser.add_argument("--unhealthy-interval", type=float, default=300.0)
    parser.add_argument("--request-timeout", type=float, default=120.0)
    parser.add_argument("--system-id", default=env("SIMULATED_SYSTEM_ID", ""))
    parser.add_argument(
        "--before-19-1", action="store_true", help="report TERM as runner_system_failure, as runners up to 19.0"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run as ``gitlab-runner run-single`` would; exits 1 only when it cannot start or is forced."""
    options = parser().parse_args(argv)
    log = Log(as_json=options.log_format == "json")
    for flag, value in (("URL", options.url), ("Token", options.token), ("Executor", options.executor)):
        if not value:
            _fatal(log, f"Missing {flag}")
    if not options.url.startswith(("http://", "https://")):
        _fatal(log, f"the URL must begin with http:// or https://, not {options.url!r}")
    single = Single(options, log)
    signal.signal(signal.SIGQUIT, single.on_quit)
    signal.signal(signal.SIGTERM, single.on_term)
    signal.signal(signal.SIGINT, single.on_term)
    return single.run()


def _fatal(log: Log, message: str) -> NoReturn:
    log.line("fatal", message)
    raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
