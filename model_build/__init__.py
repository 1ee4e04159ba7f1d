"""The build stage: from pictures to the int8 models that the runtime ships.

Run it as ``python -m model_build``; nothing in here is needed on the device.
"""

import edgebird as edgebird  # before OpenCV, whose limit of a picture's size it sets
