"""The part of T5X's interface that prompt tuning uses, on PyPI packages only."""

import os

__version__ = "0.1.0"

# TensorFlow reads the data and nothing else; its start-up notes are not news.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
