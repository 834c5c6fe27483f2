"""Types of providers."""

from __future__ import annotations

import pytest

from runnerd import config
from runnerd.config import plugins
from tests.unit.config.sample import changed, problems


def test_names_of_the_installed_provisioner_types_include_the_shipped_ones() -> None:
    assert {"aws", "azure", "fake", "gcp", "local"} <= config.provisioner_types().keys()


def test_a_provider_whose_package_is_broken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    types = {**plugins.provisioner_types(), "broken": "provisioners.no_such_module:Nothing"}
    monkeypatch.setattr(plugins, "provisioner_types", lambda: types)
    found = problems(changed(providers__aws={"type": "broken"}))
    assert found == [
        "providers.aws.type: the package behind the provider type broken cannot be used: "
        "No module named 'provisioners.no_such_module'"
    ]
