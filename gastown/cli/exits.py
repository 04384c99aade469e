"""Exit codes, and what an error looks like to a person: one line that says what to do.

Law: a number here never changes its meaning; scripts are written against them.
"""

from __future__ import annotations

import errno
import sys
from typing import IO, Any, Final

import click

OK: Final = 0
ERROR: Final = 1
USAGE: Final = 2
NOTHING: Final = 3  # nothing to claim
LEASE_LOST: Final = 4
NOT_FOUND: Final = 5
LEDGER_REFUSED: Final = 65  # a file or ledger that cannot be taken
UNREACHABLE: Final = 69  # no daemon answers
LEADERSHIP_LOST: Final = 75  # another coordinator has the ledger
PERMISSION: Final = 77
CONFIGURATION: Final = 78  # a wrong setting, or storage that cannot be used

KIND_CODES: Final = {
    "lease_lost": LEASE_LOST,
    "not_found": NOT_FOUND,
    "not_leader": LEADERSHIP_LOST,
    "unauthenticated": PERMISSION,
    "forbidden": PERMISSION,
    "storage_low": CONFIGURATION,
    "invalid_params": USAGE,
    "limit": USAGE,
}
OS_CODES: Final = {
    errno.EACCES: PERMISSION,
    errno.EPERM: PERMISSION,
    errno.ENOSPC: CONFIGURATION,
    errno.EROFS: CONFIGURATION,
    errno.EIO: CONFIGURATION,
}


class Failed(click.ClickException):
    """Ends the command with `code`; the message is printed on standard error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]  # one class with any code, where click wants a class for each

    def show(self, file: IO[Any] | None = None) -> None:
        from .screen import clean

        click.echo(f"gastown: {clean(self.message)}", file=file or sys.stderr)


def explained(error: Exception) -> click.ClickException | None:
    """The error as people should see it, or None for a bug of ours, which keeps its traceback."""
    from gastown.client import RpcError, Unreachable
    from gastown.config import ConfigError

    if isinstance(error, RpcError):
        return Failed(KIND_CODES.get(error.kind, ERROR), refused(error.kind, error.message, error.data))
    if isinstance(error, Unreachable):
        return Failed(UNREACHABLE, f"{error}; start it with `gastown up`")
    if isinstance(error, ConfigError):
        return Failed(CONFIGURATION, str(error))
    if isinstance(error, BrokenPipeError):
        return None  # whoever read our output has enough: click ends quietly
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return Failed(OS_CODES.get(error.errno or 0, ERROR), f"{place}{error.strerror or error}")
    return _of_the_ledger(error)


def _of_the_ledger(error: Exception) -> click.ClickException | None:
    """Errors of code that only verbs without a daemon load: if it was not loaded, it raised nothing."""
    model, store, premises = (sys.modules.get(f"gastown.{name}") for name in ("model", "store", "premises"))
    premises = sys.modules.get("gastown.premises")
    if premises and isinstance(error, premises.Refusal):
        return Failed(error.exit_code, str(error))
    if model and isinstance(error, model.Refused):
        return Failed(KIND_CODES.get(error.kind, ERROR), refused(error.kind, error.message, error.data))
    if premises and isinstance(error, premises.Refusal):
        return Failed(error.exit_code, str(error))
    if store and isinstance(error, store.LedgerRefused):
        return Failed(LEDGER_REFUSED, str(error))
    if store and isinstance(error, store.EpochLost):
        return Failed(LEADERSHIP_LOST, "another coordinator has taken this ledger")
    return None


def refused(kind: str, message: str, data: dict[str, Any]) -> str:
    """A refusal in a line: the town's words, then what its data adds."""
    more = {
        "lease_lost": f"reason: {data.get('reason')}; stop working on it, somebody else may hold it",
        "conflict": f"allowed now: {', '.join(data.get('allowed', ()))}" if data.get("allowed") else "",
        "dependency_cycle": " -> ".join(data.get("path", ())),
        "invalid_params": f"field {data['field']}" if data.get("field") else "",
        "forbidden": f"needs scope {data['needs']}" if data.get("needs") else "",
    }.get(kind, "")
    return f"{message} ({more})" if more and more not in message else message
