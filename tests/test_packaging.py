"""What `pip install .` gives: the command, the spec and the migrations inside the package, and nothing beside it."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("gastown", "loadtest", "profiler", "migrations", "spec", "pyproject.toml", "README.md", "LICENSE")


def run(*words: str | Path, **more: object) -> str:
    ended = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]  # cwd and env only
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return str(ended.stdout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what is packaged, so that a build leaves nothing in the checkout."""
    home = tmp_path_factory.mktemp("wheel")
    copy = home / "source"
    copy.mkdir()
    for name in SOURCES:
        run("cp", "-R", ROOT / name, copy / name)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, "--wheel-dir", home, copy, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    (built,) = home.glob("gastown-*.whl")
    return built


@pytest.fixture(scope="module")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, which borrows the dependencies of this one but not its checkout."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    here = [path for path in sys.path if path.endswith("site-packages")]
    # a line of a .pth file is only a path: the editable hook of the lender is a .pth of its own and is not run
    (site / "borrowed.pth").write_text("\n".join(here) + "\n")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index",
        "--disable-pip-version-check", "--ignore-installed", wheel)  # fmt: skip
    return python


def test_the_wheel_holds_what_no_body_owns(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("migrations", "spec"):
        wanted = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".sql", ".json")]
        assert wanted
        missing = [path.name for path in wanted if f"gastown/{path.relative_to(ROOT)}" not in names]
        assert not missing, f"{folder}: {missing}"


def test_the_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"gastown"}, "a second top-level package would shadow others"
    sources = [*(ROOT / "gastown").rglob("*.py"), *(ROOT / "loadtest").rglob("*.py")]
    expected = {str(path.relative_to(ROOT)) for path in sources}
    expected = {name if name.startswith("gastown/") else f"gastown/{name}" for name in expected}
    assert expected <= names
    assert not [name for name in names if "test_" in name or name.endswith((".pyc", ".rs"))]


def test_the_license_travels(wheel: Path) -> None:
    assert [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("licenses/LICENSE")]


def test_the_profiler_is_no_module_of_its_own(bare_python: Path, tmp_path: Path) -> None:
    for name in ("profiler", "loadtest", "migrations", "spec"):
        ended = subprocess.run(
            [bare_python, "-c", f"import {name}"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert "ModuleNotFoundError" in ended.stderr, f"import {name} works outside the checkout"
        run(bare_python, "-c", f"import gastown.{name}", cwd=tmp_path)


def test_the_installed_command_works(bare_python: Path, tmp_path: Path) -> None:
    where = run(bare_python, "-c", "import gastown; print(gastown.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(bare_python.parents[1]), "the checkout was imported instead of the wheel"
    command = bare_python.with_name("gastown")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("GASTOWN_", "PYTHON"))}
    (tmp_path / "gastown.toml").write_text('listen = "127.0.0.1:0"\n')
    run(command, "init", cwd=tmp_path, env=clean)
    run(command, "up", cwd=tmp_path, env=clean)
    try:
        run(command, "add", "from the wheel", cwd=tmp_path, env=clean)
        assert "from the wheel" in run(command, "next", cwd=tmp_path, env=clean)
        run(command, "verify", cwd=tmp_path, env=clean)
    finally:
        run(command, "down", cwd=tmp_path, env=clean)


def test_there_is_one_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (entries,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    lines = [line for line in archive.read(entries).decode().splitlines() if "=" in line]
    assert lines == ["gastown = gastown.cli:main"]
