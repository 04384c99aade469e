"""JSON-RPC 2.0 as bytes: the specification's own examples, the envelope's edges, batches, which error comes first."""

import json
from typing import Any

import pytest

from .door import SCOPES, ask, error, new_token, rpc, seq
from .town import Town, unique, until
from .wire import RpcError

INT64_MAX = (1 << 63) - 1
NOT_BUILT = [
    "merge.submit", "merge.next", "merge.report", "merge.get", "merge.list", "merge.train", "merge.cancel",
    "merge.retry", "merge.pause", "merge.resume", "system.handover", "system.profile",
]  # fmt: skip


def say(town: Town, body: bytes) -> Any:
    """The JSON reply to these bytes; every envelope comes with HTTP 200."""
    reply = town.raw(rpc("Host: localhost", "Content-Type: application/json", body=body))
    assert reply.status == 200, reply
    assert reply.headers["content-type"].startswith("application/json")
    return reply.json()


def code(town: Town, body: bytes) -> tuple[int, Any]:
    """The error code and id of the one reply object."""
    document = say(town, body)
    return error(document).code, document["id"]


# -- the specification's examples: its methods are unknown here, so a call is -32601 and all else is as it says -------
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}', (-32601, 1)),
        (b'{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}', (-32601, 2)),
        (
            b'{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}',
            (-32601, 3),
        ),
        (
            b'{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}',
            (-32601, 4),
        ),
        (b'{"jsonrpc": "2.0", "method": "foobar", "id": "1"}', (-32601, "1")),
        (b'{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', (-32700, None)),
        (b'{"jsonrpc": "2.0", "method": 1, "params": "bar"}', (-32600, None)),
        (
            b'[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"}, {"jsonrpc": "2.0", "method"',
            (-32700, None),
        ),
        (b"[]", (-32600, None)),
    ],
)
def test_specification_single_replies(plain_town: Town, body: bytes, expected: tuple[int, Any]) -> None:
    assert code(plain_town, body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[1]", [(-32600, None)]),
        (b"[1,2,3]", [(-32600, None)] * 3),
        (
            b"""[
            {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
            {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
            {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
            {"foo": "boo"},
            {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
            {"jsonrpc": "2.0", "method": "get_data", "id": "9"}
            ]""",
            [(-32601, "1"), (-32601, "2"), (-32600, None), (-32601, "5"), (-32601, "9")],
        ),
    ],
)
def test_specification_batches(plain_town: Town, body: bytes, expected: list[tuple[int, Any]]) -> None:
    assert [(error(entry).code, entry["id"]) for entry in say(plain_town, body)] == expected


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}',
        b'{"jsonrpc": "2.0", "method": "foobar"}',
        b'[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},'
        b' {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]',
        b'{"jsonrpc": "2.0", "method": "bead.get", "params": {"id": "no-such"}}',
    ],
)
def test_notifications_get_204_and_no_body(plain_town: Town, body: bytes) -> None:
    reply = plain_town.raw(rpc("Host: localhost", "Content-Type: application/json", body=body))
    assert (reply.status, reply.body) == (204, b"")


def test_a_notification_is_carried_out(plain_town: Town) -> None:
    bead_id = unique("told")
    body = b'{"jsonrpc":"2.0","method":"bead.create","params":{"beads":[{"id":"%s","title":"t"}]}}' % bead_id.encode()
    assert plain_town.raw(rpc("Host: localhost", "Content-Type: application/json", body=body)).status == 204
    until(lambda: bead_id in {bead["id"] for bead in plain_town.walk("bead.list", limit=1000)})


def test_a_claim_as_a_notification_is_ignored(plain_town: Town) -> None:
    worker, bead_id = plain_town.worker(), plain_town.bead()["id"]
    params = {"worker_id": worker, "filter": {"bead_id": bead_id}}
    body = json.dumps({"jsonrpc": "2.0", "method": "work.claim", "params": params}).encode()
    assert plain_town.raw(rpc("Host: localhost", "Content-Type: application/json", body=body)).status == 204
    assert plain_town.call("worker.list")["workers"]
    assert [claim["bead"]["id"] for claim in plain_town.claim(worker, filter={"bead_id": bead_id})] == [bead_id]


# -- the envelope -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", ["", "a", "é", 0, -1, 7, INT64_MAX, -(1 << 63), None])
def test_an_id_comes_back_as_it_was(plain_town: Town, number: Any) -> None:
    document = say(plain_town, ask("system.info", {}, number))
    assert set(document) == {"jsonrpc", "id", "result"}
    assert (document["id"], type(document["id"])) == (number, type(number))


@pytest.mark.parametrize("number", ["1.5", "1.0", "1e3", "true", "{}", "[1]", "9223372036854775808", "1" * 400])
def test_an_id_that_is_none(plain_town: Town, number: str) -> None:
    body = b'{"jsonrpc":"2.0","method":"system.info","id":%s}' % number.encode()
    assert code(plain_town, body) == (-32600, None)


@pytest.mark.parametrize(
    "body",
    [
        b"1", b"null", b'"x"', b"true", b"{}",
        b'{"method":"system.info","id":1}',
        b'{"jsonrpc":"1.0","method":"system.info","id":1}',
        b'{"jsonrpc":2.0,"method":"system.info","id":1}',
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","method":null,"id":1}',
        b'{"jsonrpc":"2.0","method":["system.info"],"id":1}',
        b'{"jsonrpc":"2.0","result":{},"id":1}',
        b'{"jsonrpc":"2.0","method":"system.info","id":1,"token":"x"}',
    ],
)  # fmt: skip
def test_a_bad_envelope(plain_town: Town, body: bytes) -> None:
    number, its_id = code(plain_town, body)
    assert number == -32600
    assert its_id in (None, 1)


@pytest.mark.parametrize("params", ["1", '"bar"', "true"])
def test_params_that_are_no_object(plain_town: Town, params: str) -> None:
    body = b'{"jsonrpc":"2.0","method":"system.info","id":1,"params":%s}' % params.encode()
    assert code(plain_town, body)[0] in (-32600, -32602)


@pytest.mark.parametrize("params", [[], ["x"], [{"id": "x"}]])
def test_params_go_by_name_only(plain_town: Town, params: list[Any]) -> None:
    assert code(plain_town, ask("bead.get", params)) == (-32602, 1)


@pytest.mark.parametrize("params", [None, {}])
def test_params_may_be_left_out_where_none_are_needed(plain_town: Town, params: object) -> None:
    assert set(say(plain_town, ask("system.info", params))["result"]) >= {
        "version",
        "body",
        "epoch",
        "pid",
        "uptime_ms",
    }


@pytest.mark.parametrize(
    "method", ["", "no.such", "__class__", "bead.__init__", "rpc.x", "BEAD.GET", "bead.get ", "bead", "m" * 10_000]
)
def test_an_unknown_method(plain_town: Town, method: str) -> None:
    assert code(plain_town, ask(method, {})) == (-32601, 1)


@pytest.mark.parametrize("method", NOT_BUILT)
def test_a_method_not_built_is_unknown_and_undocumented(plain_town: Town, method: str) -> None:
    """Methods not built yet are -32601 and absent from openrpc.json: never half of it."""
    documented = {entry["name"] for entry in plain_town.call("rpc.discover")["methods"]}
    assert (code(plain_town, ask(method, {"bogus": 1}))[0] == -32601) == (method not in documented)


def test_the_openrpc_document_lists_every_method(plain_town: Town) -> None:
    document = plain_town.call("rpc.discover")
    assert {entry["name"] for entry in document["methods"]} >= set(SCOPES)
    assert document["openrpc"].startswith("1.")
    assert plain_town.http("GET", "/openrpc.json").json() == document


# -- text that is not JSON --------------------------------------------------------------------------------------------
def meta(value: bytes) -> bytes:
    """A create whose metadata holds this text."""
    bead = b'{"title":"t","metadata":{"m":%s}}' % value
    return b'{"jsonrpc":"2.0","id":1,"method":"bead.create","params":{"beads":[%s]}}' % bead


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b"[", b'{"a":1,}', b"{'a':1}", b"\xef\xbb\xbf{}", b"nul", b"\x00",
        b'{"jsonrpc":"2.0","id":1,"method":"system.info"} x',
        b'{"jsonrpc":"2.0","id":1,"method":"system.info"}{}',
        b'{"jsonrpc":"2.0","id":1,"id":1,"method":"system.info"}',
        b'{"jsonrpc":"2.0","id":1,"method":"bead.get","params":{"id":"a","id":"b"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"bead.get","params":{"id":"a","\\u0069d":"b"}}',
        meta(b'{"k":{"a":1,"a":1}}'),
        meta(b"NaN"), meta(b"Infinity"), meta(b"-Infinity"), meta(b"01"), meta(b"+1"), meta(b".5"), meta(b"1."),
        meta(b'"\xff"'), meta(b'"\xc0\xaf"'), meta(b'"\xed\xa0\x80"'),
        meta(b'"\\ud800"'), meta(b'"\\udc00\\ud800"'), meta(b'{"\\ud800":1}'),
        meta(b'"\n"'), meta(b'"\\x"'), meta(b"undefined"), meta(b"/*c*/1"),
    ],
)  # fmt: skip
def test_a_parse_error(plain_town: Town, body: bytes) -> None:
    before = seq(plain_town)
    assert code(plain_town, body) == (-32700, None)
    assert seq(plain_town) == before


def test_escaped_pairs_and_foreign_scripts_are_kept(plain_town: Town) -> None:
    body = meta('"\\ud83d\\ude00 ünï \\u0000 \\/"'.encode())
    (bead,) = say(plain_town, body)["result"]["beads"]
    assert plain_town.get(bead["id"])["metadata"] == {"m": "\U0001f600 ünï \x00 /"}


# -- depth ------------------------------------------------------------------------------------------------------------
ENVELOPE_DEPTH = 5  # request, params, beads, bead, metadata


def nested(depth: int) -> bytes:
    """A create whose JSON text is `depth` levels deep."""
    more = depth - ENVELOPE_DEPTH
    return meta(b"[" * more + b"]" * more)


def test_nesting_of_64_is_taken(plain_town: Town) -> None:
    assert "result" in say(plain_town, nested(64))


@pytest.mark.parametrize("depth", [65, 128, 255, 1_025, 100_000])
def test_nesting_over_64(plain_town: Town, depth: int) -> None:
    refused = error(say(plain_town, nested(depth)))
    assert (refused.code, refused.kind, refused.data["max"]) == (1012, "limit", 64)


@pytest.mark.parametrize("body", [b"[" * 65 + b"]" * 65, b'{"a":' * 65 + b"1" + b"}" * 65])
def test_nesting_counts_before_the_envelope_does(plain_town: Town, body: bytes) -> None:
    assert code(plain_town, body) == (1012, None)


def test_brackets_in_a_string_are_no_nesting(plain_town: Town) -> None:
    assert "result" in say(plain_town, meta(b'"' + b"[{" * 200 + b'\\"' + b"[" * 200 + b'"'))


def test_a_hundred_thousand_open_brackets(plain_town: Town) -> None:
    assert code(plain_town, b"[" * 100_000)[0] in (1012, -32700)


# -- integers ---------------------------------------------------------------------------------------------------------
def claim_with(field: str, literal: str, worker: str) -> bytes:
    body = '{"jsonrpc":"2.0","id":1,"method":"work.claim","params":{"worker_id":"%s","%s":%s}}'
    return (body % (worker, field, literal)).encode()


@pytest.mark.parametrize("field", ["limit", "wait_ms", "ttl_ms"])
@pytest.mark.parametrize(
    "literal",
    [
        "1.0", "1e4", "10000.5", "true", "false", '"10000"', "[10000]", "{}", "-1",
        "9223372036854775808", "18446744073709551616", "-9223372036854775809", "1" + "0" * 400, "1e400", "1e18",
    ],
)  # fmt: skip
def test_not_an_integer_in_range(plain_town: Town, field: str, literal: str) -> None:
    document = say(plain_town, claim_with(field, literal, plain_town.worker("int-edge")))
    refused = error(document)
    assert (refused.code, refused.kind, document["id"]) == (-32602, "invalid_params", 1)
    assert field in refused.data["field"]


@pytest.mark.parametrize(
    ("field", "value", "most"),
    [
        ("limit", 101, 100), ("limit", INT64_MAX, 100),
        ("wait_ms", 45_001, 45_000), ("wait_ms", INT64_MAX, 45_000),
        ("ttl_ms", 86_400_001, 86_400_000), ("ttl_ms", 10**18, 86_400_000), ("ttl_ms", INT64_MAX, 86_400_000),
    ],
)  # fmt: skip
def test_above_a_stated_maximum(plain_town: Town, field: str, value: int, most: int) -> None:
    """1012 is well typed but above a stated maximum; nothing is clamped."""
    refused = plain_town.refusal("work.claim", worker_id=plain_town.worker("max-edge"), **{field: value})
    assert (refused.code, refused.data["max"]) == (1012, most)
    assert isinstance(refused.data["limit"], str)


@pytest.mark.parametrize(("field", "value"), [("limit", 0), ("ttl_ms", 0), ("ttl_ms", 9_999)])
def test_below_a_minimum(plain_town: Town, field: str, value: int) -> None:
    refused = plain_town.refusal("work.claim", worker_id=plain_town.worker("min-edge"), **{field: value})
    assert (refused.code, refused.kind) == (-32602, "invalid_params")


@pytest.mark.parametrize("extra", [{"limit": 1}, {"limit": 100}, {"ttl_ms": 10_000}, {"ttl_ms": 86_400_000}])
def test_the_edges_themselves_are_taken(plain_town: Town, extra: dict[str, int]) -> None:
    bead_id = plain_town.bead()["id"]
    (claim,) = plain_town.claim(plain_town.worker(), filter={"bead_id": bead_id}, wait_ms=45_000, **extra)
    assert claim["bead"]["id"] == bead_id


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("1", 1001), (str(INT64_MAX), 1001),
        ("0", -32602), ("-1", -32602), (str(-(1 << 63)), -32602), (str(1 << 63), -32602),
        ("1.0", -32602), ("true", -32602), ('"1"', -32602), ("null", -32602),
    ],
)  # fmt: skip
def test_int64_edges_of_a_fencing_token(plain_town: Town, token: str, expected: int) -> None:
    bead_id = plain_town.bead()["id"]
    params = b'{"bead_id":"%s","token":%s}' % (bead_id.encode(), token.encode())
    body = b'{"jsonrpc":"2.0","id":1,"method":"work.release","params":%s}' % params
    assert code(plain_town, body) == (expected, 1)


@pytest.mark.parametrize(
    ("method", "params", "expected"),
    [
        ("bead.list", {"limit": 1_001}, 1012), ("bead.list", {"limit": 0}, -32602),
        ("bead.ready", {"limit": 1_001}, 1012),
        ("bead.create", {"beads": [{"title": "t", "priority": -1}]}, -32602),
        ("bead.create", {"beads": []}, -32602),
        ("bead.create", {"beads": [{"title": "t"}] * 101}, 1012),
        ("bead.create", {"beads": [{"title": "t", "colour": "red"}]}, -32602),
        ("bead.create", {"beads": [{}]}, -32602),
        ("bead.create", {"beads": [{"title": None}]}, -32602),
        ("bead.create", {"beads": {"title": "t"}}, -32602),
        ("bead.create", {"beads": [{"title": "t"}], "request_id": "r" * 65}, 1012),
        ("bead.create", {"beads": [{"title": "t"}], "request_id": 7}, -32602),
        ("bead.get", {"id": "x", "request_id": "r"}, -32602),
        ("bead.list", {"cursor": "bm90IG91cnM="}, -32602),
        ("bead.list", {"sort": "colour"}, -32602),
        ("bead.ready", {"sort": "newest"}, -32602),
        ("bead.list", {"filter": {"labels_all": []}}, -32602),
        ("bead.list", {"filter": {"colour": "red"}}, -32602),
        ("bead.get", {}, -32602),
        ("bead.get", {"id": "x", "colour": "red"}, -32602),
        ("bead.update", {"id": "x", "set": {"id": "y"}}, -32602),
        ("worker.register", {"name": "n" * 10_240}, 1012),
        ("worker.heartbeat", {"worker_id": "w", "leases": [{"bead_id": "b", "token": 1}] * 101}, 1012),
        ("token.create", {"scope": "root", "name": "n"}, -32602),
        ("work.block", {"bead_id": "x", "token": 1}, -32602),
        ("work.block", {"bead_id": "x", "token": 1, "on": ["y"], "reason": "r"}, -32602),
        ("ledger.import", {"jsonl": "", "mode": "overwrite"}, -32602),
    ],
)  # fmt: skip
def test_params_out_of_bounds(plain_town: Town, method: str, params: dict[str, Any], expected: int) -> None:
    before = seq(plain_town)
    refused = plain_town.refusal(method, **params)
    assert refused.code == expected
    assert {"field"} <= set(refused.data) if expected == -32602 else {"limit", "max"} <= set(refused.data)
    assert seq(plain_town) == before


# -- batches ----------------------------------------------------------------------------------------------------------
def test_a_batch_of_100_is_answered_in_entry_order(plain_town: Town) -> None:
    replies = plain_town.batch(*[("system.info", {})] * 100)
    assert [reply["id"] for reply in replies] == list(range(100))


@pytest.mark.parametrize("size", [101, 10_000])
def test_a_batch_over_100(plain_town: Town, size: int) -> None:
    document = say(plain_town, b"[" + b",".join([ask("system.info")] * size) + b"]")
    refused = error(document)
    assert (document["id"], refused.code, refused.data["max"]) == (None, 1012, 100)


def test_entries_run_in_order_and_see_each_other(plain_town: Town) -> None:
    bead_id = unique("in-order")
    replies = plain_town.batch(
        ("bead.get", {"id": bead_id}),
        ("bead.create", {"beads": [{"id": bead_id, "title": "one"}]}),
        ("bead.update", {"id": bead_id, "set": {"title": "two"}}),
        ("bead.get", {"id": bead_id}),
        ("bead.close", {"id": bead_id, "reason": "r"}),
        ("bead.close", {"id": bead_id, "reason": "r"}),
        ("bead.get", {"id": bead_id}),
    )
    assert error(replies[0]).code == 1002
    assert replies[3]["result"]["bead"]["title"] == "two"
    assert error(replies[5]).code == 1003
    assert replies[6]["result"]["bead"]["status"] == "closed"
    assert replies[1]["result"]["seq"] < replies[2]["result"]["seq"] < replies[4]["result"]["seq"]


def test_wait_counts_as_zero_in_a_batch(plain_town: Town) -> None:
    claim = {"worker_id": plain_town.worker(), "wait_ms": 45_000, "filter": {"bead_id": "no-such"}}
    (reply,) = plain_town.batch(("work.claim", claim))
    assert reply["result"]["claims"] == []


@pytest.mark.parametrize(("method", "params"), [("ledger.import", {"jsonl": ""}), ("ledger.verify", {})])
def test_whole_ledger_calls_have_no_place_in_a_batch(plain_town: Town, method: str, params: dict[str, Any]) -> None:
    alone, beside = plain_town.batch((method, params), ("system.info", {}))
    assert error(alone).code == -32600
    assert "result" in beside


def test_a_bad_entry_spares_the_others(plain_town: Town) -> None:
    body = b"[" + ask("system.info", {}, "a") + b',7,{"jsonrpc":"2.0","method":"no.such"},' + ask("x", {}, "b") + b"]"
    first, second, third = say(plain_town, body)
    assert first["id"] == "a"
    assert "result" in first
    assert (error(second).code, second["id"]) == (-32600, None)
    assert (error(third).code, third["id"]) == (-32601, "b")


def test_the_same_id_twice_in_a_batch_is_the_callers_affair(plain_town: Town) -> None:
    replies = say(plain_town, b"[" + ask("system.info", {}, 1) + b"," + ask("system.info", {}, 1) + b"]")
    assert [reply["id"] for reply in replies] == [1, 1]


# -- which error comes first ------------------------------------------------------------------------------------------
def test_unknown_method_comes_before_the_scope(plain_town: Town) -> None:
    with pytest.raises(RpcError) as caught:
        plain_town.call_as(new_token(plain_town, "read"), "no.such")
    assert caught.value.code == -32601


def test_the_scope_comes_before_the_params(plain_town: Town) -> None:
    with pytest.raises(RpcError) as caught:
        plain_town.call_as(new_token(plain_town, "read"), "bead.create", bogus=1)
    assert (caught.value.code, caught.value.http) == (1403, 403)


def test_params_come_before_a_reused_request_id(plain_town: Town) -> None:
    request_id = unique("r")
    plain_town.call("bead.create", beads=[{"title": "t"}], request_id=request_id)
    assert plain_town.refusal("bead.create", beads=[{"title": 7}], request_id=request_id).code == -32602
    refused = plain_town.refusal("bead.create", beads=[{"title": "u"}], request_id=request_id)
    assert (refused.code, refused.kind, refused.data["retryable"]) == (1004, "request_id_reused", False)
    assert plain_town.refusal("bead.close", id="no-such", reason="r", request_id=request_id).code == 1004


def test_a_reused_request_id_comes_before_an_unknown_worker(plain_town: Town) -> None:
    request_id = unique("r")
    plain_town.call("bead.create", beads=[{"title": "t"}], request_id=request_id)
    assert plain_town.refusal("work.claim", worker_id="no-such", request_id=request_id).code == 1004
    assert plain_town.refusal("work.claim", worker_id="no-such").code == 1008


def test_not_found_comes_before_a_lost_lease_and_that_before_a_conflict(plain_town: Town) -> None:
    merge = {"branch": "b", "commit": "0" * 40}
    bead_id = plain_town.bead()["id"]
    token = plain_town.lease(plain_town.worker(), bead_id)["token"]
    for bead, its_token, expected in [("no-such", token, 1002), (bead_id, token + 1, 1001), (bead_id, token, 1003)]:
        assert plain_town.refusal("work.complete", bead_id=bead, token=its_token, merge=merge).code == expected
    assert plain_town.refusal("work.complete", bead_id=bead_id, token=token, merge=merge).data["allowed"] == [
        "no_change"
    ]


def test_a_replay_comes_before_every_state(plain_town: Town) -> None:
    bead_id, request_id = plain_town.bead()["id"], unique("r")
    first = plain_town.call("bead.close", id=bead_id, reason="r", request_id=request_id)
    again = plain_town.call("bead.close", id=bead_id, reason="r", request_id=request_id)
    assert again == {**first, "replayed": True}


def test_equal_after_decoding_is_the_same_request(plain_town: Town) -> None:
    request_id = unique("r")
    created = '{"jsonrpc":"2.0","id":1,"method":"bead.create",'
    texts = [
        created + '"params":{"request_id":"%s","beads":[{"title":"a","priority":1}]}}',
        created + '"params": {"beads":[ {"priority":1, "title":"\\u0061"} ], "request_id":"%s"} }',
    ]
    first, again = (say(plain_town, (text % request_id).encode())["result"] for text in texts)
    assert again == {**first, "replayed": True}


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (("bead.get", {"id": "no-such"}), (1002, "not_found", False)),
        (("work.claim", {"worker_id": "no-such"}), (1008, "worker_unknown", False)),
        (("no.such", {}), (-32601, "method_not_found", False)),
        (("bead.get", {}), (-32602, "invalid_params", False)),
    ],
)
def test_every_error_names_its_kind(
    plain_town: Town, call: tuple[str, dict[str, Any]], expected: tuple[int, str, bool]
) -> None:
    refused = plain_town.refusal(call[0], **call[1])
    assert (refused.code, refused.kind, refused.data["retryable"]) == expected


def test_a_mutating_ok_carries_seq_and_epoch(plain_town: Town) -> None:
    result = plain_town.call("bead.create", beads=[{"title": "t"}])
    assert result["epoch"] == plain_town.daemon["epoch"]
    assert plain_town.call("bead.create", beads=[{"title": "t"}])["seq"] == result["seq"] + 1
    assert "replayed" not in result
