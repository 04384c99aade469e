"""The line socket: any order, hang-ups, and peers that send more than they read."""

import pytest

from gastown.desk import BODY_WINDOW_S
from gastown.lines import UNDER_WAY_MAX
from gastown.model import BODY_BYTES_MAX, UNIX

from .still import CLAIM, READ, House, until


async def test_replies_come_in_the_order_of_answers(house: House) -> None:
    peer = await house.lines()
    peer.send(CLAIM + b"\n" + READ + b"\r\n\n \n")
    claim, read = await house.units(2)
    assert [unit.calls[0].method for unit in (claim, read)] == ["work.claim", "system.info"]
    assert read.credential == UNIX
    house.engine.answer(1, pid=7)
    house.engine.answer(0, claims=[])
    assert [(await peer.line())["id"] for _ in range(2)] == [1, 2]


async def test_a_hang_up_is_told_of_each_call_under_way(house: House) -> None:
    peer = await house.lines()
    peer.send(CLAIM + b"\n" + CLAIM + b"\n")
    units = list(await house.units(2))
    peer.hang_up()
    await until(lambda: house.engine.gone == units)
    assert [house.engine.answer(claims=[{}]) for _ in units] == [False, False]


async def test_a_peer_that_has_said_all_is_answered_but_granted_nothing(house: House) -> None:
    peer = await house.lines()
    peer.send(READ + b"\n" + CLAIM + b"\n" + READ)
    await house.units(2)
    peer.writer.write_eof()
    await until(lambda: len(house.engine.gone) == 2)
    assert [house.engine.answer(ok=True), house.engine.answer(claims=[{}])] == [True, False]
    assert (await peer.rest()).count(b"\n") == 1, "a line that was cut off is not carried out"
    assert house.engine.units == []


async def test_a_line_that_comes_too_slowly_is_the_last(house: House) -> None:
    peer = await house.lines()
    peer.send(READ + b"\n" + READ[:10])
    await house.units()
    (connection,) = house.desk.connections
    await until(lambda: connection.buffer)  # type: ignore[attr-defined]  # the kind is known here
    house.pass_time(BODY_WINDOW_S + 1)
    assert (await peer.line())["error"]["code"] == 1012
    house.engine.answer(ok=True)
    assert (await peer.line())["result"] == {"ok": True}, "what was under way is still answered"
    assert await peer.rest() == b""


async def test_an_idle_connection_may_stay(house: House) -> None:
    peer = await house.lines()
    await until(lambda: house.desk.connections)
    house.pass_time(1e6)
    peer.send(READ + b"\n")
    await house.units()


async def test_a_peer_is_heard_no_further_than_it_is_answered(house: House) -> None:
    peer = await house.lines()
    more = 3 * UNDER_WAY_MAX
    peer.send((READ + b"\n") * more)
    await house.units(UNDER_WAY_MAX)
    (connection,) = house.desk.connections
    await until(lambda: connection.paused)  # type: ignore[attr-defined]  # the kind is known here
    assert len(house.engine.units) < more
    answered = 0
    while answered < more:
        await house.units()
        house.engine.answer(ok=True)
        await peer.line()
        answered += 1
    assert not connection.paused  # type: ignore[attr-defined]  # the kind is known here


@pytest.mark.parametrize("line", [b"x" * (BODY_BYTES_MAX + 1), READ + b" " * BODY_BYTES_MAX])
async def test_an_over_long_line_is_told_and_ends_it(house: House, line: bytes) -> None:
    peer = await house.lines()
    peer.send(line + b"\n" + READ + b"\n")
    said = await peer.line()
    assert (said["error"]["code"], said["id"]) == (1012, None)
    assert await peer.rest() == b""
    assert house.engine.units == []


async def test_the_document_is_answered_at_once(house: House) -> None:
    peer = await house.lines()
    peer.send(b'{"jsonrpc":"2.0","id":9,"method":"rpc.discover"}\n')
    assert (await peer.line())["result"]["openrpc"]
