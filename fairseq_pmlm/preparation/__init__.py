"""Raw files to binarized data."""
