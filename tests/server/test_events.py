"""The event stream: every event once, whatever is committed while a reader catches up."""

import pytest

from gastown.events import BEHIND_BYTES_MAX, HEARTBEAT_S, PAGE_EVENTS, WAITING_EVENTS_MAX

from .still import House, Peer, get, told, until


async def reader(house: House, after: int | None = None) -> Peer:
    peer = await house.http()
    peer.send(get("/events", *([] if after is None else [f"Last-Event-ID: {after}"])))
    return peer


async def seqs(peer: Peer, last: int) -> list[int]:
    """The seqs of the events up to `last`."""
    seen: list[int] = []
    while not seen or seen[-1] < last:
        block = (await peer.reader.readuntil(b"\n\n")).decode()
        if block.startswith("id: "):
            rows = dict(row.split(": ", 1) for row in block.splitlines() if row)
            assert rows["event"] == "created"
            seen.append(int(rows["id"]))
    return seen


async def test_without_an_id_it_begins_now(house: House) -> None:
    house.engine.commit(3)
    peer = await reader(house)
    status, headers = await peer.head()
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    house.engine.commit(2)
    assert await seqs(peer, 5) == [4, 5]


@pytest.mark.parametrize("before", [0, 1, PAGE_EVENTS - 1, PAGE_EVENTS, PAGE_EVENTS + 1, 3 * PAGE_EVENTS])
async def test_a_replay_meets_what_happens_meanwhile(house: House, before: int) -> None:
    house.engine.commit(before)
    rounds = iter(range(3))
    house.engine.before_page = lambda: house.engine.commit(2) if next(rounds, None) is not None else None
    peer = await reader(house, after=0)
    assert (await peer.head())[0] == 200
    await until(lambda: next(rounds, None) is None or house.engine.seq)
    house.engine.commit(1)
    last = house.engine.seq
    assert await seqs(peer, last) == list(range(1, last + 1))


async def test_more_than_can_wait_is_read_from_the_table(house: House) -> None:
    house.engine.commit(1)
    rounds = iter([WAITING_EVENTS_MAX + 1])
    house.engine.before_page = lambda: house.engine.commit(next(rounds, 0))
    peer = await reader(house, after=0)
    assert (await peer.head())[0] == 200
    last = WAITING_EVENTS_MAX + 2
    assert await seqs(peer, last) == list(range(1, last + 1))


@pytest.mark.parametrize("after", [None, 1])
async def test_what_nobody_was_told_is_read_from_the_table(house: House, after: int | None) -> None:
    """A turn that was under way when the reader subscribed: committed, but not streamed."""
    house.engine.commit(2)
    peer = await reader(house, after)
    await peer.head()
    house.engine.table += [told(3), told(4)]
    house.engine.commit(1)
    first = 3 if after is None else 2
    assert await seqs(peer, 5) == list(range(first, 6))
    house.engine.table += [told(6)]
    house.pass_time(HEARTBEAT_S + 1)
    assert await seqs(peer, 6) == [6], "when nothing follows, the next heartbeat finds it"


@pytest.mark.parametrize("after", ["4", "-1", "x", "9" * 30, "1.5"])
async def test_an_id_the_ledger_has_not_reached(house: House, after: str) -> None:
    house.engine.commit(3)
    peer = await house.http()
    peer.send(get("/events", f"Last-Event-ID: {after}"))
    assert (await peer.reply())[0] == 400
    assert house.engine.readers == {}


async def test_a_reader_too_far_behind_is_closed(house: House) -> None:
    peer = await reader(house)
    await peer.head()
    peer.reader._limit = 1  # type: ignore[attr-defined]  # it stops reading its socket
    (door,) = house.desk.connections
    while not door.transport.is_closing():  # type: ignore[attr-defined]  # the kind is known here
        house.engine.table.append(told(house.engine.seq + 1)._replace(data=b"x" * (BEHIND_BYTES_MAX // 4)))
        for callback in list(house.engine.readers.values()):
            callback(house.engine.table[-1:])
    await until(lambda: not house.engine.readers)
    assert "too far behind" in house.log


async def test_a_heart_beats_in_the_silence(house: House) -> None:
    peer = await reader(house)
    await peer.head()
    assert await peer.reader.readuntil(b"\n\n") == b":\n\n"
    for _ in range(3):
        house.pass_time(HEARTBEAT_S + 1)
        assert await peer.reader.readuntil(b"\n\n") == b":\n\n"


async def test_a_reader_that_leaves_is_forgotten(house: House) -> None:
    peer = await reader(house)
    await peer.head()
    peer.hang_up()
    await until(lambda: not house.engine.readers)
