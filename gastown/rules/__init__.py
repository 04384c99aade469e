"""Pure rules: what may happen to beads, leases and workers. No clock, no I/O."""
