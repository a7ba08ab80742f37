"""How good a version is, beside its rivals, and its publication."""
