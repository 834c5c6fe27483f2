from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest

from runnerd import errors
from runnerd.kit import secrets

TOKEN = "ghp_" + "a1B2" * 9


def test_reads_a_file_without_its_final_newline(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first line\nsecond\n\n")
    assert secrets.Secret("file:token", base=tmp_path).reveal() == "first line\nsecond\n"


def test_reads_a_rotated_file_anew(tmp_path: Path) -> None:
    secret = secrets.Secret(f"file:{tmp_path / 'token'}")
    (tmp_path / "token").write_text("old-value")
    assert secret.reveal() == "old-value"
    (tmp_path / "token").write_text("new-value")
    assert secret.reveal() == "new-value"


def test_reads_a_variable_and_a_credential(tmp_path: Path) -> None:
    (tmp_path / "gitlab").write_text("from-systemd\n")
    environ = {"TOKEN": "from-environment", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert secrets.Secret("env:TOKEN", environ=environ).reveal() == "from-environment"
    assert secrets.Secret("credential:gitlab", environ=environ).reveal() == "from-systemd"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "file:/nowhere/token",
            "runnerd.yaml:4: forges.acme.token: no secret at file:/nowhere/token: there is no such file; "
            "write the secret to /nowhere/token, readable by the user of the daemon alone (mode 0600)",
        ),
        (
            "env:TOKEN",
            "runnerd.yaml:4: forges.acme.token: no secret at env:TOKEN: the variable is not set; "
            "set TOKEN in the environment of the daemon",
        ),
        (
            "credential:gitlab",
            "runnerd.yaml:4: forges.acme.token: no secret at credential:gitlab: CREDENTIALS_DIRECTORY is not set; "
            "start the daemon from a systemd unit with LoadCredential=gitlab:/path",
        ),
    ],
)
def test_a_missing_secret_names_reference_place_and_remedy(reference: str, message: str) -> None:
    secret = secrets.Secret(reference, environ={}).at("runnerd.yaml:4: forges.acme.token")
    with pytest.raises(errors.SecretMissing) as caught:
        secret.reveal()
    assert str(caught.value) == message


@pytest.mark.parametrize("content", [b"", b"\n", b"  \n"])
def test_an_empty_file_is_a_missing_secret(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(errors.SecretMissing, match="it is empty"):
        secrets.Secret("file:token", base=tmp_path).reveal()


def test_a_file_that_is_no_text_is_refused_without_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"hunter2\xff")
    with pytest.raises(errors.SecretMissing) as caught:
        secrets.Secret("file:token", base=tmp_path).reveal()
    assert caught.value.__cause__ is None
    assert "hunter2" not in str(caught.value)


def test_a_huge_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    (tmp_path / "huge").write_bytes(b"x" * (secrets.LARGEST_FILE_BYTES + 1))
    with pytest.raises(errors.SecretMissing, match="larger than"):
        secrets.Secret("file:huge", base=tmp_path).reveal()
    with pytest.raises(errors.SecretMissing, match="no such file"):
        secrets.Secret("file:.", base=tmp_path).reveal()


@pytest.mark.parametrize("text", [TOKEN, "hunter2", "", "vault:secret/x", "glpat-abcdefghij", 5, None, "FILE:/x"])
def test_an_inline_secret_is_refused_without_being_echoed(text: object) -> None:
    with pytest.raises(ValueError) as caught:
        secrets.split_reference(text)
    assert "write file:/path, env:NAME or credential:NAME" in str(caught.value)
    assert caught.value.__cause__ is None
    assert not text or str(text) not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["env:not a name", "env:", "credential:../etc/shadow", "credential:a/b", "file:", "file:a\nb"]
)
def test_a_reference_that_names_nothing_usable_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        secrets.split_reference(text)


def test_a_secret_never_shows_its_value(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2-hunter2")
    secret = secrets.Secret("file:token", base=tmp_path)
    secret.reveal()
    shown = f"{secret} {secret!r} {secret:>20} {[secret]} {secret.reference}"
    assert "hunter2" not in shown
    assert repr(secret) == "***"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)


def test_equal_references_are_equal_secrets(tmp_path: Path) -> None:
    one, same, other = (secrets.Secret(text, base=tmp_path) for text in ("file:a", "file:a", "file:b"))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != secrets.Secret("file:a", base=tmp_path / "elsewhere")
    assert one.at("runnerd.yaml:3: x") == one


def test_tells_when_others_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("value-value")
    secret = secrets.Secret("file:token", base=tmp_path)
    path.chmod(0o600)
    assert secret.exposed() is None
    path.chmod(0o644)
    assert secret.exposed() == f"{path} may be read or written by every user of this host (mode 0644)"
    assert secrets.Secret("env:X", environ={"X": "y"}).exposed() is None


def test_a_key_is_made_once_for_the_user_of_the_daemon_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "secret.key"
    made = secrets.make_key(path).reveal()
    assert len(made) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert secrets.make_key(path).reveal() == made
    assert [entry.name for entry in path.parent.iterdir()] == ["secret.key"]


def test_a_key_made_by_another_daemon_in_between_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.key"
    link = os.link

    def overtaken(source: Path, target: Path) -> None:
        path.write_text("the other's key\n")
        link(source, target)

    monkeypatch.setattr(os, "link", overtaken)
    assert secrets.make_key(path).reveal() == "the other's key"


def test_a_key_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the directory should be")
    with pytest.raises(errors.StoreUnwritable, match=r"secret\.key cannot be made"):
        secrets.make_key(tmp_path / "state" / "secret.key")
