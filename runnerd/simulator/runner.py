"""A stand-in for the runner binaries: `python -m runnerd.simulator.runner github|gitlab`.

`github` reads its JIT configuration from ACTIONS_RUNNER_INPUT_JITCONFIG as the real listener does, prints the same
lines, takes one job and exits 0 for every result of the job. It is no sandbox: the script runs as the user that started
it. Standard library only; any Python from 3.9 on can run it as a file.
"""

from __future__ import annotations

import base64
import io
import json
import os
import pathlib
import shutil
import signal
import ssl
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import uuid

# Run as a file, our own folder comes first on the path, and its http.py would hide the standard library's.
if (
    __name__ == "__main__"
    and sys.path
    and pathlib.Path(sys.path[0]).resolve() == pathlib.Path(__file__).resolve().parent
):
    del sys.path[0]

import urllib.error
import urllib.request

VERSION = "2.336.0"
#: seconds of one long poll, between two renewals of the lease, and between two tries to reconnect
POLL, RENEW, RECONNECT = 20.0, 5.0, 3.0
#: largest part of a step summary that is uploaded
SUMMARY_LIMIT = 1024 * 1024


class Gone(Exception):
    """The registration is not known any more."""


class Conflict(Exception):
    """The session, or the job, belongs to another."""


class Interrupted(BaseException):
    """A signal came while no job ran; no kind of error, so that no retry swallows it."""


def say(text: str) -> None:
    """Print one line of the listener, stamped as it stamps them.

    Written past Python's buffers: a signal handler calls this as well, and a buffered writer that it interrupts
    refuses a second entry (RuntimeError).
    """
    stamp = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
    os.write(sys.stdout.fileno(), f"{stamp}: {text}\n".encode())


class Service:
    """Calls to the simulator with the runner's credential."""

    def __init__(self, url: str, secret: str) -> None:
        self._url = url.rstrip("/")
        self._secret = secret
        #: the open session, known here so that a signal at any moment finds it
        self.session = ""
        ca_file = os.environ.get("SSL_CERT_FILE") or None
        self._tls = ssl.create_default_context(cafile=ca_file) if url.startswith("https:") else None

    def call(self, method: str, path: str, body: object = None, timeout: float = 60.0) -> tuple[int, bytes]:
        """Status and body. Raises Gone (404), Conflict (409), OSError for all that may be tried again."""
        data = body if isinstance(body, bytes) else (None if body is None else json.dumps(body).encode())
        request = urllib.request.Request(self._url + path, data=data, method=method)  # noqa: S310
        request.add_header("Authorization", "Bearer " + self._secret)
        request.add_header("User-Agent", "actions-runner/" + VERSION + " (simulated)")
        try:
            with urllib.request.urlopen(request, timeout=timeout, context=self._tls) as answer:  # noqa: S310
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")
            if error.code == 404:
                raise Gone(text) from None
            if error.code == 409:
                raise Conflict(text) from None
            raise OSError(f"{error.code} {text[:200]}") from None
        except (urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError) as error:
            raise OSError(str(error)) from None
        except Exception as error:  # http.client raises its own kinds when a connection is cut
            raise OSError(repr(error)) from None

    def insist(self, method: str, path: str, body: object = None, tries: int = 20) -> tuple[int, bytes]:
        """As `call`, tried again while the service cannot be reached. Raises OSError at the end."""
        for left in range(tries - 1, -1, -1):
            try:
                return self.call(method, path, body)
            except OSError:
                if left == 0:
                    raise
                time.sleep(min(RECONNECT, 0.3 * (tries - left)))
        raise AssertionError("unreachable")


class Stop:
    """Set by a signal: TERM and INT end the runner, and fail the job it runs."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        #: True while idle: a signal breaks the long poll; a job looks at `asked` by itself
        self.idle = True

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        if not self.asked.is_set():
            self.asked.set()
            say("Runner shutdown requested.")
        if self.idle:
            raise Interrupted(number)


class Job:
    """One job: workspace, script, log, end."""

    def __init__(self, service: Service, base: str, facts: dict, root: pathlib.Path, stop: Stop) -> None:  # type: ignore[type-arg]
        self._service = service
        self._base = base
        self._facts = facts
        self._stop = stop
        self._log = io.BytesIO()
        self._lock = threading.Lock()
        self._cancelled = False
        self._lost = False
        name = facts["repository"].split("/")[1]
        self._work = root / name / name
        self._temp = root / "_temp"
        self._summaries: list[pathlib.Path] = []

    def run(self) -> str:
        """Do the job; "Succeeded", "Failed" or "Canceled"."""
        self._prepare()
        keeper = threading.Thread(target=self._keep_lease, daemon=True)
        self._done = threading.Event()
        keeper.start()
        try:
            result = self._steps()
        finally:
            self._done.set()
        keeper.join(timeout=10)
        self._flush()
        return result

    def summary(self) -> str:
        parts = []
        for path in self._summaries:
            if path.is_file():
                parts.append(path.read_bytes()[:SUMMARY_LIMIT].decode("utf-8", "replace"))
        return "".join(parts)

    def _steps(self) -> str:
        started = os.environ.get("ACTIONS_RUNNER_HOOK_JOB_STARTED")
        completed = os.environ.get("ACTIONS_RUNNER_HOOK_JOB_COMPLETED")
        if started and not self._hook("Set up runner", started):
            return self._verdict(False)
        succeeded = self._script()
        # A runner that gets TERM skips what remains, the hook included; a failed job does not.
        if completed and not self._stop.asked.is_set() and not self._hook("Complete runner", completed):
            succeeded = False
        return self._verdict(succeeded)

    def _verdict(self, succeeded: bool) -> str:
        if self._stop.asked.is_set():
            self._write("##[error]The runner has received a shutdown signal.\n")
            return "Failed"
        if self._cancelled:
            self._write("##[error]The operation was canceled.\n")
            return "Canceled"
        return "Succeeded" if succeeded else "Failed"

    def _script(self) -> bool:
        lines = self._facts["script"]
        if not lines:
            deadline = time.monotonic() + float(self._facts.get("duration") or 0.0)
            while time.monotonic() < deadline and not self._ending():
                time.sleep(min(0.05, max(0.0, deadline - time.monotonic())))
            return not self._ending()
        path = self._temp / f"{uuid.uuid4()}.sh"
        path.write_text("\n".join(lines) + "\n")
        for line in lines:
            self._write(f"[command]{line}\n")
        shell = shutil.which("bash") or "/bin/sh"
        arguments = [shell, "-e", str(path)]
        if shell.endswith("bash"):
            arguments = [shell, "--noprofile", "--norc", "-eo", "pipefail", str(path)]
        return self._process(arguments)

    def _hook(self, title: str, path: str) -> bool:
        self._write(f"##[group]{title}\n")
        shell = shutil.which("bash") or "/bin/sh"
        return self._process([shell, "-e", path])

    def _process(self, arguments: list[str]) -> bool:
        """Run a step; its output goes to the log. True when it exits 0.

        It stays in our process group, so that a kill of the machine's group kills the step too.
        """
        try:
            process = subprocess.Popen(
                arguments,
                cwd=self._work,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            self._write(f"##[error]{error}\n")
            return False
        reader = threading.Thread(target=self._copy, args=(process,), daemon=True)
        reader.start()
        while process.poll() is None:
            if self._ending():
                _end_tree(process)
                break
            time.sleep(0.02)
        code = process.wait()
        reader.join(timeout=2)
        if code != 0:
            self._write(f"##[error]Process completed with exit code {code}.\n")
        return code == 0

    def _ending(self) -> bool:
        return self._stop.asked.is_set() or self._cancelled or self._lost

    def _environment(self) -> dict[str, str]:
        commands = self._temp / "_runner_file_commands"
        commands.mkdir(parents=True, exist_ok=True)
        mark = uuid.uuid4().hex
        files = {
            "GITHUB_STEP_SUMMARY": commands / f"step_summary_{mark}",
            "GITHUB_ENV": commands / f"set_env_{mark}",
            "GITHUB_PATH": commands / f"add_path_{mark}",
            "GITHUB_OUTPUT": commands / f"set_output_{mark}",
            "GITHUB_STATE": commands / f"save_state_{mark}",
        }
        for path in files.values():
            path.touch()
        self._summaries.append(files["GITHUB_STEP_SUMMARY"])
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ACTIONS_RUNNER_INPUT_")}
        return {
            **inherited,
            **self._facts["environment"],
            **{name: str(path) for name, path in files.items()},
            "GITHUB_WORKSPACE": str(self._work),
            "GITHUB_EVENT_PATH": str(self._temp / "_github_workflow" / "event.json"),
            "RUNNER_OS": "Linux",
            "RUNNER_ARCH": {"aarch64": "ARM64"}.get(os.uname().machine, "X64"),
            "RUNNER_TEMP": str(self._temp),
            "RUNNER_TOOL_CACHE": str(self._temp.parent / "_tool"),
        }

    def _prepare(self) -> None:
        """Make the workspace: the repository's files, and a repository of its own."""
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        events = self._temp / "_github_workflow"
        events.mkdir(parents=True, exist_ok=True)
        (events / "event.json").write_text(json.dumps(self._facts["event"]))
        if self._facts["archive"]:
            _, data = self._service.insist("GET", self._base + "/archive")
            _unpack(data, self._work)
        if not (self._work / ".git").exists():
            self._write_repository()

    def _write_repository(self) -> None:
        """Write the parts of `.git` that tell where a checkout comes from; no object is in it, and no git is needed.

        As actions/checkout v4 leaves it: origin without credentials and the token as `http.ORIGIN/.extraheader`
        (src/git-auth-helper.ts; v6 moves the header to an included file), a branch checked out by name, any other ref
        with a detached HEAD (src/ref-helper.ts).
        """
        git = self._work / ".git"
        environment, origin = self._facts["environment"], self._facts["origin"]
        ref, sha = environment.get("GITHUB_REF", ""), environment.get("GITHUB_SHA", "")
        for folder in ("objects", "refs/heads"):
            (git / folder).mkdir(parents=True)
        config = "[core]\n\trepositoryformatversion = 0\n\tbare = false\n"
        config += f'[remote "origin"]\n\turl = {origin}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n'
        token = environment.get("GITHUB_TOKEN", "")
        if token:
            server = "/".join(origin.split("/")[:3])
            credential = base64.b64encode(f"x-access-token:{token}".encode()).decode()
            config += f'[http "{server}/"]\n\textraheader = AUTHORIZATION: basic {credential}\n'
        (git / "config").write_text(config)
        if ref.startswith("refs/heads/") or not sha:
            branch = ref if ref.startswith("refs/heads/") else "refs/heads/main"
            (git / "HEAD").write_text(f"ref: {branch}\n")
            if sha:
                (git / branch).parent.mkdir(parents=True, exist_ok=True)
                (git / branch).write_text(f"{sha}\n")
        else:
            (git / "HEAD").write_text(f"{sha}\n")

    def _copy(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        while chunk := process.stdout.read1(65536):  # type: ignore[attr-defined]
            with self._lock:
                self._log.write(chunk)
            if os.environ.get("ACTIONS_RUNNER_PRINT_LOG_TO_STDOUT"):
                sys.stdout.write(chunk.decode("utf-8", "replace"))
                sys.stdout.flush()

    def _write(self, text: str) -> None:
        with self._lock:
            self._log.write(text.encode())

    def _keep_lease(self) -> None:
        pause = min(RENEW, float(self._facts.get("lease_seconds") or RENEW) / 3)
        while not self._done.wait(0.2 if self._log.tell() else pause):
            self._flush()

    def _flush(self) -> None:
        """Send the log that is new and renew the lease; hear of a cancellation."""
        with self._lock:
            chunk = self._log.getvalue()
        try:
            _, answer = self._service.call("POST", self._base + ("/log" if chunk else "/renew"), chunk or b"")
        except (Gone, Conflict):
            self._lost = True
            return
        except OSError:
            return
        with self._lock:
            rest = self._log.getvalue()[len(chunk) :]
            self._log = io.BytesIO()
            self._log.write(rest)
        if json.loads(answer).get("cancel"):
            self._cancelled = True


def _unpack(data: bytes, target: pathlib.Path) -> None:
    root = target.resolve()
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for member in archive.getmembers():
            path = (root / member.name).resolve()
            if not member.isfile() or root not in path.parents:
                raise ValueError(f"the archive holds an unwelcome member: {member.name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            source = archive.extractfile(member)
            assert source is not None
            path.write_bytes(source.read())
            path.chmod(member.mode & 0o777 | 0o600)


def _end_tree(process: subprocess.Popen[bytes]) -> None:
    """End a step and its descendants: TERM, then KILL."""
    for number, wait in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
        for pid in [*_descendants(process.pid), process.pid]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        try:
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            continue
        if not _descendants(process.pid):
            return


def _descendants(pid: int) -> list[int]:
    """Return the living descendants of a process, by the parents that /proc tells; none where there is no /proc."""
    parents: dict[int, int] = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(path.parent.name)] = int(fields[1])
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known and child not in found]
    return found[1:]


def configuration() -> tuple[dict[str, str], dict[str, str], str]:
    """Settings, credentials and secret of the JIT configuration; taken out of the environment. Raises ValueError."""
    encoded = os.environ.pop("ACTIONS_RUNNER_INPUT_JITCONFIG", "")
    if not encoded:
        raise ValueError("ACTIONS_RUNNER_INPUT_JITCONFIG is not set")
    try:
        files = {
            name: json.loads(base64.b64decode(text)) for name, text in json.loads(base64.b64decode(encoded)).items()
        }
        return files[".runner"], files[".credentials"]["Data"], files[".credentials_rsaparams"]["d"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"ACTIONS_RUNNER_INPUT_JITCONFIG is not a JIT configuration: {error}") from None


def github(root: pathlib.Path) -> int:
    """Listen for one job and do it; the exit status, which tells nothing of the job's result."""
    try:
        settings, credentials, secret = configuration()
    except ValueError as error:
        print(f"An error occurred: {error}", file=sys.stderr)
        return 1
    stop = Stop()
    service = Service(settings["ServerUrlV2"], secret)
    work = pathlib.Path(settings.get("WorkFolder") or "_work")
    work = work if work.is_absolute() else root / work
    work.mkdir(parents=True, exist_ok=True)
    try:
        stop.install()
        session = _connect(service, credentials["ClientId"])
        return _listen(service, session, credentials["ClientId"], work, stop)
    except Interrupted:
        # As the real one: an idle runner that is stopped ends its session and keeps its registration.
        if service.session:
            _quietly(service, "DELETE", f"/sessions/{service.session}")
        say("Exiting...")
        return 0
    except Gone as error:
        say(f"Registration {credentials['ClientId']} was not found.")
        say("The runner no longer exists on the server. Cleaning up local configuration.")
        print(str(error)[:300], file=sys.stderr)
        return 0
    except Conflict:
        say("A session for this runner already exists.")
        return 5


def _connect(service: Service, client_id: str) -> str:
    """Open the session, trying again while the service cannot be reached."""
    pause = 0.2
    body = {"version": VERSION, "client_id": client_id, "nonce": uuid.uuid4().hex}
    while True:
        try:
            _, answer = service.call("POST", "/sessions", body)
            service.session = str(json.loads(answer)["session"])
            break
        except OSError as error:
            say(f"Runner connect error: {error}. Retrying until reconnected.")
            time.sleep(pause)
            pause = min(pause * 2, RECONNECT)
    print("\n√ Connected to GitHub\n", flush=True)
    print(f"Current runner version: '{VERSION}'", flush=True)
    say("Listening for Jobs")
    return service.session


def _listen(service: Service, session: str, client_id: str, work: pathlib.Path, stop: Stop) -> int:
    while True:
        try:
            status, answer = service.call("GET", f"/sessions/{session}/job?wait={POLL}", timeout=POLL + 30)
            if status != 200:
                continue
            offered = json.loads(answer)
            base = f"/sessions/{session}/jobs/{offered['id']}"
            _, answer = service.call("POST", base + "/start", b"")
        except Conflict:
            time.sleep(0.2)
            continue
        except OSError as error:
            say(f"Runner connect error: {error}. Retrying until reconnected.")
            time.sleep(RECONNECT / 3)
            continue
        except Gone as error:
            if "session" not in str(error):
                raise
            session = _connect(service, client_id)
            continue
        return _work(service, base, session, json.loads(answer), work, stop)


def _work(
    service: Service,
    base: str,
    session: str,
    facts: dict,  # type: ignore[type-arg]
    work: pathlib.Path,
    stop: Stop,
) -> int:
    say(f"Running job: {facts['name']}")
    stop.idle = False
    job = Job(service, base, facts, work, stop)
    result = job.run()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        service.insist("POST", base + "/finish", {"result": result, "summary": job.summary()})
    except (Gone, Conflict, OSError) as error:
        # The answer may have been lost after it was applied: then the registration has ended with the job.
        print(f"finish: {str(error)[:200]}", file=sys.stderr)
    say(f"Job {facts['name']} completed with result: {result}")
    return 0


def _quietly(service: Service, method: str, path: str) -> None:
    try:
        service.call(method, path, timeout=5)
    except (Gone, Conflict, OSError):
        pass


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["github"]:
        root = os.environ.get("SIMULATED_RUNNER_ROOT")
        if root:
            return github(pathlib.Path(root))
        directory = tempfile.mkdtemp(prefix="simulated-runner-")
        try:
            return github(pathlib.Path(directory))
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    if arguments[:1] == ["gitlab"]:
        # Beside this file when run as a file, in the package otherwise; loaded only for GitLab.
        sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))
        from runnerd.simulator import gitlab_runner

        return gitlab_runner.main(arguments[1:])
    print("usage: python -m runnerd.simulator.runner github|gitlab", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
