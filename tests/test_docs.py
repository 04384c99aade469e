"""The pages say what the program does: every command, setting, metric and method is there, and what is there exists."""

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click import Group

from gastown.cli import PLACES, gastown
from gastown.config import SETTINGS
from gastown.methods import METHODS
from gastown.metrics import SERIES
from gastown.model import ERRORS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MAKEFILE = (ROOT / "Makefile").read_text()
GENERATED = dict(re.findall(r"^\t([\w/.]+):([a-z][\w.]*)", MAKEFILE, re.MULTILINE))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# ---------------------------------------------------------------- generated pages


def test_the_makefile_names_the_generated_pages() -> None:
    assert set(GENERATED) >= {"docs/cli.md", "docs/wire.md", "docs/metrics.md", "spec/openrpc.json"}


@pytest.mark.parametrize("page", sorted(GENERATED))
def test_a_generated_page_is_what_its_generator_makes(page: str) -> None:
    made = subprocess.run([sys.executable, "-m", GENERATED[page]], capture_output=True, check=True, cwd=ROOT)
    assert made.stdout == (ROOT / page).read_bytes(), f"run: python -m {GENERATED[page]} > {page}"


@pytest.mark.parametrize("page", [page for page in sorted(GENERATED) if page.endswith(".md")])
def test_a_generated_page_says_so(page: str) -> None:
    assert f"python -m {GENERATED[page]}" in text(page)


# ---------------------------------------------------------------- what must be there


def test_every_method_error_and_object_is_in_the_wire_reference() -> None:
    page = text("docs/wire.md")
    assert [method for method in METHODS if f"| `{method}`" not in page] == []
    assert [kind for kind, error in ERRORS.items() if f"| {error.code} | {kind} |" not in page] == []


def test_every_command_setting_and_exit_code_is_in_the_manual() -> None:
    page = text("docs/cli.md")
    assert [verb for verb in PLACES if f"### gastown {verb}\n" not in page] == []
    assert [key for key in SETTINGS if f"| `{key}` |" not in page] == []
    from gastown.cli import exits

    codes = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert [code for code in codes if f"| {code} |" not in page] == []


def test_every_metric_is_documented() -> None:
    page = text("docs/metrics.md")
    assert [series.name for series in SERIES if f"`{series.name}" not in page] == []


def test_every_file_of_the_state_folder_is_explained() -> None:
    page = text("docs/operations.md")
    code = "".join(path.read_text() for path in sorted((ROOT / "gastown").rglob("*.py")))
    found = set(re.findall(r'"((?:ledger|admin|daemon|lines|gastown)\.(?:db|lock|token|json|log|sock))"', code))
    assert found >= {"ledger.db", "ledger.lock", "admin.token", "daemon.json"}
    assert [name for name in [*found, "high_water", "ballast", "workers/"] if name not in page] == []


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    names = {re.split(r"[<>=;~ \[]", line)[0] for line in wanted}
    table = text("CONTRIBUTING.md").split("## Dependencies")[1]
    rows = "\n".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| "))
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", rows)] == []
    listed = set(re.findall(r"[a-z][a-z-]+", rows)) - {"package"}
    assert listed <= names, f"not in pyproject.toml: {listed - names}"


def test_every_invariant_says_where_it_is_checked() -> None:
    rows = re.findall(r"^\| (I\d+) \| .+ \| (.+) \|$", text("ARCHITECTURE.md"), re.MULTILINE)
    assert [name for name, _ in rows] == [f"I{number}" for number in range(1, 18)]
    for name, places in rows:
        for place in re.findall(r"`(test_\w+)`", places):
            found = [*ROOT.glob(f"tests/{place}.py"), *ROOT.glob(f"tests/*/{place}.py")]
            assert found, f"{name} names {place}, which is not there"


def test_the_import_table_is_the_one_that_is_held() -> None:
    import test_tidy

    table = text("ARCHITECTURE.md").split("## Who may import whom")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", table, re.MULTILINE))
    leaves = next(cell for cell in rows if rows[cell] == "nothing of ours")
    assert set(re.findall(r"`(\w+)`", leaves)) == set(test_tidy.LEAVES)
    for room, allowed in test_tidy.MAY_IMPORT.items():
        if room in test_tidy.LEAVES:
            continue
        cell = next(cell for cell in rows if re.match(rf"`?{room}\b", cell))
        assert set(rows[cell].split(", ")) == set(allowed.split()), room
        if room in test_tidy.FAMILIES:
            assert set(re.findall(r"`(\w+)`", cell)) == set(test_tidy.FAMILIES[room]), room


# ---------------------------------------------------------------- what is there must exist


def commands(page: Path) -> Iterator[tuple[str, ...]]:
    """The words after `gastown` in code of a page; a dotted module or a path is no command."""
    source = page.read_text(encoding="utf-8")
    code = [*re.findall(r"`([^`\n]+)`", source), *re.findall(r"^ {4}(.+)$", source, re.MULTILINE)]
    for piece in code:
        for words in re.findall(r"(?:^|&& )gastown ((?:[a-z-]+ ?)+)", piece):
            yield tuple(words.split())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    for words in commands(page):
        assert words[0] in PLACES, f"{name_of(page)}: there is no `gastown {words[0]}`"
        verb = gastown.get_command(None, words[0])  # type: ignore[arg-type]  # the context is not looked at
        if isinstance(verb, Group) and len(words) > 1:
            assert words[1] in verb.commands, f"{name_of(page)}: there is no `gastown {words[0]} {words[1]}`"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_of_a_page_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    named = set(re.findall(r"(?:^ {4}|`)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{name_of(page)} links to {target}"
        assert there.is_relative_to(ROOT), f"{name_of(page)} links out of the project: {target}"
        assert not anchor or anchor in anchors(there), f"{name_of(page)}: no heading for {target}"


def test_files_of_the_map_exist() -> None:
    map_of = text("ARCHITECTURE.md").split("## Map")[1].split("\n## ")[0]
    for line in map_of.splitlines():
        for name in re.findall(r"\b([a-z_]+\.(?:py|json|sql))\b", line):
            found = [*(ROOT / "gastown").rglob(name), *(ROOT / "spec").rglob(name)]
            assert found, f"the map names {name}"
        top = re.match(r" {4}([a-z-]+)/ ", line)
        assert top is None or (ROOT / top[1]).is_dir(), line


def test_the_changelog_knows_this_version() -> None:
    version = tomllib.loads(text("pyproject.toml"))["project"]["version"]
    assert re.search(rf"^## {re.escape(version)}\b", text("CHANGELOG.md"), re.MULTILINE)


# ---------------------------------------------------------------- the first page really works


@pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "curl", "grep"))), reason="the lines need bash, curl and grep; one is not here"
)
def test_the_lines_for_an_agent_work() -> None:
    """The block of the README, as it stands, against a daemon that was started as the README says."""
    block = re.search(r"```sh\n(.+?)```", text("README.md"), re.DOTALL)
    assert block is not None
    with tempfile.TemporaryDirectory(prefix="gt-") as folder:
        (Path(folder) / "gastown.toml").write_text('listen = "127.0.0.1:0"\n')
        command = f"{sys.executable} -m gastown"
        script = f"""
            set -euo pipefail
            gastown() {{ {command} "$@"; }}
            gastown init && gastown up && trap 'gastown down' EXIT
            bead_id=$(gastown add "try the lines" --json | grep -o '"id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4)
            {block[1]}
            echo; gastown show "$bead_id" --json
        """
        ended = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert '"close_reason":"done"' in re.sub(r"\s", "", ended.stdout)
