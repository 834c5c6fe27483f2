from __future__ import annotations

from pathlib import Path

from runnerd import config
from tests.support import small_daemon


async def test_a_provider_is_remembered_as_every_version_has_written_it(tmp_path: Path) -> None:
    more = {
        "type": "fake",
        "regions": small_daemon.REGIONS,
        "boot": "1h",
        "limits": {"instances": 3},
        "tags": {"team": 'ä "b"'},
    }
    async with small_daemon.running(tmp_path, providers={"sky": more}) as small:
        kept = small.daemon.runtime.rows.settings["provider/sky"]
        settings = small.daemon.runtime.config.providers["sky"]
    assert kept == settings.model_dump_json()[:-1] + ',"name":"sky"}'
    assert config.Provider.model_validate_json(kept) == settings
