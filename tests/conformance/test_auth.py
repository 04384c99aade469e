"""Who may do what: every method against every credential, ownership of workers, tokens from birth to revocation."""

from typing import Any

import pytest

from .door import INFO, JSON, SCOPES, Events, ask, bearer, error, head, new_token, rpc
from .town import Town, unique, until
from .wire import Reply, RpcError

RANK = {"read": 0, "worker": 1, "admin": 2}
WRONG_A_MINUTE = 20  # wrong tokens before the door answers 429
CREDENTIALS = ["none", "bad", "revoked", "read", "worker", "admin", "unix", "unix read", "unix worker", "unix bad"]


def knock_as(town: Town, body: bytes, token: str | None, tcp: bool) -> Reply:
    """One POST to /rpc; `token` None shows none."""
    rows = ["Host: " + (town.daemon["listen"] if tcp else "localhost"), JSON, *([bearer(token)] if token else [])]
    return town.raw(rpc(*rows, body=body), tcp)


@pytest.fixture(scope="module")
def keys(plain_town: Town) -> dict[str, str | None]:
    """The token each credential shows."""
    made = {scope: new_token(plain_town, scope, scope) for scope in RANK}
    gone = plain_town.call("token.create", scope="admin", name="gone")
    plain_town.call("token.revoke", id=gone["id"])
    return {
        **made, "none": None, "bad": "x" * 43, "revoked": gone["token"],
        "unix": None, "unix read": made["read"], "unix worker": made["worker"], "unix bad": "x" * 43,
    }  # fmt: skip


def verdict(credential: str, scope: str) -> tuple[int, int, str | None]:
    """HTTP status, code and needed scope for a call whose params are wrong: what is allowed gets as far as -32602."""
    held = credential.removeprefix("unix ").replace("unix", "admin")
    if held not in RANK:
        return 401, 1401, None
    return (200, -32602, None) if RANK[held] >= RANK[scope] else (403, 1403, scope)


@pytest.mark.parametrize("credential", [name for name in CREDENTIALS if name not in ("bad", "revoked")])
@pytest.mark.parametrize("method", SCOPES)
def test_every_method_has_one_scope(
    plain_town: Town, keys: dict[str, str | None], method: str, credential: str
) -> None:
    """1403 comes before the params are looked at, so params that are wrong change nothing whoever asks."""
    reply = knock_as(plain_town, ask(method, {"bogus": 1}), keys[credential], tcp=not credential.startswith("unix"))
    refused = error(reply.json())
    status, code, needs = verdict(credential, SCOPES[method])
    assert (reply.status, refused.code) == (status, code)
    assert refused.data.get("needs") == needs or code == 1401


@pytest.mark.parametrize("method", ["system.info", "bead.create", "token.create", "no.such"])
@pytest.mark.parametrize("credential", ["bad", "revoked"])
def test_a_token_that_is_not_valid_opens_nothing(
    plain_town: Town, keys: dict[str, str | None], method: str, credential: str
) -> None:
    reply = knock_as(plain_town, ask(method, {}), keys[credential], tcp=True)
    assert (reply.status, error(reply.json()).code, reply.json()["id"]) == (401, 1401, None)


def test_the_matrix_covers_every_documented_method(plain_town: Town) -> None:
    documented = {entry["name"] for entry in plain_town.call("rpc.discover")["methods"]}
    assert {name for name in documented if not name.startswith(("rig.", "merge."))} == set(SCOPES)


# -- the 401 -----------------------------------------------------------------------------------------------------------
def test_401_says_how_and_tells_strangers_apart_by_nothing(plain_town: Town) -> None:
    none = knock_as(plain_town, INFO, None, tcp=True)
    wrong = knock_as(plain_town, INFO, "wrong", tcp=True)
    assert none.status == wrong.status == 401
    assert none.headers["www-authenticate"].startswith("Bearer")
    assert (error(none.json()).kind, none.json()["id"]) == ("unauthenticated", None)
    assert error(none.json()).data == error(wrong.json()).data


def test_401_comes_before_the_body_is_read(plain_town: Town) -> None:
    with plain_town.connect(tcp=True) as connection:
        connection.send(head("POST", "/rpc", f"Host: {plain_town.daemon['listen']}", JSON, "Content-Length: 500000"))
        assert connection.read_reply().status == 401


@pytest.mark.parametrize("body", [b"not json", b"[]", b"[" + INFO + b"," + INFO + b"]"])
def test_401_comes_before_all_parsing(plain_town: Town, body: bytes) -> None:
    reply = knock_as(plain_town, body, None, tcp=True)
    assert (reply.status, error(reply.json()).code, reply.json()["id"]) == (401, 1401, None)


def test_no_other_way_to_show_a_token(town: Town) -> None:
    token = town.admin_token
    rows = [f"Host: {town.daemon['listen']}", JSON]
    others = [
        f"Authorization: Basic {token}", f"Authorization: {token}", f"Authorization: Bearer {token[:-1]}",
        f"Authorization: Bearer {token}x", f"Authorization: Bearer {token.swapcase()}", "Authorization: Bearer",
        f"X-Token: {token}", f"Cookie: token={token}", f"Cookie: session={token}",
    ]  # fmt: skip
    for row in others:
        assert town.raw(rpc(*rows, row, body=INFO), tcp=True).status == 401, row.replace(token, "TOKEN")
    assert town.raw(rpc(*rows, bearer(token), bearer("x" * 43), body=INFO), tcp=True).status in (400, 401)


# -- routes ------------------------------------------------------------------------------------------------------------
def route(town: Town, path: str, token: str | None) -> int:
    """The status of a GET over TCP."""
    rows = [f"Host: {town.daemon['listen']}", *([bearer(token)] if token else [])]
    with town.connect(tcp=True) as connection:
        connection.send(head("GET", path, *rows))
        return connection.read_head(15.0)[0]


@pytest.mark.parametrize("path", ["/readyz", "/metrics", "/events", "/openrpc.json", "/export.jsonl"])
def test_reading_routes_need_a_token_that_reads(plain_town: Town, keys: dict[str, str | None], path: str) -> None:
    assert route(plain_town, path, None) == 401
    assert [route(plain_town, path, keys[scope]) for scope in RANK] == [200, 200, 200]


def test_healthz_needs_none(plain_town: Town) -> None:
    assert route(plain_town, "/healthz", None) == 200


@pytest.mark.parametrize(
    "path", ["/rpc", "/nope", "/import.jsonl", "/debug", "/docs", "/healthz/x", "/healthz%2f..%2fmetrics"]
)
def test_every_other_path_asks_for_one_first(plain_town: Town, path: str) -> None:
    assert route(plain_town, path, None) in (401, 405) if path in ("/rpc", "/import.jsonl") else (
        route(plain_town, path, None) == 401
    )  # fmt: skip


@pytest.mark.parametrize(("scope", "status"), [(None, 401), ("read", 403), ("worker", 403), ("admin", 200)])
def test_importing_by_route_is_an_admins(
    plain_town: Town, keys: dict[str, str | None], scope: str | None, status: int
) -> None:
    token = keys[scope] if scope else None
    rows = [f"Host: {plain_town.daemon['listen']}", "Content-Type: application/x-ndjson"]
    rows += [bearer(token)] if token else []
    at = '"created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z"'
    line = f'{{"id":"{unique("by-route")}","title":"t","status":"open","priority":2,{at}}}\n'.encode()
    assert plain_town.raw(rpc(*rows, body=line, path="/import.jsonl"), tcp=True).status == status


# -- single calls, batches ---------------------------------------------------------------------------------------------
def test_a_batch_is_200_and_each_entry_has_its_code(plain_town: Town, keys: dict[str, str | None]) -> None:
    body = b"[" + b",".join([ask("system.info", {}, 1), ask("bead.create", {"beads": []}, 2), INFO]) + b"]"
    reply = knock_as(plain_town, body, keys["read"], tcp=True)
    first, second, third = reply.json()
    assert reply.status == 200
    assert "result" in first
    assert "result" in third
    assert (error(second).code, error(second).data["needs"]) == (1403, "worker")


def test_forbidden_keeps_the_callers_id(plain_town: Town, keys: dict[str, str | None]) -> None:
    reply = knock_as(plain_town, ask("ledger.verify", {}, "mine"), keys["worker"], tcp=True)
    assert (reply.status, reply.json()["id"], error(reply.json()).kind) == (403, "mine", "forbidden")
    assert error(reply.json()).data["retryable"] is False


# -- a worker belongs to the credential that registered it -------------------------------------------------------------
class Two:
    """A worker of A's with a lease, and a stranger B of the same scope."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.a, self.b = new_token(town, "worker", "a"), new_token(town, "worker", "b")
        self.name = unique("owned")
        self.worker = town.call_as(self.a, "worker.register", name=self.name)["worker_id"]
        self.bead_id = town.bead()["id"]
        (claim,) = town.call_as(self.a, "work.claim", worker_id=self.worker, filter={"bead_id": self.bead_id})["claims"]
        self.token = claim["lease"]["token"]

    def calls(self) -> list[tuple[str, dict[str, Any]]]:
        held = {"bead_id": self.bead_id, "token": self.token}
        return [
            ("worker.register", {"name": self.name}),
            ("worker.heartbeat", {"worker_id": self.worker, "leases": [held]}),
            ("worker.drain", {"worker_id": self.worker}),
            ("worker.deregister", {"worker_id": self.worker}),
            ("work.claim", {"worker_id": self.worker}),
            ("work.complete", held),
            ("work.fail", {**held, "error": "e"}),
            ("work.release", held),
            ("work.block", {**held, "reason": "r"}),
        ]


def test_another_workers_credential_may_touch_none_of_it(plain_town: Town) -> None:
    two = Two(plain_town)
    before, history = plain_town.get(two.bead_id), plain_town.kinds(two.bead_id)
    for method, params in two.calls():
        with pytest.raises(RpcError) as caught:
            plain_town.call_as(two.b, method, **params)
        assert (caught.value.code, caught.value.kind, caught.value.http) == (1403, "forbidden", 403), method
    assert (plain_town.get(two.bead_id), plain_town.kinds(two.bead_id)) == (before, history)
    ended = plain_town.call_as(two.a, "work.complete", bead_id=two.bead_id, token=two.token)
    assert ended["bead"]["status"] == "closed"


@pytest.mark.parametrize("index", range(9))
@pytest.mark.parametrize("over", ["admin", "unix"])
def test_an_admin_may_act_for_any_worker(plain_town: Town, over: str, index: int) -> None:
    two = Two(plain_town)
    method, params = two.calls()[index]
    if over == "unix":
        assert plain_town.call(method, **params)
    else:
        assert plain_town.call_as(plain_town.admin_token, method, **params)


def test_a_nested_claim_is_held_to_the_same_rule(plain_town: Town) -> None:
    """B completes its own bead and asks for the next work as A's worker."""
    two = Two(plain_town)
    mine = plain_town.call_as(two.b, "worker.register", name=unique("mine"))["worker_id"]
    bead_id = plain_town.bead()["id"]
    (claim,) = plain_town.call_as(two.b, "work.claim", worker_id=mine, filter={"bead_id": bead_id})["claims"]
    settle = {"bead_id": bead_id, "token": claim["lease"]["token"]}
    with pytest.raises(RpcError) as caught:
        plain_town.call_as(two.b, "work.complete", **settle, claim={"worker_id": two.worker})
    assert caught.value.code == 1403
    assert plain_town.call_as(two.b, "work.complete", **settle)["bead"]["status"] == "closed"


# -- tokens ------------------------------------------------------------------------------------------------------------
def listed(town: Town, token_id: str) -> dict[str, Any]:
    (row,) = [row for row in town.call("token.list")["tokens"] if row["id"] == token_id]
    return dict(row)


@pytest.mark.parametrize("scope", RANK)
def test_a_token_is_shown_once_and_kept_hashed(town: Town, scope: str) -> None:
    made = town.call("token.create", scope=scope, name="agent-7")
    assert len(made["token"]) >= 43  # 256 bits in base64
    row = listed(town, made["id"])
    assert set(row) == {"id", "name", "scope", "created_at_ms", "last_used_ms", "revoked"}
    assert (row["name"], row["scope"], row["revoked"], row["last_used_ms"]) == ("agent-7", scope, False, None)
    town.stop()
    files = [path for path in town.state.rglob("*") if path.is_file()]
    assert not [path.name for path in files if made["token"].encode() in path.read_bytes()]
    assert made["token"] not in town.log.read_text()


def test_last_use_is_remembered(plain_town: Town) -> None:
    made = plain_town.call("token.create", scope="read", name="used")
    plain_town.call_as(made["token"], "system.info")
    until(lambda: listed(plain_town, made["id"])["last_used_ms"])
    row = listed(plain_town, made["id"])
    assert row["last_used_ms"] >= row["created_at_ms"]


def test_a_revoked_token_ends_on_open_connections_too(plain_town: Town) -> None:
    made = plain_town.call("token.create", scope="admin", name="leaver")
    request = rpc(f"Host: {plain_town.daemon['listen']}", JSON, bearer(made["token"]), body=INFO)
    with plain_town.connect(tcp=True) as connection:
        connection.send(request)
        assert connection.read_reply().status == 200
        plain_town.call("token.revoke", id=made["id"])
        until(lambda: knock_as(plain_town, INFO, made["token"], tcp=True).status == 401, 1.0)
        connection.send(request)
        assert connection.read_reply().status == 401
    assert knock_as(plain_town, INFO, made["token"], tcp=False).status == 401
    assert listed(plain_town, made["id"])["revoked"] is True


def test_tokens_and_revocations_outlive_a_restart(town: Town) -> None:
    kept, gone = (town.call("token.create", scope="worker", name=name) for name in ("kept", "gone"))
    town.call("token.revoke", id=gone["id"])
    first_admin = town.admin_token
    town.kill9()
    town.start()
    assert town.admin_token == first_admin
    assert town.call_as(kept["token"], "system.info")
    assert town.call_as(first_admin, "token.list")
    assert knock_as(town, INFO, gone["token"], tcp=True).status == 401


def test_revoking_an_unknown_token(plain_town: Town) -> None:
    assert plain_town.refusal("token.revoke", id="no-such").code == 1002


# -- guessing ----------------------------------------------------------------------------------------------------------
def test_guessing_is_slowed_on_tcp(town: Town) -> None:
    replies = [knock_as(town, INFO, f"guess-{n}", tcp=True) for n in range(2 * WRONG_A_MINUTE + 1)]
    statuses = [reply.status for reply in replies]
    assert statuses[:WRONG_A_MINUTE] == [401] * WRONG_A_MINUTE
    assert set(statuses[WRONG_A_MINUTE:]) <= {401, 429}
    assert 429 in statuses
    limited = replies[statuses.index(429)]
    refused = error(limited.json())
    assert (refused.code, refused.kind, refused.data["retryable"]) == (1429, "rate_limited", True)
    assert int(limited.headers["retry-after"]) >= 1
    assert town.call_as(town.admin_token, "system.info"), "a stranger's guesses must not lock the owner out"
    assert town.http("GET", "/healthz", token="").status == 200


def test_guessing_is_not_slowed_on_the_unix_socket(town: Town) -> None:
    statuses = {knock_as(town, INFO, f"guess-{n}", tcp=False).status for n in range(2 * WRONG_A_MINUTE)}
    assert statuses == {401}


def test_coming_without_a_token_is_no_guess(town: Town) -> None:
    statuses = {knock_as(town, INFO, None, tcp=True).status for _ in range(2 * WRONG_A_MINUTE)}
    assert statuses == {401}


def test_events_are_held_to_the_scope_shown_on_the_unix_socket(plain_town: Town) -> None:
    with plain_town.connect() as connection:
        connection.send(head("GET", "/events", "Host: localhost", bearer("x" * 43)))
        assert connection.read_head(15.0)[0] == 401
    with Events(plain_town, token=new_token(plain_town, "read")) as events:
        assert events.status == 200
