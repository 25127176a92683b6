"""Names that optimum-neuron's cache imports. compilekit never uses that cache."""


class CacheUrl:
    """Nothing."""


class CompileCache:
    """Nothing."""


class CompileCacheFs(CompileCache):
    """Nothing."""


class CompileCacheS3(CompileCache):
    """Nothing."""


def create_compile_cache(*_):
    """There is none."""
    raise NotImplementedError("the stand-in has no compile cache")
