"""The compiled generator from source: its own tests, and a build without a warning."""

import os
import shutil
import subprocess

import pytest
from gastown.loadtest.generator import CRATE

SLOW = "GASTOWN_TEST_CARGO"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("words", [["test", "--quiet"], ["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]])
def test_the_crate_is_sound(words: list[str]) -> None:
    if shutil.which("cargo") is None:
        pytest.skip("cargo is not installed")
    if not os.environ.get(SLOW):
        pytest.skip(f"a build takes minutes; {SLOW}=1 asks for it")
    command = ["cargo", words[0], "--locked", *words[1:]]
    done = subprocess.run(command, cwd=CRATE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
