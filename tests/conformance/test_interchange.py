"""The ledger over the wire: import merges, export is canonical, verify finds nothing wrong."""

import json
from typing import Any

import pytest

from .holding import LONG_MS, held
from .records import NEW_YEAR, edge, jsonl, parsed, record
from .town import Town, unique

LATER = "2026-03-01T00:00:00Z"


def take_in(town: Town, *records: dict[str, Any], **params: Any) -> dict[str, Any]:
    reply: dict[str, Any] = town.call("ledger.import", jsonl=jsonl(*records), **params)
    return reply


def counts(reply: dict[str, Any]) -> tuple[int, int, int, int]:
    return reply["created"], reply["updated"], reply["unchanged"], len(reply["skipped"])


def exported(town: Town, bead_id: str) -> dict[str, Any]:
    return parsed(town.call("ledger.export")["jsonl"])[bead_id]


def test_import_counts_what_it_did(shared_town: Town) -> None:
    a, b, c = (unique("in") for _ in range(3))
    assert counts(take_in(shared_town, record(a), record(b))) == (2, 0, 0, 0)
    assert counts(take_in(shared_town, record(a), record(b, updated_at=LATER, title="new"), record(c))) == (1, 1, 1, 0)
    assert shared_town.get(b)["title"] == "new"


def test_a_dry_run_changes_nothing(shared_town: Town) -> None:
    bead = unique("in")
    before = shared_town.seq()
    assert counts(take_in(shared_town, record(bead), dry_run=True)) == (1, 0, 0, 0)
    assert shared_town.refusal("bead.get", id=bead).code == 1002
    assert shared_town.seq() == before


def test_a_stale_file_does_not_overwrite_live_data(shared_town: Town) -> None:
    bead = unique("in")
    take_in(shared_town, record(bead, title="live", updated_at=LATER))
    reply = take_in(shared_town, record(bead, title="stale", updated_at="2026-02-01T00:00:00Z"))
    assert reply["updated"] == 0
    (skipped,) = reply["skipped"]
    assert (skipped["line"], skipped["id"], skipped["why"]) == (1, bead, "stale")
    assert shared_town.get(bead)["title"] == "live"


def test_newer_is_by_whole_seconds_as_instants(shared_town: Town) -> None:
    bead = unique("in")
    take_in(shared_town, record(bead, title="local", updated_at="2026-03-01T12:00:00.100Z"))
    take_in(shared_town, record(bead, title="same second", updated_at="2026-03-01T14:00:00.900+02:00"))
    assert shared_town.get(bead)["title"] == "local"
    take_in(shared_town, record(bead, title="newer", updated_at="2026-03-01T11:00:01-01:00"))
    assert shared_town.get(bead)["title"] == "newer"


def test_on_a_tie_labels_comments_and_edges_merge(shared_town: Town) -> None:
    bead, other = unique("in"), shared_town.bead()["id"]
    take_in(shared_town, record(bead, title="local", labels=["a"]))
    remote = record(
        bead,
        title="remote",
        labels=["b"],
        comments=[{"id": "c1", "issue_id": bead, "author": "ann", "text": "hi", "created_at": NEW_YEAR}],
        dependencies=[edge(bead, other, "related")],
    )
    assert take_in(shared_town, remote)["updated"] == 1
    merged = shared_town.get(bead)
    assert (merged["title"], merged["labels"]) == ("local", ["a", "b"])
    assert [comment["text"] for comment in merged["comments"]] == ["hi"]
    assert [row["depends_on_id"] for row in merged["dependencies"]] == [other]
    assert counts(take_in(shared_town, remote)) == (0, 0, 1, 0)


def test_of_duplicate_ids_the_newest_wins(shared_town: Town) -> None:
    bead = unique("in")
    rows = [record(bead, title="new", updated_at=LATER), record(bead, title="old")]
    reply = take_in(shared_town, *rows)
    assert shared_town.get(bead)["title"] == "new"
    assert [(row["line"], row["id"], row["why"]) for row in reply["skipped"]] == [(2, bead, "duplicate")]


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "7", '{"id": "x"', '{"title": "no id"}', '{"id": "x", "title": "t", "priority": "high"}', "\x00"],
)
def test_a_bad_line_refuses_the_whole_import(shared_town: Town, line: str) -> None:
    bead = unique("in")
    refused = shared_town.refusal("ledger.import", jsonl=f"{jsonl(record(bead))}\n{line}\n")
    assert (refused.code, refused.data["line"]) == (-32602, 3)
    assert refused.data["why"]
    assert shared_town.refusal("bead.get", id=bead).code == 1002


def test_skip_bad_leaves_bad_lines_out(shared_town: Town) -> None:
    bead = unique("in")
    reply = shared_town.call("ledger.import", jsonl="{broken\n" + jsonl(record(bead)), skip_bad=True)
    assert reply["created"] == 1
    assert [(row["line"], row["why"]) for row in reply["skipped"]] == [(1, "bad")]


def test_a_leased_bead_takes_only_labels_comments_and_edges(shared_town: Town) -> None:
    bead = unique("in")
    take_in(shared_town, record(bead, labels=["a"]))
    lease = shared_town.lease(shared_town.worker(), bead, ttl_ms=LONG_MS)
    remote = record(bead, title="other", status="closed", labels=["b"], updated_at="2999-01-01T00:00:00Z")
    (skipped,) = take_in(shared_town, remote)["skipped"]
    assert (skipped["id"], skipped["why"]) == (bead, "leased")
    after = shared_town.get(bead)
    assert (after["title"], after["status"], after["labels"]) == (f"title of {bead}", "in_progress", ["a", "b"])
    assert shared_town.call("work.complete", **held(lease))["bead"]["status"] == "closed"


def test_a_tombstone_deletes_a_bead_only_when_newer_and_not_leased(shared_town: Town) -> None:
    older, newer, leased = (unique("in") for _ in range(3))
    take_in(shared_town, *(record(bead, updated_at=LATER) for bead in (older, newer, leased)))
    lease = shared_town.lease(shared_town.worker(), leased, ttl_ms=LONG_MS)
    future = "2999-01-01T00:00:00Z"
    take_in(
        shared_town,
        record(older, status="tombstone", updated_at="2026-02-01T00:00:00Z"),
        record(newer, status="tombstone", updated_at=future),
        record(leased, status="tombstone", updated_at=future),
    )
    assert shared_town.state_of(older) == "ready"
    assert shared_town.state_of(leased) == "leased"
    assert shared_town.claim(shared_town.worker(), filter={"bead_id": newer}) == []
    assert exported(shared_town, newer)["status"] == "tombstone"
    assert shared_town.call("work.complete", **held(lease))["bead"]["status"] == "closed"


def test_a_tombstone_is_never_resurrected(shared_town: Town) -> None:
    bead = unique("in")
    take_in(shared_town, record(bead, status="tombstone"))
    (skipped,) = take_in(shared_town, record(bead, updated_at="2999-01-01T00:00:00Z"))["skipped"]
    assert skipped["why"] == "tombstone"
    assert exported(shared_town, bead)["status"] == "tombstone"


def test_unknown_keys_come_back(shared_town: Town) -> None:
    bead = unique("in")
    foreign = {"zz_tool": {"nested": [1, 2.50, None]}, "big": 12345678901234567890, "version": "theirs", "attempt": 9}
    take_in(shared_town, record(bead, **foreign))
    back = exported(shared_town, bead)
    assert {key: back[key] for key in foreign} == foreign
    shown = shared_town.get(bead)
    assert shown["zz_tool"] == foreign["zz_tool"]
    assert shown["version"] == 1
    shared_town.call("bead.update", id=bead, set={"title": "edited"})
    assert exported(shared_town, bead)["zz_tool"] == foreign["zz_tool"]


def test_numbers_of_unknown_keys_keep_their_text(shared_town: Town) -> None:
    bead = unique("in")
    line = json.dumps(record(bead))[:-1] + ', "ratio": 1.50, "huge": 1e400, "big": 123456789012345678901234567890}'
    shared_town.call("ledger.import", jsonl=line)
    (row,) = (row for row in shared_town.call("ledger.export")["jsonl"].splitlines() if f'"id":"{bead}"' in row)
    assert '"ratio":1.50' in row
    assert '"huge":1e400' in row
    assert '"big":123456789012345678901234567890' in row


def test_times_keep_their_text_until_their_value_changes(shared_town: Town) -> None:
    bead = unique("in")
    created, updated = "2026-01-01T10:00:00.123456789+02:00", "2026-01-02T10:00:00.5+02:00"
    take_in(shared_town, record(bead, created_at=created, updated_at=updated))
    assert (exported(shared_town, bead)["created_at"], exported(shared_town, bead)["updated_at"]) == (created, updated)
    shared_town.call("bead.update", id=bead, set={"title": "edited"})
    after = exported(shared_town, bead)
    assert after["created_at"] == created
    assert after["updated_at"].endswith("Z")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"status": "closed", "updated_at": LATER}, {"closed_at": LATER}),
        ({"status": "open", "closed_at": LATER}, {"closed_at": None}),
        ({"issue_type": "enhancement"}, {"issue_type": "feature"}),
        ({"issue_type": "feat"}, {"issue_type": "feature"}),
        ({"issue_type": "mr"}, {"issue_type": "merge-request"}),
        ({"issue_type": "homemade"}, {"issue_type": "homemade"}),
        ({"labels": ["b", "a"]}, {"labels": ["a", "b"]}),
        ({"dependency_count": 3, "dependent_count": 1}, {"dependency_count": None, "dependent_count": None}),
    ],
    ids=str,
)
def test_records_are_normalised(shared_town: Town, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    bead = unique("in")
    take_in(shared_town, record(bead, **fields))
    back = exported(shared_town, bead)
    assert {key: back.get(key) for key in expected} == expected


@pytest.mark.parametrize(("spelling", "kind"), [("parent_child", "parent-child"), ("blocked-by", "blocks")])
def test_dirty_edge_kinds_are_cleaned(shared_town: Town, spelling: str, kind: str) -> None:
    bead, other = unique("in"), shared_town.bead()["id"]
    take_in(shared_town, record(bead, dependencies=[edge(bead, other, spelling)]))
    assert [row["type"] for row in exported(shared_town, bead)["dependencies"]] == [kind]


def test_rig_is_exported_when_set_and_internal_fields_never(shared_town: Town) -> None:
    plain, rigged = shared_town.bead()["id"], shared_town.bead(rig="north")["id"]
    assert exported(shared_town, rigged)["rig"] == "north"
    assert not {"rig", "version", "attempt", "token"} & set(exported(shared_town, plain))


def test_export_is_sorted_by_id_and_repeatable(shared_town: Town) -> None:
    text = shared_town.call("ledger.export")["jsonl"]
    ids = [json.loads(line)["id"] for line in text.splitlines() if '"id"' in line]
    assert ids == sorted(ids)
    assert text == shared_town.call("ledger.export")["jsonl"]
    assert text.endswith("\n")


def test_export_import_export_gives_the_same_bytes(shared_town: Town, town: Town) -> None:
    worker = shared_town.worker()
    epic = shared_town.bead("an epic", issue_type="epic", labels=["z", "a"], metadata={"k": [1, {"x": "<"}]})["id"]
    child = shared_town.bead(parent=epic)["id"]
    shared_town.call("bead.comment", id=child, text="übrigens <b>\u2028")
    shared_town.call("work.complete", **held(shared_town.lease(worker, child)), result={"summary": "done"})
    text = shared_town.call("ledger.export")["jsonl"]
    town.call("ledger.import", jsonl=text)
    assert town.call("ledger.export")["jsonl"] == text


def test_an_import_raises_the_token_counter(town: Town) -> None:
    town.call("ledger.import", jsonl='{"_schema":"gastown/1","token_high":5000000}\n' + jsonl(record("high-1")))
    lease = town.lease(town.worker(), "high-1")
    assert lease["token"] > 5_000_000
    header = json.loads(town.call("ledger.export")["jsonl"].splitlines()[0])
    assert header["_schema"] == "gastown/1"
    assert header["token_high"] >= lease["token"]


def test_an_import_never_lowers_the_token_counter(shared_town: Town) -> None:
    before = shared_town.lease(shared_town.worker())["token"]
    shared_town.call("ledger.import", jsonl='{"_schema":"gastown/1","token_high":1}\n')
    assert shared_town.lease(shared_town.worker())["token"] > before


def test_replace_empty_needs_an_empty_ledger(town: Town) -> None:
    assert take_in(town, record("in-1"), mode="replace_empty")["created"] == 1
    refused = town.refusal("ledger.import", jsonl=jsonl(record("in-2")), mode="replace_empty")
    assert refused.code == 1003


@pytest.mark.parametrize("params", [{"mode": "overwrite"}, {"surprise": 1}, {"dry_run": "yes"}, {"jsonl": 5}])
def test_bad_import_params_are_refused(shared_town: Town, params: dict[str, Any]) -> None:
    assert shared_town.refusal("ledger.import", **{"jsonl": "", **params}).code == -32602


@pytest.mark.parametrize("method", ["ledger.import", "ledger.verify"])
def test_import_and_verify_are_not_for_batches(shared_town: Town, method: str) -> None:
    (entry,) = shared_town.batch((method, {"jsonl": ""} if method == "ledger.import" else {}))
    assert entry["error"]["code"] == -32600


def test_import_is_one_event_a_bead(shared_town: Town) -> None:
    one, two = unique("in"), unique("in")
    before = shared_town.seq()
    assert take_in(shared_town, record(one), record(two))["seq"] == before + 2
    assert shared_town.kinds(one) == shared_town.kinds(two) == ["imported"]


def test_verify_finds_nothing_wrong(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker())
    shared_town.call("work.fail", **held(lease), error="x")
    reply = shared_town.call("ledger.verify")
    assert (reply["ok"], reply["problems"]) == (True, [])


def test_memory_lines_are_kept(town: Town) -> None:
    memory = {"_type": "memory", "key": "style", "value": "tabs"}
    town.call("ledger.import", jsonl=json.dumps(memory) + "\n" + jsonl(record("in-1")))
    rows = [json.loads(line) for line in town.call("ledger.export")["jsonl"].splitlines()]
    assert memory in rows
