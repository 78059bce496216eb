"""The fixtures of the room."""

from engines import *  # noqa: F403  # Fixtures.
