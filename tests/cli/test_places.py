"""Shared files, filesystems, the screen: what the verbs stand on."""

import subprocess
import sys
from pathlib import Path

import pytest

from gastown import filesystem, shared
from gastown.cli import screen

ROOT = Path(shared.__file__).resolve().parent.parent


def test_shared_files_are_found() -> None:
    assert "0001_ledger.sql" in shared.files("migrations", ".sql")
    assert "CREATE TABLE bead" in shared.text("migrations", "0001_ledger.sql")
    assert shared.files("spec", ".json", inside="vectors")
    with pytest.raises(ValueError, match="no shared folder"):
        shared.folder("tests")


def test_shared_files_are_found_in_a_checkout_that_is_not_installed() -> None:
    code = "from gastown import shared; print(shared.files('migrations', '.sql')[0], len(shared.text('migrations', "
    code += "'0001_ledger.sql')))"
    ended = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=True
    )
    assert ended.stdout.startswith(b"0001_ledger.sql ")


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "9p", "virtiofs", "cifs", "fuse.sshfs"])
def test_a_ledger_stays_off_network_filesystems(tmp_path: Path, kind: str) -> None:
    told = filesystem.refusal(tmp_path, kind)
    assert told is not None
    assert kind in told
    assert str(tmp_path) in told


@pytest.mark.parametrize("kind", ["ext4", "btrfs", "xfs", "tmpfs", "overlay", "apfs", "zfs", "fuseblk", ""])
def test_a_ledger_may_live_on_local_ones(tmp_path: Path, kind: str) -> None:
    assert filesystem.refusal(tmp_path, kind) is None


def test_the_kind_of_a_real_folder_is_known() -> None:
    if not Path("/proc/self/mounts").exists():
        pytest.skip("this system has no /proc/self/mounts to hold the answer against")
    mounted = {line.split()[1]: line.split()[2] for line in Path("/proc/self/mounts").read_text().splitlines()}
    assert filesystem.kind(Path("/proc/self")) == mounted["/proc"] == "proc"
    assert filesystem.kind(ROOT / "not" / "there" / "yet") in mounted.values()


@pytest.mark.parametrize("text", ["\x1b[31mred", "\x1b]0;owned\x07", "a\nb", "\u202egnp.exe", "\x9b31m", "\r"])
def test_no_text_commands_the_terminal(text: str) -> None:
    assert not set(screen.clean(text)) & set("\x1b\x07\n\r\u202e\x9b")


def test_columns_are_aligned() -> None:
    text = screen.table(("id", "title"), [("a", "one"), ("long-id", "two")], "none")
    assert text.splitlines() == ["ID       TITLE", "a        one", "long-id  two"]
    assert screen.table(("id",), [], "none") == "none"


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0ms"), (999, "999ms"), (1000, "1s"), (90_000, "1m30s"), (3_600_000, "1h"), (90_061_000, "1d1h")],
)
def test_a_length_of_time_in_its_two_largest_units(ms: int, text: str) -> None:
    assert screen.span(ms) == text
