"""What a training has logged, to be looked at."""
