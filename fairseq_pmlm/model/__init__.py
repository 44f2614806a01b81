"""The Transformer over slots, its heads, and decoding with a cache."""
