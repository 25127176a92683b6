"""A stand-in for neuronx-cc, for tests."""

__version__ = "999.0.0.0+standin"
