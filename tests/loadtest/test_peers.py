"""Each peer that is installed starts, takes beads and gives each of them out once."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gastown.loadtest import generator, peers, slowdisk
from gastown.loadtest.cells import Measure, Table, cell_key, run_round
from gastown.loadtest.check import read_settled

BEADS = 60
PEERS = [system for system in peers.SYSTEMS if system is not peers.Gastown]


@pytest.fixture(params=PEERS, ids=lambda system: system.name)
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.System]:
    kind: type[peers.System] = request.param
    why = kind.missing()
    if why:
        pytest.skip(why)
    if kind is not peers.Naive and generator.compiled() is None:
        pytest.skip("its protocol needs the compiled generator (gastown loadtest --build builds it)")
    home = open_folder(tmp_path_factory.mktemp("peer"))
    running = kind(home, {})
    try:
        running.start()
        yield running
    finally:
        running.stop()


def open_folder(folder: Path) -> Path:
    """PostgreSQL's user must reach it."""
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o755)
    return folder


def test_a_peer_gives_each_bead_out_once(system: peers.System, tmp_path: Path) -> None:
    for door in system.doors:
        system.top_up(BEADS)
        settled = tmp_path / door
        outcome = generator.run(replace(system.plan(door, 4), settled=str(settled)))
        system.remaining -= outcome.granted
        beads = [bead for bead, _ in read_settled(settled)]
        assert len(beads) == len(set(beads)) == outcome.granted == outcome.settled == BEADS
        assert outcome.empty == 4


def test_a_round_visits_each_cell_and_notes_what_failed() -> None:
    class Broken(peers.Naive):
        name = "broken"

        def start(self) -> None:
            raise peers.PeerFault("it never starts")

    table, said = Table(), list[str]()
    measure = Measure(workers=(1, 3), pairs=20, seconds=5.0, backlog=5)
    for _ in range(2):
        run_round(table, [peers.Naive, Broken], measure, said.append)
    for workers in (1, 3):
        samples = table.cells[cell_key("Starlette + aiosqlite", "unix", workers)]
        assert [one.round for one in samples] == [0, 1]
        assert all(one.rate > 0 for one in samples)
    assert table.faults == {"broken": "it never starts"}
    assert said.count("broken: it never starts") == 1
    assert [set(one.sync_us) for one in table.rounds] == [
        {"Starlette + aiosqlite", "broken"},
        {"Starlette + aiosqlite"},
    ]


def test_redis_words_are_counted_in_bytes() -> None:
    assert peers.resp(b"ZADD", "é".encode()) == b"*2\r\n$4\r\nZADD\r\n$2\r\n\xc3\xa9\r\n"


def test_the_slowed_sync_is_loaded_before_the_real_one(tmp_path: Path) -> None:
    shim = slowdisk.build_shim(tmp_path)
    if shim is None:
        pytest.skip("there is no C compiler")
    assert slowdisk.calibrate(tmp_path, {"LD_PRELOAD": str(shim)}) >= slowdisk.DELAY_US
