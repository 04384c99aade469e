"""Settings: which place wins, and what a wrong one is told."""

from pathlib import Path

import pytest

from gastown.cli.setup import template
from gastown.config import FILE, POLICY, SETTINGS, Config, ConfigError, load
from gastown.model import Policy

DEFAULTS = Policy()._asdict()


def loaded(town: Path, text: str = "", environ: dict[str, str] | None = None, **flags: str) -> Config:
    (town / FILE).write_text(text)
    return load(town, DEFAULTS, flags, environ or {})


def test_every_rule_has_a_key_and_its_default(tmp_path: Path) -> None:
    assert [setting.key for setting in POLICY] == list(Policy._fields)
    config = load(tmp_path, DEFAULTS, {}, {})
    assert config.policy == DEFAULTS
    assert set(config.sources.values()) == {"default"}
    assert not config.listen_explicit
    for setting in SETTINGS.values():
        assert setting.unit
        assert setting.reason


def test_a_flag_goes_before_the_environment_before_the_file(tmp_path: Path) -> None:
    text = "\nttl_ms = 30000\n"
    assert loaded(tmp_path, text).policy["ttl_ms"] == 30_000
    assert loaded(tmp_path, text).sources["ttl_ms"] == f"{tmp_path / FILE}:2"
    environ = {"GASTOWN_TTL_MS": "40000", "GASTOWN_WORKER": "somebody"}
    assert loaded(tmp_path, text, environ).policy["ttl_ms"] == 40_000
    assert loaded(tmp_path, text, environ).sources["ttl_ms"] == "GASTOWN_TTL_MS"
    assert loaded(tmp_path, text, environ, ttl_ms="50000").policy["ttl_ms"] == 50_000
    assert loaded(tmp_path, text, environ, ttl_ms="50000").sources["ttl_ms"] == "flag"


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("ttl_ms = 1.5", 1, "integer"),
        ("ttl_ms = true", 1, "integer"),
        ('ttl_ms = "5000"', 1, "integer"),
        ("ttl_ms = 0", 1, "1 to"),
        ("ttl_ms = -1", 1, "1 to"),
        ("ttl_ms = 99999999999999999999", 1, "1 to"),
        ("\n\nttl_m = 5", 3, "did you mean ttl_ms?"),
        ("colour = 5", 1, "gastown config"),
        ("# first\n[lease]\nttl_ms = 5", 2, "flat"),
        ('prefix = "-x"', 1, "letter or digit"),
        ("prefix = 5", 1, "text"),
        ('log_level = "loud"', 1, "debug, info"),
        ('listen = "0.0.0.0:7717"', 1, "loopback"),
        ('listen = "[::]:7717"', 1, "loopback"),
        ('listen = "192.0.2.1:1"', 1, "loopback"),
        ('listen = "example.org:1"', 1, "loopback"),
        ('listen = "127.0.0.1"', 1, "host:port"),
        ('listen = "127.0.0.1:65536"', 1, "host:port"),
        ("ttl_ms = 9000\nttl_ms_min = 10000", 2, "above ttl_ms"),
    ],
)
def test_a_wrong_setting_names_its_place(tmp_path: Path, text: str, line: int, word: str) -> None:
    with pytest.raises(ConfigError) as told:
        loaded(tmp_path, text)
    assert str(told.value).startswith(f"{tmp_path / FILE}:{line}: ")
    assert word in str(told.value)


@pytest.mark.parametrize("text", ["ttl_ms", "ttl_ms = ", "= 5", "ttl_ms = 1\nttl_ms = 2", "ttl_ms = '\x00'"])
def test_a_file_that_is_not_toml(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not TOML: .+ \(at "):
        loaded(tmp_path, text)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"# ok\n# \xff\n")
    with pytest.raises(ConfigError, match=":2: is not UTF-8"):
        load(tmp_path, DEFAULTS, {}, {})


@pytest.mark.parametrize("value", ["", "1e3", "0x10", "1_000", " 5", "٣", "--5", "1.0"])
def test_a_text_that_is_no_number(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match="GASTOWN_TTL_MS: ttl_ms must be an integer"):
        loaded(tmp_path, "", {"GASTOWN_TTL_MS": value})
    with pytest.raises(ConfigError, match="flag: ttl_ms must be an integer"):
        loaded(tmp_path, "", {}, ttl_ms=value)


def test_an_unknown_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown setting 'lease'"):
        loaded(tmp_path, "", {}, lease="5")


def test_one_key_is_enough_to_shorten_a_lease(tmp_path: Path) -> None:
    shorter = loaded(tmp_path, "ttl_ms = 500")
    assert (shorter.policy["ttl_ms_min"], shorter.policy["ttl_ms"]) == (500, 500)
    longer = loaded(tmp_path, "ttl_ms_min = 600000")
    assert (longer.policy["ttl_ms_min"], longer.policy["ttl_ms"]) == (600_000, 600_000)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:7717", "[::1]:7717", "127.1.2.3:65535"])
def test_loopback_is_served(tmp_path: Path, listen: str) -> None:
    config = loaded(tmp_path, f'listen = "{listen}"')
    assert config.listen == listen
    assert config.listen_explicit


def test_the_template_names_every_key_and_changes_nothing(tmp_path: Path) -> None:
    text = template(load(tmp_path, DEFAULTS, {}, {}))
    bare = loaded(tmp_path, text)
    assert set(bare.sources.values()) == {"default"}
    uncommented = "\n".join(line.removeprefix("# ") for line in text.splitlines() if " = " in line)
    same = loaded(tmp_path, uncommented)
    assert same._replace(sources={}) == bare._replace(sources={})
    assert "default" not in same.sources.values()
