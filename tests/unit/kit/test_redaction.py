"""The mask over logs and answers."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from runnerd.kit import redaction, secrets

TOKEN = "ghp_" + "a1B2" * 9


def test_masks_every_value_that_was_revealed(tmp_path: Path) -> None:
    secret = secrets.Secret("env:KEY", environ={"KEY": "p@ss/word 1"})
    assert redaction.redact("p@ss/word 1") == "p@ss/word 1"
    secret.reveal()
    assert redaction.redact("have 'p@ss/word 1' and p%40ss%2Fword%201") == "have '***' and ***"


def test_masks_a_longer_secret_before_one_inside_it() -> None:
    redaction.learn("secret-value")
    redaction.learn("secret-value-extended")
    assert redaction.redact("<secret-value-extended>") == "<***>"


def test_masks_a_key_of_several_lines_in_every_form() -> None:
    line = "MIIEpAIBAAKCAQEA7bq"
    redaction.learn(f"-----BEGIN X-----\n{line}\n-----END X-----")
    assert line not in redaction.redact(f"only {line}")
    assert line not in redaction.redact(f"-----BEGIN X-----\\n{line}\\n-----END X-----")


def test_short_lived_values_are_forgotten_and_lasting_ones_are_not() -> None:
    redaction.learn("configured-secret", lasting=True)
    for number in range(redaction.REMEMBERED + 10):
        redaction.learn(f"derived-token-{number:05}")
    assert (
        redaction.redact("configured-secret derived-token-00521 derived-token-00000") == "*** *** derived-token-00000"
    )


@pytest.mark.parametrize(
    "token",
    [
        TOKEN,
        "ghs_" + "x" * 36,
        "github_pat_" + "A1_" * 20,
        "glpat-abcdefghij1234567890",
        "glrt-t1_abcdefghijkl",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiIxIn0.c2lnbmF0dXJl",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_masks_known_shapes_of_tokens(token: str) -> None:
    assert redaction.redact(f"before {token} after") == "before *** after"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("authorization: RemoteAuth AABBCC", "authorization: RemoteAuth ***"),
        ("{'Authorization': 'Basic dXNlcjpwdw=='}", "{'Authorization': 'Basic ***'}"),
        ('{"PRIVATE-TOKEN": "anything"}', '{"PRIVATE-TOKEN": "***"}'),
        ("X-Gitlab-Token: tiny", "X-Gitlab-Token: ***"),
        ("GET /x?private_token=abc&page=2", "GET /x?private_token=***&page=2"),
        ("postgresql://runnerd:pw@db/runnerd", "postgresql://runnerd:***@db/runnerd"),
        ("https://oauth2:glpat@gitlab/x.git", "https://oauth2:***@gitlab/x.git"),
    ],
)
def test_masks_what_stands_where_credentials_stand(text: str, shown: str) -> None:
    assert redaction.redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "pool gpu-t4 wants 3 instances, 2 at https://github.com/acme:443/x",
        "runner glr-1 took job 88213 at 12:30:15",
        "the bearer of bad news arrived",
        "authorization was refused",
    ],
)
def test_leaves_ordinary_lines_alone(text: str) -> None:
    assert redaction.redact(text) == text


def test_the_filter_masks_message_arguments_extras_and_traceback(caplog: pytest.LogCaptureFixture) -> None:
    redaction.learn("hunter2-hunter2")
    logger = logging.getLogger("runnerd.test.secrets")
    caplog.handler.addFilter(log_filter := redaction.RedactingFilter())
    try:
        try:
            raise ValueError("bad hunter2-hunter2")
        except ValueError:
            logger.exception("told %s", "hunter2-hunter2", extra={"answer": {"body": ["hunter2-hunter2"]}, "n": 3})
    finally:
        caplog.handler.removeFilter(log_filter)
    record = caplog.records[0]
    assert "hunter2" not in caplog.text
    assert "hunter2" not in repr(record.__dict__["answer"])
    assert record.__dict__["n"] == 3
    assert record.getMessage() == "told ***"


def test_a_record_with_wrong_arguments_still_passes() -> None:
    record = logging.makeLogRecord({"msg": "%d of %d", "args": ("one",)})
    assert redaction.RedactingFilter().filter(record)
    assert "one" in record.getMessage()
