"""A stand-in for torch-xla, for tests."""

__version__ = "2.8.1+standin"
