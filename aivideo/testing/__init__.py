"""What this package is tested with, for the tests of those who build on it."""

from aivideo.testing.virtual_time import DeadlockError, VirtualTimeLoop

__all__ = ["DeadlockError", "VirtualTimeLoop"]
