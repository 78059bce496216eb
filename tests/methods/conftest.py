"""The fixtures of the room."""

from every_method import service_of  # noqa: F401
