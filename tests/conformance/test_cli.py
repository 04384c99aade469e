"""The command line: exit codes, JSON for programs, a worker's memory between two calls, files in and out."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .town import Town, unique

OK, ERROR, USAGE, NOTHING, LOST, NOT_FOUND = 0, 1, 2, 3, 4, 5
LEDGER_REFUSED, UNREACHABLE = 65, 69
AT = "2026-01-01T00:00:00Z"


@pytest.fixture
def bare(coordinator: str) -> Iterator[Town]:
    """A folder nobody serves."""
    unserved = Town(coordinator)
    try:
        yield unserved
    finally:
        with contextlib.suppress(OSError, ValueError):
            if unserved.process is None:
                os.kill(json.loads((unserved.state / "daemon.json").read_text())["pid"], signal.SIGKILL)
        unserved.close()


Ended = subprocess.CompletedProcess[bytes]


def says(ended: Ended, code: int = OK) -> str:
    """What a command that ended with `code` wrote on stdout."""
    assert ended.returncode == code, (ended.args, ended.stdout, ended.stderr)
    assert b"Traceback" not in ended.stderr
    return ended.stdout.decode()


def told(town: Town, *arguments: str) -> Any:
    """The one JSON document a verb prints with --json."""
    return json.loads(says(town.run(*arguments, "--json")))


def held(town: Town, name: str) -> dict[str, Any]:
    """What the command line remembers for a worker."""
    found: dict[str, Any] = json.loads((town.state / "workers" / f"{name}.json").read_text())
    return found


def record(bead_id: str, **fields: Any) -> str:
    bead = {"id": bead_id, "title": "t", "status": "open", "priority": 2, "issue_type": "task"}
    return json.dumps({**bead, "created_at": AT, "updated_at": AT, **fields}) + "\n"


# -- the command itself ------------------------------------------------------------------------------------------------
def test_bare_gastown_prints_status_and_help(bare: Town, plain_town: Town) -> None:
    for town in (bare, plain_town):
        text = says(town.run())
        assert "serve" in text
        assert "next" in text
    assert "\x1b" not in says(plain_town.run()), "no colours where no terminal is"


@pytest.mark.parametrize(
    "arguments", [["no-such-verb"], ["serve", "--no-such-option"], ["show"], ["next", "extra", "x"]]
)
def test_usage_is_2(bare: Town, arguments: list[str]) -> None:
    assert bare.run(*arguments).returncode == USAGE


def test_help_needs_no_town(bare: Town) -> None:
    text = says(bare.run("--help"))
    verbs = "init serve up down status logs doctor demo token import export verify backup convoy next beat done fail"
    missing = [verb for verb in [*verbs.split(), "release", "show", "add", "ready", "close"] if verb not in text]
    assert not missing


MORE_VERBS = ["list", "update", "reopen", "retry", "dep", "comment", "history", "stats", "pause", "resume", "worker",
              "restore", "config"]  # fmt: skip


@pytest.mark.parametrize("verb", [*MORE_VERBS, "serve", "up", "next", "done", "import", "token"])
def test_every_verb_explains_itself(bare: Town, verb: str) -> None:
    assert verb in says(bare.run(verb, "--help"))


@pytest.mark.parametrize("arguments", [["ready"], ["show", "x"], ["next"], ["stats"], ["close", "x"], ["add", "title"]])
def test_no_daemon_is_69(bare: Town, arguments: list[str]) -> None:
    assert bare.run(*arguments).returncode == UNREACHABLE
    bare.start()
    bare.kill9()
    ended = bare.run(*arguments)
    assert ended.returncode == UNREACHABLE
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "arguments", [["show", "no-such"], ["history", "no-such"], ["close", "no-such"], ["reopen", "no-such"]]
)
def test_not_found_is_5(plain_town: Town, arguments: list[str]) -> None:
    says(plain_town.run(*arguments), NOT_FOUND)


def test_a_refusal_is_1(plain_town: Town) -> None:
    bead_id = plain_town.bead()["id"]
    says(plain_town.run("close", bead_id))
    ended = plain_town.run("close", bead_id)
    says(ended, ERROR)
    assert ended.stderr.strip()


# -- reading -----------------------------------------------------------------------------------------------------------
READING = [
    ["status"], ["ready"], ["list"], ["stats"], ["doctor"], ["config"], ["token", "list"], ["worker", "list"],
    ["convoy", "list"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_a_reading_verb_speaks_json(plain_town: Town, arguments: list[str]) -> None:
    assert isinstance(told(plain_town, *arguments), dict | list)
    assert says(plain_town.run(*arguments)).strip()


def test_what_is_added_can_be_read(plain_town: Town) -> None:
    title = unique("by hand")
    text = says(plain_town.run("add", title))
    (bead,) = [bead for bead in plain_town.walk("bead.list") if bead["title"] == title]
    assert bead["id"] in text
    for arguments in (["show", bead["id"]], ["ready"], ["list"], ["history", bead["id"]]):
        assert bead["id"] in json.dumps(told(plain_town, *arguments)), arguments
    assert title in says(plain_town.run("show", bead["id"]))


def test_a_title_cannot_paint_the_terminal(plain_town: Town) -> None:
    bead = plain_town.bead("\x1b]0;owned\x07\x1b[31mred")
    for arguments in (["show", bead["id"]], ["ready"], ["list"]):
        assert "\x1b" not in says(plain_town.run(*arguments))


# -- a worker's day ----------------------------------------------------------------------------------------------------
def test_next_with_nothing_to_do_is_3(town: Town) -> None:
    says(town.run("next", "--worker", "idle"), NOTHING)
    assert held(town, "idle")


def test_next_beat_done(town: Town) -> None:
    bead_id = town.bead("a job")["id"]
    assert bead_id in says(town.run("next", "--worker", "w"))
    bead = town.get(bead_id)
    assert (bead["status"], bead["assignee"]) == ("in_progress", "w")
    path = town.state / "workers" / "w.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert bead_id in path.read_text()
    says(town.run("beat", "--worker", "w"))
    says(town.run("done", bead_id, "--worker", "w"))
    assert town.get(bead_id)["status"] == "closed"
    assert bead_id not in path.read_text()


@pytest.mark.parametrize(("verb", "status"), [("fail", "open"), ("release", "open"), ("done", "closed")])
def test_settling_takes_the_token_from_the_workers_file(town: Town, verb: str, status: str) -> None:
    bead_id = town.bead()["id"]
    claim = json.dumps(told(town, "next", "--worker", "w"))
    assert bead_id in claim
    says(town.run(verb, bead_id, "--worker", "w", *(["--error", "it broke"] if verb == "fail" else [])))
    assert town.get(bead_id)["status"] == status
    assert town.kinds(bead_id)[-1] in ("failed", "released", "completed")


@pytest.mark.parametrize("verb", ["done", "fail", "release"])
def test_a_lease_that_is_gone_is_4(town: Town, verb: str) -> None:
    bead_id = town.bead()["id"]
    says(town.run("next", "--worker", "w"))
    town.call("bead.close", id=bead_id, reason="somebody else did it")
    says(town.run(verb, bead_id, "--worker", "w", *(["--error", "late"] if verb == "fail" else [])), LOST)


def test_a_beat_for_a_lost_lease_is_4(town: Town) -> None:
    bead_id = town.bead()["id"]
    says(town.run("next", "--worker", "w"))
    town.call("bead.close", id=bead_id, reason="r")
    says(town.run("beat", "--worker", "w"), LOST)


def test_next_registers_only_when_it_must(town: Town) -> None:
    town.run("next", "--worker", "w")
    first = town.call("worker.list")["workers"]
    town.run("next", "--worker", "w")
    assert [worker["worker_id"] for worker in town.call("worker.list")["workers"]] == [
        worker["worker_id"] for worker in first
    ]
    town.worker("w")
    bead_id = town.bead()["id"]
    assert bead_id in says(town.run("next", "--worker", "w")), "1008 makes it register again"


def test_workers_keep_apart(town: Town) -> None:
    one, two = (bead["id"] for bead in town.beads({"title": "1", "priority": 0}, {"title": "2"}))
    assert one in says(town.run("next", "--worker", "a"))
    town.env["GASTOWN_WORKER"] = "b"
    assert two in says(town.run("next"))
    says(town.run("done", two))
    assert town.get(one)["assignee"] == "a"
    assert town.get(two)["status"] == "closed"


def test_a_worker_has_a_name_of_its_own_without_one_given(town: Town) -> None:
    bead_id = town.bead()["id"]
    assert bead_id in says(town.run("next"))
    assert "@" in town.get(bead_id)["assignee"]
    says(town.run("done", bead_id))


@pytest.mark.parametrize("name", ["../up", "a/b", "a\nb", ""])
def test_a_workers_name_is_no_path(town: Town, name: str) -> None:
    assert town.run("next", "--worker", name).returncode in (ERROR, USAGE)
    assert not (town.state / "up.json").exists()


def test_a_dead_letter_comes_back_by_retry(town: Town) -> None:
    bead_id = town.bead()["id"]
    token = town.lease(town.worker(), bead_id)["token"]
    town.call("work.fail", bead_id=bead_id, token=token, error="e", retryable=False)
    assert town.state_of(bead_id) == "dead"
    says(town.run("retry", bead_id))
    assert town.state_of(bead_id) == "ready"


# -- tokens ------------------------------------------------------------------------------------------------------------
def test_tokens_from_the_command_line(plain_town: Town) -> None:
    made = told(plain_town, "token", "create", "--scope", "worker", "--name", "agent-7")
    assert plain_town.call_as(made["token"], "worker.register", name=unique("w"))
    listed = json.dumps(told(plain_town, "token", "list"))
    assert made["id"] in listed
    assert made["token"] not in listed
    says(plain_town.run("token", "revoke", made["id"]))
    assert plain_town.http("GET", "/metrics", token=made["token"]).status == 401


def test_a_new_token_is_printed_for_people_too(plain_town: Town) -> None:
    text = says(plain_town.run("token", "create", "--scope", "read", "--name", "p"))
    assert [word for word in text.split() if plain_town.http("GET", "/metrics", token=word).status == 200]


# -- files in and out --------------------------------------------------------------------------------------------------
def test_import_export_verify_with_a_daemon(town: Town) -> None:
    (town.dir / "in.jsonl").write_text(record("a-1") + record("a-2", unknown={"kept": 1.5}))
    says(town.run("import", "in.jsonl"))
    assert {bead["id"] for bead in town.walk("bead.list")} == {"a-1", "a-2"}
    exported = town.run("export")
    assert exported.stdout == town.http("GET", "/export.jsonl").body
    says(town.run("export", "out.jsonl"))
    assert (town.dir / "out.jsonl").read_bytes() == exported.stdout
    says(town.run("verify"))


def test_import_export_verify_without_one(bare: Town) -> None:
    (bare.dir / "in.jsonl").write_text(record("a-1") + record("a-2", unknown={"kept": 1.5}))
    says(bare.run("init"))
    says(bare.run("import", "in.jsonl"))
    says(bare.run("verify"))
    offline = says(bare.run("export"))
    assert [json.loads(line)["id"] for line in offline.splitlines()] == ["a-1", "a-2"]
    assert '"kept":1.5' in offline
    bare.start()
    assert says(bare.run("export")) == offline
    says(bare.run("import", "in.jsonl"))
    assert says(bare.run("export")) == offline, "what adds nothing changes nothing"


def test_a_round_trip_through_another_town_is_byte_equal(bare: Town, town: Town) -> None:
    worker = town.worker()
    first, _ = town.beads({"title": "<b> é", "labels": ["z", "a"], "metadata": {"k": [1]}}, {"title": "2"})
    town.call("work.complete", bead_id=first["id"], token=town.lease(worker, first["id"])["token"])
    says(town.run("export", str(bare.dir / "in.jsonl")))
    says(bare.run("init"))
    says(bare.run("import", "in.jsonl"))
    assert says(bare.run("export")).encode() == (bare.dir / "in.jsonl").read_bytes()


@pytest.mark.parametrize("served", [False, True])
def test_a_bad_file_is_refused_with_its_line(bare: Town, served: bool) -> None:
    says(bare.run("init"))
    if served:
        bare.start()
    (bare.dir / "in.jsonl").write_text(record("a-1") + "{oops\n")
    ended = bare.run("import", "in.jsonl")
    assert ended.returncode in (ERROR, LEDGER_REFUSED)
    assert "2" in ended.stderr.decode()
    assert says(bare.run("export")) == ""
    says(bare.run("import", "--skip-bad", "in.jsonl"))
    assert "a-1" in says(bare.run("export"))


def test_a_file_that_is_not_there(town: Town) -> None:
    ended = town.run("import", "nowhere.jsonl")
    assert ended.returncode in (ERROR, USAGE)
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("served", [False, True])
def test_verify_finds_a_changed_byte(bare: Town, served: bool) -> None:
    bare.start()
    bare.bead("genuine")
    bare.stop()
    with contextlib.closing(sqlite3.connect(bare.state / "ledger.db")) as ledger, ledger:
        changed = ledger.execute("UPDATE body SET json = CAST(replace(json, 'genuine', 'forgery') AS BLOB)").rowcount
    assert changed == 1
    if served:
        bare.start()
        assert bare.call("ledger.verify")["ok"] is False
    ended = bare.run("verify")
    assert ended.returncode in (ERROR, LEDGER_REFUSED)


def test_init_takes_the_beads_file_once_and_never_writes_it(bare: Town) -> None:
    beads = bare.dir / ".beads"
    beads.mkdir()
    source = beads / "issues.jsonl"
    source.write_text(record("a-1"))
    before = source.read_bytes()
    says(bare.run("init"))
    source.write_text(record("a-1") + record("a-2"))
    bare.run("init")
    bare.start()
    assert [bead["id"] for bead in bare.walk("bead.list")] == ["a-1"]
    bare.bead()
    bare.stop()
    assert source.read_bytes() == before + record("a-2").encode()


def test_a_backup_can_be_restored(town: Town) -> None:
    bead_id = town.bead()["id"]
    token = town.lease(town.worker(), bead_id)["token"]
    says(town.run("backup", str(town.home / "copy.db")))
    town.bead("after the backup")
    town.stop()
    says(town.run("restore", str(town.home / "copy.db")))
    town.start()
    assert [bead["id"] for bead in town.walk("bead.list")] == [bead_id]
    town.call("bead.update", id=bead_id, set={"status": "open"})
    assert town.lease(town.worker(), bead_id)["token"] > token + (1 << 19), "tokens leap over what was lost"


# -- completion and packaging ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(bare: Town, shell: str) -> None:
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("no bash here to ask for its version")
    command = Path(sys.executable).with_name("gastown")
    ended = subprocess.run(
        [command], env={**bare.env, "_GASTOWN_COMPLETE": f"{shell}_source"}, capture_output=True, check=False
    )
    assert ended.returncode == OK, ended.stderr
    assert b"gastown" in ended.stdout


def test_there_is_no_gt() -> None:
    assert not Path(sys.executable).with_name("gt").exists()
