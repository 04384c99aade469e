"""Black-box conformance: every test here speaks bytes to a real daemon and never asks which body answers."""
