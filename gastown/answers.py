"""What the HTTP door and the line socket say alike: envelopes to units, outcomes to bytes, faults to errors.

Law: pure but for building a Unit. rpc.discover is answered here, from the method table; the engine never sees it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import orjson

from gastown.engine import Unit
from gastown.head import Fault
from gastown.model import Credential, Refused
from gastown.openrpc import openrpc
from gastown.protocol import Call, Envelope, encode_ok, encode_refused, encode_reply

Outcome = dict[str, Any] | Refused
DISCOVER: Final = "rpc.discover"
PEEK_BYTES: Final = 64 << 10  # where the method's name must show for a body to be read as an import
STATUS_OF_KIND: Final = {"unauthenticated": 401, "forbidden": 403, "rate_limited": 429}
_METHOD: Final = re.compile(rb'"method"[ \t\r\n]*:[ \t\r\n]*"([^"]*)"')


def could_import(beginning: bytes) -> bool:
    """Whether a text over the ordinary limit may still be a ledger.import: one request, and no other method named.

    Sound because an import's params have no key of that name and a quote inside its JSONL is escaped.
    """
    named = _METHOD.search(beginning)
    return beginning.lstrip()[:1] == b"{" and (named is None or named[1] == b"ledger.import")


def grants(envelope: Envelope) -> bool:
    """Whether a reply nobody reads would strand a lease."""
    return any(call.method == "work.claim" or call.params.get("claim") for call in envelope.calls)


@cache
def document() -> bytes:
    """The OpenRPC document, /openrpc.json."""
    return orjson.dumps(openrpc())


def unit_of(envelope: Envelope, who: Credential, deliver: Callable[[list[Outcome]], bool]) -> Unit | None:
    """What the engine is asked; None when there is nothing it must decide."""
    calls = envelope.calls
    if calls[0].method == DISCOVER or (envelope.batch and any(map(_discovers, calls))):
        calls = [call for call in calls if not _discovers(call)]
    return Unit(calls, who, envelope.batch, deliver) if calls else None


def _discovers(call: Call) -> bool:
    return call.method == DISCOVER and call.refused is None


def answer(envelope: Envelope, outcomes: list[Outcome]) -> tuple[int, bytes]:
    """HTTP status and reply; empty when nothing is to be said. `outcomes` are those of the unit's calls."""
    call = envelope.calls[0]
    if envelope.batch or call.notify:
        return 200, encode_reply(envelope, _with_documents(envelope, outcomes))
    outcome = call.refused or (orjson.Fragment(document()) if call.method == DISCOVER else outcomes[0])
    if isinstance(outcome, Refused):
        return STATUS_OF_KIND.get(outcome.kind, 200), encode_refused(call.id, outcome)
    return 200, encode_ok(call.id, outcome, call.method)


def _with_documents(envelope: Envelope, outcomes: list[Outcome]) -> list[Any]:
    if len(outcomes) == len(envelope.calls):
        return outcomes
    rest = iter(outcomes)
    return [orjson.Fragment(document()) if _discovers(call) else next(rest) for call in envelope.calls]


def refusal(fault: Fault) -> bytes:
    """A fault as a JSON-RPC error without an id."""
    data: dict[str, Any] = {}
    if fault.kind == "limit":
        data = {"limit": fault.limit, "max": fault.limit_max}
    elif fault.needs:
        data = {"needs": fault.needs}
    if fault.retry_after_s:
        data["retry_after_ms"] = fault.retry_after_s * 1000
    return encode_refused(None, Refused(fault.kind, fault.why, **data))
