"""The HTTP service around a detector: upload, queue, pipeline, answer."""
