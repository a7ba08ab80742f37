"""Load on a server of our own."""

TILE_SECONDS = "LOAD_TILE_SECONDS"
"""Of the environment: how long the paced network takes for a tile."""
