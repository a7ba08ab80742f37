"""Simulated frames with exact truth: scenes, whole archives, and sources planted in real frames."""
