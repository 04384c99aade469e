"""bead.list: filters, sorts, and cursors that neither miss nor repeat an unchanged bead."""

from typing import Any

import pytest

from .records import jsonl, record
from .town import Town, unique


@pytest.fixture(scope="module")
def rig(shared_town: Town) -> str:
    """A rig of twelve imported beads with differing fields."""
    name = unique("rig")
    rows = [
        record(
            f"{name}-{n:02d}",
            rig=name,
            priority=n % 3,
            status="closed" if n % 4 == 0 else "open",
            issue_type="bug" if n % 2 else "task",
            labels=["even" if n % 2 == 0 else "odd", f"n{n}"],
            assignee="ann" if n < 3 else "",
            created_at=f"2026-01-{20 - n:02d}T00:00:00Z",
            updated_at=f"2026-02-{1 + (n * 5) % 12:02d}T00:00:00Z",
        )
        for n in range(12)
    ]
    shared_town.call("ledger.import", jsonl=jsonl(*rows))
    return name


def numbers(town: Town, rig: str, sort: str | None = None, **wish: Any) -> list[int]:
    """The numbers of the rig's beads a list shows, in its order."""
    params = {"filter": {"rig": rig, **wish}, **({"sort": sort} if sort else {})}
    return [int(bead["id"].rpartition("-")[2]) for bead in town.call("bead.list", **params)["beads"]]


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ({}, list(range(12))),
        ({"status": ["closed"]}, [0, 4, 8]),
        ({"status": ["open", "closed"]}, list(range(12))),
        ({"state": ["ready"]}, [1, 2, 3, 5, 6, 7, 9, 10, 11]),
        ({"state": ["ready", "closed"], "assignee": "ann"}, [0, 1, 2]),
        ({"labels_all": ["odd", "n5"]}, [5]),
        ({"labels_any": ["n5", "n6"]}, [5, 6]),
        ({"issue_types": ["bug"]}, [1, 3, 5, 7, 9, 11]),
        ({"issue_types": ["task"], "status": ["open"]}, [2, 6, 10]),
        ({"assignee": "nobody"}, []),
    ],
    ids=str,
)
def test_filters_narrow(shared_town: Town, rig: str, wish: dict[str, Any], expected: list[int]) -> None:
    assert numbers(shared_town, rig, **wish) == expected


@pytest.mark.parametrize(
    ("sort", "key"),
    [
        ("id", lambda n: n),
        ("created", lambda n: -n),
        ("updated", lambda n: (n * 5) % 12),
    ],
)
def test_sorts_and_their_reverse(shared_town: Town, rig: str, sort: str, key: Any) -> None:
    expected = sorted(range(12), key=key)
    assert numbers(shared_town, rig, sort) == expected
    assert numbers(shared_town, rig, f"-{sort}") == expected[::-1]


def test_sort_by_priority(shared_town: Town, rig: str) -> None:
    assert [n % 3 for n in numbers(shared_town, rig, "priority")] == [0] * 4 + [1] * 4 + [2] * 4
    assert [n % 3 for n in numbers(shared_town, rig, "-priority")] == [2] * 4 + [1] * 4 + [0] * 4


def test_filter_by_parent(shared_town: Town) -> None:
    parent = shared_town.bead(issue_type="epic")["id"]
    children = [shared_town.bead(parent=parent)["id"] for _ in range(3)]
    shared_town.bead(parent=children[0])
    listed = shared_town.call("bead.list", filter={"parent": parent})["beads"]
    assert [bead["id"] for bead in listed] == children


def test_filter_by_convoy(shared_town: Town) -> None:
    beads = sorted(shared_town.bead()["id"] for _ in range(3))
    convoy = shared_town.call("convoy.create", name="listed", beads=beads[:2])["convoy"]["id"]
    listed = shared_town.call("bead.list", filter={"convoy": convoy})["beads"]
    assert [bead["id"] for bead in listed] == beads[:2]


@pytest.mark.parametrize("sort", ["id", "-id", "created", "-updated", "priority", "-priority"])
@pytest.mark.parametrize("limit", [1, 5, 12])
def test_pages_add_up_to_the_whole(shared_town: Town, rig: str, sort: str, limit: int) -> None:
    paged = [bead["id"] for bead in shared_town.walk("bead.list", filter={"rig": rig}, sort=sort, limit=limit)]
    assert [int(bead_id.rpartition("-")[2]) for bead_id in paged] == numbers(shared_town, rig, sort)


def test_the_last_page_has_no_cursor(shared_town: Town, rig: str) -> None:
    assert shared_town.call("bead.list", filter={"rig": rig}, limit=1000)["next_cursor"] is None
    assert shared_town.call("bead.list", filter={"rig": unique("rig")})["next_cursor"] is None
    assert shared_town.call("bead.list", filter={"rig": rig}, limit=11)["next_cursor"]


def test_a_page_holds_100_by_default(shared_town: Town) -> None:
    rig = unique("rig")
    for count in (100, 1):
        shared_town.beads(*({"title": "t", "rig": rig} for _ in range(count)))
    page = shared_town.call("bead.list", filter={"rig": rig})
    assert len(page["beads"]) == 100
    rest = shared_town.call("bead.list", filter={"rig": rig}, cursor=page["next_cursor"])
    assert (len(rest["beads"]), rest["next_cursor"]) == (1, None)


def test_unchanged_beads_are_neither_missed_nor_repeated(shared_town: Town) -> None:
    rig = unique("rig")
    beads = sorted(bead["id"] for bead in shared_town.beads(*({"title": "t", "rig": rig} for _ in range(20))))
    changing = set(beads[::4])
    seen: list[str] = []
    for bead in shared_town.walk("bead.list", filter={"rig": rig}, sort="updated", limit=3):
        seen.append(bead["id"])
        if changing:
            shared_town.call("bead.update", id=changing.pop(), set={"title": "changed"})
            shared_town.bead(rig=rig)
    unchanged = [bead_id for bead_id in beads if bead_id not in beads[::4]]
    assert [seen.count(bead_id) for bead_id in unchanged] == [1] * len(unchanged)


def test_a_cursor_is_valid_across_a_restart(town: Town) -> None:
    beads = sorted(bead["id"] for bead in town.beads(*({"title": "t"} for _ in range(6))))
    page = town.call("bead.list", limit=4)
    town.restart()
    rest = town.call("bead.list", limit=4, cursor=page["next_cursor"])
    assert [bead["id"] for bead in page["beads"] + rest["beads"]] == beads


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"limit": 0}, -32602),
        ({"limit": 1001}, 1012),
        ({"limit": 1.5}, -32602),
        ({"cursor": "nonsense"}, -32602),
        ({"cursor": ""}, -32602),
        ({"cursor": 5}, -32602),
        ({"sort": "colour"}, -32602),
        ({"filter": {"surprise": 1}}, -32602),
        ({"filter": {"state": ["no-such-state"]}}, -32602),
        ({"filter": {"status": "open"}}, -32602),
        ({"surprise": 1}, -32602),
    ],
    ids=str,
)
def test_bad_list_params_are_refused(shared_town: Town, params: dict[str, Any], code: int) -> None:
    assert shared_town.refusal("bead.list", **params).code == code


@pytest.mark.parametrize(
    ("params", "code"),
    [({"limit": 0}, -32602), ({"sort": "colour"}, -32602), ({"filter": {"labels_any": []}}, -32602)],
    ids=str,
)
def test_bad_ready_params_are_refused(shared_town: Town, params: dict[str, Any], code: int) -> None:
    assert shared_town.refusal("bead.ready", **params).code == code


def test_ready_takes_the_filters_of_a_claim(shared_town: Town, rig: str) -> None:
    wish = {"rig": rig, "labels_all": ["odd"], "issue_types": ["bug"]}
    ready = shared_town.call("bead.ready", filter=wish, limit=2)["beads"]
    assert len(ready) == 2
    claims = shared_town.claim(shared_town.worker(), limit=2, filter=wish)
    assert [claim["bead"]["id"] for claim in claims] == [bead["id"] for bead in ready]
    for claim in claims:
        shared_town.call("work.release", bead_id=claim["bead"]["id"], token=claim["lease"]["token"])


def test_a_page_stops_early_at_4_mib(shared_town: Town) -> None:
    rig = unique("rig")
    for _ in range(6):
        shared_town.bead(rig=rig, description="x" * 900_000)
    first = shared_town.call("bead.list", filter={"rig": rig})
    assert 1 <= len(first["beads"]) < 6
    assert first["next_cursor"]
    assert len(list(shared_town.walk("bead.list", filter={"rig": rig}))) == 6
