"""The results as a page: docs/benchmarks.md, made from one run and from nothing else."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from .cells import Table, cell_key
from .targets import OURS, Found, Target, rows

METHOD = """\
One unit of work: claim the best ready bead, complete it; both acknowledged only after they are on the disk. A cell
takes up to {pairs:,} beads, or {seconds:g} s, off a queue that keeps a backlog of at least {backlog:,} beads of about
300 B with ten labels; W connections in a closed loop, one request in flight on each. Systems are visited in interleaved
rounds, each started fresh in a folder of its own on the same filesystem; a figure is the median of the rounds with the
least and the most in brackets. Ratios are formed within a round and then the median is taken. **Ratios are results;
absolute figures are context**: they move with the disk and with what else the machine does, so the time of one
`fdatasync` of 4 KiB was taken before each system, in the same minute.

All systems are driven by the same single-threaded compiled generator (`coordinator-rs`, `load-test`), which speaks each
one's own protocol. Its own ceiling against a fixed reply is below.

- **gastown**: `lines` is newline-delimited JSON-RPC on the unix socket, `http` HTTP/1.1 on the unix socket, `tcp` HTTP
  with bearer tokens on loopback.
- **beanstalkd -f0**: put and delete are synced before their reply; a reservation lives in memory only, so half of its
  pair costs no disk.
- **Redis, appendfsync always**: sorted sets of ready and leased beads, each step one server-side function.
- **PostgreSQL SKIP LOCKED**: `UPDATE ... FOR UPDATE SKIP LOCKED LIMIT 1 ... RETURNING` and `UPDATE`, prepared,
  `synchronous_commit` on, one commit each.
- **Starlette + aiosqlite**: the build one writes first, WAL and `synchronous=FULL`, one commit a request.

None of the peers keeps fencing tokens, replays, deadlines, histories or a hash chain; gastown does all of that in the
same commit.
"""

FOREIGN_CPU_MAX = 0.1  # cores; more takes a visible part of the two that a small machine has
SYNC_SPREAD_MAX = 3.0  # between the slowest and the fastest sync of a run on a disk of one's own


def number(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(values: Iterable[float]) -> str:
    """Median with least and most."""
    known = list(values)
    if not known:
        return "-"
    if len(known) == 1:
        return number(known[0])
    return f"{number(statistics.median(known))} [{number(min(known))}, {number(max(known))}]"


def grid(head: list[str], body: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in body]
    return "\n".join(lines) + "\n"


def doors_of(table: Table) -> list[tuple[str, str]]:
    """(system, door) in the order of the first visit, gastown first."""
    pairs = dict.fromkeys((key.split(" | ")[0], key.split(" | ")[1]) for key in table.cells)
    return sorted(pairs, key=lambda pair: not pair[0].startswith(OURS))


def workers_of(table: Table) -> list[int]:
    return sorted({int(key.split(" | ")[2]) for key in table.cells})


def rate_table(table: Table) -> str:
    counts = workers_of(table)
    body = [
        [f"{system}, {door}", *(spread(table.rates(cell_key(system, door, count))) for count in counts)]
        for system, door in doors_of(table)
    ]
    return grid(["pairs/s", *(f"W={count}" for count in counts)], body)


def latency_table(table: Table) -> str:
    counts = workers_of(table)
    body = [
        [f"{system}, {door}", *(latency_cell(table, cell_key(system, door, count)) for count in counts)]
        for system, door in doors_of(table)
    ]
    return grid(["claim P50 / P95 / P99, ms", *(f"W={count}" for count in counts)], body)


def latency_cell(table: Table, key: str) -> str:
    values = [table.median(key, f"claim_{name}_ms") for name in ("p50", "p95", "p99")]
    return " / ".join(number(value) for value in values) if any(v is not None for v in values) else "-"


def circumstances(table: Table) -> str:
    syncs = [us for one in table.rounds for us in one.sync_us.values()]
    foreign = [one.foreign_cpu for one in table.rounds]
    return (
        f"{len(table.rounds)} rounds; fdatasync {spread(syncs)} us; CPU of processes that do not belong to the bench: "
        f"{spread(foreign)} cores.\n"
    )


def caution(table: Table) -> str:
    """Said when the machine was not ours alone: then no verdict of the run is settled."""
    foreign = statistics.median([one.foreign_cpu for one in table.rounds] or [0.0])
    syncs = [us for one in table.rounds for us in one.sync_us.values()] or [1.0]
    why = []
    if foreign > FOREIGN_CPU_MAX:
        why.append(f"other processes used {foreign:.2f} cores of it (median of the rounds)")
    if max(syncs) / min(syncs) > SYNC_SPREAD_MAX:
        why.append(f"a sync took between {number(min(syncs))} and {number(max(syncs))} us")
    if not why:
        return ""
    return f"**This run shared the machine: {'; '.join(why)}. Its verdicts are leads, not results; repeat it alone.**\n"


def target_table(found: Found) -> str:
    return grid(
        ["target", "reached", "must", "want", ""],
        (
            [
                target.what,
                reached(target, median, low, high),
                limit(target, target.must),
                limit(target, target.want),
                word,
            ]
            for target, median, low, high, word in rows(found)
        ),
    )


def reached(target: Target, median: float | None, low: float, high: float) -> str:
    if median is None:
        return "-"
    return f"{spread([low, median, high]) if low != high else number(median)} {target.unit}"


def limit(target: Target, value: float | None) -> str:
    return "-" if value is None else f"{value:g} {target.unit}"


def losses(found: Found) -> str:
    """Where we stay below a peer or a target, in words."""
    lines = [
        f"- {target.what}: {number(median)} {target.unit}, {word}"
        + (
            f" (must {limit(target, target.must)})"
            if word.startswith("missed")
            else f" (want {limit(target, target.want)})"
        )
        for target, median, _, _, word in rows(found)
        if median is not None and word.startswith(("missed", "must met"))
    ]
    return (
        "\n".join(lines) + "\n"
        if lines
        else "Nothing is missed and every want is met: the wants are due for harder ones.\n"
    )


def ceiling_table(ceilings: Mapping[str, Mapping[str, float]]) -> str:
    body = [
        [key.replace(" | ", ", W="), number(cell["rate"]), f"{cell['cpu_share']:.0%}"] for key, cell in ceilings.items()
    ]
    return grid(["dialect, W", "pairs/s against a fixed reply", "generator's share of a core"], body)


def shares(table: Table) -> str:
    """The generator's CPU share in the cells of gastown."""
    values = [sample.cpu_share for key, samples in table.cells.items() if key.startswith(OURS) for sample in samples]
    return f"In gastown's cells the generator used {max(values):.0%} of a core at most.\n" if values else ""


def curve_table(curve: Mapping[str, Any]) -> str:
    body = []
    for size, cell in curve["sizes"].items():
        row = [f"{int(size):,}"]
        for name in ("no filter", "a label one in a thousand has"):
            row += [number(cell[name]["claim_p50_ms"]), number(cell[name]["cpu_us_a_pair"])]
        body.append([*row, number(cell["memory"]["rss_mb"])])
    head = ["ready beads", "claim P50, ms", "CPU us a pair", "rare label: P50, ms", "CPU us a pair", "RSS, MB"]
    notes = [f"One worker on the line socket claims and releases. Created at {curve['created_per_s']:,.0f} beads/s."]
    notes += [f"Start with {curve['start']['beads']:,} beads: {curve['start']['seconds']:.2f} s."]
    notes += [f"Skipped: {curve['skipped']}."] if "skipped" in curve else []
    return " ".join(notes) + "\n\n" + grid(head, body)


def flat(value: Any, path: str = "") -> list[list[str]]:
    """Nested figures as rows of name and figure."""
    if isinstance(value, Mapping):
        return [row for name, inner in value.items() for row in flat(inner, f"{path}, {name}" if path else str(name))]
    return [[path, number(value) if isinstance(value, int | float) else str(value)]]


def page(found: Found, facts: Mapping[str, Any], ceilings: Mapping[str, Mapping[str, float]]) -> str:
    """The whole page. `facts`: versions, hardware, date, options of the run."""
    parts = ["# Benchmarks\n", "Made by `make bench`; do not edit.\n", "## Method\n", METHOD.format(**facts)]
    parts += ["\n## Machine and versions\n", grid(["", ""], flat(facts["about"]))]
    parts += ["\n## Targets\n", caution(found.plain), "\n", target_table(found), "\n## Where we lose\n", losses(found)]
    parts += ["\n## Claim + complete, durable\n", circumstances(found.plain), "\n", rate_table(found.plain)]
    parts += ["\n", latency_table(found.plain)]
    if found.slow.rounds:
        parts += ["\n## With about 1 ms added to every sync\n", circumstances(found.slow), "\n", rate_table(found.slow)]
    missing = found.plain.faults | facts["missing"]
    if missing:
        parts += ["\n## Faults and gaps\n", *(f"- {name}: {why.splitlines()[-1]}\n" for name, why in missing.items())]
    parts += ["\n## The generator's ceiling\n", ceiling_table(ceilings), "\n", shares(found.plain)]
    if found.probes.get("curve"):
        parts += ["\n## Cost of a claim as the ledger grows\n", curve_table(found.probes["curve"])]
    others = {name: value for name, value in found.probes.items() if name != "curve" and value is not None}
    if others:
        parts += ["\n## Probes\n", grid(["", ""], flat(others))]
    return "\n".join(part.rstrip("\n") + "\n" if part != "\n" else "" for part in parts)
