"""A stand-in for neuronx-cc, for tests."""

__version__ = "2.21.33363.0+standin"
