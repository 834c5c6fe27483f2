"""``runnerd check`` for a GitHub: every step of the protocol that changes nothing.

A scale set is only read where it exists.  Each finding says what works, or what to do.
"""

from __future__ import annotations

from collections.abc import Sequence

from provisioners.base import Finding, Level
from runnerd import config, errors
from runnerd.forges import base
from runnerd.forges.github.registration import RestRunners
from runnerd.forges.github.rest import polling
from runnerd.forges.github.rest.rest import Rest
from runnerd.forges.github.scalesets import sets
from runnerd.forges.github.scalesets.service import Service
from runnerd.forges.github.scope import Kind

#: Differences between the clocks that deserve a warning, and that break the sign-on of runners; seconds.
SKEW_WARNING_S = 30.0
SKEW_ERROR_S = 300.0


class Check:
    """One check of one forge."""

    def __init__(
        self,
        settings: config.GitHubForge,
        rest: Rest,
        service: Service,
        runners: RestRunners,
        specs: Sequence[base.QueueSpec],
    ) -> None:
        self._settings = settings
        self._rest = rest
        self._service = service
        self._runners = runners
        self._specs = specs
        self._place = f"forges.{rest.wire.forge}"
        self._findings: list[Finding] = []

    async def run(self) -> list[Finding]:
        """Return all findings; a step that fails ends the steps that need it."""
        try:
            if await self._credential():
                if self._settings.mode is config.Mode.SCALE_SET:
                    await self._scale_sets()
                else:
                    await self._without_scale_sets()
        except errors.SecretMissing as error:
            self._add(Level.ERROR, str(error))
        except errors.RunnerdError as error:
            self._add(Level.ERROR, str(error))
        self._clock()
        if self._settings.webhook_secret is None and self._settings.mode is config.Mode.REST:
            self._add(
                Level.WARNING,
                "no webhook_secret: jobs are noticed by polling only",
                f"set up a webhook for workflow_job, or accept up to {self._settings.poll:.0f} s of delay",
            )
        return self._findings

    def _add(self, level: Level, message: str, remedy: str = "") -> None:
        self._findings.append(Finding(level, self._place, message, remedy))

    async def _credential(self) -> bool:
        scope = self._rest.scope
        try:
            await self._rest.credential.token()
            await self._service.connector.registration_token()
        except errors.ForgeNotFound as error:
            self._add(
                Level.ERROR,
                str(error),
                f"check that {scope.url} exists; GitHub also answers 404 when the permission is missing: it needs "
                f"{scope.permission(app=self._rest.credential.app)}",
            )
            return False
        except errors.ForgeForbidden as error:
            self._add(Level.ERROR, str(error), f"grant {scope.permission(app=self._rest.credential.app)}")
            return False
        except errors.RunnerdError as error:
            self._add(Level.ERROR, str(error), self._rest.credential.remedy)
            return False
        who = "the App's installation" if self._rest.credential.app else "the token"
        self._add(Level.OK, f"{who} may register runners for {scope.name}")
        return True

    async def _scale_sets(self) -> None:
        try:
            await self._service.connector.get()
        except errors.ForgeError as error:
            self._add(
                Level.ERROR,
                str(error),
                "if this host has no runner scale sets (GitHub Enterprise Server before 3.10), set mode: rest",
            )
            return
        self._add(Level.OK, "the Actions service answers")
        groups: dict[str, int] = {}
        for name in {spec.runner_group: None for spec in self._specs} or {self._settings.runner_group: None}:
            try:
                groups[name] = (await self._service.group(name))["id"]
            except errors.ForgeError as error:
                self._add(Level.ERROR, str(error))
            else:
                self._add(Level.OK, f'the runner group "{name}" exists')
                await self._public(name)
        chosen = sets.names(self._specs)
        for spec in self._specs:
            name = chosen[spec.queue.pool]
            place = f"pools.{spec.queue.pool}"
            if name.lower() not in {label.lower() for label in spec.labels}:
                self._findings.append(
                    Finding(
                        Level.WARNING,
                        place,
                        f'its scale set is named "{name}", which jobs may then ask for as well',
                        "give the pool one label that no other pool has",
                    )
                )
            if spec.runner_group not in groups:
                continue
            scale_set = await self._service.find_set(groups[spec.runner_group], name)
            if scale_set is None:
                self._findings.append(Finding(Level.OK, place, f'the scale set "{name}" will be created'))
                continue
            wanted = sets.labels(spec, name)
            missing, surplus = sets.missing(wanted, scale_set), sets.surplus(wanted, scale_set)
            if missing or surplus:
                self._findings.append(
                    Finding(
                        Level.WARNING,
                        place,
                        f'the scale set "{name}" has the labels {", ".join(sets.held_labels(scale_set))}, the pool '
                        f"{', '.join(wanted)}",
                        "runnerd changes them when it listens; if GitHub refuses that, delete the set when idle",
                    )
                )
            else:
                self._findings.append(Finding(Level.OK, place, f'the scale set "{name}" exists with its labels'))

    async def _without_scale_sets(self) -> None:
        for name in {spec.runner_group: None for spec in self._specs} or {self._settings.runner_group: None}:
            try:
                await self._runners.group(name)
            except errors.ForgeError as error:
                self._add(Level.ERROR, str(error))
            else:
                self._add(Level.OK, f'the runner group "{name}" exists')
                await self._public(name)
        repositories = polling.listed(self._settings, self._rest.scope.repository)
        if not repositories:
            self._add(
                Level.ERROR if self._settings.webhook_secret is None else Level.WARNING,
                "mode is rest and no repository is listed",
                "list the repositories under repos: GitHub has no listing of an organisation's jobs",
            )
        for repo in repositories:
            try:
                await self._rest.get(
                    "/repos/{repo}/actions/runs",
                    f"list the runs of {repo}",
                    path={"repo": repo},
                    query={"status": "queued", "per_page": 1},
                )
            except errors.ForgeError as error:
                self._add(Level.ERROR, str(error), 'it needs the permission "Actions: read" on the repository')
            else:
                self._add(Level.OK, f"the runs of {repo} can be read")

    async def _public(self, name: str) -> None:
        """Compare the group's setting for public repositories with the configuration's."""
        if self._rest.scope.kind is Kind.REPOSITORY:
            return
        try:
            groups, _ = await self._rest.pages(
                "/{scope}/actions/runner-groups", "runner_groups", "read the runner groups"
            )
        except errors.ForgeError:
            # Needs another permission on some plans; it is no fault to lack that.
            return
        group = next((group for group in groups if str(group.get("name", "")).lower() == name.lower()), None)
        if group is None:
            return
        allowed = bool(group.get("allows_public_repositories"))
        if allowed and not self._settings.public_repositories:
            self._add(
                Level.WARNING,
                f'the runner group "{name}" serves public repositories, so strangers\' pull requests may run code',
                "turn it off in the group's settings, or set public_repositories: true if it is intended",
            )
        elif self._settings.public_repositories and not allowed:
            self._add(
                Level.WARNING,
                f'public_repositories is true, but the runner group "{name}" does not allow them: their jobs wait',
                "allow public repositories in the group's settings",
            )

    def _clock(self) -> None:
        date = self._rest.wire.server_date()
        if date is None:
            return
        skew = self._rest.wire.clock.wall() - self._rest.wire.server_now()
        if abs(skew) < SKEW_WARNING_S:
            self._add(Level.OK, "this host's clock agrees with GitHub's")
            return
        way = "ahead of" if skew > 0 else "behind"
        self._add(
            Level.ERROR if abs(skew) >= SKEW_ERROR_S else Level.WARNING,
            f"this host's clock is {abs(skew):.0f} s {way} GitHub's",
            "run a time service (chrony, systemd-timesyncd) here and on the instances",
        )
