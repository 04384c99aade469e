"""What is counted and how it is shown; docs/metrics.md says the same."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from gastown.metrics import METHODS_MAX, SERIES, Histogram, Metrics, document

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def shown(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_the_page_is_made_from_the_table() -> None:
    assert PAGE.read_text() == document(), "run: python -m gastown.metrics > docs/metrics.md"


def test_every_documented_name_is_exposed() -> None:
    text = Metrics().render().decode()
    for series in SERIES:
        assert f"# TYPE {series.name}" in text
        assert series.name in document()
    assert "process_resident_memory_bytes" in text


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 2), ("2.0", 4), ("+Inf", 5)]
    assert histogram.total == 14.0


def test_what_is_counted_is_shown() -> None:
    metrics = Metrics()
    metrics.rpc("bead.get", "ok", 0.002)
    metrics.claim("granted")
    metrics.claim("granted")
    metrics.turn(0.001, 64)
    metrics.expired(3)
    metrics.gauges = lambda: {"beads": {"ready": 7}, "leases_live": 2, "ready_oldest_age": 1.5, "backpressure": True}
    samples = shown(metrics)
    assert samples["gastown_rpc_seconds_count", (("method", "bead.get"), ("outcome", "ok"))] == 1
    assert samples["gastown_claims_total", (("outcome", "granted"),)] == 2
    assert samples["gastown_turn_commands_sum", ()] == 64
    assert samples["gastown_lease_expiries_total", ()] == 3
    assert samples["gastown_beads", (("state", "ready"),)] == 7
    assert samples["gastown_backpressure", ()] == 1
    assert samples["gastown_body", (("body", "python"),)] == 1


def methods(metrics: Metrics) -> set[str]:
    return {dict(labels)["method"] for name, labels in shown(metrics) if name == "gastown_rpc_seconds_count"}


def test_a_series_appears_on_first_use() -> None:
    metrics = Metrics()
    assert methods(metrics) == set()
    metrics.rpc("bead.get", "ok", 0.1)
    assert methods(metrics) == {"bead.get"}


def test_a_method_nobody_knows_is_other() -> None:
    metrics = Metrics()
    metrics.methods = frozenset(("bead.get",))
    for n in range(1_000):
        metrics.rpc(f"no.such-{n}", "refused", 0.1)
    metrics.rpc("bead.get", "ok", 0.1)
    assert methods(metrics) == {"bead.get", "other"}


def test_without_a_table_the_labels_are_bounded_too() -> None:
    metrics = Metrics()
    for n in range(10_000):
        for outcome in ("ok", "refused", "failed"):
            metrics.rpc(f"method-{n}", outcome, 0.1)
    assert len(methods(metrics)) == METHODS_MAX + 1
    assert len(shown(metrics)) < 2_000
