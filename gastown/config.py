"""What a town may set, and where each value came from: flag > environment > gastown.toml > default.

Law: nothing of ours is imported; the defaults of the rules come in as an argument, so they are written once, in
model.Policy. Keys are flat: `ttl_ms` is `--set ttl_ms=`, GASTOWN_TTL_MS and `ttl_ms = ` in gastown.toml. A key nobody
knows, or a value of the wrong kind or out of range, is a ConfigError that names the place; nothing is clamped.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

FILE: Final = "gastown.toml"
ENV_PREFIX: Final = "GASTOWN_"
DAY_MS: Final = 24 * 3_600_000
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

Value = int | str


class ConfigError(Exception):
    """A setting that cannot be obeyed; the text names file, line and key and says what would be right. Exit code 78."""


class Setting(NamedTuple):
    """One key: its unit and reason for people, its bounds for the check. A text setting has no bounds."""

    key: str
    unit: str
    reason: str
    low: int = 0
    high: int = 0
    default: Value | None = None  # None: the rules' own default, given to `load`


# Settings that rules obey: one for each field of model.Policy, in its order.
POLICY: Final = (
    Setting("aging_ms", "ms", "waiting this long raises a bead by one priority step", 1, 365 * DAY_MS),
    Setting("ttl_ms", "ms", "how long a lease lasts without a beat", 1, 30 * DAY_MS),
    Setting("ttl_ms_min", "ms", "the shortest lease a claim may ask for", 1, 30 * DAY_MS),
    Setting("ttl_ms_max", "ms", "the longest lease a claim may ask for", 1, 30 * DAY_MS),
    Setting("failures_max", "failures", "this failure makes a bead a dead letter", 1, 1000),
    Setting("losses_max", "losses", "this lapsed lease makes a bead a dead letter", 1, 1000),
    Setting("backoff_ms", "ms", "the wait after the first failure; it doubles with each", 0, 30 * DAY_MS),
    Setting("backoff_ms_max", "ms", "the longest wait after a failure", 0, 30 * DAY_MS),
    Setting("stalled_ms", "ms", "a worker with a lease and silent this long counts as stalled", 1, 30 * DAY_MS),
    Setting("gone_ms", "ms", "a worker silent this long is gone and must register again", 1, 365 * DAY_MS),
    Setting("forget_ms", "ms", "a gone worker leaves the list after this", 1, 365 * DAY_MS),
    Setting("workers_min", "workers", "the fewest workers scale.advice recommends", 0, 100_000),
    Setting("workers_max", "workers", "the most workers scale.advice recommends", 1, 100_000),
    Setting("queue_depth_target", "beads per worker", "more ready than this: scale.advice asks for more", 1, 10**6),
    Setting("queue_depth_max", "beads", "above this many ready, scale.advice reports backpressure", 1, 10**9),
    Setting("scale_cooldown_ms", "ms", "scale.advice changes its number at most this often", 0, DAY_MS),
)

# Settings of the server and the storage.
SERVICE: Final = (
    Setting("listen", "host:port", "where TCP listens, loopback only; port 0: a free one", default="127.0.0.1:7717"),
    Setting("prefix", "text", "how minted ids begin; empty: the ledger's most frequent, else the folder", default=""),
    Setting("connections_max", "connections", "open at once; beyond, 503", 16, 65_536, 4_096),
    Setting("connections_per_credential", "connections", "TCP connections of one token; beyond, 503", 1, 65_536, 64),
    Setting("requests_max", "rows", "request ids kept, 2 KB each; when full: 1006", 1_000, 10**9, 1_000_000),
    Setting("storage_low_bytes", "bytes", "with less disk free, creates are refused", 0, 1 << 40, 64 << 20),
    Setting("log_level", "word", "the least that is logged: " + ", ".join(LOG_LEVELS), default="info"),
)  # fmt: skip

SETTINGS: Final = {setting.key: setting for setting in POLICY + SERVICE}

ORDERED: Final = (("ttl_ms_min", "ttl_ms"), ("ttl_ms", "ttl_ms_max"), ("backoff_ms", "backoff_ms_max"),
                  ("workers_min", "workers_max"))  # fmt: skip


class Config(NamedTuple):
    """Every value in force. `policy` has exactly the fields of model.Policy; `sources` says where each key came from:
    "default", "flag", "GASTOWN_X" or "gastown.toml:LINE"."""

    listen: str
    prefix: str
    connections_max: int
    connections_per_credential: int
    requests_max: int
    storage_low_bytes: int
    log_level: str
    policy: dict[str, int]
    sources: dict[str, str]

    @property
    def listen_explicit(self) -> bool:
        """Whether somebody asked for this address: then a taken port is an error and not replaced by a free one."""
        return self.sources["listen"] != "default"

    def value(self, key: str) -> Value:
        """The value of any key of SETTINGS."""
        if key in self.policy:
            return self.policy[key]
        value: Value = getattr(self, key)
        return value


def load(
    town: Path,
    policy: Mapping[str, int],
    flags: Mapping[str, str | None] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """The settings of the town in folder `town`. `policy` holds the rules' defaults, `flags` texts of the command line
    (None: not given). Raises ConfigError."""
    values: dict[str, Value] = {s.key: policy[s.key] if s.default is None else s.default for s in SETTINGS.values()}
    sources = dict.fromkeys(values, "default")
    defaults = dict(values)
    for layer in (_from_file(town / FILE), _from_environ(environ), _from_flags(flags or {})):
        for key, (value, place) in layer.items():
            values[key] = checked(SETTINGS[key], value, place)
            sources[key] = place
    _check_order(values, sources, defaults)
    rules = {key: int(values.pop(key)) for key in policy}
    return Config(policy=rules, sources=sources, **values)  # type: ignore[arg-type]  # `checked` gave each key its kind


def _known(key: str, place: str) -> str:
    if key in SETTINGS:
        return key
    from difflib import get_close_matches

    near = get_close_matches(key, SETTINGS, 1)
    hint = f"did you mean {near[0]}?" if near else "`gastown config` lists every key"
    raise ConfigError(f"{place}: unknown setting {key!r}; {hint}")


def _from_file(path: Path) -> dict[str, tuple[object, str]]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        text = raw.decode()
        table = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    found: dict[str, tuple[object, str]] = {}
    for key, value in table.items():
        place = f"{path}:{_line(text, key)}"
        if isinstance(value, dict):
            raise ConfigError(f"{place}: the section [{key}] is not a setting; keys are flat, such as ttl_ms = 300000")
        found[_known(key, place)] = (value, place)
    return found


def _line(text: str, key: str) -> int:
    """The line on which a top-level key or section begins; 1 when its spelling hides it (a quoted key)."""
    for number, line in enumerate(text.splitlines(), 1):
        head = line.partition("=")[0].strip().strip("[]\"'").strip()
        if head == key or head.startswith(f"{key}."):
            return number
    return 1


def _from_environ(environ: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    # Other GASTOWN_ variables exist (GASTOWN_WORKER, GASTOWN_DIR ...), so an unknown one is not an error.
    names = ((key, ENV_PREFIX + key.upper()) for key in SETTINGS)
    return {key: (_read(key, environ[name]), name) for key, name in names if name in environ}


def _from_flags(flags: Mapping[str, str | None]) -> dict[str, tuple[object, str]]:
    return {_known(key, "flag"): (_read(key, value), "flag") for key, value in flags.items() if value is not None}


def _read(key: str, text: str) -> object:
    """A text of the environment or a flag as what its key wants; what is no integer stays a text and is refused."""
    digits = text.removeprefix("-")
    is_number = digits.isascii() and digits.isdigit() and not isinstance(SETTINGS[key].default, str)
    return int(text) if is_number else text


def checked(setting: Setting, value: object, place: str) -> Value:
    """The value if `setting` allows it; ConfigError if not."""
    if isinstance(setting.default, str):
        return _checked_text(setting, value, place)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{place}: {setting.key} must be an integer ({setting.unit}), not {value!r}")
    if not setting.low <= value <= setting.high:
        raise ConfigError(
            f"{place}: {setting.key} must be {setting.low} to {setting.high} ({setting.unit}), not {value}"
        )
    return value


def _checked_text(setting: Setting, value: object, place: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{place}: {setting.key} must be a text ({setting.unit}), not {value!r}")
    problem = {"listen": _wrong_listen, "prefix": _wrong_prefix, "log_level": _wrong_level}[setting.key](value)
    if problem:
        raise ConfigError(f"{place}: {setting.key} = {value!r}: {problem}")
    return value


def _wrong_listen(value: str) -> str | None:
    host, _, port = value.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= 65_535):
        return "wants host:port, such as 127.0.0.1:7717 or 127.0.0.1:0"
    if host == "localhost":
        return None
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return "the host must be localhost or a loopback address"
    return None if address.is_loopback else "only loopback is served: there is no TLS here; use a tunnel such as ssh -L"


def _wrong_prefix(value: str) -> str | None:
    plain = value.replace("-", "").replace("_", "").replace(".", "")
    if len(value) > 64 or (value and not (plain.isascii() and plain.isalnum() and value[0].isalnum())):
        return "wants at most 64 letters, digits, '-', '_' and '.', beginning with a letter or digit"
    return None


def _wrong_level(value: str) -> str | None:
    return None if value in LOG_LEVELS else f"wants one of {', '.join(LOG_LEVELS)}"


def _check_order(values: dict[str, Value], sources: Mapping[str, str], defaults: Mapping[str, Value]) -> None:
    """Bounds that speak of two keys. A default gives way to a neighbour somebody set, so one key is enough to shorten
    a lease or a backoff; two set keys that contradict each other are an error."""
    for low, high in ORDERED:
        if values[low] <= values[high]:  # type: ignore[operator]  # the keys of ORDERED are integers
            continue
        if sources[low] == "default" and values[low] == defaults[low]:
            values[low] = values[high]
        elif sources[high] == "default" and values[high] == defaults[high]:
            values[high] = values[low]
        else:
            place = sources[low]
            raise ConfigError(f"{place}: {low} = {values[low]} is above {high} = {values[high]} ({sources[high]})")
