"""The codec against anything at all: it refuses, it never breaks; and what it tells apart."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gastown.methods import METHODS
from gastown.model import BODY_BYTES_MAX, ERRORS, IMPORT_BYTES_MAX, NESTING_MAX, REPLY_BYTES_MAX, Refused
from gastown.protocol import (
    DIGEST_BYTES,
    Call,
    Envelope,
    decode,
    encode_batch,
    encode_ok,
    encode_refused,
    encode_reply,
)
from gastown.strict_json import nesting, outside_strings, parse

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.text('":\\,{}[] \n', max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)
FIELDS = sorted({name for method in METHODS.values() for name in method.params.fields})
PARAMS = st.dictionaries(st.sampled_from(FIELDS) | TEXT, VALUES, max_size=6)
CALLS = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0"), "method": st.sampled_from(sorted(METHODS)) | TEXT},
    optional={"id": SCALARS, "params": PARAMS | VALUES},
)


def decoded(raw: bytes, scope: str) -> Envelope | Refused:
    try:
        return decode(raw, scope)
    except Refused as refused:
        return refused


def decode_or_refuse(raw: bytes, scope: str = "admin") -> Envelope | None:
    envelope = decoded(raw, scope)
    if isinstance(envelope, Refused):
        assert envelope.kind in ("parse_error", "invalid_request", "limit")
        assert orjson.loads(encode_refused(None, envelope))["error"]["code"] == ERRORS[envelope.kind].code
        return None
    for call in envelope.calls:
        if call.refused is not None:
            encode_refused(call.id, call.refused)
        else:
            assert "request_id" not in call.params
            orjson.dumps(call.params)
    return envelope


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    decode_or_refuse(raw)


@given(st.text('[]{}",:\\0123456789.eE+-truefalsn u\n', max_size=80))
def test_any_soup_of_json_signs(raw: str) -> None:
    decode_or_refuse(raw.encode())


@given(VALUES | CALLS | st.lists(CALLS | VALUES, max_size=4), st.sampled_from(["read", "worker", "admin", ""]))
@settings(max_examples=400)
def test_any_json(value: Any, scope: str) -> None:
    envelope = decode_or_refuse(json.dumps(value).encode(), scope)
    if isinstance(value, dict):
        assert envelope is not None
        assert not envelope.batch


@given(CALLS, st.data())
def test_a_text_cut_or_flipped_anywhere(call: dict[str, Any], data: st.DataObject) -> None:
    raw = bytearray(json.dumps(call, ensure_ascii=False).encode())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] = data.draw(st.integers(0, 255))
    decode_or_refuse(bytes(raw))
    decode_or_refuse(bytes(raw[:place]))


# ---------------------------------------------------------------- strict parsing, against a plain one


@given(VALUES, st.sampled_from([None, 1]), st.booleans())
def test_parse_gives_what_was_written(value: Any, indent: int | None, ascii_only: bool) -> None:
    raw = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    assert same(parse(raw), value)


def same(parsed: Any, written: Any) -> bool:
    if isinstance(written, dict):
        return parsed.keys() == written.keys() and all(same(parsed[key], written[key]) for key in written)
    if isinstance(written, list):
        return len(parsed) == len(written) and all(map(same, parsed, written))
    if type(written) is int and not -(2**63) <= written < 2**63:
        return type(parsed) is int and not -(2**63) <= parsed < 2**63
    return type(parsed) is type(written) and parsed == written


def spelled(value: Any, doubled: bool) -> str:
    """JSON text in which, if wished, the first key of every object stands twice."""
    if isinstance(value, dict):
        members = [f"{json.dumps(key)} : {spelled(inner, doubled)}" for key, inner in value.items()]
        return "{" + ",".join(members[:1] * doubled + members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(spelled(inner, doubled) for inner in value) + "]"
    return json.dumps(value)


@given(st.dictionaries(TEXT, VALUES, min_size=1, max_size=4))
def test_a_key_that_stands_twice_is_found(value: dict[str, Any]) -> None:
    assert same(parse(spelled(value, doubled=False).encode()), value)
    with pytest.raises(Refused, match="twice"):
        parse(spelled(value, doubled=True).encode())


def depth(value: Any) -> int:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth, inner), default=0)
    return 0


@given(VALUES)
def test_nesting_is_counted_as_it_is(value: Any) -> None:
    raw = json.dumps(value).encode()
    assert nesting(raw) == depth(value)
    assert b'"' not in outside_strings(raw)


def test_broad_is_not_deep() -> None:
    assert parse(b"[" + b"[]," * NESTING_MAX + b"[]]") == [[]] * (NESTING_MAX + 1)


# ---------------------------------------------------------------- digest


def digest(params: str, method: str = "bead.update") -> bytes | None:
    call = decode(b'{"jsonrpc":"2.0","id":1,"method":"%s","params":%s}' % (method.encode(), params.encode()), "admin")
    assert call.calls[0].refused is None
    return call.calls[0].digest


def test_a_digest_sees_values_and_not_their_spelling() -> None:
    plain = digest('{"id":"a","set":{"title":"é","priority":1},"request_id":"r"}')
    assert plain is not None
    assert len(plain) == DIGEST_BYTES
    assert digest('{ "request_id":"other","set":{"priority":1,"title":"\\u00e9"}, "id":"a" }') == plain
    assert digest('{"id":"a","set":{"title":"e","priority":1},"request_id":"r"}') != plain
    assert digest('{"id":"a","set":{"title":"é","priority":2},"request_id":"r"}') != plain
    assert digest('{"id":"a","set":{"title":"é","priority":1}}') is None


def test_a_digest_sees_the_method() -> None:
    params = '{"id":"c","beads":["b"],"request_id":"r"}'
    assert digest(params, "convoy.add") != digest(params, "convoy.remove")


# ---------------------------------------------------------------- imports larger than a request


def import_body(jsonl: str, **more: Any) -> bytes:
    params = {"jsonl": jsonl, "mode": "merge", **more}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ledger.import", "params": params}).encode()


LINE = json.dumps({"id": "a", "title": 'é "quoted" \\ n \\n 😀 { [ :'}) + "\n"


@pytest.mark.parametrize("lines", [1, 40_000], ids=["as any request", "lifted out"])
def test_an_import_arrives_as_bytes_of_its_text(lines: int) -> None:
    body = import_body(LINE * lines, request_id="r")
    assert (len(body) > BODY_BYTES_MAX) == (lines > 1)
    (call,) = decode(body, "admin").calls
    assert call.refused is None
    assert call.params == {"jsonl": (LINE * lines).encode(), "mode": "merge", "dry_run": False, "skip_bad": False}
    assert call.request_id == "r"


def test_the_digest_of_a_long_import_is_that_of_its_text() -> None:
    jsonl = LINE * 40_000
    terse = orjson.dumps(orjson.loads(import_body(jsonl, request_id="r")))
    (one,), (other,) = decode(import_body(jsonl, request_id="r"), "admin").calls, decode(terse, "admin").calls
    (changed,) = decode(import_body(jsonl + "\n", request_id="r"), "admin").calls
    assert one.digest == other.digest
    assert one.digest != changed.digest


LONG = "x" * (BODY_BYTES_MAX + 1)


@pytest.mark.parametrize(
    ("body", "scope", "bound"),
    [
        (import_body(LINE * 40_000), "worker", BODY_BYTES_MAX),
        (import_body("", request_id=LONG), "admin", BODY_BYTES_MAX),
        (import_body(LONG + "\n").replace(b"ledger.import", b"ledger.export"), "admin", BODY_BYTES_MAX),
        (b"[" + b'"",' * BODY_BYTES_MAX + b"1]", "admin", BODY_BYTES_MAX),
        (b"[" + b"[]," * BODY_BYTES_MAX + b"1]", "admin", BODY_BYTES_MAX),
        (b'"' + b'\\"' * BODY_BYTES_MAX, "admin", BODY_BYTES_MAX),
        (b"x" * (IMPORT_BYTES_MAX + 1), "admin", IMPORT_BYTES_MAX),
        (import_body("x" * (9 * BODY_BYTES_MAX)), "admin", BODY_BYTES_MAX),
    ],
    ids=["no admin", "another field", "another method", "strings", "arrays", "an open string", "64 MiB", "one line"],
)
def test_a_long_body_that_is_no_import_is_refused(body: bytes, scope: str, bound: int) -> None:
    with pytest.raises(Refused) as caught:
        decode(body, scope)
    assert (caught.value.kind, caught.value.data["max"]) == ("limit", bound)


@pytest.mark.parametrize("bad", ["\\ud800", "\\x", "\x00"])
def test_a_long_import_is_parsed_as_strictly(bad: str) -> None:
    body = import_body(LINE * 40_000 + "@@").replace(b"@@", bad.encode())
    with pytest.raises(Refused) as caught:
        decode(body, "admin")
    assert caught.value.kind == "parse_error"


# ---------------------------------------------------------------- what goes out


def test_an_error_always_says_its_kind_and_whether_to_retry() -> None:
    for kind, (code, retryable) in ERRORS.items():
        sent = orjson.loads(encode_refused("x", Refused(kind, "do this", extra=1)))
        assert sent["error"] == {
            "code": code,
            "message": "do this",
            "data": {"kind": kind, "retryable": retryable, "extra": 1},
        }
        assert (sent["jsonrpc"], sent["id"]) == ("2.0", "x")


def reply(method: str, size: int) -> bytes:
    return encode_ok(1, {"text": "x" * size}, method)


ROOM = REPLY_BYTES_MAX - len(encode_ok(1, {"text": ""}))


def test_a_reply_of_the_greatest_length_goes_out_and_a_longer_one_does_not() -> None:
    assert len(reply("bead.get", ROOM)) == REPLY_BYTES_MAX
    refused = orjson.loads(reply("bead.get", ROOM + 1))["error"]
    assert (refused["code"], refused["data"]["max"]) == (1012, REPLY_BYTES_MAX)
    assert "/export.jsonl" in orjson.loads(reply("ledger.export", ROOM + 1))["error"]["message"]


def test_a_change_is_never_denied_for_the_length_of_its_reply() -> None:
    assert "result" in orjson.loads(reply("work.claim", ROOM + 1))


def batch_of(*methods: str, notify: bool = False) -> Envelope:
    return Envelope(True, [Call(place, notify, method, {}) for place, method in enumerate(methods)])


def test_a_batch_gives_up_the_reads_that_do_not_fit() -> None:
    half = {"text": "x" * (REPLY_BYTES_MAX // 2)}
    sent = encode_reply(batch_of("bead.get", "bead.list", "work.claim", "system.info"), [half, half, half, {}])
    assert ["result" in entry for entry in orjson.loads(sent)] == [True, False, True, False]


def test_a_batch_is_answered_in_order_without_its_notifications() -> None:
    envelope = batch_of("bead.get", "bead.get", "bead.get")
    envelope.calls[1].notify = True
    sent = orjson.loads(encode_reply(envelope, [{"a": 1}, {"b": 2}, Refused("not_found", "no such bead")]))
    assert [entry["id"] for entry in sent] == [0, 2]
    assert sent[1]["error"]["code"] == 1002


def test_notifications_alone_are_answered_with_nothing() -> None:
    envelope = batch_of("bead.get", "bead.get", notify=True)
    assert envelope.silent
    assert encode_reply(envelope, [{}, Refused("not_found", "no such bead")]) == b""


def test_a_refusal_of_the_codec_stands_whatever_the_engine_says() -> None:
    envelope = decode(b'{"jsonrpc":"2.0","id":5,"method":"no.such"}', "admin")
    assert not envelope.silent
    assert orjson.loads(encode_reply(envelope, [{}]))["error"]["code"] == -32601


def test_a_batch_is_an_array_of_its_replies() -> None:
    assert orjson.loads(encode_batch([encode_ok(1, {}), encode_ok(2, {})]))[1]["id"] == 2
