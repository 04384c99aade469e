"""The line socket: one JSON text a line each way, replies in any order, the same methods, limits and errors."""

import json
import socket

import pytest

from .door import INFO, ask, ended, error, push, seq
from .town import Town, unique, until
from .wire import RpcError

LINE_MAX = 1 << 20  # bytes of a line that is no import
IMPORT_MAX = 64 << 20
MANY = 1_000


def test_a_call_a_line(plain_town: Town) -> None:
    with plain_town.lines() as lines:
        assert lines.call("system.info")["pid"] == plain_town.daemon["pid"]
        with pytest.raises(RpcError) as caught:
            lines.call("bead.get", id="no-such")
        assert (caught.value.code, caught.value.kind) == (1002, "not_found")


def test_it_has_scope_admin(plain_town: Town) -> None:
    with plain_town.lines() as lines:
        assert lines.call("ledger.verify")["ok"] is True
        assert lines.call("token.create", scope="read", name="by-line")["token"]


def test_a_reply_is_one_line_whatever_is_in_it(plain_town: Town) -> None:
    with plain_town.lines() as lines:
        text = "one\ntwo\r\nthree\u2028four\u0085"
        (bead,) = lines.call("bead.create", beads=[{"title": "t", "notes": text}])["beads"]
        assert lines.call("bead.get", id=bead["id"])["bead"]["notes"] == text


def test_many_calls_at_once_are_all_answered(plain_town: Town) -> None:
    with plain_town.lines() as lines:
        numbers = [lines.ask("bead.create", beads=[{"title": str(n)}]) for n in range(MANY)]
        created = [lines.answer(number)["beads"][0] for number in numbers]
    assert [bead["title"] for bead in created] == [str(n) for n in range(MANY)]
    assert len({bead["id"] for bead in created}) == MANY


def test_a_waiting_claim_holds_up_nobody(plain_town: Town) -> None:
    bead_id = unique("later")
    with plain_town.lines() as lines:
        worker = lines.call("worker.register", name=unique("waiter"))["worker_id"]
        waiting = lines.park("work.claim", worker_id=worker, wait_ms=45_000, filter={"bead_id": bead_id})
        assert lines.call("system.info")
        plain_town.bead(id=bead_id)
        (claim,) = lines.answer(waiting)["claims"]
        assert claim["bead"]["id"] == bead_id


def test_lines_may_come_in_pieces_and_in_heaps(plain_town: Town) -> None:
    with plain_town.lines() as lines:
        for byte in INFO + b"\n":
            lines.send(bytes([byte]))
        assert lines.read_line()["result"]
        lines.send(b"\n".join([ask("system.info", {}, n) for n in range(20)]) + b"\r\n")
        assert sorted(lines.read_line()["id"] for _ in range(20)) == list(range(20))


def test_a_notification_is_answered_by_nothing(plain_town: Town) -> None:
    with plain_town.lines() as lines:
        lines.send_line(b'{"jsonrpc":"2.0","method":"no.such"}')
        lines.send_line(b'[{"jsonrpc":"2.0","method":"no.such"},{"jsonrpc":"2.0","method":"system.info"}]')
        lines.send_line(ask("system.info", {}, "after"))
        assert lines.read_line()["id"] == "after"


def test_a_batch_is_one_line_with_one_line_back(plain_town: Town) -> None:
    with plain_town.lines() as lines:
        lines.send_line(b"[" + ask("system.info", {}, "a") + b"," + ask("no.such", {}, "b") + b"]")
        first, second = lines.read_line()
        assert first["id"] == "a"
        assert error(second).code == -32601


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", -32700), (b'{"a":1,"a":2}', -32700), (b"\xff", -32700), (b"not json", -32700), (b"{}{}", -32700),
        (b"[]", -32600), (b"7", -32600), (b"{}", -32600), (b'{"jsonrpc":"2.0","method":"system.info","id":{}}', -32600),
        (b"[" * 65 + b"]" * 65, 1012), (b"[" + b",".join([INFO] * 101) + b"]", 1012),
    ],
)  # fmt: skip
def test_a_bad_line_is_answered_and_the_next_one_served(plain_town: Town, line: bytes, code: int) -> None:
    with plain_town.lines() as lines:
        lines.send_line(line)
        document = lines.read_line()
        assert (error(document).code, document["id"]) == (code, None)
        assert lines.call("system.info")


def test_a_line_of_exactly_one_mebibyte(plain_town: Town) -> None:
    with plain_town.lines() as lines:
        lines.send_line(INFO + b" " * (LINE_MAX - len(INFO)))
        assert lines.read_line()["result"]


@pytest.mark.parametrize("size", [LINE_MAX + 1, IMPORT_MAX + (1 << 20)])
def test_an_over_long_line_is_the_last(plain_town: Town, size: int) -> None:
    before = seq(plain_town)
    with plain_town.lines() as lines:
        push(lines, INFO + b" " * (size - len(INFO)) + b"\n")
        document = lines.read_line()
        assert (error(document).code, document["id"]) == (1012, None)
        assert ended(lines)
    assert seq(plain_town) == before


def test_an_over_long_line_is_refused_before_its_end(plain_town: Town) -> None:
    with plain_town.lines() as lines:
        push(lines, b"x" * (IMPORT_MAX + (1 << 20)))
        assert error(lines.read_line()).code == 1012
        assert ended(lines)


def test_an_import_may_be_a_longer_line(plain_town: Town) -> None:
    at = "2026-01-01T00:00:00Z"
    fat = {"title": "t", "status": "open", "priority": 2, "created_at": at, "updated_at": at, "notes": "n" * 900_000}
    jsonl = "\n".join(json.dumps({"id": unique("line-import"), **fat}) for _ in range(2))
    with plain_town.lines() as lines:
        assert lines.call("ledger.import", jsonl=jsonl)["created"] == 2


def test_hanging_up_gives_up_the_waiting_claim(plain_town: Town) -> None:
    """The bead goes to the next who waits, not to the peer that left."""
    bead_id = unique("wanted")
    claim = {"wait_ms": 45_000, "filter": {"bead_id": bead_id}}
    with plain_town.lines() as stays:
        with plain_town.lines() as leaves:
            gone = leaves.call("worker.register", name=unique("leaver"))["worker_id"]
            leaves.park("work.claim", worker_id=gone, **claim)
        worker = stays.call("worker.register", name=unique("stayer"))["worker_id"]
        waiting = stays.park("work.claim", worker_id=worker, **claim)
        plain_town.bead(id=bead_id)
        (granted,) = stays.answer(waiting)["claims"]
    assert granted["lease"]["worker_id"] == worker


def test_a_peer_that_has_said_all_still_hears_the_answer(plain_town: Town) -> None:
    """As a shell pipe does it: send, close the sending side, read to the end."""
    with plain_town.lines() as lines:
        lines.send_line(INFO)
        lines.sock.shutdown(socket.SHUT_WR)
        assert lines.read_line()["result"]


def test_a_hundred_connections_at_once(plain_town: Town) -> None:
    connections = [plain_town.lines() for _ in range(100)]
    numbers = [lines.ask("bead.create", beads=[{"title": "t"}]) for lines in connections]
    seqs = [lines.answer(number)["seq"] for lines, number in zip(connections, numbers, strict=True)]
    assert len(set(seqs)) == len(seqs)
    for lines in connections:
        lines.close()
    until(lambda: plain_town.call("system.info"))
