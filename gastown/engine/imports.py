"""ledger.import as a call.

Law: everything an import decides is decided by ledger/merging.py, everything it writes is written by transfer.py.
"""

from __future__ import annotations

from typing import Any, BinaryIO, Final

from ..ledger.merging import plan_import
from ..ledger.reading import BadImport
from ..model import Credential, Refused
from . import transfer
from .turn import Turn
from .work import Handler


class DryRun(Exception):
    """Carries a result out of a turn that must leave no trace."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__()
        self.result = result


def run(turn: Turn, source: bytes | BinaryIO, mode: str, dry_run: bool, skip_bad: bool) -> dict[str, Any]:
    """Refused: invalid_params with line and why for a bad line, conflict for replace_empty on a ledger with beads."""
    if mode == "replace_empty" and turn.memory.bead_max:
        raise Refused(
            "conflict", "the ledger is not empty: import with mode merge", state="not_empty", allowed=["merge"]
        )
    try:
        plan = plan_import(source, skip_bad)
    except BadImport as bad:
        raise Refused(
            "invalid_params", f"line {bad.line}: {bad.why}", field="jsonl", line=bad.line, why=bad.why
        ) from None
    result = transfer.carry_out(turn, plan)
    if dry_run:
        raise DryRun(result)
    return result


def imported(turn: Turn, _: Credential, params: dict[str, Any]) -> dict[str, Any]:
    source = params["jsonl"]
    source = source.encode() if isinstance(source, str) else source
    return run(turn, source, params["mode"], params["dry_run"], params["skip_bad"])


COMMANDS: Final[dict[str, Handler]] = {"ledger.import": imported}
