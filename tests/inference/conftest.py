"""Fixtures: an engine, its model, and prompts."""

from engines import *  # noqa: F403  # Fixtures.
