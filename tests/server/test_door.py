"""One HTTP connection: order, patience, hang-ups, bounds. The black-box suite has every status; here are the seams."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gastown.desk import BODY_WINDOW_S, HEAD_S, IDLE_S, SPARE_PLACES, WRONG_TOKENS_MAX, WRONG_TOKENS_S, Limits
from gastown.model import BODY_BYTES_MAX, UNIX, Refused

from .still import CLAIM, READ, TOKENS, House, get, post, until

BEARER = "Authorization: Bearer "


async def test_the_unix_socket_is_its_owners(house: House) -> None:
    peer = await house.http()
    peer.send(post())
    (unit,) = await house.units()
    assert (unit.credential, unit.batch, unit.calls[0].method) == (UNIX, False, "system.info")
    assert house.engine.answer(pid=7)
    assert await peer.reply() == (200, {"jsonrpc": "2.0", "result": {"pid": 7}, "id": 1})


async def test_a_head_met_before_and_one_byte_by_byte_ask_the_same(house: House) -> None:
    peer = await house.http()
    asked = []
    for pieces in ([post()], [post()], [bytes([byte]) for byte in post()], [post()[:-5], post()[-5:]]):
        for piece in pieces:
            peer.send(piece)
            await peer.writer.drain()
        (unit,) = await house.units()
        asked.append((unit.calls, unit.credential, unit.batch))
        house.engine.answer(ok=True)
        assert await peer.reply() == (200, {"jsonrpc": "2.0", "result": {"ok": True}, "id": 1})
    assert len(house.names.heads) == 1
    assert all(one == asked[0] for one in asked)


async def test_a_kept_head_is_judged_by_its_credential_each_time(house: House) -> None:
    peer = await house.tcp()
    request = post(READ, BEARER + "read", host=f"localhost:{house.port}")
    for _ in range(2):
        peer.send(request)
        await house.units()
        assert house.engine.units[0].credential == TOKENS["read"]
        house.engine.answer()
        assert (await peer.reply())[0] == 200
    revoked = TOKENS.pop("read")
    try:
        peer.send(request)
        assert (await peer.reply())[0] == 401
    finally:
        TOKENS["read"] = revoked


async def test_the_next_request_waits_for_the_answer(house: House) -> None:
    peer = await house.http()
    peer.send(post(CLAIM) + post())
    (first,) = await house.units()
    assert first.calls[0].method == "work.claim"
    house.engine.answer(claims=[])
    (second,) = await house.units()
    assert second.calls[0].method == "system.info"
    house.engine.answer()
    assert [(await peer.reply())[1]["id"] for _ in range(2)] == [2, 1]


async def test_a_hang_up_is_told_to_the_engine(house: House) -> None:
    peer = await house.http()
    peer.send(post(CLAIM))
    (unit,) = await house.units()
    peer.hang_up()
    await until(lambda: house.engine.gone == [unit])
    assert house.engine.answer(claims=[{"lease": {}}]) is False, "a grant nobody gets must be given back"


async def test_a_peer_that_has_said_all_is_answered(house: House) -> None:
    peer = await house.http()
    peer.send(post() + post())
    peer.writer.write_eof()
    for _ in range(2):
        await house.units()
        assert house.engine.answer()
    assert (await peer.rest()).count(b"HTTP/1.1 200 OK") == 2


async def test_a_peer_that_may_be_dead_is_granted_nothing(house: House) -> None:
    peer = await house.http()
    peer.send(post(CLAIM))
    (unit,) = await house.units()
    peer.writer.write_eof()
    assert await peer.rest() == b""
    assert house.engine.gone == [unit]
    assert house.engine.answer(claims=[{"lease": {}}]) is False


async def test_notifications_and_refusals(house: House) -> None:
    peer = await house.http()
    peer.send(post(b'{"jsonrpc":"2.0","method":"bead.get","params":{"id":"a"}}'))
    await house.units()
    house.engine.answer()
    assert await peer.reply() == (204, b"")
    peer.send(post())
    await house.units()
    house.engine.units.pop().deliver([Refused("forbidden", "no", needs="admin")])
    status, said = await peer.reply()
    assert (status, said["error"]["code"], said["id"]) == (403, 1403, 1)


async def test_the_document_needs_no_turn(house: House) -> None:
    peer = await house.http()
    discover = b'{"jsonrpc":"2.0","id":9,"method":"rpc.discover"}'
    peer.send(post(discover))
    assert (await peer.reply())[1]["result"]["openrpc"]
    peer.send(post(b"[" + READ + b"," + discover + b"]"))
    (unit,) = await house.units()
    assert [call.method for call in unit.calls] == ["system.info"]
    house.engine.answer(pid=7)
    _, (first, second) = await peer.reply()
    assert (first["result"], second["id"], "openrpc" in second["result"]) == ({"pid": 7}, 9, True)


# -- time --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("first", [b"", b"POST /rpc HT", post(b"{")[:-1] + b""])
async def test_silence_ends_with_408(house: House, first: bytes) -> None:
    peer = await house.http()
    peer.send(first)
    await until(lambda: house.desk.connections)
    await peer.writer.drain()
    (door,) = house.desk.connections
    await until(lambda: not first or door.buffer or door.phase)  # type: ignore[attr-defined]  # the kind is known here
    house.pass_time(max(HEAD_S, BODY_WINDOW_S) - 0.5)
    assert door.deadline > house.now_s
    house.pass_time(1.0)
    assert (await peer.reply())[0] == 408
    assert await peer.rest() == b""


async def test_an_idle_connection_is_closed_without_a_word(house: House) -> None:
    peer = await house.http()
    peer.send(get("/healthz"))
    assert (await peer.reply())[0] == 200
    house.pass_time(HEAD_S + 1)
    peer.send(get("/healthz"))
    assert (await peer.reply())[0] == 200, "between requests a connection has more time than within one"
    house.pass_time(IDLE_S + 1)
    assert await peer.rest() == b""


async def test_who_waits_for_an_answer_is_never_too_slow(house: House) -> None:
    peer = await house.http()
    peer.send(post(CLAIM))
    await house.units()
    house.pass_time(1e6)
    house.engine.answer(claims=[])
    assert (await peer.reply())[0] == 200


# -- crowds ------------------------------------------------------------------------------------------------------------
async def test_a_full_house_answers_healthz_and_nothing_else(folder: Path) -> None:
    async with House(folder, Limits(connections=2)) as house:
        crowd = [await house.http() for _ in range(2)]
        silent = [await house.http() for _ in range(SPARE_PLACES)]
        for _ in range(3):
            peer = await house.http()
            peer.send(get("/healthz"))
            assert (await peer.reply())[0] == 200
        peer = await house.http()
        peer.send(post())
        status, headers = await peer.head()
        assert (status, int(headers["retry-after"]) > 0) == (503, True)
        assert (await silent[0].reply())[0] == 503, "the oldest silent one gave way"
        assert (await silent[0].rest(), crowd[0].reader.at_eof()) == (b"", False)


async def test_a_token_has_its_places_and_no_more(folder: Path) -> None:
    async with House(folder, Limits(connections_per_credential=1)) as house:
        host = f"localhost:{house.port}"
        one, two = await house.tcp(), await house.tcp()
        one.send(get("/readyz", BEARER + "read", host=host))
        assert (await one.reply())[0] == 200
        two.send(get("/readyz", BEARER + "read", host=host))
        assert (await two.reply())[0] == 503
        one.hang_up()
        await until(lambda: not any(door.credential for door in house.desk.connections))
        three = await house.tcp()
        three.send(get("/readyz", BEARER + "read", host=host))
        assert (await three.reply())[0] == 200


async def test_wrong_tokens_are_slowed_and_forgotten_after_a_minute(house: House) -> None:
    peer = await house.tcp()
    host = f"localhost:{house.port}"

    async def status(token: str) -> int:
        peer.send(get("/readyz", BEARER + token, host=host))
        return (await peer.reply())[0]

    assert [await status("wrong") for _ in range(WRONG_TOKENS_MAX + 1)] == [401] * WRONG_TOKENS_MAX + [429]
    assert await status("admin") == 200
    house.now_s += WRONG_TOKENS_S + 1
    assert await status("wrong") == 401
    assert "wrong token" in house.log
    assert "Bearer" not in house.log


# -- large bodies ------------------------------------------------------------------------------------------------------
BIG = b'{"jsonrpc":"2.0","id":1,"method":"ledger.import","params":{"jsonl":"' + b" " * BODY_BYTES_MAX + b'"}}'


async def test_one_import_at_a_time(house: House) -> None:
    one, two = await house.http(), await house.http()
    one.send(post(BIG)[:-1])
    await until(lambda: house.desk.importing)
    two.send(post(BIG))
    assert (await two.reply())[0] == 503
    one.send(b"}")
    await house.units()
    house.engine.answer(created=0)
    assert (await one.reply())[0] == 200
    assert house.desk.importing is None


async def test_an_import_that_breaks_off_gives_its_place_back(house: House) -> None:
    peer = await house.http()
    peer.send(post(BIG)[:-1])
    await until(lambda: house.desk.importing)
    peer.hang_up()
    await until(lambda: house.desk.importing is None)


async def test_a_long_body_that_is_no_import_is_not_read_to_its_end(house: House) -> None:
    peer = await house.http()
    peer.send(post(BIG.replace(b"ledger.import", b"bead.create"))[:200_000])
    status, said = await peer.reply()
    assert (status, said["error"]["code"], said["id"]) == (413, 1012, None)


# -- pages -------------------------------------------------------------------------------------------------------------
async def test_an_upload_is_read_at_the_pages_pace(house: House) -> None:
    lines = b'{"id":"a"}\n' * 200_000
    peer = await house.http()
    peer.send(post(lines, path="/import.jsonl?mode=merge&dry_run=true") + post())
    status, said = await peer.reply()
    assert (status, said["result"]) == (200, {"created": 200_000, "mode": "merge", "dry_run": True})
    assert house.engine.imported == lines
    await house.units()
    house.engine.answer()
    assert (await peer.reply())[0] == 200, "the connection goes on behind an upload"
    assert [path.name for path in house.folder.iterdir() if path.name not in ("http", "lines")] == []


@pytest.mark.parametrize("query", ["mode=all", "dry_run=1", "nope=true", "mode=merge&mode=merge"])
async def test_an_import_with_a_wrong_option(house: House, query: str) -> None:
    peer = await house.http()
    peer.send(post(b"", path=f"/import.jsonl?{query}"))
    status, said = await peer.reply()
    assert (status, said["error"]["code"]) == (400, -32602)


async def test_a_page_that_breaks_off_is_not_taken_for_whole(house: House) -> None:
    async def breaks(_: object, __: object, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("secret")

    house.desk.pages = breaks
    peer = await house.http()
    peer.send(get("/metrics"))
    assert b"0\r\n\r\n" not in (await peer.rest())[-5:]
    assert "ValueError" in house.log
    assert "secret" not in house.log


async def test_a_page_that_fails_is_a_500(house: House) -> None:
    async def fails(*_: object) -> None:
        raise ValueError("secret")

    house.desk.pages = fails
    peer = await house.http()
    peer.send(get("/metrics"))
    assert await peer.reply() == (500, b"internal error\n")


async def test_an_export_ends_with_its_last_chunk(house: House) -> None:
    peer = await house.http()
    peer.send(get("/export.jsonl", "Connection: close"))
    assert (await peer.rest()).endswith(b'b\r\n{"id":"a"}\n\r\n0\r\n\r\n')
