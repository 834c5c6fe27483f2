"""Requests are bounded in tries and time, never doubled, and never carry a token elsewhere."""

from __future__ import annotations

import io
import pathlib
import ssl
import typing

import pytest

from runnerd.agent.cml import context as contexts
from runnerd.agent.cml import failures, transport
from tests.unit.agent.cml import loopback
from tests.unit.agent.cml.loopback import reply


@pytest.fixture
def server() -> typing.Iterator[loopback.Server]:
    with loopback.Server().running() as running:
        yield running


class Surroundings:
    def __init__(self, **env: str) -> None:
        self.slept: list[float] = []
        self.clock = 1000.0
        self.err = io.StringIO()
        self.context = contexts.Context(
            env=env, stderr=self.err, sleep=self._sleep, now=lambda: self.clock, level="debug"
        )
        self.http = transport.Transport(self.context)

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock += seconds

    def get(self, url: str, method: str = "GET") -> transport.Answer:
        body = b"x" if method != "GET" else None
        return self.http.send(method, url, headers={"Authorization": "token secret99"}, body=body)

    def post_patiently(self, url: str) -> transport.Answer:
        return self.http.send("POST", url, headers={}, body=b"x", patient=True)


LIMITED = [
    pytest.param(429, {"retry-after": "7"}, "", 7.0, id="429 with Retry-After"),
    pytest.param(429, {"ratelimit-reset": "1030"}, "", 31.0, id="GitLab's reset time"),
    pytest.param(403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1010"}, "", 11.0, id="GitHub primary limit"),
    pytest.param(403, {"retry-after": "3"}, "", 3.0, id="GitHub secondary limit"),
    pytest.param(403, {}, "You have exceeded a secondary rate limit", 60.0, id="secondary limit in words only"),
    pytest.param(429, {"retry-after": "Thu, 01 Jan 1970 00:17:00 GMT"}, "", 20.0, id="Retry-After as a date"),
]


@pytest.mark.parametrize(("status", "headers", "body", "pause"), LIMITED)
def test_a_rate_limit_is_waited_for_and_the_request_repeated(
    server: loopback.Server, status: int, headers: dict[str, str], body: str, pause: float
) -> None:
    server.on("POST", "/", (status, body, headers), reply(201, "done"))
    here = Surroundings()
    assert here.get(server.url + "/x", "POST").text == "done"
    assert here.slept == [pause]
    assert server.lines == ["POST /x"] * 2


def test_a_rate_limit_that_never_ends_is_given_up_after_five_repeats(server: loopback.Server) -> None:
    server.on("GET", "/", reply(429, "", retry_after="1"))
    here = Surroundings()
    assert here.get(server.url).status == 429
    assert here.slept == [1.0] * 5


def test_a_rate_limit_longer_than_anyone_waits_is_given_up_at_once(server: loopback.Server) -> None:
    server.on("GET", "/", reply(429, "", retry_after="3600"))
    here = Surroundings()
    assert here.get(server.url).status == 429
    assert here.slept == []


def test_a_plain_403_is_not_repeated(server: loopback.Server) -> None:
    server.on("GET", "/", reply(403, "Resource not accessible by integration", x_ratelimit_remaining="4000"))
    assert Surroundings().get(server.url).status == 403
    assert len(server.asked) == 1


def test_a_get_is_repeated_when_the_server_fails(server: loopback.Server) -> None:
    server.on("GET", "/", reply(502), None, reply(200, "ok"))
    here = Surroundings()
    assert here.get(server.url).text == "ok"
    assert here.slept == [1.0, 2.0]


def test_a_post_without_an_answer_is_never_sent_twice(server: loopback.Server) -> None:
    server.on("POST", "/", None)
    with pytest.raises(failures.Failure) as raised:
        Surroundings().get(server.url, "POST")
    assert len(server.asked) == 1
    assert "may have arrived" in str(raised.value)


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_post_that_the_server_failed_is_never_sent_twice(server: loopback.Server, status: int) -> None:
    server.on("POST", "/", reply(status))
    assert Surroundings().get(server.url, "POST").status == status
    assert len(server.asked) == 1


def test_a_refused_connection_is_tried_again_also_for_a_post() -> None:
    with loopback.Server().running() as closed:
        url = closed.url
    here = Surroundings()
    with pytest.raises(failures.Failure, match="no answer to POST"):
        here.get(url, "POST")
    assert here.slept == [1.0, 2.0, 4.0]


def test_a_post_that_may_be_repeated_outlives_the_restart_of_its_server(server: loopback.Server) -> None:
    server.on("POST", "/", None, reply(503), reply(503), reply(200, "kept"))
    here = Surroundings()
    assert here.post_patiently(server.url).text == "kept"
    assert here.slept == [1.0, 1.0, 2.0]


def test_a_post_that_may_be_repeated_is_given_up_after_a_minute(server: loopback.Server) -> None:
    server.on("POST", "/", reply(503))
    here = Surroundings()
    assert here.post_patiently(server.url).status == 503
    assert sum(here.slept) == 60.0


def test_a_redirect_on_the_same_server_is_followed(server: loopback.Server) -> None:
    server.on("POST", "/old", reply(307, "", location="/new"))
    server.on("POST", "/new", reply(201, "made"))
    assert Surroundings().get(server.url + "/old", "POST").text == "made"
    assert server.asked[1].headers["authorization"] == "token secret99"
    assert server.asked[1].body == b"x"


def test_a_redirect_to_another_server_is_refused_with_the_token_kept(server: loopback.Server) -> None:
    with loopback.Server().running() as other:
        server.on("GET", "/", reply(302, "", location=other.url + "/steal"))
        with pytest.raises(failures.Failure, match="is redirected"):
            Surroundings().get(server.url)
        assert other.asked == []


def test_redirects_in_a_circle_end(server: loopback.Server) -> None:
    server.on("GET", "/", reply(302, "", location="/again"))
    with pytest.raises(failures.Failure, match="is redirected"):
        Surroundings().get(server.url)
    assert len(server.asked) == 6


def test_neither_password_nor_query_of_a_url_is_shown() -> None:
    assert transport.place("https://me:pw@h.example:8/a?private_token=x#y") == "https://h.example:8/a"


def test_an_answer_that_is_not_json_says_where_it_came_from() -> None:
    answer = transport.Answer(200, {}, b"<html>\n Sign in</html>", "https://h.example/a")
    with pytest.raises(failures.Failure) as raised:
        answer.json()
    assert "https://h.example/a answered 200, not with JSON: '<html> Sign in</html>'" in str(raised.value)


def test_a_byte_order_mark_before_json_is_no_trouble() -> None:
    assert transport.Answer(200, {}, b"\xef\xbb\xbf[1]", "https://h.example/a").json() == [1]


def test_a_certificate_of_ones_own_authority_is_trusted_by_either_variable(tmp_path: pathlib.Path) -> None:
    authority, trusted = _certificate(tmp_path)
    with loopback.Server().running() as server:
        server.secure(trusted)
        server.on("GET", "/", reply(200, "ok"))
        for name in ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"):
            assert Surroundings(**{name: str(authority)}).get(server.url).text == "ok"
        with pytest.raises(failures.Failure, match="NODE_EXTRA_CA_CERTS"):
            Surroundings().get(server.url)


def test_a_certificate_file_that_is_missing_is_a_warning(server: loopback.Server) -> None:
    server.on("GET", "/", reply(200, "ok"))
    here = Surroundings(NODE_EXTRA_CA_CERTS="/nowhere/ca.pem")
    assert here.get(server.url).text == "ok"
    assert "NODE_EXTRA_CA_CERTS=/nowhere/ca.pem cannot be used" in here.err.getvalue()


def _certificate(directory: pathlib.Path) -> tuple[pathlib.Path, ssl.SSLContext]:
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority, private = directory / "ca.pem", directory / "key.pem"
    authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, private)
    return authority, context
