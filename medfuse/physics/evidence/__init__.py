"""What the data prove: of their noise, of their blur, of an estimate."""
