"""Percentiles of bucketed latencies stay within the width of a bucket."""

from gastown.loadtest.histogram import EXACT, Histogram, bucket, upper_us
from hypothesis import given
from hypothesis import strategies as st

LATENCIES_US = st.integers(min_value=0, max_value=3_600_000_000)


@given(LATENCIES_US)
def test_a_bucket_holds_its_latencies_and_is_narrow(us: int) -> None:
    upper = upper_us(bucket(us))
    assert us <= upper <= us + max(0, us // 64)
    assert bucket(upper) == bucket(us)
    assert bucket(upper + 1) == bucket(us) + 1


def test_small_latencies_are_exact() -> None:
    assert [upper_us(bucket(us)) for us in range(EXACT)] == list(range(EXACT))


@given(st.lists(LATENCIES_US, min_size=1, max_size=60), st.sampled_from([1, 50, 95, 99, 100]))
def test_a_percentile_is_the_latency_so_many_did_not_exceed(latencies: list[int], percent: int) -> None:
    histogram = Histogram()
    for us in latencies:
        histogram.record(us * 1000)
    rank = max(1, -(-len(latencies) * percent // 100))
    true_us = sorted(latencies)[rank - 1]
    found = histogram.percentile_ms(percent)
    assert found is not None
    assert true_us <= round(found * 1000) <= true_us + true_us // 64


def test_merging_and_json_keep_every_count() -> None:
    one, two = Histogram({3: 2}), Histogram({3: 1, 200: 4})
    whole = Histogram.merged([one, Histogram.read(two.sparse())])
    assert whole.counts == {3: 3, 200: 4}
    assert whole.summary()["count"] == 7


def test_without_calls_there_is_no_percentile() -> None:
    assert Histogram().percentile_ms(99) is None
