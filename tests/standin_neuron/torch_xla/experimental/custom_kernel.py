"""A name that diffusers imports."""


def flash_attention(*_, **__):
    """There is none."""
    raise NotImplementedError("the stand-in has no kernels")
