"""Our own checkpoints: read safely, and what they say of themselves."""
