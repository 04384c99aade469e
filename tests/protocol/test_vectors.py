"""spec/vectors/wire.json: request bytes, and what the codec makes of them. Both bodies hold to these.

`when` is a text, hex bytes, or parts [text, times]. `then` is one error for the whole text, or what becomes of each
call: the method and params the engine is given, an error, or a notification that is dropped. {"$times": [x, n]} stands
for a string or an array repeated n times.
"""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from gastown import shared
from gastown.model import Refused
from gastown.protocol import Call, decode, encode_refused
from gastown.shapes import FIELD_CHARS_MAX

VECTORS: list[dict[str, Any]] = json.loads(shared.text("spec", "vectors/wire.json"))
LONGEST_MESSAGE = 800  # characters: the list of known fields of a bead is the longest


def request_bytes(when: dict[str, Any]) -> bytes:
    if "hex" in when:
        return bytes.fromhex(when["hex"])
    parts = when["parts"] if "parts" in when else [[when["text"], 1]]
    return b"".join(text.encode() * times for text, times in parts)


def spelled_out(then: Any) -> Any:
    if isinstance(then, list):
        return [spelled_out(entry) for entry in then]
    if not isinstance(then, dict):
        return then
    if "$times" in then:
        repeated, times = then["$times"]
        return spelled_out(repeated) * times
    return {key: spelled_out(value) for key, value in then.items()}


def error(refused: Refused) -> dict[str, Any]:
    sent = orjson.loads(encode_refused(None, refused))["error"]
    assert 0 < len(sent.pop("message")) <= LONGEST_MESSAGE
    assert len(sent["data"].get("field", "")) <= FIELD_CHARS_MAX * 10
    return dict(sent)


def outcome(call: Call) -> dict[str, Any]:
    if call.refused:
        return {"notification": True} if call.notify else {"id": call.id, "error": error(call.refused)}
    done = {"method": call.method, "params": orjson.loads(orjson.dumps(call.params))}
    assert (call.digest is None) == (call.request_id is None)
    if call.request_id is not None:
        done["request_id"] = call.request_id
    return {"notification": True, "call": done} if call.notify else {"id": call.id, "call": done}


def made_of(raw: bytes, scope: str) -> dict[str, Any]:
    try:
        envelope = decode(raw, scope)
    except Refused as refused:
        return {"error": error(refused)}
    return {"batch": envelope.batch, "calls": [outcome(call) for call in envelope.calls]}


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_vector(vector: dict[str, Any]) -> None:
    made, then = made_of(request_bytes(vector["when"]), vector["scope"]), spelled_out(vector["then"])
    # as text: to Python 1 == 1.0 == True, to a caller they differ
    assert json.dumps(made, sort_keys=True) == json.dumps(then, sort_keys=True)
