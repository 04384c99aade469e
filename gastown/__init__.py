"""The gastown coordinator, Python body."""

__version__ = "0.1.0"
