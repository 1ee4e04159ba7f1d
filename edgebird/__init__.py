"""edgebird: bird detection on the edge, from camera frames to MQTT alerts."""

__version__ = "0.1.0"
