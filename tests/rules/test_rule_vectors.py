"""The rules against spec/vectors: every boundary, in the form that another body is held to as well."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gastown import shared
from gastown.model import INT64_MAX, INT64_MIN, RULES
from gastown.rules import KINDS, decide

FILES = ("bead", "lease", "worker", "dispatch", "scale")
DOCUMENTS = {name: json.loads(shared.text("spec", f"vectors/{name}.json")) for name in FILES}
VECTORS = [(name, vector) for name, document in DOCUMENTS.items() for vector in document["vectors"]]


def whole(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`given` with what it leaves out, as each file's `about` says."""

    def filled(name: str, value: Any) -> Any:
        if name == "beads":
            return [defaults["bead"] | bead for bead in value]
        return defaults[name] | value if isinstance(value, dict) and name in defaults else value

    return {name: filled(name, value) for name, value in ({"policy": {}} | given).items()}


@pytest.mark.parametrize(("file", "vector"), VECTORS, ids=[f"{name}: {vector['name']}" for name, vector in VECTORS])
def test_vector(file: str, vector: dict[str, Any]) -> None:
    given = whole(DOCUMENTS[file]["defaults"], vector["given"])
    before = json.dumps(given)
    assert decide(given, vector["when"], vector["now"]) == vector["then"]
    assert json.dumps(given) == before, "a rule changed what it was given"


def test_every_kind_has_vectors_and_every_name_is_used_once() -> None:
    assert {vector["when"]["kind"] for _, vector in VECTORS} == set(KINDS)
    assert len({(file, vector["name"]) for file, vector in VECTORS}) == len(VECTORS)


def test_vectors_are_for_these_rules_and_hold_only_64_bit_integers() -> None:
    assert {vector["rules"] for _, vector in VECTORS} == {RULES}
    for file, vector in VECTORS:
        for leaf in leaves(vector):
            assert not isinstance(leaf, float), (file, vector["name"])
            assert not isinstance(leaf, int) or INT64_MIN <= leaf <= INT64_MAX, (file, vector["name"])


def leaves(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return [leaf for value in node.values() for leaf in leaves(value)]
    if isinstance(node, list):
        return [leaf for value in node for leaf in leaves(value)]
    return [node]


def test_an_unknown_kind_is_refused() -> None:
    assert decide({"policy": {}}, {"kind": "__class__"}, 0) == {"refused": "invalid_params", "field": "kind"}
