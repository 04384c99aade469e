"""What the command line remembers of a worker."""

import json
import stat
import threading
from pathlib import Path

import click
import pytest

from gastown.cli.worker_memory import WorkerMemory, worker_name
from gastown.client import Lease


def lease(bead_id: str, token: int) -> Lease:
    return Lease(bead_id, "w-1", token, 1, 1_700_000_000_000)


def registered(folder: Path) -> WorkerMemory:
    memory = WorkerMemory(folder, "w")
    with memory.changing():
        memory.worker_id = "w-1"
    return memory


def test_a_name_is_given_or_from_the_environment_or_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GASTOWN_WORKER", raising=False)
    assert "@" in worker_name(None)
    monkeypatch.setenv("GASTOWN_WORKER", "from-the-environment")
    assert worker_name(None) == "from-the-environment"
    assert worker_name("given") == "given"


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".", "..", ".hidden", "a\nb", "a\x00b", "x" * 129, "é" * 65])
def test_a_name_that_is_no_files_name(name: str) -> None:
    with pytest.raises(click.UsageError):
        worker_name(name)


def test_what_is_kept_is_read_again_by_the_next_call(tmp_path: Path) -> None:
    registered(tmp_path / "workers").keep(lease("a-1", 7), lease("a-2", 8))
    again = WorkerMemory(tmp_path / "workers", "w")
    assert again.worker_id == "w-1"
    assert again.leases == {"a-1": lease("a-1", 7), "a-2": lease("a-2", 8)}
    assert stat.S_IMODE(again.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(again.path.parent.stat().st_mode) == 0o700
    assert json.loads(again.path.read_text())["worker"] == "w"


def test_a_newer_grant_is_not_forgotten_with_an_older_one(tmp_path: Path) -> None:
    memory = registered(tmp_path)
    memory.keep(lease("a-1", 9))
    memory.forget(lease("a-1", 7))
    assert memory.leases == {"a-1": lease("a-1", 9)}
    memory.forget(lease("a-1", 9))
    assert memory.leases == {}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"worker_id": 5}', '{"worker_id": "w", "leases": {"a": [1]}}']
)
def test_a_file_that_makes_no_sense_is_a_new_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "w.json").write_text(text)
    memory = WorkerMemory(tmp_path, "w")
    assert (memory.worker_id, memory.leases) == ("", {})


def test_two_that_share_a_name_lose_nothing(tmp_path: Path) -> None:
    registered(tmp_path)

    def keep(first: int) -> None:
        for token in range(first, 200, 2):
            WorkerMemory(tmp_path, "w").keep(lease(f"a-{token}", token))

    threads = [threading.Thread(target=keep, args=(first,)) for first in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(WorkerMemory(tmp_path, "w").leases) == 199
