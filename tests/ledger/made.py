"""Generated JSONL: records of every dialect, clean and dirty, as the text of lines."""

import json
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

LAW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure

IDS = st.sampled_from(["gt-1", "gt-2", "gt-2.1", "gt-10", "my_app-x1", "B.9"])
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
NUMBER = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(["-0", "1.0", "-0.0", "1e3", "1E-7", "0.10", "1e400", "123456789012345678901234567890.5"]),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)
INSTANT = st.builds(
    "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{}{}".format,
    st.one_of(st.just(2026), st.integers(0, 9999)),
    st.integers(1, 12),
    st.integers(1, 28),
    st.integers(0, 23),
    st.integers(0, 59),
    st.integers(0, 59),
    st.sampled_from(["", ".5", ".120", ".999999999", ".000000001"]),
    st.sampled_from(["Z", "+00:00", "-08:00", "+05:45"]),
)


def string(value: str, escaped: bool) -> str:
    return json.dumps(value, ensure_ascii=escaped)


JSON_STRING = st.builds(string, TEXT, st.booleans())


def as_object(pairs: dict[str, str]) -> str:
    return "{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in pairs.items()) + "}"


def as_array(values: list[str]) -> str:
    return "[" + " , ".join(values) + "]"


ANY_JSON: st.SearchStrategy[str] = st.recursive(
    st.one_of(NUMBER, JSON_STRING, st.sampled_from(["true", "false", "null"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(as_array), st.dictionaries(TEXT, inner, max_size=3).map(as_object)
    ),
    max_leaves=6,
)
UNKNOWN = st.dictionaries(
    st.one_of(st.sampled_from(["version", "attempt", "zeta", "content_hash", "Priority"]), TEXT.map("x_{}".format)),
    ANY_JSON,
    max_size=3,
)
METADATA = st.one_of(
    st.dictionaries(TEXT, ANY_JSON, max_size=2).map(as_object),
    st.dictionaries(TEXT, ANY_JSON, max_size=2).map(lambda pairs: json.dumps(as_object(pairs))),
    st.sampled_from(['"{}"', '""', "null", '"{\\"gate\\":\\"any-children\\"}"', '"{bad"']),
)
KINDS = st.sampled_from(["blocks", "parent_child", "parent-child", "blocked-by", "waits-for", "related", "my_kind"])


@st.composite
def edges(draw: st.DrawFn) -> str:
    edge = {"issue_id": draw(IDS), "depends_on_id": draw(IDS), "type": draw(KINDS)}
    pairs = {key: json.dumps(value) for key, value in edge.items()}
    pairs |= draw(st.fixed_dictionaries({}, optional={"metadata": METADATA, "created_at": INSTANT.map(json.dumps)}))
    return as_object(dict(draw(st.permutations(list(pairs.items())))))


@st.composite
def comments(draw: st.DrawFn) -> str:
    name = draw(st.one_of(st.integers(-5, 20).map(str), st.sampled_from(['"u-1"', '"u-2"', str(2**80), "null"])))
    pairs = {"id": name, "author": draw(JSON_STRING), "text": draw(JSON_STRING)}
    pairs |= draw(st.fixed_dictionaries({}, optional={"created_at": INSTANT.map(json.dumps), "mood": ANY_JSON}))
    return as_object(dict(draw(st.permutations(list(pairs.items())))))


KNOWN: dict[str, st.SearchStrategy[str]] = {
    "_type": st.just('"issue"'),
    "description": JSON_STRING,
    "notes": JSON_STRING,
    "status": st.sampled_from(['"open"', '"closed"', '"tombstone"', '"in_progress"', '"ready_for_human"', '""']),
    "priority": st.integers(0, 4).map(str),
    "issue_type": st.sampled_from(['"task"', '"feat"', '"mr"', '"slot"', '""']),
    "assignee": JSON_STRING,
    "estimated_minutes": st.integers(0, 500).map(str),
    "created_at": INSTANT.map(json.dumps),
    "updated_at": INSTANT.map(json.dumps),
    "closed_at": INSTANT.map(json.dumps),
    "close_reason": JSON_STRING,
    "defer_until": INSTANT.map(json.dumps),
    "metadata": METADATA,
    "labels": st.lists(JSON_STRING, max_size=4).map(as_array),
    "dependencies": st.lists(edges(), max_size=4).map(as_array),
    "comments": st.lists(comments(), max_size=4).map(as_array),
    "pinned": st.sampled_from(["true", "false", "null"]),
    "wisp": st.sampled_from(["true", "false"]),
    "compaction_level": st.integers(0, 2).map(str),
    "dependency_count": st.just("3"),
    "rig": st.one_of(JSON_STRING, ANY_JSON),
}


@st.composite
def records(draw: st.DrawFn, names: st.SearchStrategy[str] = IDS) -> bytes:
    """One line of a record that every importer should take."""
    pairs: dict[str, str] = {"id": json.dumps(draw(names)), "title": json.dumps("t" + draw(TEXT))}
    pairs |= draw(st.fixed_dictionaries({}, optional=KNOWN))
    pairs |= draw(UNKNOWN)
    return as_object(dict(draw(st.permutations(list(pairs.items()))))).encode()


@st.composite
def memories(draw: st.DrawFn) -> bytes:
    pairs = {"_type": '"memory"', "key": json.dumps("k" + draw(TEXT)), "value": draw(ANY_JSON)}
    return as_object(pairs).encode()


HEADERS = st.integers(0, 2**62).map(lambda high: b'{"_schema":"gastown/1","token_high":%d}' % high)
FILES = st.lists(st.one_of(records(), records(), records(), memories(), HEADERS), max_size=8).map(b"\n".join)


def meaning(text: bytes) -> Any:
    """What a JSON text says, the text of its numbers included, whatever its white space and escapes."""
    return json.loads(text, parse_int=lambda digits: ("number", digits), parse_float=lambda digits: ("number", digits))
