"""Where the files that no body owns are: spec/ and migrations/, in an installed package and in a checkout.

Law: read only, and nothing of ours is imported. An installed package carries both folders as `gastown.spec` and
`gastown.migrations`; a checkout that was not installed has them beside this package.
"""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

FOLDERS: Final = ("spec", "migrations")


def folder(name: str) -> Traversable:
    """The folder `spec` or `migrations`; FileNotFoundError when this installation lost it."""
    if name not in FOLDERS:
        raise ValueError(f"no shared folder is called {name}")
    try:
        return resources.files(f"gastown.{name}")
    except ModuleNotFoundError:
        beside = Path(__file__).resolve().parent.parent / name
        if not beside.is_dir():
            raise FileNotFoundError(f"this installation has no folder {name}: install gastown again") from None
        return beside


def text(name: str, file: str) -> str:
    """The text of one file, such as text("spec", "queries.sql") or text("spec", "vectors/bead.json")."""
    return folder(name).joinpath(*file.split("/")).read_text(encoding="utf-8")


def files(name: str, suffix: str, inside: str = "") -> list[str]:
    """The names of the files that end in `suffix`, sorted; `inside` is a folder below, such as "vectors"."""
    place = folder(name).joinpath(inside) if inside else folder(name)
    return sorted(entry.name for entry in place.iterdir() if entry.is_file() and entry.name.endswith(suffix))
