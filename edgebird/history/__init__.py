"""The visits of the past: stored, listed, exported and drawn."""
