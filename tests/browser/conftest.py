"""Fixtures of all browser tests."""

from lab import browser, lab  # noqa: F401
