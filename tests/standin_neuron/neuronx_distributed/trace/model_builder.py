"""What FLUX and T5 are built with; the stand-in refuses them."""


class BaseModelInstance:
    """What is to be built."""

    def __init__(self, *_, **__):
        raise NotImplementedError("the stand-in has no ModelBuilder: FLUX and T5 need the real SDK")


class ModelBuilder:
    """What builds it."""

    def __init__(self, *_, **__):
        raise NotImplementedError("the stand-in has no ModelBuilder: FLUX and T5 need the real SDK")
