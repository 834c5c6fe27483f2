from __future__ import annotations

import json
import pathlib
import socket
import stat
import threading
import typing

import pytest

from runnerd.agent import client, config, state_directory
from tests.unit.agent import agent_loopback


@pytest.fixture
def daemon() -> typing.Iterator[agent_loopback.Daemon]:
    with agent_loopback.daemon() as made:
        yield made


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param((500, {"error": "no disk"}), "500 no disk", id="server error"),
        pytest.param((503, {}), "503", id="unavailable"),
        pytest.param((429, {}), "429", id="too many"),
        pytest.param((404, b"<html>nginx</html>"), "404", id="a proxy before the daemon"),
        pytest.param((200, b"<html>login</html>"), "not JSON", id="html"),
        pytest.param((200, [1]), "not an object", id="list"),
        pytest.param(None, "hello", id="no answer"),
        pytest.param((302, {}), "302", id="a redirect is not followed"),
        pytest.param((200, b'"' + b"x" * 2_000_000 + b'"'), "too large", id="too large"),
    ],
)
def test_what_may_pass_is_worth_asking_again(
    daemon: agent_loopback.Daemon, answer: agent_loopback.Answer, said: str
) -> None:
    daemon.script["hello"] = [answer]
    with pytest.raises(client.Unreachable, match=said):
        client.Client(daemon.url).hello(agent_loopback.TOKEN, "n" * 20)
    assert [one.name for one in daemon.asked] == ["hello"]


@pytest.mark.parametrize("status", [400, 401, 403, 409, 413, 426])
def test_a_refusal_keeps_its_status_and_the_daemons_words(daemon: agent_loopback.Daemon, status: int) -> None:
    daemon.script["hello"] = [(status, {"error": "for a reason"})]
    with pytest.raises(client.Refused, match="for a reason") as caught:
        client.Client(daemon.url).hello(agent_loopback.TOKEN, "n" * 20)
    assert caught.value.status == status


def test_nobody_listening_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(client.Unreachable, match="refused"):
            client.Client(f"http://127.0.0.1:{taken.getsockname()[1]}").heartbeat({})


def test_an_answer_that_drips_for_ever_is_given_up() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def drip() -> None:
        line, _ = server.accept()
        with line:
            line.recv(65536)
            line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not stop.wait(0.05):
                try:
                    line.sendall(b" ")
                except OSError:
                    return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        with pytest.raises(client.Unreachable, match="too long"):
            client.Client(f"http://127.0.0.1:{server.getsockname()[1]}", timeout=0.4).heartbeat({})
    finally:
        stop.set()
        thread.join()
        server.close()


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"action": "dance"},
        {"action": "run"},
        {"action": "run", "name": "x", "kind": "svn", "command": ["a"], "environment": {}},
        {"action": "run", "name": "x", "kind": "github", "command": [], "environment": {}},
        {"action": "run", "name": "x", "kind": "github", "command": "secret-1", "environment": "secret-1"},
        {"action": "wait", "after": "soon"},
    ],
)
def test_orders_that_make_no_sense_are_no_orders(answer: dict[str, typing.Any]) -> None:
    with pytest.raises(client.Unreachable) as caught:
        client.Assignment.read(answer)
    assert "secret-1" not in str(caught.value)


def test_secrets_are_in_no_representation() -> None:
    orders = client.Assignment.read(
        {"action": "run", "name": "x", "kind": "github", "command": ["a"], "environment": {"T": "secret-1"}}
    )
    assert orders.environment == {"T": "secret-1"}
    assert "secret-1" not in repr(orders)
    settings = config.Settings(pathlib.Path("/x/agent.json"), "http://x", "i", token="secret-1")
    assert "secret-1" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "JSON object"),
        ('{"token": "t"}', '"url" must be a string'),
        ('{"url": "ftp://x"}', "http or https"),
        ('{"url": "http://x", "power_off": "halt"}', '"power_off" must be a list'),
        ('{"url": "http://x", "patience": -1}', '"patience" must be a number of seconds'),
        ('{"url": "http://x", "patience": true}', '"patience" must be a number of seconds'),
    ],
)
def test_a_bad_configuration_names_its_key(tmp_path: pathlib.Path, text: str, said: str) -> None:
    path = tmp_path / "agent.json"
    path.write_text(text)
    with pytest.raises(config.Invalid, match=said) as caught:
        config.load(path)
    assert str(path) in str(caught.value)


def test_keys_of_a_newer_boot_script_are_left_alone(tmp_path: pathlib.Path) -> None:
    path = agent_loopback.write_config(tmp_path, "http://x/", colour="green")
    assert config.load(path).url == "http://x"
    config.forget_token(path)
    assert json.loads(path.read_text()) == {"url": "http://x/", "instance": "acme-ci-1", "cloud": "", "colour": "green"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_nonce_is_made_once_and_fits_the_protocol(tmp_path: pathlib.Path) -> None:
    nonce = state_directory.StateDirectory(tmp_path).nonce()
    assert 16 <= len(nonce) <= 128
    assert set(nonce) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert state_directory.StateDirectory(tmp_path).nonce() == nonce
    assert stat.S_IMODE((tmp_path / "nonce").stat().st_mode) == 0o600


def test_two_agents_do_not_share_a_directory(tmp_path: pathlib.Path) -> None:
    first, second = state_directory.StateDirectory(tmp_path), state_directory.StateDirectory(tmp_path)
    first.occupy()
    with pytest.raises(state_directory.Occupied):
        second.occupy()
    first.leave()
    second.occupy()
    second.leave()
