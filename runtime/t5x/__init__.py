"""The part of T5X's interface that prompt tuning uses, on PyPI packages only."""

__version__ = "0.1.0"
