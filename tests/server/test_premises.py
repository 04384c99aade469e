"""The town's folder: what is refused, what is replaced, what is left behind."""

import os
import socket
import stat
from pathlib import Path

import pytest

from gastown.premises import (
    ADMIN_TOKEN,
    CONFIGURATION,
    DAEMON,
    LEADERSHIP_LOST,
    PERMISSION,
    SOCKET_PATH_BYTES_MAX,
    Refusal,
    address,
    bind_tcp,
    bind_unix,
    check_admin_token,
    own_folder,
    private_folder,
    read_daemon,
    socket_folder,
    take_lock,
    tidy,
    write_private,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_folder_others_could_enter_is_closed_to_them(folder: Path) -> None:
    folder.chmod(0o755)
    own_folder(folder)
    assert mode(folder) == 0o700


def test_the_lock_has_one_holder_and_names_it(folder: Path) -> None:
    lock = take_lock(folder)
    (folder / DAEMON).write_text('{"pid": 4711}')
    with pytest.raises(Refusal, match="pid 4711") as caught:
        take_lock(folder)
    assert caught.value.exit_code == LEADERSHIP_LOST
    os.close(lock)
    os.close(take_lock(folder))


def test_a_lock_file_that_is_a_link_is_not_followed(folder: Path) -> None:
    (folder / "ledger.lock").symlink_to(folder / "elsewhere")
    with pytest.raises(Refusal) as caught:
        take_lock(folder)
    assert caught.value.exit_code == PERMISSION
    assert not (folder / "elsewhere").exists()


def test_a_socket_is_its_owners_alone_and_a_dead_one_is_replaced(folder: Path) -> None:
    path = folder / "a.sock"
    first = bind_unix(path)
    assert mode(path) == 0o600
    first.close()
    with bind_unix(path) as second:
        second.listen()
        with pytest.raises(Refusal, match="live") as caught:
            bind_unix(path)
        assert caught.value.exit_code == CONFIGURATION


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "folder"])
def test_what_is_no_socket_stays(folder: Path, kind: str) -> None:
    path, precious = folder / "a.sock", folder / "precious"
    precious.write_text("keep")
    if kind == "file":
        path.write_text("keep")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(precious if kind == "link" else folder / "nowhere")
    before = path.lstat().st_ino
    with pytest.raises(Refusal):
        bind_unix(path)
    assert path.lstat().st_ino == before
    assert precious.read_text() == "keep"


def test_a_long_path_moves_the_sockets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    assert socket_folder(folder) == folder
    deep = [folder / ("d" * SOCKET_PATH_BYTES_MAX) / name / ".gastown" for name in "ab"]
    moved = [socket_folder(state) for state in deep]
    assert [path.parent for path in moved] == [folder, folder]
    assert moved[0] != moved[1]
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder / ("r" * SOCKET_PATH_BYTES_MAX)))
    assert str(socket_folder(deep[0])).startswith("/tmp/gastown-")


@pytest.mark.parametrize("kind", ["open", "link", "file"])
def test_a_planted_runtime_folder_is_refused(folder: Path, kind: str) -> None:
    planted, target = folder / "gastown-x", folder / "target"
    target.mkdir(mode=0o700)
    if kind == "link":
        planted.symlink_to(target)
    elif kind == "file":
        planted.write_text("")
    else:
        planted.mkdir()
        planted.chmod(0o755)
    with pytest.raises(Refusal) as caught:
        private_folder(planted)
    assert caught.value.exit_code == PERMISSION


def test_a_taken_port_is_replaced_only_where_nobody_asked_for_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        listen = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(Refusal) as caught:
            bind_tcp(listen, explicit=True)
        assert caught.value.exit_code == CONFIGURATION
        made, moved = bind_tcp(listen, explicit=False)
        with made:
            assert moved
            assert address(made) != listen


def test_an_admin_token_must_be_private(folder: Path) -> None:
    assert check_admin_token(folder) is False
    write_private(folder / ADMIN_TOKEN, b"secret\n")
    assert mode(folder / ADMIN_TOKEN) == 0o600
    assert check_admin_token(folder) is True
    (folder / ADMIN_TOKEN).chmod(0o640)
    with pytest.raises(Refusal) as caught:
        check_admin_token(folder)
    assert caught.value.exit_code == PERMISSION
    assert "secret" not in str(caught.value)


def test_a_written_file_is_whole_or_the_old_one(folder: Path) -> None:
    path = folder / DAEMON
    write_private(path, b'{"pid": 1}')
    write_private(path, b'{"pid": 2}')
    assert read_daemon(folder) == {"pid": 2}
    assert [found.name for found in folder.iterdir()] == [DAEMON]


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_daemon_json_that_is_none(folder: Path, text: str) -> None:
    (folder / DAEMON).write_text(text)
    assert read_daemon(folder) == {}


def test_tidying_leaves_what_is_not_the_daemons(folder: Path) -> None:
    (folder / "ledger.db").write_text("kept")
    (folder / DAEMON).write_text("{}")
    path = folder / "gastown.sock"
    bind_unix(path).close()
    tidy(folder, [path])
    assert [found.name for found in folder.iterdir()] == ["ledger.db"]
