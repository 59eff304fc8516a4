import pytest

pytest.importorskip("uvicorn")

from http_server import started
from suffice_runtime.http.transport import tokens

TOKEN = b"a-secret.token"


@pytest.fixture(scope="module")
def guarded(runner):
    with started(runner, token=TOKEN) as found:
        yield found


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
def test_anyone_sees_whether_the_server_lives(guarded, path):
    assert guarded.send("GET", path)[0] == 200


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/models/net", "/metrics", "/openapi.json", "/nothing", "/v2/health/ready/"]
)
@pytest.mark.parametrize(
    "value", [None, "Bearer", "Bearer wrong", "Bearer a-secret.toke", "Basic a-secret.token", "\xff"]
)
def test_nothing_else_is_answered_without_the_token(guarded, path, value):
    status, headers, body = guarded.send("GET", path, **({} if value is None else {"authorization": value}))
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert b"expected the token of this server" in body
    assert b"secret" not in body


@pytest.mark.parametrize("value", ["Bearer a-secret.token", "bearer a-secret.token", "Bearer  a-secret.token "])
def test_the_token_opens_all(guarded, value):
    assert guarded.send("GET", "/v2/models/net", authorization=value)[0] == 200
    assert guarded.send("GET", "/metrics", authorization=value)[0] == 200


def test_a_body_without_a_token_is_not_read(guarded):
    status, _, _ = guarded.send("POST", "/v2/models/net/infer", b"{}", content_encoding="gzip")
    assert status == 401


def test_tokens_are_compared_in_constant_time(monkeypatch):
    seen = []
    monkeypatch.setattr("hmac.compare_digest", lambda first, second: seen.append((first, second)) or False)
    assert not tokens.allows(TOKEN, "/v2", b"Bearer a-secret.token")
    assert not tokens.allows(TOKEN, "/v2", None)
    assert seen == [(TOKEN, TOKEN), (b"", TOKEN)]


def test_a_token_comes_from_a_file_or_the_environment(tmp_path):
    file = tmp_path / "token"
    file.write_bytes(TOKEN + b"\r\n")
    assert tokens.read(file, {tokens.VARIABLE: "other"}) == TOKEN
    assert tokens.read(None, {tokens.VARIABLE: "other"}) == b"other"
    assert tokens.read(None, {}) is None


@pytest.mark.parametrize("payload", [b"", b"\n", b"a b", b"\xffab", b"a\0b", b"a\nb", b"a" * 5000])
def test_other_tokens_are_refused_without_showing_them(tmp_path, payload):
    file = tmp_path / "token"
    file.write_bytes(payload)
    with pytest.raises(ValueError, match="expected a token of 1 to 4096 printable ASCII characters"):
        tokens.read(file, {})
    with pytest.raises(FileNotFoundError):
        tokens.read(tmp_path / "none", {})
