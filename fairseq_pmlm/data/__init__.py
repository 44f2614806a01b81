"""Masking, layout into slots, and the data sets that training reads."""
