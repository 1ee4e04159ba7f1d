"""edgebird: bird detection on the edge, from camera frames to MQTT alerts."""

import os

# A picture of a few kilobytes can claim to be as large as it likes. OpenCV, which reads this when
# it is imported, would take ten times as many pixels.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "100000000")

__version__ = "0.1.0"
