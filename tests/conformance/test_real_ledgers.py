"""Real ledgers of other projects, taken in over the wire: every count and the exact ready set."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .town import SETTINGS, Town


class Ledger(NamedTuple):
    """What a file must give; `ready_sha` is over its sorted ready ids.

    `waiting` is what its blocked beads come to as a state: in beads-2523 eight of ten are ephemeral, hence parked.
    """

    file: str
    records: int
    live: int
    tombstones: int
    waiting: int
    ready: int
    ready_sha: str


LEDGERS = [
    Ledger("gastown-6065.jsonl", 6065, 3027, 3038, 44, 219, "495879ff7b3c"),
    Ledger("beads-2523.jsonl", 2523, 2178, 345, 2, 60, "e17f300b6460"),
    Ledger("br-513.jsonl", 513, 512, 1, 2, 8, "f360eb397d47"),
]


class Imported(NamedTuple):
    town: Town
    ledger: Ledger
    text: str
    reply: dict[str, Any]


@pytest.fixture(scope="module", params=LEDGERS, ids=lambda ledger: ledger.file)
def imported(request: pytest.FixtureRequest, coordinator: str, data: Path) -> Iterator[Imported]:
    """A town of its own with one of the files in it."""
    ledger: Ledger = request.param
    text = (data / ledger.file).read_text()
    town = Town(coordinator, SETTINGS)
    try:
        town.start()
        yield Imported(town, ledger, text, town.call("ledger.import", jsonl=text))
    finally:
        town.close()


def ready_ids(town: Town) -> list[str]:
    return [bead["id"] for bead in town.call("bead.ready", limit=1000)["beads"]]


def exported(town: Town) -> bytes:
    """The export, streamed: one of the files is too large for a reply."""
    reply = town.http("GET", "/export.jsonl")
    assert reply.status == 200
    return reply.body


def test_every_record_is_taken_in(imported: Imported) -> None:
    assert imported.reply["created"] == imported.ledger.records
    assert (imported.reply["updated"], imported.reply["skipped"]) == (0, [])


def test_the_states_partition_the_beads(imported: Imported) -> None:
    counts = imported.town.call("queue.stats")["beads"]
    assert counts["tombstone"] == imported.ledger.tombstones
    assert sum(counts.values()) - counts["tombstone"] == imported.ledger.live
    assert counts["ready"] == imported.ledger.ready


def test_the_blocked_beads_wait(imported: Imported) -> None:
    assert imported.town.call("queue.stats")["beads"]["waiting"] == imported.ledger.waiting


def test_the_ready_set_is_exact(imported: Imported) -> None:
    ready = sorted(ready_ids(imported.town))
    assert len(ready) == imported.ledger.ready
    assert hashlib.sha256("\n".join(ready).encode()).hexdigest()[:12] == imported.ledger.ready_sha


def test_importing_again_changes_nothing(imported: Imported) -> None:
    before = imported.town.seq()
    reply = imported.town.call("ledger.import", jsonl=imported.text)
    assert (reply["created"], reply["updated"]) == (0, 0)
    assert imported.town.seq() == before


def test_export_import_export_is_byte_equal(imported: Imported, town: Town) -> None:
    text = exported(imported.town)
    assert text == exported(imported.town)
    town.call("ledger.import", jsonl=text.decode())
    assert exported(town) == text
    assert sorted(ready_ids(town)) == sorted(ready_ids(imported.town))


def test_the_imported_ledger_verifies(imported: Imported) -> None:
    reply = imported.town.call("ledger.verify")
    assert (reply["ok"], reply["problems"]) == (True, [])


def test_claims_hand_out_the_ready_set_in_its_order(imported: Imported) -> None:
    town, worker = imported.town, imported.town.worker()
    ready = ready_ids(town)[:50]
    leases = [claim["lease"] for claim in town.claim(worker, limit=50, ttl_ms=60_000)]
    assert [lease["bead_id"] for lease in leases] == ready
    for lease in leases:
        town.call("work.release", bead_id=lease["bead_id"], token=lease["token"])
