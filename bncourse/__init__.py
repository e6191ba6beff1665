"""Companion package of the course on Batch Normalization.

Importing this package loads neither TensorFlow nor Matplotlib; its rooms do when they need them.
"""

__version__ = "0.1.0"
