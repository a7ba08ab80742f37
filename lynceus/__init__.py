"""The domain: FITS bytes to frame, tiles, network, detections. No server, no trainer."""
