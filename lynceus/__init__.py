"""The domain: FITS bytes to frame, tiles, network, detections. No server, no trainer."""

__version__ = "0.1.0"
