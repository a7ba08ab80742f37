"""A data set to tiles with their truth, split by field."""
