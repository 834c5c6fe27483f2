"""The blocks of forges."""

from __future__ import annotations

import pytest

from runnerd import config
from tests.unit.config.sample import changed, read


@pytest.mark.parametrize(
    ("url", "kind", "scope"),
    [
        ("https://github.com/acme/", "organization", "acme"),
        ("https://github.com/acme/ml", "repository", "acme/ml"),
        ("https://ghes.acme.example:8443/acme", "organization", "acme"),
        ("https://acme.ghe.com/acme", "organization", "acme"),
        ("http://127.0.0.1:8080/acme", "organization", "acme"),
    ],
)
def test_reads_what_a_github_address_names(url: str, kind: str, scope: str) -> None:
    forge = read(changed(forges__acme__url=url)).forges["acme"]
    assert isinstance(forge, config.GitHubForge)
    assert (forge.kind, forge.scope) == (kind, scope)


def test_an_enterprise_takes_a_token() -> None:
    github = {"type": "github", "url": "https://github.com/enterprises/acme", "token": "env:T"}
    forge = read(changed(forges={"acme": github})).forges["acme"]
    assert isinstance(forge, config.GitHubForge)
    assert (forge.kind, forge.scope) == ("enterprise", "enterprises/acme")
