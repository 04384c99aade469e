"""The OpenRPC document: checked in as generated, true to the wire contract, and believed by the codec itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from gastown import shared
from gastown.methods import METHODS
from gastown.model import ERRORS, Refused
from gastown.openrpc import ERROR_DATA, document, openrpc
from gastown.protocol import decode

CONTRACT = {
    "read": "bead.get bead.history bead.list bead.ready convoy.get convoy.list ledger.export queue.stats rpc.discover"
    " scale.advice system.info worker.list",
    "worker": "bead.close bead.comment bead.create bead.depend bead.reopen bead.undepend bead.update convoy.add"
    " convoy.create convoy.remove work.block work.claim work.complete work.fail work.release worker.deregister"
    " worker.drain worker.heartbeat worker.register",
    "admin": "ledger.import ledger.verify queue.pause queue.resume token.create token.list token.revoke",
}
READ_BY_ADMINS = {"ledger.verify", "token.list"}


def test_the_checked_in_document_is_the_generated_one() -> None:
    checked_in = shared.text("spec", "openrpc.json").encode()
    assert checked_in == document(), "run: python -m gastown.openrpc > spec/openrpc.json"


@pytest.mark.parametrize("scope", CONTRACT)
def test_every_method_has_the_scope_of_the_contract(scope: str) -> None:
    assert sorted(row["name"] for row in openrpc()["methods"] if row["x-scope"] == scope) == CONTRACT[scope].split()


def test_what_changes_something_takes_a_request_id_and_tells_seq_and_epoch() -> None:
    for row in openrpc()["methods"]:
        mutates = row["name"] not in CONTRACT["read"].split() and row["name"] not in READ_BY_ADMINS
        assert row["x-mutates"] == mutates, row["name"]
        assert ("request_id" in {param["name"] for param in row["params"]}) == mutates, row["name"]
        assert ({"seq", "epoch"} <= set(row["result"]["schema"].get("required", ()))) == mutates, row["name"]


def test_every_reference_leads_somewhere() -> None:
    components = openrpc()["components"]
    for kind, key, value in walk(openrpc()):
        if key == "$ref":
            _, _, folder, name = value.split("/")
            assert name in components[folder], kind
    assert set(components["errors"]) == set(ERRORS) == set(ERROR_DATA)


def walk(node: Any, place: str = "") -> Iterator[tuple[str, str, Any]]:
    members = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in members:
        yield place, str(key), value
        yield from walk(value, f"{place}/{key}")


def test_required_params_come_first() -> None:
    for row in openrpc()["methods"]:
        required = [param["required"] for param in row["params"]]
        assert required == sorted(required, reverse=True), row["name"]


# ---------------------------------------------------------------- the schemas and the checks say the same

PATTERNED = {"id": "b", "defer_until": "2026-01-31T09:00:00Z", "due_at": "2026-01-31T09:00:00Z"}


def example(schema: dict[str, Any], name: str = "") -> Any:
    """The smallest value the schema admits."""
    if "oneOf" in schema:
        return example(schema["oneOf"][0], name)
    if "enum" in schema:
        return schema["enum"][0]
    if "pattern" in schema:
        return PATTERNED.get(name, "open")
    match schema.get("type"):
        case "integer":
            return schema["minimum"]
        case "string":
            return "s" * schema.get("minLength", 0)
        case "boolean":
            return False
        case "array":
            return [example(schema["items"], name)] * schema["minItems"]
        case "object":
            members = schema.get("properties", {})
            return {key: example(members[key], key) for key in schema.get("required", ())}
        case _:
            return None


def params_of(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {param["name"]: param["schema"] for param in row["params"]}


def least(row: dict[str, Any]) -> dict[str, Any]:
    sent = {param["name"]: example(param["schema"], param["name"]) for param in row["params"] if param["required"]}
    return sent | ({"reason": "r"} if row["name"] == "work.block" else {})


def judged(method: str, params: dict[str, Any]) -> Refused | None:
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    return decode(body, "admin").calls[0].refused


ROWS = [pytest.param(row, id=row["name"]) for row in openrpc()["methods"]]


@pytest.mark.parametrize("row", ROWS)
def test_the_least_call_is_taken_and_each_of_its_fields_is_needed(row: dict[str, Any]) -> None:
    sent = least(row)
    assert judged(row["name"], sent) is None
    for name in sent:
        refused = judged(row["name"], {key: value for key, value in sent.items() if key != name})
        if name == "reason" and row["name"] == "work.block":
            assert refused is not None
            continue
        assert refused is not None
        assert (refused.kind, refused.data["field"]) == ("invalid_params", name)


@pytest.mark.parametrize("row", ROWS)
def test_an_unknown_field_is_refused(row: dict[str, Any]) -> None:
    refused = judged(row["name"], {**least(row), "surprise": 1})
    assert refused is not None
    assert (refused.kind, refused.data["field"]) == ("invalid_params", "surprise")


def wrong_values(schema: dict[str, Any]) -> list[tuple[Any, str]]:
    """Values just outside a schema, with the kind of refusal."""
    kinds: dict[str, list[Any]] = {
        "integer": ["1", 1.0, True, None, [1], schema.get("minimum", 0) - 1],
        "string": [7, 1.5, False, ["s"], {"s": 1}],
        "boolean": [0, 1, "true", None],
        "array": [{}, "s", 7, None],
        "object": [[], "s", 7],
    }
    outside = [(value, "invalid_params") for value in kinds.get(schema.get("type", ""), [])]
    if schema.get("type") == "integer" and schema["maximum"] < 2**63 - 1:
        outside.append((schema["maximum"] + 1, "limit"))
    if schema.get("minLength"):
        outside.append(("", "invalid_params"))
    if "maxLength" in schema:
        outside.append(("s" * (schema["maxLength"] + 1), "limit"))
    if schema.get("type") == "string" and "x-maxBytes" in schema:
        outside.append(("s" * (schema["x-maxBytes"] + 1), "limit"))
    if "enum" in schema or "pattern" in schema:
        outside.append(("No Such Word\n", "invalid_params"))
    if schema.get("minItems"):
        outside.append(([], "invalid_params"))
    if "maxItems" in schema:
        outside.append(([example(schema["items"])] * (schema["maxItems"] + 1), "limit"))
    return outside


@pytest.mark.parametrize("row", ROWS)
def test_values_outside_the_schema_are_refused(row: dict[str, Any]) -> None:
    for name, schema in params_of(row).items():
        for value, kind in wrong_values(schema):
            refused = judged(row["name"], {**least(row), name: value})
            assert refused is not None, (name, value)
            assert (refused.kind, refused.data["field"]) == (kind, name), value


@pytest.mark.parametrize("row", ROWS)
def test_edges_inside_the_schema_are_taken(row: dict[str, Any]) -> None:
    for name, schema in params_of(row).items():
        edges = [example(schema, name)]
        if schema.get("type") == "integer":
            edges.append(schema["maximum"])
        if "maxLength" in schema:
            edges.append("é" * schema["maxLength"])
        if "pattern" not in schema and "x-maxBytes" in schema and schema.get("type") == "string":
            edges.append("s" * schema["x-maxBytes"])
        if row["name"] == "work.block" and name == "on":
            continue  # only without a reason; a vector has it
        for value in edges:
            if schema.get("x-maxBytes") and value == "":
                continue  # optional names without a minimum
            refused = judged(row["name"], {**least(row), name: value})
            assert refused is None, (name, value, refused)


def test_the_table_and_the_document_list_the_same_methods() -> None:
    assert sorted(METHODS) == [row["name"] for row in openrpc()["methods"]]
