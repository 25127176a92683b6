"""The handle on the user's model, under the name that plugins import it by."""

from compilekit.subject.model import EntryPoint, Layer, Model, float_dtype, parameter_bytes

__all__ = ["EntryPoint", "Layer", "Model", "float_dtype", "parameter_bytes"]
