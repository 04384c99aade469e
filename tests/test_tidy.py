"""Tidy is a test: who may import whom, how long things may be, which words are not used, and that nothing lies around.

The numbers are ratchets: they may be tightened, never loosened.
"""

import ast
import re
import statistics
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SKIPPED_FOLDERS = {"__pycache__", "target", ".venv"}

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
FUNCTION_LINES_MEDIAN_MAX = 12

# ---------------------------------------------------------------- what there is


@cache
def files(folder: str, suffix: str) -> list[Path]:
    return [path for path in sorted((ROOT / folder).rglob(f"*{suffix}")) if not SKIPPED_FOLDERS & set(path.parts)]


PRODUCT = [*files("gastown", ".py"), *files("loadtest", ".py"), *files("profiler", ".py")]
TESTS = files("tests", ".py")
SHIPPED = [*PRODUCT, *files("migrations", ".sql"), *files("spec", ".sql"), *files("coordinator-rs", ".rs")]
PAGES = [*ROOT.glob("*.md"), *files("docs", ".md")]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


# ---------------------------------------------------------------- who may import whom

LEAVES = ("model", "config", "metrics", "shared", "logs", "peers", "premises", "filesystem", "channel")
FAMILIES = {
    "protocol": ("protocol", "methods", "shapes", "results", "strict_json", "import_body", "openrpc"),
    "record": ("record", "spelling"),
    "server": ("server", "serve", "door", "desk", "lines", "head", "chunks", "bridge", "pages", "events", "answers"),
}
# A room may always import its own; `gastown` itself (the version) may be imported by all.
MAY_IMPORT = {
    **dict.fromkeys(LEAVES, ""),
    "record": "model",
    "rules": "model",
    "store": "model shared",
    "durable": "store",
    "protocol": "model",
    "ledger": "model record rules store",
    "engine": "model record rules store ledger durable metrics peers",
    "server": "model protocol engine metrics config logs peers premises store",
    "client": "channel protocol",
    "offline": "model record store durable ledger engine config peers premises",
    "demo": "client",
}  # fmt: skip
EVERYTHING = {"cli", "__main__"}  # how a person asks: may import all


def room(module: str) -> str:
    """The room of a module such as "gastown.engine.turn"; "" for the package itself."""
    first = module.split(".")[1] if "." in module else ""
    return next((family for family, members in FAMILIES.items() if first in members), first)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, package: str = "gastown") -> Iterator[tuple[int, str]]:
    """(line, module) of every import of `package`, relative ones resolved, wherever in the file it stands."""
    modules = {module_of(other) for other in files("gastown", ".py")}
    here = module_of(path).split(".")
    inside = here if path.name == "__init__.py" else here[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == package)
        elif isinstance(node, ast.ImportFrom):
            above = inside[: len(inside) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names if origin.split(".")[0] == package else ():
                deeper = f"{origin}.{alias.name}"
                yield node.lineno, deeper if deeper in modules else origin


@pytest.mark.parametrize("path", files("gastown", ".py"), ids=name_of)
def test_imports_follow_the_table(path: Path) -> None:
    mine = room(module_of(path))
    if mine in EVERYTHING or mine == "":
        return
    assert mine in MAY_IMPORT, f"{name_of(path)} is in no room of the import table: give it one"
    allowed = {"", mine, *MAY_IMPORT[mine].split()}
    wrong = [
        f"{name_of(path)}:{line} imports {module}" for line, module in imported(path) if room(module) not in allowed
    ]
    assert not wrong, f"{mine} may import {sorted(allowed - {''})}: {wrong}"


def test_the_table_names_only_rooms_that_exist() -> None:
    there = {room(module_of(path)) for path in files("gastown", ".py")}
    assert set(MAY_IMPORT) <= there
    assert {name for row in MAY_IMPORT.values() for name in row.split()} <= there


@pytest.mark.parametrize("path", files("gastown/rules", ".py"), ids=name_of)
def test_rules_are_pure_and_portable(path: Path) -> None:
    """No clock, chance, I/O, logger, float or round(): the same integers in both bodies."""
    for node in ast.walk(tree(path)):
        where = f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "level", 0) == 0:
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert set(names) <= {"__future__", "typing", "collections.abc"}, f"{where} imports {names}"
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), f"{where}: rates are permille"
        assert not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)), f"{where}: divide with //"
        assert not (isinstance(node, ast.Name) and node.id in ("round", "float", "open", "print")), where
        assert not (isinstance(node, ast.Name) and node.id == "Any" and path.name != "__init__.py"), (
            f"{where}: JSON ends in decide"
        )
        assert not isinstance(node, ast.Global | ast.Nonlocal | ast.AsyncFunctionDef), where


def test_the_black_box_knows_no_code_of_ours() -> None:
    """tests/conformance speaks bytes to any body, so it may not share a mistake with one."""
    assert not [
        (name_of(path), line) for path in files("tests/conformance", ".py") for line, _ in imported(path)
    ]  # fmt: skip


def test_only_the_client_side_has_no_engine() -> None:
    """An agent's process stays small: client and demo never reach store or engine."""
    heavy = {"engine", "store", "server", "ledger"}
    for path in (ROOT / "gastown" / "client.py", ROOT / "gastown" / "channel.py", *files("gastown/demo", ".py")):
        assert not heavy & {room(module) for _, module in imported(path)}, name_of(path)


# ---------------------------------------------------------------- SQL


def test_sql_stands_in_queries_sql() -> None:
    for path in files("gastown", ".py"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and path.name != "store.py":
                found = re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|REPLACE|WITH)\s+[A-Za-z(*]", node.value)
                assert not found, f"{name_of(path)}:{node.lineno}: a query belongs into spec/queries.sql"


def test_write_transactions_open_in_two_places() -> None:
    """`Store.begin`, which checks the epoch, and the start that takes the epoch. A migration is the third, once."""
    found = [name_of(path) for path in files("gastown", ".py") for _ in re.findall("BEGIN IMMEDIATE", path.read_text())]
    assert sorted(found) == ["gastown/engine/coordinator.py", "gastown/store.py", "gastown/store.py"]


def test_every_query_is_used_and_says_its_purpose() -> None:
    text = (ROOT / "spec" / "queries.sql").read_text()
    heads = re.findall(r"^-- name: (.+)\n(.*)", text, re.MULTILINE)
    code = "".join(path.read_text() for path in files("gastown", ".py"))
    for head, purpose in heads:
        assert re.fullmatch(r"[a-z_]+ :(one|many|exec)", head), head
        assert re.match(r"-- \S", purpose), f"{head} has no line of purpose"
        assert f'"{head.split()[0]}' in code, f"nobody asks {head}: delete it"


# ---------------------------------------------------------------- lengths


@pytest.mark.parametrize("path", [*SHIPPED, *TESTS], ids=name_of)
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_LINES_MAX, f"{name_of(path)} has {lines} lines: cut it where it answers two questions"


def functions(paths: list[Path]) -> Iterator[tuple[str, int]]:
    for path in paths:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                yield f"{name_of(path)}:{node.lineno} {node.name}", lines


def test_functions_are_short() -> None:
    assert [found for found in functions([*PRODUCT, *TESTS]) if found[1] > FUNCTION_LINES_MAX] == []
    assert statistics.median(lines for _, lines in functions(PRODUCT)) <= FUNCTION_LINES_MEDIAN_MAX


# ---------------------------------------------------------------- names and words

# Names reserved in one of our languages, and names that say nothing: with what to write instead.
BANNED_NAMES = {"type": "kind", "loop": "engine, running", "match": "found", "ref": "branch, commit", "obj": "its noun"}
EMPTY_NAMES = {"utils", "util", "helper", "helpers", "common", "manager", "base", "misc", "stuff"}
BANNED_WORDS = {
    r"\bTODO\b|\bFIXME\b|\bXXX\b|\bHACK\b": "do it now, or name the gap in ARCHITECTURE.md",
    r"\b[Hh]elpers?\b|\b[Mm]anagers?\b": "what it does",
    r"\b(?:white|black)list": "allowed, refused",
    r"\bmaster\b|\bslave\b": "leader, main",
    r"\bsanity\b|\bdummy\b": "say what is checked, or what stands in",
    r"\b[Oo]bviously\b|\b[Ss]imply\b|\bof course\b": "nothing",
    r"\b[Tt]ickets?\b": "bead",
    r"/work/|/root/|/home/\w": "a path of nobody's machine",
}


@pytest.mark.parametrize("path", [*PRODUCT, *TESTS], ids=name_of)
def test_names(path: Path) -> None:
    assert path.stem not in EMPTY_NAMES, f"{name_of(path)}: name the file after what it answers"
    for node in ast.walk(tree(path)):
        for name in given_names(node):
            where = f"{name_of(path)}:{getattr(node, 'lineno', 0)}: {name!r}"
            assert name not in BANNED_NAMES, f"{where}: say {BANNED_NAMES.get(name)}"
            is_noun = isinstance(node, ast.ClassDef | ast.FunctionDef)
            assert not (is_noun and name.lower() in EMPTY_NAMES), f"{where} says nothing"


def given_names(node: ast.AST) -> Iterator[str]:
    """The names a piece of code gives to things."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id


@pytest.mark.parametrize("path", [*SHIPPED, *TESTS, *PAGES], ids=name_of)
def test_words(path: Path) -> None:
    if path == Path(__file__).resolve():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for pattern, instead in BANNED_WORDS.items():
            found = re.search(pattern, line)
            assert not found, f"{name_of(path)}:{number}: not {found and found[0]!r} but {instead}"


# ---------------------------------------------------------------- reasons


@pytest.mark.parametrize("path", [*PRODUCT, *TESTS], ids=name_of)
def test_every_silenced_complaint_has_its_reason(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if re.search(r"# (type: ignore|noqa)", line) and path != Path(__file__).resolve():
            reasoned = re.search(r"# (type: ignore\[[^\]]+\]  # \S|noqa: [A-Z0-9]+(, [A-Z0-9]+)* \S)", line)
            assert reasoned, f"{name_of(path)}:{number}: which rule, and why?"


@pytest.mark.parametrize("path", files("gastown", ".py"), ids=name_of)
def test_every_limit_has_its_reason(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if re.match(r"[A-Z][A-Z0-9_]*_(MAX|MIN)(_[A-Z]+)?(: Final)?\b.* = ", line):
            commented = "#" in line or (number > 0 and lines[number - 1].startswith("#"))
            assert commented, f"{name_of(path)}:{number + 1}: {line.split(':')[0]} has no reason beside it"


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_every_file_opens_with_its_law(path: Path) -> None:
    text = ast.get_docstring(tree(path))
    assert text, f"{name_of(path)} does not say what it is"


# ---------------------------------------------------------------- tests


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_tests_wait_on_conditions(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            zero = node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            assert called != "sleep" or zero, f"{name_of(path)}:{node.lineno}: poll a condition with a deadline instead"


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_a_skip_says_why(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("skip", "skipif", "xfail"):
            reason = node.args[-1] if node.args and node.func.attr == "skip" else None  # type: ignore[attr-defined]  # it has one, see above
            named = next((word.value for word in node.keywords if word.arg in ("reason", "msg")), reason)
            assert named is not None, f"{name_of(path)}:{node.lineno}: why is it skipped?"


# ---------------------------------------------------------------- nothing lies around


def test_every_module_is_used() -> None:
    used = {module for path in [*PRODUCT, *TESTS] for _, module in imported(path)}
    verbs = (ROOT / "gastown" / "cli" / "__init__.py").read_text()
    named = {f"gastown.cli.{name}" for name in re.findall(r'"(\w+):\w+"', verbs)} | set(
        re.findall(r"gastown[.\w]+", verbs)
    )
    run = set(
        re.findall(r"-m[\", ]+(gastown[.\w]*)", "".join(path.read_text() for path in [*PRODUCT, ROOT / "Makefile"]))
    )
    packages = {module_of(path) for path in files("gastown", ".py") if path.name == "__init__.py"}
    entry = {"gastown.__main__"}
    left = {module_of(path) for path in files("gastown", ".py")} - used - named - run - packages - entry
    assert not left, f"nobody imports {sorted(left)}: delete it or use it"


def test_every_test_file_is_collected_or_imported() -> None:
    words = "".join(path.read_text() for path in TESTS)
    for path in TESTS:
        plain = path.name.startswith("test_") or path.name in ("conftest.py", "__init__.py")
        assert plain or re.search(rf"\b{path.stem}\b", words), f"{name_of(path)} is run by nobody"


def test_every_folder_of_code_is_packaged() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = settings["package-dir"]
    expected = {module_of(path) for path in files("gastown", ".py") if path.name == "__init__.py"}
    assert set(settings["packages"]) == expected | (set(folders) - {"gastown"})
    assert all((ROOT / folder).is_dir() for folder in folders.values())
