"""Extractive question answering: SQuAD's JSON in, windows over passages, spans out."""
