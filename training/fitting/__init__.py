"""Tiles to weights: where they start, which of them learn, and the run itself."""
