"""GET /metrics: the fixed names, bounded labels, no ids, and no caller who can make it grow."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from .door import SCOPES, ask, bearer, head, knock, rpc
from .town import STATES, Town, unique

ALWAYS = [
    "gastown_beads", "gastown_ready_oldest_age_seconds", "gastown_workers", "gastown_leases_live",
    "gastown_lease_expiries_total", "gastown_loop_lag_seconds", "gastown_body", "gastown_backpressure",
    "gastown_turn_seconds", "gastown_turn_commands", "gastown_store_read_seconds", "gastown_store_write_seconds",
    "gastown_claim_latency_seconds", "gastown_claims_total", "gastown_rpc_seconds",
    "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "process_start_time_seconds",
]  # fmt: skip
WORKER_STATES = {"idle", "working", "stalled", "draining", "gone"}
SERIES_MAX = 2_000
NAMES = 10_000  # distinct names of each sort a hostile caller sends
PATHS = 300
RPC_BUCKETS_MAX = 6
SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (-?[0-9.e+-]+|[+-]Inf|NaN)$")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\\]|\\\\.)*)"')


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


def page(town: Town) -> str:
    reply = town.http("GET", "/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain")
    return reply.body.decode()


def samples(town: Town) -> list[Sample]:
    found = []
    for line in page(town).splitlines():
        if line and not line.startswith("#"):
            parsed = SAMPLE.match(line)
            assert parsed, line
            found.append(Sample(parsed[1], dict(LABEL.findall(parsed[2] or "")), float(parsed[3])))
    return found


def values(town: Town, name: str, label: str) -> dict[str, float]:
    return {sample.labels[label]: sample.value for sample in samples(town) if sample.name == name}


def one(town: Town, name: str) -> float:
    (sample,) = [sample for sample in samples(town) if sample.name == name]
    return sample.value


def family(name: str) -> str:
    return re.sub(r"_(bucket|sum|count|created)$", "", name)


@pytest.fixture(scope="module")
def busy_town(plain_town: Town) -> Town:
    """A town where every series of this stage has had its first use."""
    worker, bead_id = plain_town.worker(), plain_town.bead()["id"]
    lease = plain_town.lease(worker, bead_id)
    plain_town.claim(worker, filter={"bead_id": "no-such"})
    plain_town.refusal("work.claim", worker_id="no-such")
    plain_town.refusal("no.such")
    plain_town.call("work.complete", bead_id=bead_id, token=lease["token"])
    plain_town.call("bead.get", id=bead_id)
    return plain_town


@pytest.mark.parametrize("name", ALWAYS)
def test_the_fixed_names_are_there(busy_town: Town, name: str) -> None:
    assert name in {family(sample.name) for sample in samples(busy_town)}


def test_every_family_says_what_it_is(busy_town: Town) -> None:
    text = page(busy_town)
    for name in {sample.name for sample in samples(busy_town) if sample.name.startswith("gastown_")}:
        names = f"({name}|{family(name)})"
        assert re.search(rf"^# HELP {names} \S", text, re.M), name
        assert re.search(rf"^# TYPE {names} (gauge|counter|histogram|summary)$", text, re.M), name


def test_labels_are_of_closed_sets(busy_town: Town) -> None:
    allowed: dict[tuple[str, str], set[str]] = {
        ("gastown_beads", "state"): set(STATES),
        ("gastown_workers", "state"): WORKER_STATES,
        ("gastown_claims_total", "outcome"): {"granted", "empty", "refused"},
        ("gastown_rpc_seconds", "method"): {*SCOPES, "other"},
        ("gastown_rpc_seconds", "outcome"): {"ok", "refused", "failed"},
        ("gastown_body", "body"): {"python", "hybrid", "rust"},
    }
    ours = [sample for sample in samples(busy_town) if sample.name.startswith("gastown_")]
    for sample in ours:
        for label, value in sample.labels.items():
            if label not in ("le", "quantile") and (family(sample.name), label) in allowed:
                assert value in allowed[family(sample.name), label], sample
    named = {(family(sample.name), label) for sample in ours for label in sample.labels} - {
        (family(sample.name), label) for sample in ours for label in ("le", "quantile")
    }
    assert set(allowed) <= named


def test_an_rpc_histogram_is_small(busy_town: Town) -> None:
    bounds = {sample.labels["le"] for sample in samples(busy_town) if sample.name == "gastown_rpc_seconds_bucket"}
    assert len(bounds - {"+Inf"}) <= RPC_BUCKETS_MAX


def test_outcomes_are_counted_where_they_belong(plain_town: Town) -> None:
    def claims() -> dict[str, float]:
        return values(plain_town, "gastown_claims_total", "outcome")

    worker, bead_id = plain_town.worker(), plain_town.bead()["id"]
    plain_town.lease(worker)
    plain_town.claim(worker, filter={"bead_id": "no-such"})
    plain_town.refusal("work.claim", worker_id="no-such")
    before = claims()
    lease = plain_town.lease(worker, bead_id)
    assert claims() == {**before, "granted": before["granted"] + 1}
    plain_town.claim(worker, filter={"bead_id": "no-such"})
    assert claims() == {**before, "granted": before["granted"] + 1, "empty": before["empty"] + 1}
    plain_town.refusal("work.claim", worker_id="no-such")
    assert claims() == {name: count + 1 for name, count in before.items()}
    plain_town.call("work.release", bead_id=bead_id, token=lease["token"])


def rpc_counts(town: Town) -> dict[tuple[str, str], float]:
    return {
        (sample.labels["method"], sample.labels["outcome"]): sample.value
        for sample in samples(town)
        if sample.name == "gastown_rpc_seconds_count"
    }


def test_calls_are_counted_by_method_and_outcome(plain_town: Town) -> None:
    before = rpc_counts(plain_town)
    plain_town.call("system.info")
    plain_town.refusal("bead.get", id="no-such")
    plain_town.refusal("no.such.method")
    after = rpc_counts(plain_town)
    for key in [("system.info", "ok"), ("bead.get", "refused"), ("other", "refused")]:
        assert after[key] == before.get(key, 0) + 1, key


def test_gauges_tell_what_stats_tell(plain_town: Town) -> None:
    worker = plain_town.worker()
    plain_town.beads(*[{"title": str(n)} for n in range(3)])
    lease = plain_town.lease(worker)
    stats = plain_town.call("queue.stats")
    beads = values(plain_town, "gastown_beads", "state")
    assert {state: count for state, count in beads.items() if count} == {
        state: count for state, count in stats["beads"].items() if count
    }
    workers = values(plain_town, "gastown_workers", "state")
    assert {state: count for state, count in workers.items() if count} == {
        state: count for state, count in stats["workers"].items() if count
    }
    assert one(plain_town, "gastown_leases_live") == beads["leased"]
    assert one(plain_town, "gastown_backpressure") == float(stats["backpressure"])
    assert one(plain_town, "gastown_ready_oldest_age_seconds") >= 0
    plain_town.call("work.complete", bead_id=lease["bead_id"], token=lease["token"])
    assert one(plain_town, "gastown_leases_live") == beads["leased"] - 1


def test_one_body_is_the_body(plain_town: Town) -> None:
    bodies = values(plain_town, "gastown_body", "body")
    assert [body for body, value in bodies.items() if value == 1] == [plain_town.daemon["body"]]


def test_no_id_and_no_name_is_a_label(plain_town: Town) -> None:
    name, label, rig = unique("name-in-metrics"), unique("label-in-metrics"), unique("rig-in-metrics")
    worker = plain_town.worker(name)
    bead = plain_town.bead(labels=[label], rig=rig)
    plain_town.lease(worker, bead["id"])
    text = page(plain_town)
    assert not [word for word in (name, label, rig, worker, bead["id"]) if word in text]


def hostile_batches() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """A hundred calls a time, ten thousand of each sort of name."""
    for start in range(0, NAMES, 100):
        names = [f"n{n}-{unique()}" for n in range(start, start + 100)]
        yield [(f"no.such.{name}", {}) for name in names]
        yield [("worker.register", {"name": name}) for name in names]
        yield [("bead.create", {"beads": [{"title": name, "labels": [name], "rig": name, "issue_type": "x" + str(n)}
                                          for n, name in enumerate(names)]})]  # fmt: skip


def test_ten_thousand_names_stay_under_two_thousand_series(town: Town) -> None:
    for batch in hostile_batches():
        document = [
            {"jsonrpc": "2.0", "id": n, "method": method, "params": params} for n, (method, params) in enumerate(batch)
        ]
        assert town.post(document).status == 200
    with town.connect() as connection:
        for n in range(PATHS):
            connection.send(head("GET", f"/path-{n}", "Host: localhost"))
            assert connection.read_reply().status == 404
    for n in range(10):
        rows = [f"Host: {town.daemon['listen']}", "Content-Type: application/json", bearer(f"guess-{n}")]
        knock(town, rpc(*rows, f"User-Agent: agent-{n}", body=ask("system.info")), tcp=True)
    found = samples(town)
    assert len(found) < SERIES_MAX
    assert "path-" not in json.dumps([sample.labels for sample in found])
    assert rpc_counts(town)["other", "refused"] >= NAMES
