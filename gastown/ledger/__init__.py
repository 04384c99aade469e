"""beads JSONL in and out."""
