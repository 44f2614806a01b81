"""Every patch of fairseq."""
