"""Verbs against a real daemon: what a person sees, beyond the exit codes that the contract fixes."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from conformance.town import Town, until

from gastown.cli import PLACES, manual

DOCS = Path(manual.__file__).resolve().parents[2] / "docs" / "cli.md"
Ended = subprocess.CompletedProcess[bytes]


def says(ended: Ended, code: int = 0) -> str:
    """What a command that ended with `code` wrote, on both streams."""
    assert ended.returncode == code, (ended.args, ended.stdout, ended.stderr)
    assert b"Traceback" not in ended.stderr
    return (ended.stdout + ended.stderr).decode()


def told(town: Town, *arguments: str, code: int = 0) -> Any:
    ended = town.run(*arguments, "--json")
    assert ended.returncode == code, (ended.args, ended.stdout, ended.stderr)
    return json.loads(ended.stdout)


# -- documents ---------------------------------------------------------------------------------------------------------
def test_the_manual_is_what_the_verbs_say() -> None:
    assert DOCS.read_text() == manual.render(), "run: python -m gastown.cli.manual > docs/cli.md"


def test_every_verb_is_in_the_manual() -> None:
    assert not [verb for verb in PLACES if f"### gastown {verb}\n" not in manual.render()]


def test_a_misspelt_verb_is_guessed(bare: Town) -> None:
    assert "'release'" in says(bare.run("relaese"), 2)


def test_a_worker_verb_loads_neither_server_nor_screen() -> None:
    code = "import sys, gastown.cli.work; print([name for name in sys.modules if name in sys.argv[1:]])"
    heavy = ["rich", "psutil", "starlette", "uvloop", "sqlite3", "asyncio", "prometheus_client", "gastown.engine"]
    ended = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, check=True)
    assert ended.stdout == b"[]\n"


# -- init, config, doctor ----------------------------------------------------------------------------------------------
def test_init_makes_a_town_once(bare: Town) -> None:
    (bare.dir / ".git").mkdir()
    deep = bare.dir / "src" / "deep"
    deep.mkdir(parents=True)
    command = [sys.executable, "-m", "gastown", "init"]
    ended = subprocess.run(command, cwd=deep, env=bare.env, capture_output=True, check=False)
    assert str(bare.dir) in says(ended), "a new town belongs to the repository's root"
    assert (bare.state / ".gitignore").read_text() == "*\n"
    settings = bare.dir / "gastown.toml"
    settings.write_text(settings.read_text() + "ttl_ms = 60000\n")
    assert "already" in says(bare.run("init"))
    assert settings.read_text().endswith("ttl_ms = 60000\n")
    rows = {row["key"]: row for row in told(bare, "config")["settings"]}
    assert (rows["ttl_ms"]["value"], rows["ttl_ms"]["source"].rpartition(":")[0]) == (60_000, str(settings))
    assert rows["batch_max"]["source"] == "fixed"
    assert rows["batch_max"]["reason"]


def test_a_wrong_setting_starts_nothing(bare: Town) -> None:
    (bare.dir / "gastown.toml").write_text("\nttl = 5\n")
    for verb in ("serve", "up", "config"):
        assert f"{bare.dir / 'gastown.toml'}:2: unknown setting 'ttl'" in says(bare.run(verb), 78)
    assert not bare.state.exists()
    (finding,) = [row for row in told(bare, "doctor", code=1)["checks"] if row["state"] == "fail"]
    assert "unknown setting" in finding["text"]


def test_a_flag_of_up_reaches_the_daemon(bare: Town) -> None:
    says(bare.run("up", "--listen", "127.0.0.1:0", "--set", "ttl_ms=12345"))
    bare.daemon = json.loads((bare.state / "daemon.json").read_text())
    assert bare.call("worker.register", name="w")["lease_ttl_ms"] == 12_345
    says(bare.run("down"))


def test_doctor_finds_what_is_wrong_in_the_ledger(town: Town) -> None:
    (town.dir / "in.jsonl").write_text(
        "".join(
            json.dumps({
                "id": one, "title": "t", "status": "open", "priority": 2, "issue_type": "task",
                "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
                "dependencies": [{"issue_id": one, "depends_on_id": other, "type": "blocks"}],
            }) + "\n"
            for one, other in (("a-1", "a-2"), ("a-2", "a-1"), ("a-3", "gone-1"))
        )
    )  # fmt: skip
    says(town.run("import", "in.jsonl"))
    dead = town.bead()["id"]
    town.call("work.fail", **{**held(town.lease(town.worker(), dead)), "error": "e", "retryable": False})
    found = {row["check"]: row for row in told(town, "doctor")["checks"]}
    assert "a-1 -> a-2 -> a-1" in found["cycles"]["text"] or "a-2 -> a-1 -> a-2" in found["cycles"]["text"]
    assert "a-3 -> gone-1" in found["edges"]["text"]
    assert dead in found["dead letters"]["text"]
    assert {found[check]["state"] for check in ("cycles", "edges", "dead letters")} == {"warn"}
    status = told(town, "status")
    assert any("dead letter" in problem for problem in status["problems"])


def held(lease: dict[str, Any]) -> dict[str, Any]:
    return {"bead_id": lease["bead_id"], "token": lease["token"]}


# -- up and down -------------------------------------------------------------------------------------------------------
def test_a_start_that_fails_shows_the_log_and_the_code(bare: Town) -> None:
    bare.start()
    bare.stop()
    (bare.state / "admin.token").chmod(0o644)
    said = says(bare.run("up", "--listen", "127.0.0.1:0"), 77)
    assert "admin.token" in said
    assert "daemon.log" in said


def test_down_signals_nobody_but_the_daemon(town: Town) -> None:
    real = (town.state / "daemon.json").read_text()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        fake = json.loads(real) | {"pid": bystander.pid}
        (town.state / "daemon.json").write_text(json.dumps(fake))
        assert "not this town's daemon" in says(town.run("down"), 1)
        assert bystander.poll() is None
        assert bystander.stdin is not None
        bystander.stdin.write(b"\n")
        bystander.stdin.flush()
        assert bystander.wait(10) == 0
    (town.state / "daemon.json").write_text(real)
    assert says(town.run("down")) == "down\n"
    assert town.process is not None
    assert town.process.wait(10) == 0
    assert says(town.run("down")) == "down already\n"


def test_logs_show_the_end_of_the_log(bare: Town) -> None:
    assert "gastown up" in says(bare.run("logs"), 1)
    says(bare.run("up", "--listen", "127.0.0.1:0"))
    line = says(bare.run("logs", "-n", "1"))
    assert json.loads(line)["ev"]
    says(bare.run("down"))


# -- a worker's day ----------------------------------------------------------------------------------------------------
def test_next_waits_for_work_and_wakes(town: Town) -> None:
    waiting: list[Ended] = []
    thread = threading.Thread(target=lambda: waiting.append(town.run("next", "--worker", "w", "--wait", "60")))
    thread.start()
    until(lambda: town.call("worker.list")["workers"])
    bead_id = town.bead()["id"]
    thread.join(20)
    assert bead_id in says(waiting[0])


def test_a_waiting_next_survives_a_crash_of_the_daemon(town: Town) -> None:
    waiting: list[Ended] = []
    thread = threading.Thread(target=lambda: waiting.append(town.run("next", "--worker", "w", "--wait", "60")))
    thread.start()
    until(lambda: town.call("worker.list")["workers"])
    town.kill9()
    town.start()
    bead_id = town.bead()["id"]
    thread.join(25)
    assert bead_id in says(waiting[0])


def test_several_leases_and_one_of_them_meant(town: Town) -> None:
    one, two = sorted(bead["id"] for bead in town.beads({"title": "1"}, {"title": "2"}))
    assert len(told(town, "next", "--worker", "w", "--limit", "5")["claims"]) == 2
    assert f"{one}, {two}" in says(town.run("done", "--worker", "w"), 2)
    says(town.run("done", one, "--worker", "w", "--summary", "it was easy"))
    assert town.get(one)["close_reason"] == "it was easy"
    says(town.run("release", "--worker", "w"))
    assert town.get(two)["status"] == "open"
    assert "no lease" in says(town.run("done", "--worker", "w"), 4)
    assert "no lease" in says(town.run("done", two, "--worker", "w"), 4)


def test_done_brings_the_next_bead(town: Town) -> None:
    first, second = (bead["id"] for bead in town.beads({"title": "1", "priority": 0}, {"title": "2"}))
    told(town, "next", "--worker", "w")
    result = told(town, "done", "--next", "--worker", "w")
    assert result["bead"]["id"] == first
    assert result["claims"][0]["bead"]["id"] == second
    says(town.run("done", "--worker", "w"))
    assert town.get(second)["status"] == "closed"


def test_a_checkpoint_reaches_the_next_attempt(town: Town) -> None:
    bead_id = town.bead()["id"]
    told(town, "next", "--worker", "a")
    says(town.run("beat", bead_id, "--worker", "a", "--checkpoint", '{"step": 3}'))
    says(town.run("release", "--worker", "a", "--reason", "lunch"))
    (claim,) = told(town, "next", "--worker", "b")["claims"]
    assert claim["context"]["previous"][0]["checkpoint"] == {"step": 3}
    assert "--checkpoint is not JSON" in says(town.run("beat", "--worker", "b", "--checkpoint", "{"), 2)


def test_leases_come_back_with_a_new_registration(town: Town) -> None:
    bead_id = town.bead()["id"]
    told(town, "next", "--worker", "w")
    (town.state / "workers" / "w.json").unlink()
    says(town.run("next", "--worker", "w"), 3)
    says(town.run("done", bead_id, "--worker", "w"))
    assert town.get(bead_id)["status"] == "closed"


def test_a_token_given_by_hand(town: Town) -> None:
    lease = town.lease(town.worker())
    says(town.run("fail", lease["bead_id"], "--token", str(lease["token"]), "--error", "broken", "--final"))
    assert town.state_of(lease["bead_id"]) == "dead"
    assert "needs the bead's id" in says(town.run("fail", "--token", "5"), 2)


# -- beads and the queue -----------------------------------------------------------------------------------------------
def test_a_beads_life_by_hand(town: Town) -> None:
    (first,) = told(town, "add", "first", "-p", "1", "-l", "ui", "-d", "why", "--type", "bug")["beads"]
    (second,) = told(town, "add", "second", "--needs", first["id"])["beads"]
    assert (first["priority"], first["labels"], first["issue_type"]) == (1, ["ui"], "bug")
    assert [bead["id"] for bead in told(town, "ready")["beads"]] == [first["id"]]
    assert [bead["id"] for bead in told(town, "list", "--state", "waiting")["beads"]] == [second["id"]]
    says(town.run("dep", "remove", second["id"], first["id"]))
    says(town.run("dep", "add", first["id"], second["id"]))
    assert "->" in says(town.run("dep", "add", second["id"], first["id"]), 1)
    says(town.run("update", first["id"], "--title", "renamed", "--clear", "description", "--label", "api"))
    changed = told(town, "show", first["id"])["bead"]
    assert (changed["title"], changed["labels"], changed.get("description")) == ("renamed", ["api"], None)
    says(town.run("update", first["id"], "--title", "late", "--if-version", "0"), 1)
    says(town.run("update", first["id"]), 2)
    says(town.run("comment", first["id"], "hello"))
    assert "hello" in says(town.run("show", first["id"]))
    says(town.run("close", first["id"], second["id"], "--reason", "moved"))
    says(town.run("reopen", second["id"]))
    assert town.get(second["id"])["status"] == "open"
    kinds = [event["kind"] for event in told(town, "history", first["id"])["events"]]
    assert kinds[0] == "created"
    assert kinds[-1] == "closed"


def test_a_list_says_that_there_is_more(town: Town) -> None:
    town.beads(*[{"title": str(n)} for n in range(5)])
    page = told(town, "list", "--limit", "3")
    assert (len(page["beads"]), page["more"]) == (3, True)
    assert "--all" in says(town.run("list", "--limit", "3"))
    assert len(told(town, "list", "--limit", "3", "--all")["beads"]) == 5


def test_convoys_by_hand(town: Town) -> None:
    one, two = (bead["id"] for bead in town.beads({"title": "1"}, {"title": "2"}))
    convoy = told(town, "convoy", "create", "release", one)["convoy"]
    says(town.run("convoy", "add", convoy["id"], two))
    says(town.run("convoy", "remove", convoy["id"], one))
    assert told(town, "convoy", "show", convoy["id"])["convoy"]["beads"] == [two]
    assert [found["id"] for found in told(town, "convoy", "list")["convoys"]] == [convoy["id"]]
    says(town.run("convoy", "show", "nothing"), 5)


def test_a_paused_queue_hands_out_nothing(town: Town) -> None:
    town.bead()
    says(town.run("pause"))
    says(town.run("next", "--worker", "w"), 3)
    says(town.run("resume"))
    says(town.run("next", "--worker", "w"))


def test_workers_by_hand(town: Town) -> None:
    lease = town.lease(town.worker("old"))
    says(town.run("worker", "drain", "old"))
    assert [worker["state"] for worker in told(town, "worker", "list")["workers"]] == ["draining"]
    says(town.run("worker", "deregister", "old"))
    assert town.get(lease["bead_id"])["status"] == "open"
    says(town.run("worker", "drain", "nobody"), 5)


# -- whole ledgers -----------------------------------------------------------------------------------------------------
def test_an_import_says_what_it_did(town: Town) -> None:
    row = {"id": "a-1", "title": "t", "status": "open", "priority": 2, "issue_type": "task",
           "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}  # fmt: skip
    text = json.dumps(row) + "\n{oops\n"
    said = says(town.run("import", "-", stdin=text.encode()), 65)
    assert ":2: " in said
    assert "nothing was imported" in said
    result = told(town, "import", "--skip-bad", "--dry-run", "-")
    assert result == {"created": 0, "updated": 0, "unchanged": 0, "skipped": []}
    said = says(town.run("import", "--skip-bad", "-", stdin=text.encode()))
    assert "created    1" in said
    assert "skipped    1" in said


def test_a_backup_replaces_nothing_and_a_restore_wants_the_daemon_down(town: Town) -> None:
    copy = town.home / "copy.db"
    says(town.run("backup", str(copy)))
    before = copy.read_bytes()
    assert "exists" in says(town.run("backup", str(copy)), 1)
    assert copy.read_bytes() == before
    assert "gastown down" in says(town.run("restore", str(copy)), 75)
    town.stop()
    says(town.run("backup", str(town.home / "offline.db")))
    (town.home / "no.db").write_bytes(b"this is no ledger")
    says(town.run("restore", str(town.home / "no.db")), 65)
    says(town.run("verify"))


def test_a_locked_ledger_is_75(bare: Town) -> None:
    """Another process has the ledger and serves nobody."""
    says(bare.run("init"))
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('held', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(bare.state / "ledger.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        for verb in ("verify", "export"):
            says(bare.run(verb), 75)
        says(bare.run("down"), 1)
        holder.kill()
    says(bare.run("verify"))


@pytest.mark.parametrize("verb", [["verify"], ["export"], ["backup", "x.db"]])
def test_no_town_no_ledger(bare: Town, verb: list[str]) -> None:
    assert "gastown init" in says(bare.run(*verb), 1)
    assert not bare.state.exists()


def test_ids_are_completed(town: Town) -> None:
    bead_id = town.bead()["id"]
    town.env |= {"_GASTOWN_COMPLETE": "bash_complete", "COMP_WORDS": f"gastown show {bead_id[:2]}", "COMP_CWORD": "2"}
    assert bead_id in says(town.run())
