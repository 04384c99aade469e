"""The load generators against a small queue of our own, and the arithmetic of their reports."""
