"""The daemon as a process: one a town, found by daemon.json, gone without a trace, refusing what it must not serve."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .door import INFO, JSON, ask, error, head, rpc
from .town import FOLDER, STOP_S, Town, unique, until
from .wire import Connection, Lines, Reply, RpcError, outcome

OK, LEDGER_REFUSED, LOST, PERMISSIONS, CONFIGURATION = 0, 65, 75, 77, 78
SOCKET_PATH_MAX = 100  # bytes; longer ones move to the runtime folder


@pytest.fixture
def bare(coordinator: str) -> Iterator[Town]:
    """A town nobody serves yet."""
    unserved = Town(coordinator)
    try:
        yield unserved
    finally:
        pid = daemon_json(unserved).get("pid")
        if pid and unserved.process is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        unserved.close()


def daemon_json(town: Town) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        found: dict[str, Any] = json.loads((town.state / "daemon.json").read_text())
        return found
    return {}


def serve(town: Town, *flags: str) -> subprocess.CompletedProcess[bytes]:
    """A `serve` that must refuse and end by itself."""
    return subprocess.run(
        [*town.command, "--dir", str(town.dir), "--listen", "127.0.0.1:0", *flags],
        cwd=town.dir, env=town.env, stdin=subprocess.DEVNULL, capture_output=True, timeout=STOP_S, check=False,
    )  # fmt: skip


def refuses(town: Town, code: int, *flags: str) -> str:
    """What it says on its way out; clear, so without a stack."""
    ended = serve(town, *flags)
    said = (ended.stdout + ended.stderr).decode()
    assert ended.returncode == code, said
    assert said.strip()
    assert "Traceback" not in said
    return said


def once(town: Town) -> Town:
    """Served once and stopped: every file of the town exists."""
    town.start()
    assert town.stop() == OK
    return town


# -- daemon.json -------------------------------------------------------------------------------------------------------
def test_daemon_json_tells_where_and_who(town: Town, coordinator: str) -> None:
    told = daemon_json(town)
    assert set(told) >= {"listen", "socket", "pid", "body", "epoch", "version"}
    assert town.process is not None
    assert told["pid"] == town.process.pid
    assert told["body"] == coordinator
    assert Path(told["socket"]).is_absolute()
    info = town.call("system.info")
    assert {key: info[key] for key in ("pid", "body", "epoch", "version")} == {
        key: told[key] for key in ("pid", "body", "epoch", "version")
    }
    host, _, port = told["listen"].rpartition(":")
    with Connection.tcp(host, int(port)) as connection:
        connection.send(head("GET", "/healthz", f"Host: {told['listen']}"))
        assert connection.read_reply().status == 200


def test_a_graceful_stop_leaves_only_the_ledger(town: Town) -> None:
    sockets = [Path(town.daemon["socket"]).with_name(name) for name in ("gastown.sock", "lines.sock")]
    assert all(path.exists() for path in sockets)
    assert town.stop() == OK
    assert not [path.name for path in [*sockets, town.state / "daemon.json"] if path.exists()]


def test_epochs_strictly_grow(town: Town) -> None:
    epochs = [town.daemon["epoch"]]
    for end in (town.stop, town.kill9, town.stop):
        end()
        epochs.append(town.start().daemon["epoch"])
    assert epochs == sorted(set(epochs))


def test_after_a_kill_the_leftovers_are_replaced(town: Town) -> None:
    bead = town.bead()
    town.kill9()
    assert Path(town.daemon["socket"]).exists(), "a killed daemon cannot tidy up"
    old = town.daemon["pid"]
    town.start()
    assert town.daemon["pid"] != old
    assert town.get(bead["id"]) == bead
    with town.lines() as lines:
        assert lines.call("system.info")["pid"] == town.daemon["pid"]


def test_daemon_json_of_a_stranger_is_replaced(bare: Town) -> None:
    once(bare)
    (bare.state / "daemon.json").write_text('{"pid": 1, "listen": "127.0.0.1:1", "socket": "/nowhere"}')
    bare.start()
    assert bare.call("system.info")["pid"] == daemon_json(bare)["pid"]


# -- one a town --------------------------------------------------------------------------------------------------------
def test_a_second_serve_is_turned_away(town: Town) -> None:
    before = (town.state / "daemon.json").read_bytes()
    refuses(town, LOST)
    assert (town.state / "daemon.json").read_bytes() == before
    assert town.call("system.info")["pid"] == town.daemon["pid"]


def test_of_four_that_start_together_one_serves(bare: Town) -> None:
    command = [*bare.command, "--dir", str(bare.dir), "--listen", "127.0.0.1:0"]
    with bare.log.open("ab") as log:
        four = [subprocess.Popen(command, cwd=bare.dir, env=bare.env, stdout=log, stderr=log) for _ in range(4)]
    try:
        until(lambda: sum(process.poll() is not None for process in four) == 3)
        codes = [process.poll() for process in four]
        assert sorted(code for code in codes if code is not None) == [LOST] * 3
        (winner,) = [process for process in four if process.poll() is None]
        bare.daemon = until(lambda: daemon_json(bare))
        assert bare.daemon["pid"] == winner.pid
        assert bare.call("system.info")["pid"] == winner.pid
    finally:
        for process in four:
            process.kill()
            process.wait(STOP_S)


def test_up_twice_is_once_and_down_is_down(bare: Town) -> None:
    assert bare.run("up").returncode == OK
    first = daemon_json(bare)
    bare.daemon = first
    assert bare.call("system.info")["pid"] == first["pid"]
    assert bare.run("up").returncode == OK
    assert daemon_json(bare) == first
    assert bare.run("down").returncode == OK
    assert daemon_json(bare) == {}
    with pytest.raises(OSError, match=r"refused|No such file"):
        Connection.unix(first["socket"])


# -- stopping ----------------------------------------------------------------------------------------------------------
def outcome_or_close(connection: Connection, data: bytes) -> Any:
    """The result, an RpcError as a value, or None when the daemon closed instead of answering."""
    try:
        connection.send(data)
        return outcome(connection.read_reply(STOP_S))
    except RpcError as refused:
        return refused
    except (EOFError, ConnectionError):
        return None


def test_sigterm_answers_whoever_waits(town: Town) -> None:
    worker = town.worker()
    over_http = town.ask("work.claim", worker_id=worker, wait_ms=45_000)
    lines = town.lines()
    over_lines = lines.park("work.claim", worker_id=town.worker(), wait_ms=45_000)
    assert over_http.silent()
    os.kill(town.daemon["pid"], signal.SIGTERM)
    for answer in (over_http.answer(), lines.answer(over_lines)):
        assert answer["claims"] == []
        assert 1_000 <= answer["retry_after_ms"] <= 45_000
    assert town.process is not None
    assert town.process.wait(STOP_S) == OK


def test_a_call_that_comes_after_the_stop_is_draining(town: Town) -> None:
    """Half of it was sent before, so the daemon must answer it, with 1007, or close; never carry it out."""
    worker, bead_id = town.worker(), unique("late")
    waiting = town.ask("work.claim", worker_id=worker, wait_ms=45_000)
    body = ask("bead.create", {"beads": [{"id": bead_id, "title": "t"}]})
    late = town.connect()
    late.send(head("POST", "/rpc", "Host: localhost", JSON, f"Content-Length: {len(body)}") + body[:10])
    os.kill(town.daemon["pid"], signal.SIGTERM)
    assert waiting.answer()["claims"] == []
    refused = outcome_or_close(late, body[10:])
    if refused is not None:
        assert (refused.code, refused.kind, refused.data["retryable"]) == (1007, "draining", True)
        assert refused.data["retry_after_ms"] > 0
    assert town.process is not None
    assert town.process.wait(STOP_S) == OK
    town.start()
    assert town.refusal("bead.get", id=bead_id).code == 1002


def flood(lines: Lines, town: Town) -> list[dict[str, Any]]:
    """Creates and reads on one connection until the daemon closes it, SIGTERM among them; the answers in order."""
    answers: list[dict[str, Any]] = []
    with contextlib.suppress(EOFError, ConnectionError, BrokenPipeError):
        for n in range(100_000):
            lines.send_line(ask("bead.create", {"beads": [{"title": str(n)}]}, n))
            lines.send_line(ask("system.info", {}, "read"))
            answers += [lines.read_line(), lines.read_line()]
            if n == 20:
                os.kill(town.daemon["pid"], signal.SIGTERM)
    return answers


def test_oks_before_the_stop_are_kept_and_refusals_after_it_are_definite(town: Town) -> None:
    answers = flood(town.lines(), town)
    reads = [answer for answer in answers if answer["id"] == "read"]
    writes = [answer for answer in answers if answer["id"] != "read"]
    assert all("result" in answer for answer in reads), "reads are served until the socket closes"
    refused = [answer for answer in writes if "error" in answer]
    assert {error(answer).code for answer in refused} <= {1007}
    kept = [answer for answer in writes if "result" in answer]
    assert writes[: len(kept)] == kept, "no write succeeds behind one that was refused"
    assert town.process is not None
    assert town.process.wait(STOP_S) == OK
    town.start()
    there = {bead["id"] for bead in town.walk("bead.list", limit=1_000)}
    assert {answer["result"]["beads"][0]["id"] for answer in kept} <= there
    assert len(there) <= len(kept) + 1


def test_a_silent_connection_does_not_delay_the_stop(town: Town) -> None:
    quiet = [town.connect(), town.connect(tcp=True), town.lines()]
    quiet[0].send(rpc("Host: localhost", JSON, body=INFO))
    assert quiet[0].read_reply().status == 200
    os.kill(town.daemon["pid"], signal.SIGTERM)
    assert town.process is not None
    assert town.process.wait(10.0) == OK


# -- addresses ---------------------------------------------------------------------------------------------------------
def test_an_explicit_port_that_is_taken(bare: Town) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        said = refuses(bare, CONFIGURATION, "--listen", f"127.0.0.1:{holder.getsockname()[1]}")
    assert str(holder) not in said
    assert daemon_json(bare) == {}
    assert not (bare.state / "gastown.sock").exists()


def test_the_default_port_gives_way(bare: Town) -> None:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # taken by somebody else: as good
            stack.enter_context(socket.create_server(("127.0.0.1", 7717)))
        log = stack.enter_context(bare.log.open("ab"))
        command = [*bare.command, "--dir", str(bare.dir)]
        bare.process = subprocess.Popen(command, cwd=bare.dir, env=bare.env, stdout=log, stderr=log)
        bare.daemon = until(lambda: daemon_json(bare))
        assert bare.daemon["listen"].startswith("127.0.0.1:")
        assert not bare.daemon["listen"].endswith(":7717")
        assert bare.http("GET", "/healthz", token="").status == 200
    assert bare.daemon["listen"].rpartition(":")[2] in bare.log.read_text()


PUBLIC = ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"]
MALFORMED = ["nowhere", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1"]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_refused(bare: Town, address: str) -> None:
    said = refuses(bare, CONFIGURATION, "--listen", address)
    assert address.rpartition(":")[0] in said
    assert daemon_json(bare) == {}
    assert not (bare.state / "gastown.sock").exists()


@pytest.mark.parametrize("address", MALFORMED)
def test_an_address_that_is_none(bare: Town, address: str) -> None:
    ended = serve(bare, "--listen", address)
    assert ended.returncode in (2, CONFIGURATION)
    assert b"Traceback" not in ended.stderr
    assert daemon_json(bare) == {}


# -- sockets -----------------------------------------------------------------------------------------------------------
def test_a_long_path_moves_the_sockets_to_the_runtime_folder(bare: Town) -> None:
    bare.dir = bare.home / ("d" * SOCKET_PATH_MAX) / FOLDER
    bare.dir.mkdir(parents=True)
    bare.start()
    path = Path(bare.daemon["socket"])
    assert len(str(path)) <= SOCKET_PATH_MAX
    assert path.parent.parent == bare.home
    assert path.parent.name.startswith("gastown-")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with bare.lines() as lines:
        assert lines.call("system.info")["pid"] == bare.daemon["pid"]
    assert bare.run("status").returncode == OK
    assert bare.stop() == OK
    assert not path.exists()


def test_two_long_paths_do_not_meet(coordinator: str, bare: Town) -> None:
    other = Town(coordinator)
    try:
        other.env["XDG_RUNTIME_DIR"] = str(bare.home)
        for town in (bare, other):
            town.dir = town.home / ("d" * SOCKET_PATH_MAX) / FOLDER
            town.dir.mkdir(parents=True)
            town.start()
        assert bare.daemon["socket"] != other.daemon["socket"]
        assert bare.call("system.info")["pid"] != other.call("system.info")["pid"]
    finally:
        other.close()


@pytest.mark.parametrize("name", ["gastown.sock", "lines.sock"])
@pytest.mark.parametrize("kind", ["link", "file", "folder", "live"])
def test_a_socket_path_that_is_not_ours_to_remove(bare: Town, name: str, kind: str) -> None:
    once(bare)
    path, precious = bare.state / name, bare.home / "precious"
    precious.write_text("keep me")
    live = socket.socket(socket.AF_UNIX)
    with live:
        if kind == "link":
            path.symlink_to(precious)
        elif kind == "file":
            path.write_text("keep me")
        elif kind == "folder":
            path.mkdir()
        else:
            live.bind(str(path))
            live.listen()
        before = path.lstat().st_ino
        ended = serve(bare)
        assert ended.returncode in (PERMISSIONS, CONFIGURATION), ended.stderr
        assert b"Traceback" not in ended.stderr
        assert path.lstat().st_ino == before
        assert precious.read_text() == "keep me"
        assert daemon_json(bare) == {}


# -- secrets and the ledger --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
def test_an_admin_token_others_can_read(bare: Town, mode: int) -> None:
    token = once(bare).state / "admin.token"
    token.chmod(mode)
    refuses(bare, PERMISSIONS)
    assert stat.S_IMODE(token.stat().st_mode) == mode
    token.chmod(0o600)
    bare.start()
    assert bare.call_as(bare.admin_token, "token.list")


def test_an_admin_token_that_is_a_link(bare: Town) -> None:
    token = once(bare).state / "admin.token"
    shutil.move(token, bare.home / "elsewhere")
    token.symlink_to(bare.home / "elsewhere")
    refuses(bare, PERMISSIONS)


def digest(town: Town) -> dict[str, str]:
    """What the ledger's files hold."""
    found = [path for path in town.state.iterdir() if path.name.startswith(("ledger.db", "high_water"))]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found if path.stat().st_size}


def test_a_ledger_of_a_newer_schema(bare: Town) -> None:
    with contextlib.closing(sqlite3.connect(once(bare).state / "ledger.db")) as ledger:
        ledger.execute("PRAGMA user_version = 9999")
    before = digest(bare)
    refuses(bare, LEDGER_REFUSED)
    assert digest(bare) == before
    assert daemon_json(bare) == {}


@pytest.mark.parametrize("content", [b"this is no database", b"SQLite format 3\x00" + b"\xff" * 8_176])
def test_a_ledger_that_is_none(bare: Town, content: bytes) -> None:
    ledger = once(bare).state / "ledger.db"
    ledger.write_bytes(content)
    refuses(bare, LEDGER_REFUSED)
    assert ledger.read_bytes() == content


def test_an_older_copy_of_the_ledger(bare: Town) -> None:
    """The high-water mark beside it knows better."""
    ledger = once(bare).state / "ledger.db"
    shutil.copy(ledger, bare.home / "old.db")
    bare.start()
    bare.beads(*[{"title": str(n)} for n in range(10)])
    bare.stop()
    shutil.copy(bare.home / "old.db", ledger)
    refuses(bare, LEDGER_REFUSED)


def test_a_ledger_that_lost_its_file(bare: Town) -> None:
    bare.start()
    bare.bead()
    bare.stop()
    (bare.state / "ledger.db").unlink()
    refuses(bare, LEDGER_REFUSED)


def test_a_folder_moved_away_under_a_live_daemon_loses_nothing(town: Town) -> None:
    kept = [town.bead()["id"]]
    away = town.dir / "away"
    with town.connect() as connection:
        town.state.rename(away)
        for n in range(20):
            body = ask("bead.create", {"beads": [{"title": str(n)}]})
            result = outcome_or_close(connection, rpc("Host: localhost", JSON, body=body))
            if isinstance(result, dict):
                kept.append(result["beads"][0]["id"])
        away.rename(town.state)
    town.kill9()
    town.start()
    assert set(kept) <= {bead["id"] for bead in town.walk("bead.list", limit=1_000)}
    assert town.call("ledger.verify")["ok"] is True


def test_the_clock_of_leases_survives_a_kill(town: Town) -> None:
    """After an outage every live lease gets one fresh ttl: its holder goes on with the same token."""
    bead_id = town.bead()["id"]
    lease = town.lease(town.worker(), bead_id)
    town.kill9()
    town.start()
    assert town.call("work.complete", bead_id=bead_id, token=lease["token"])["bead"]["status"] == "closed"


def test_reads_and_health_over_the_old_address_end_with_the_process(town: Town) -> None:
    host, _, port = town.daemon["listen"].rpartition(":")
    town.kill9()
    with pytest.raises(ConnectionError):
        Connection.tcp(host, int(port))


def test_readyz_is_ready_once_daemon_json_is_there(bare: Town) -> None:
    bare.start()
    reply: Reply = bare.http("GET", "/readyz")
    assert reply.status == 200
