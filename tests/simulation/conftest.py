"""How many worlds are run: `pytest tests/simulation --seeds 5000`, and where they begin: `--first-seed 137`."""

from __future__ import annotations

import pytest

SEEDS = 200  # about 20 s


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=SEEDS, help="how many simulated worlds to run")
    parser.addoption("--first-seed", type=int, default=0, help="the seed of the first one")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        # The options are unknown when pytest starts from the root and meets this file late: then the defaults hold.
        first, count = metafunc.config.getoption("--first-seed", 0), metafunc.config.getoption("--seeds", SEEDS)
        metafunc.parametrize("seed", range(int(first), int(first) + int(count)))
