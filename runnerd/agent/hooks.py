"""Scripts that GitHub's runner calls at the start and the end of its job.

The wording of scraped output may change; a hook cannot be missed.  Each leaves a mark that the agent polls for, adds
the instance's summary to the job's, and then runs the operator's hook of the same name.  These hooks never fail a
job.  The runner calls no COMPLETED hook for a job that was cut short by a shutdown.
"""

from __future__ import annotations

import pathlib
import shlex
from dataclasses import dataclass

#: The runner's variables for its hooks (docs.github.com, "Running scripts before or after a job").
STARTED, COMPLETED = "ACTIONS_RUNNER_HOOK_JOB_STARTED", "ACTIONS_RUNNER_HOOK_JOB_COMPLETED"

_STARTED = """\
date +%s > {marks}/started 2>/dev/null || :
{chain}"""

_COMPLETED = """\
(
    ended=$(date +%s)
    began=$(cat {marks}/started 2>/dev/null) || began=$ended
    took=$((ended - began))
    if [ -n "${{GITHUB_STEP_SUMMARY:-}}" ]; then
        {{
            printf '\\n| Instance | Job time | GPU |\\n|---|---|---|\\n'
            printf '| %s | %d min %02d s | %s |\\n' {instance} "$((took / 60))" "$((took % 60))" \\
                "$(cat {facts} 2>/dev/null || echo 'not measured')"
        }} >> "$GITHUB_STEP_SUMMARY"
    fi
    echo "$ended" > {marks}/completed
) 2>/dev/null || :
{chain}"""


@dataclass(frozen=True)
class Hooks:
    """The paths of the scripts and the marks."""

    directory: pathlib.Path
    #: A directory that the runner's user can write to.
    marks: pathlib.Path
    #: The agent's GPU measurements, one line, for the summary.
    facts: pathlib.Path

    @property
    def started(self) -> bool:
        """True once the hook at the start of a job was called."""
        return (self.marks / "started").exists()

    @property
    def completed(self) -> bool:
        """True once the hook at the end of a job was called."""
        return (self.marks / "completed").exists()

    def write(self, instance: str, environment: dict[str, str]) -> dict[str, str]:
        """Write both scripts; return the variables that name them.

        The operator's own hooks are taken from ``environment`` and called by these.
        """
        variables = {}
        for variable, name, text in ((STARTED, "started.sh", _STARTED), (COMPLETED, "completed.sh", _COMPLETED)):
            path = self.directory / name
            own = environment.get(variable, "")
            # As the runner would call it: bash -e, or sh where there is no bash.
            chain = f'exec "$(command -v bash || command -v sh)" -e {shlex.quote(own)}\n' if own else "exit 0\n"
            path.write_text(
                text.format(
                    marks=shlex.quote(str(self.marks)),
                    facts=shlex.quote(str(self.facts)),
                    instance=shlex.quote(instance.replace("|", " ") or "unnamed"),
                    chain=chain,
                ),
                encoding="utf-8",
            )
            path.chmod(0o755)
            variables[variable] = str(path)
        return variables
