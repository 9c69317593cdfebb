"""What is decided: pure functions and frozen values, no I/O. Time and randomness come in as arguments."""
