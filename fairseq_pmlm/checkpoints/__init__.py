"""Other people's checkpoints to ours, and ours to theirs."""
