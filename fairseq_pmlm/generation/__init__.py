"""Search: targets of sources, and masked places of texts."""
