"""Which beads are ready: edges of every kind, parents, deferral, and the kinds of bead that are never handed out."""

from typing import Any

import pytest

from .records import edge, jsonl, record
from .town import Town, unique


def depend(town: Town, source: str, target: str, kind: str = "blocks") -> None:
    town.call("bead.depend", **{"from": source, "to": target, "kind": kind})


def close(town: Town, bead_id: str) -> None:
    town.call("bead.close", id=bead_id, reason="done")


def take_in(town: Town, *records: dict[str, Any]) -> None:
    town.call("ledger.import", jsonl=jsonl(*records))


@pytest.mark.parametrize("kind", ["blocks", "conditional-blocks"])
def test_an_open_blocker_blocks_until_it_is_closed(shared_town: Town, kind: str) -> None:
    blocker = shared_town.bead()["id"]
    bead = shared_town.bead(depends_on=[{"id": blocker, "kind": kind}])["id"]
    assert shared_town.state_of(bead) == "waiting"
    close(shared_town, blocker)
    assert shared_town.state_of(bead) == "ready"


def test_a_leased_blocker_still_blocks(shared_town: Town) -> None:
    blocker = shared_town.bead()["id"]
    bead = shared_town.bead(depends_on=[{"id": blocker}])["id"]
    shared_town.lease(shared_town.worker(), blocker)
    assert shared_town.state_of(bead) == "waiting"


def test_all_blockers_must_end(shared_town: Town) -> None:
    one, two = shared_town.bead()["id"], shared_town.bead()["id"]
    bead = shared_town.bead(depends_on=[{"id": one}, {"id": two}])["id"]
    close(shared_town, one)
    assert shared_town.state_of(bead) == "waiting"
    close(shared_town, two)
    assert shared_town.state_of(bead) == "ready"


def test_a_pinned_blocker_does_not_block(shared_town: Town) -> None:
    blocker = shared_town.bead()["id"]
    bead = shared_town.bead(depends_on=[{"id": blocker}])["id"]
    shared_town.call("bead.update", id=blocker, set={"status": "pinned"})
    assert shared_town.state_of(bead) == "ready"


@pytest.mark.parametrize("kind", ["related", "discovered-from", "duplicates", "homemade"])
def test_other_edges_never_block(shared_town: Town, kind: str) -> None:
    other = shared_town.bead()["id"]
    assert shared_town.state_of(shared_town.bead(depends_on=[{"id": other, "kind": kind}])["id"]) == "ready"


def test_missing_and_tombstoned_targets_never_block(shared_town: Town) -> None:
    grave, one, two = unique("grave"), unique("in"), unique("in")
    take_in(
        shared_town,
        record(grave, status="tombstone"),
        record(one, dependencies=[edge(one, grave)]),
        record(two, dependencies=[edge(two, "never-seen")]),
    )
    assert shared_town.state_of(one) == "ready"
    assert shared_town.state_of(two) == "ready"


def test_a_missing_target_blocks_once_it_exists(shared_town: Town) -> None:
    bead, target = unique("in"), unique("late")
    take_in(shared_town, record(bead, dependencies=[edge(bead, target)]))
    assert shared_town.state_of(bead) == "ready"
    shared_town.bead(id=target)
    assert shared_town.state_of(bead) == "waiting"


def test_a_blocked_parent_blocks_its_descendants(shared_town: Town) -> None:
    blocker = shared_town.bead()["id"]
    top = shared_town.bead(issue_type="epic")["id"]
    child = shared_town.bead(parent=top)["id"]
    grandchild = shared_town.bead(parent=child)["id"]
    depend(shared_town, top, blocker)
    assert [shared_town.state_of(bead) for bead in (top, child, grandchild)] == ["waiting"] * 3
    close(shared_town, blocker)
    assert [shared_town.state_of(bead) for bead in (top, child, grandchild)] == ["ready"] * 3


def test_an_epic_with_open_children_is_ready(shared_town: Town) -> None:
    epic = shared_town.bead(issue_type="epic")["id"]
    shared_town.bead(parent=epic)
    assert shared_town.state_of(epic) == "ready"


def test_waits_for_lasts_while_a_child_is_open(shared_town: Town) -> None:
    epic = shared_town.bead(issue_type="epic")["id"]
    children = [shared_town.bead(parent=epic)["id"] for _ in range(2)]
    bead = shared_town.bead(depends_on=[{"id": epic, "kind": "waits-for"}])["id"]
    assert shared_town.state_of(bead) == "waiting"
    close(shared_town, children[0])
    assert shared_town.state_of(bead) == "waiting"
    close(shared_town, children[1])
    assert shared_town.state_of(bead) == "ready"


def test_waits_for_a_bead_without_children_never_blocks(shared_town: Town) -> None:
    target = shared_town.bead()["id"]
    bead = shared_town.bead(depends_on=[{"id": target, "kind": "waits-for"}])["id"]
    assert shared_town.state_of(bead) == "ready"
    shared_town.bead(parent=target)
    assert shared_town.state_of(bead) == "waiting"


@pytest.mark.parametrize("metadata", [{"gate": "any-children"}, '{"gate":"any-children"}'], ids=["object", "string"])
def test_any_children_waits_until_one_has_ended(shared_town: Town, metadata: object) -> None:
    epic, bead = unique("epic"), unique("in")
    children = [f"{epic}.{n}" for n in (1, 2)]
    take_in(
        shared_town,
        record(epic, issue_type="epic"),
        *(record(child, dependencies=[edge(child, epic, "parent-child")]) for child in children),
        record(bead, dependencies=[edge(bead, epic, "waits-for", metadata=metadata)]),
    )
    assert shared_town.state_of(bead) == "waiting"
    close(shared_town, children[0])
    assert shared_town.state_of(bead) == "ready"


def test_a_deferred_bead_waits_for_its_instant(shared_town: Town) -> None:
    bead = shared_town.bead(defer_until="2999-01-01T00:00:00Z")["id"]
    assert shared_town.state_of(bead) == "deferred"
    shared_town.call("bead.update", id=bead, set={"defer_until": "2001-01-01T00:00:00+02:00"})
    assert shared_town.state_of(bead) == "ready"


def test_a_direct_parents_deferral_counts_and_a_grandparents_does_not(shared_town: Town) -> None:
    top = shared_town.bead(issue_type="epic", defer_until="2999-01-01T00:00:00Z")["id"]
    child = shared_town.bead(parent=top)["id"]
    grandchild = shared_town.bead(parent=child)["id"]
    assert shared_town.state_of(child) == "deferred"
    assert shared_town.state_of(grandchild) == "ready"
    shared_town.call("bead.update", id=top, set={"defer_until": None})
    assert shared_town.state_of(child) == "ready"


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "ready"),
        ({"status": "closed", "closed_at": "2026-01-02T00:00:00Z"}, "closed"),
        ({"status": "tombstone"}, "tombstone"),
        ({"status": "in_progress", "assignee": "somebody"}, "held"),
        ({"status": "blocked"}, "blocked"),
        ({"status": "hooked"}, "parked"),
        ({"status": "pinned"}, "parked"),
        ({"status": "deferred"}, "parked"),
        ({"status": "in_review"}, "parked"),
        ({"pinned": True}, "parked"),
        ({"is_template": True}, "parked"),
        ({"ephemeral": True}, "parked"),
        ({"wisp": True}, "parked"),
        ({"issue_type": "molecule"}, "parked"),
        ({"issue_type": "mr"}, "parked"),
        ({"issue_type": "homemade"}, "ready"),
        ({"assignee": "somebody"}, "ready"),
        ({"defer_until": "2999-01-01T00:00:00+05:00"}, "deferred"),
    ],
    ids=str,
)
def test_the_state_of_an_imported_record(shared_town: Town, fields: dict[str, Any], state: str) -> None:
    bead = unique("in")
    take_in(shared_town, record(bead, **fields))
    in_state = shared_town.walk("bead.list", filter={"state": [state]}, limit=1000)
    assert bead in {item["id"] for item in in_state}
    claimed = shared_town.claim(shared_town.worker(), filter={"bead_id": bead})
    assert bool(claimed) == (state == "ready")


def test_a_held_bead_becomes_ready_by_an_update_to_open(shared_town: Town) -> None:
    bead = unique("in")
    take_in(shared_town, record(bead, status="in_progress", assignee="somebody"))
    shared_town.call("bead.update", id=bead, set={"status": "open"})
    assert shared_town.state_of(bead) == "ready"


# -- cycles ----------------------------------------------------------------------------------------------------------


def cycle(town: Town, source: str, target: str, kind: str = "blocks") -> list[str]:
    """The path of the refusal that closing this loop must give."""
    before = town.seq()
    refused = town.refusal("bead.depend", **{"from": source, "to": target, "kind": kind})
    assert (refused.code, refused.kind, refused.data["retryable"]) == (1005, "dependency_cycle", False)
    assert town.seq() == before
    path: list[str] = refused.data["path"]
    assert path[0] == path[-1]
    return path


def test_a_long_loop_is_refused_with_its_path(shared_town: Town) -> None:
    a, b, c, d = (shared_town.bead()["id"] for _ in range(4))
    for source, target in [(a, b), (b, c), (c, d)]:
        depend(shared_town, source, target)
    assert cycle(shared_town, d, a) == [d, a, b, c, d]


@pytest.mark.parametrize("kind", ["blocks", "conditional-blocks", "waits-for", "parent-child"])
def test_an_edge_to_itself_is_a_cycle(shared_town: Town, kind: str) -> None:
    bead = shared_town.bead()["id"]
    assert cycle(shared_town, bead, bead, kind) == [bead, bead]


@pytest.mark.parametrize("first", ["blocks", "conditional-blocks", "parent-child", "waits-for"])
@pytest.mark.parametrize("second", ["blocks", "conditional-blocks", "parent-child", "waits-for"])
def test_blocking_kinds_close_loops_together(shared_town: Town, first: str, second: str) -> None:
    a, b = shared_town.bead()["id"], shared_town.bead()["id"]
    depend(shared_town, a, b, first)
    assert cycle(shared_town, b, a, second) == [b, a, b]


def test_a_parent_that_waits_for_its_child_is_a_cycle(shared_town: Town) -> None:
    parent = shared_town.bead(issue_type="epic")["id"]
    child = shared_town.bead(parent=parent)["id"]
    assert cycle(shared_town, parent, child) == [parent, child, parent]


def test_waits_for_reaches_the_targets_children(shared_town: Town) -> None:
    epic, waiting = shared_town.bead(issue_type="epic")["id"], shared_town.bead()["id"]
    child = shared_town.bead(parent=epic)["id"]
    depend(shared_town, waiting, epic, "waits-for")
    assert {child, waiting} <= set(cycle(shared_town, child, waiting))


def test_a_new_child_that_closes_a_loop_through_waits_for_is_refused(shared_town: Town) -> None:
    epic, waiting = shared_town.bead(issue_type="epic")["id"], shared_town.bead()["id"]
    depend(shared_town, waiting, epic, "waits-for")
    child = {"title": "t", "parent": epic, "depends_on": [{"id": waiting}]}
    assert shared_town.refusal("bead.create", beads=[child]).code == 1005


def test_edges_that_do_not_block_may_form_loops(shared_town: Town) -> None:
    a, b = shared_town.bead()["id"], shared_town.bead()["id"]
    for source, target, kind in [(a, b, "related"), (b, a, "related"), (a, b, "blocks"), (b, a, "homemade")]:
        depend(shared_town, source, target, kind)
    assert shared_town.state_of(b) == "ready"


def test_undoing_an_edge_opens_the_way(shared_town: Town) -> None:
    a, b = shared_town.bead()["id"], shared_town.bead()["id"]
    depend(shared_town, a, b)
    shared_town.call("bead.undepend", **{"from": a, "to": b, "kind": "blocks"})
    depend(shared_town, b, a)
    assert shared_town.state_of(b) == "waiting"


def test_import_keeps_cycles_and_their_beads_wait(shared_town: Town) -> None:
    a, b = unique("loop"), unique("loop")
    take_in(shared_town, record(a, dependencies=[edge(a, b)]), record(b, dependencies=[edge(b, a)]))
    assert [shared_town.state_of(bead) for bead in (a, b)] == ["waiting", "waiting"]
    shared_town.call("bead.undepend", **{"from": a, "to": b, "kind": "blocks"})
    assert shared_town.state_of(a) == "ready"
