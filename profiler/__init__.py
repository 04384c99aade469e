"""The profiler (installed as gastown.profiler)."""
