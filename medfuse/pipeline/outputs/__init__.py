"""What is written of a case, each kind in a file of its own."""
