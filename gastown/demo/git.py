"""git as the demo uses it: no settings of the user's, no hooks, no questions.

Law: arguments are a list, never a shell's text.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

TIMEOUT_S: Final = 30.0  # of one git command on a busy machine; a usual one takes 10 ms
NOBODY: Final = "gastown-demo"


def environment(name: str = NOBODY) -> dict[str, str]:
    """The environment of every process here: none of the user's settings of git or of gastown."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "GASTOWN_"))}
    mail = f"{name}@demo.invalid"
    return kept | {
        "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": mail, "GIT_COMMITTER_NAME": name, "GIT_COMMITTER_EMAIL": mail,
    }  # fmt: skip


def git(folder: Path, *arguments: str, name: str = NOBODY) -> str:
    """What git printed; RuntimeError with its words when it failed."""
    ended = subprocess.run(
        ["git", "-c", "core.hooksPath=/dev/null", *arguments],
        cwd=folder, env=environment(name), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    if ended.returncode != 0:
        raise RuntimeError(f"git {arguments[0]} failed: {ended.stderr.strip()}")
    return ended.stdout.strip()


def new_repository(origin: Path) -> None:
    """A bare repository whose branch main has one commit."""
    origin.mkdir()
    git(origin, "init", "--quiet", "--bare", "--initial-branch=main")
    tree = git(origin, "hash-object", "-t", "tree", "-w", "--stdin")  # standard input is empty: the empty tree
    git(origin, "update-ref", "refs/heads/main", git(origin, "commit-tree", tree, "-m", "A project begins"))
