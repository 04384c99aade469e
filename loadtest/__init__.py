"""Load tests for the coordinator (installed as gastown.loadtest)."""
