"""Tokens: made once, listed without their secret, revoked for good."""

import pytest

from .town import Town, unique
from .wire import RpcError


def test_a_new_token_works_with_its_scope(shared_town: Town) -> None:
    reply = shared_town.call("token.create", scope="worker", name=unique("agent"))
    assert reply["id"]
    assert len(reply["token"]) >= 32
    assert shared_town.call_as(reply["token"], "worker.register", name=unique("worker"))["worker_id"]


@pytest.mark.parametrize(
    ("scope", "method", "needs"),
    [
        ("read", "worker.register", "worker"),
        ("read", "bead.create", "worker"),
        ("read", "work.claim", "worker"),
        ("read", "convoy.create", "worker"),
        ("read", "queue.pause", "admin"),
        ("read", "ledger.verify", "admin"),
        ("worker", "token.create", "admin"),
        ("worker", "token.list", "admin"),
        ("worker", "token.revoke", "admin"),
        ("worker", "ledger.import", "admin"),
        ("worker", "ledger.verify", "admin"),
        ("worker", "queue.pause", "admin"),
        ("worker", "queue.resume", "admin"),
    ],
)
def test_a_weaker_token_is_forbidden(shared_town: Town, scope: str, method: str, needs: str) -> None:
    token = shared_town.call("token.create", scope=scope, name=unique("weak"))["token"]
    with pytest.raises(RpcError) as refused:
        shared_town.call_as(token, method)
    error = refused.value
    assert (error.code, error.kind, error.http, error.data["needs"]) == (1403, "forbidden", 403, needs)


@pytest.mark.parametrize("scope", ["read", "worker", "admin"])
@pytest.mark.parametrize(
    "method",
    ["bead.list", "bead.ready", "queue.stats", "scale.advice", "system.info", "worker.list", "convoy.list",
     "ledger.export", "rpc.discover"],
)  # fmt: skip
def test_every_scope_may_read(shared_town: Town, scope: str, method: str) -> None:
    token = shared_town.call("token.create", scope=scope, name=unique("reader"))["token"]
    assert shared_town.call_as(token, method)


def test_the_list_shows_tokens_without_their_secret(shared_town: Town) -> None:
    name = unique("agent")
    made = shared_town.call("token.create", scope="worker", name=name)
    reply = shared_town.call("token.list")
    (row,) = (row for row in reply["tokens"] if row["id"] == made["id"])
    assert set(row) == {"id", "name", "scope", "created_at_ms", "last_used_ms", "revoked"}
    assert (row["name"], row["scope"], row["revoked"]) == (name, "worker", False)
    assert made["token"] not in str(reply)


def test_the_list_shows_the_first_admin_token(shared_town: Town) -> None:
    assert any(row["scope"] == "admin" for row in shared_town.call("token.list")["tokens"])


def test_a_revoked_token_is_refused(shared_town: Town) -> None:
    made = shared_town.call("token.create", scope="admin", name=unique("gone"))
    shared_town.call_as(made["token"], "system.info")
    shared_town.call("token.revoke", id=made["id"])
    with pytest.raises(RpcError) as refused:
        shared_town.call_as(made["token"], "system.info")
    assert (refused.value.code, refused.value.http) == (1401, 401)
    (row,) = (row for row in shared_town.call("token.list")["tokens"] if row["id"] == made["id"])
    assert row["revoked"] is True


def test_revoking_an_unknown_token_is_not_found(shared_town: Town) -> None:
    refused = shared_town.refusal("token.revoke", id="no-such-token")
    assert (refused.code, refused.data["what"]) == (1002, "token")


@pytest.mark.parametrize(
    "params", [{}, {"scope": "root", "name": "x"}, {"scope": "read"}, {"scope": "read", "name": "x", "surprise": 1}]
)
def test_bad_token_params_are_refused(shared_town: Town, params: dict[str, object]) -> None:
    assert shared_town.refusal("token.create", **params).code == -32602


def test_tokens_and_their_revocation_survive_a_restart(town: Town) -> None:
    kept = town.call("token.create", scope="read", name="kept")
    gone = town.call("token.create", scope="read", name="gone")
    admin = town.admin_token
    town.call("token.revoke", id=gone["id"])
    town.kill9()
    town.start()
    assert town.call_as(kept["token"], "system.info")
    assert town.call_as(admin, "system.info")
    with pytest.raises(RpcError, match="1401"):
        town.call_as(gone["token"], "system.info")


def test_secrets_are_not_in_the_ledger_file(town: Town) -> None:
    made = town.call("token.create", scope="read", name="hashed")["token"]
    town.stop()
    kept = [path.read_bytes() for path in town.state.iterdir() if path.name.startswith("ledger.db")]
    assert kept
    assert not any(made.encode() in content for content in kept)
