"""When it happens: commands queue, a turn decides them in one transaction, replies go out after its commit."""

from .coordinator import Unit
from .core import Engine

__all__ = ["Engine", "Unit"]
