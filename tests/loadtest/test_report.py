"""From samples to a page: ratios within a round, verdicts, quantiles of a scraped histogram."""

import io
from typing import Any

import pytest
from gastown.loadtest.cells import Round, Sample, Table, cell_key
from gastown.loadtest.check import judge
from gastown.loadtest.document import caution, curve_table, page, spread
from gastown.loadtest.plan import Outcome
from gastown.loadtest.probes import percentile, read_buckets
from gastown.loadtest.report import print_run
from gastown.loadtest.targets import BEANSTALKD, OURS, POSTGRES, Found, Target, rows
from rich.console import Console

EXPOSITION = """
# TYPE gastown_turn_seconds histogram
gastown_turn_seconds_bucket{le="0.001"} 50
gastown_turn_seconds_bucket{le="0.01"} 90
gastown_turn_seconds_bucket{le="+Inf"} 100
gastown_turn_seconds_sum 0.5
gastown_turn_seconds_count 100
"""


def sample(number: int, rate: float, p99_ms: float = 10.0) -> Sample:
    return Sample(number, rate, 1.0, 5.0, p99_ms, 0.2)


def table(**cells: list[float | None]) -> Table:
    """`ours` and `theirs` by round; None where a round has no sample. All at W=100 over TCP."""
    names = {"ours": OURS, "theirs": BEANSTALKD}
    found = Table(rounds=[Round({OURS: 100.0}, 0.1, 3.0)])
    for who, rates in cells.items():
        key = cell_key(names[who], "tcp", 100)
        found.cells[key] = [sample(n, rate) for n, rate in enumerate(rates) if rate is not None]
    return found


def verdict_on(found: Found, what: str) -> tuple[float | None, str]:
    return next((median, word) for target, median, _, _, word in rows(found) if target.what.startswith(what))


def test_ratios_are_formed_within_a_round() -> None:
    both = table(ours=[100.0, 10.0, 30.0], theirs=[100.0, None, 10.0])
    assert both.ratios(cell_key(OURS, "tcp", 100), cell_key(BEANSTALKD, "tcp", 100)) == [1.0, 3.0]


@pytest.mark.parametrize(("ours", "word"), [(50.0, "missed"), (60.0, "must met"), (100.0, "want met")])
def test_a_ratio_is_judged_against_must_and_want(ours: float, word: str) -> None:
    found = Found(table(ours=[ours], theirs=[100.0]), Table(), {})
    assert verdict_on(found, "HTTP against beanstalkd") == (ours / 100, word)


def test_a_figure_is_better_when_it_is_smaller() -> None:
    target = Target("P99", lambda _: [], 25, 8, "ms")
    assert [target.verdict(ms) for ms in (8, 9, 26)] == ["want met", "must met", "missed"]
    assert Target("RSS", lambda _: [], 45, None, "MB").verdict(45) == "met"


def test_what_was_not_measured_is_not_met() -> None:
    found = Found(Table(), Table(), {"turn_times": {}})
    assert {word for *_, word in rows(found)} == {"not measured"}


def test_postgres_is_met_where_it_is_best() -> None:
    plain = Table()
    for workers, rate in ((30, 90.0), (100, 20.0)):
        plain.cells[cell_key(POSTGRES, "unix", workers)] = [sample(0, rate)]
    plain.cells[cell_key(OURS, "http", 100)] = [sample(0, 45.0)]
    assert verdict_on(Found(plain, Table(), {}), "HTTP against PostgreSQL") == (0.5, "missed")


def test_growth_compares_the_largest_ledger_with_the_smallest() -> None:
    cell = {"claim_p50_ms": 1.0, "cpu_us_a_pair": 100.0}
    dearer = {"claim_p50_ms": 1.0, "cpu_us_a_pair": 140.0}
    rare = "a label one in a thousand has"
    sizes = {"1000": {"no filter": cell, rare: cell}, "1000000": {"no filter": dearer, rare: cell}}
    curve = {
        "sizes": sizes,
        "start": {"beads": 1_000_000, "seconds": 4.0},
        "growth": {"no filter": [1.4], rare: [1.0, 2.0]},
    }
    found = Found(Table(), Table(), {"curve": curve})
    assert verdict_on(found, "claim cost") == (1.4, "met")
    assert verdict_on(found, "the same, a label") == (1.5, "met, not in every round")
    del sizes["1000000"]
    assert verdict_on(found, "claim cost") == (None, "not measured")
    assert verdict_on(found, "start with 1,000,000") == (4.0, "met")


def test_a_scraped_histogram_answers_quantiles() -> None:
    buckets = read_buckets(EXPOSITION, "gastown_turn_seconds")
    assert buckets is not None
    assert buckets.quantile_ms(0.25) == pytest.approx(0.5)
    assert buckets.quantile_ms(0.7) == pytest.approx(5.5)
    assert buckets.quantile_ms(0.99) == pytest.approx(10.0)  # beyond the last bound nothing more is known
    assert buckets.mean_ms == pytest.approx(5.0)
    assert buckets.since(buckets).counts == (0, 0, 0)
    assert read_buckets(EXPOSITION, "gastown_store_read_seconds") is None


def test_percentiles_of_a_list() -> None:
    assert [percentile([3.0, 1.0, 2.0, 4.0], p) for p in (50, 95, 100)] == [2.0, 4.0, 4.0]
    assert spread([3.0, 1.0, 2.0]) == "2.00 [1.00, 3.00]"
    assert spread([]) == "-"


FACTS: dict[str, Any] = {"about": {"date": "today"}, "missing": {"Redis": "not installed"}, "backlog": 5, "pairs": 7}


def test_the_page_says_what_was_found_and_what_was_not() -> None:
    found = Found(table(ours=[50.0, 55.0], theirs=[100.0, 100.0]), Table(), {"wake_up": {"p95_ms": 12.0}})
    text = page(found, FACTS | {"seconds": 1.0}, {"http | 100": {"rate": 1e5, "cpu_share": 0.9}})
    assert "| gastown, tcp | 52.5 [50.0, 55.0] |" in text
    assert "- HTTP against beanstalkd -f0 (TCP both): 0.53 x, missed (must 0.6 x)" in text
    assert "- Redis: not installed" in text
    assert "| http, W=100 | 100,000 | 90% |" in text
    assert "| wake_up, p95_ms | 12.0 |" in text
    assert "1 ms added" not in text


def test_a_run_on_a_shared_machine_says_so() -> None:
    quiet = Table(rounds=[Round({OURS: 100.0, BEANSTALKD: 150.0}, 0.05, 3.0)])
    assert caution(quiet) == ""
    busy = Table(rounds=[Round({OURS: 100.0}, 0.8, 3.0), Round({OURS: 900.0}, 0.6, 3.0)])
    assert "0.70 cores" in caution(busy)
    assert "between 100 and 900 us" in caution(busy)
    assert "repeat it alone" in page(Found(busy, Table(), {}), FACTS | {"seconds": 1.0}, {})


def test_a_curve_that_stopped_early_says_so() -> None:
    cell = {"claim_p50_ms": 1.0, "cpu_us_a_pair": 100.0}
    one = {"no filter": cell, "a label one in a thousand has": cell, "memory": {"rss_mb": 44.0}}
    text = curve_table(
        {
            "sizes": {"1000": one},
            "created_per_s": 5000.0,
            "start": {"beads": 1000, "seconds": 0.5},
            "skipped": "1,000,000",
        }
    )
    assert "Skipped: 1,000,000." in text
    assert "| 1,000 | 1.00 | 100 | 1.00 | 100 | 44.0 |" in text


@pytest.mark.parametrize(("doubled", "words"), [([], "0 doubled"), ([1, 2], "1 doubled")])
def test_a_run_is_told_with_its_verdict(doubled: list[int], words: str) -> None:
    outcome = Outcome("python", 2, 1.0, 0.5, granted=1, settled=1, refused={"1007": 2})
    verdict = judge(["a"], {"a": "closed"}, {"a": doubled or [1]}, [("a", 1)])
    out = io.StringIO()
    found = {"transport": "lines", "nested": False, **outcome.as_dict(), "check": verdict.as_dict()}
    found["ceiling"] = {"pairs_per_s": 1.2, "cpu_share": 1.0}
    print_run(found, Console(file=out, width=200))
    assert words in out.getvalue()
    assert "may be the bottleneck" in out.getvalue()
    assert "'1007': 2" in out.getvalue()
