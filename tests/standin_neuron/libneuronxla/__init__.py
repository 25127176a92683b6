"""A stand-in for libneuronxla, for tests."""

__version__ = "2.2.12677.0+standin"
