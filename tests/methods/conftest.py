"""Fixtures for the tests of methods."""

from every_method import service_of  # noqa: F401
