"""Text to the symbols of a dictionary and back."""
