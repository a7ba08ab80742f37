"""Offline: simulate, train, evaluate, publish."""
