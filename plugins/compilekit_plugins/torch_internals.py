"""The private names of torch that the built-in plugins use, in one place. Not a step.

Light: torch is loaded when a name is asked for. A torch that lacks one is refused with a reason.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import compilekit as ck

if TYPE_CHECKING:
    from torch import nn

COMPILED_CALL = "_compiled_call_impl"
EVENT = (
    "co_filename",
    "co_firstlineno",
    "co_name",
    "entire_frame_compile_time_s",
    "recompile_reason",
)
"""What is read of each of dynamo's compilation metrics."""


def inductor() -> Any:
    """Inductor, with its `config`."""
    _module("torch._inductor.config", "get_config_copy", "patch")
    return _module("torch._inductor", "aot_compile", "list_mode_options")


def no_compiler_error() -> Any:
    """The class of inductor's error for a machine without a C++ compiler."""
    return _module("torch._inductor.exc", "InvalidCxxCompiler").InvalidCxxCompiler


def runner_class(kind: str, *methods: str) -> Any:
    """The class that runs code of AOTInductor on a kind of device; None if torch has none."""
    import torch

    name = f"AOTIModelContainerRunner{kind.capitalize()}"
    runner = getattr(getattr(torch._C, "_aoti", None), name, None)
    if runner is not None:
        refuse([f"{name}.{method}" for method in methods if not hasattr(runner, method)])
    return runner


def dynamo_config() -> Any:
    """The settings of dynamo."""
    return _module("torch._dynamo.config", "disable", "patch", "recompile_limit")


def dynamo_errors() -> Any:
    """The errors of dynamo."""
    return _module("torch._dynamo.exc", "TorchDynamoException", "Unsupported")


def dynamo_metrics() -> Any:
    """What dynamo counts and times."""
    path = "torch._dynamo.utils"
    names = ("CompilationMetrics", "counters", "get_compilation_metrics")
    utils = _module(path, *names, "set_compilation_metrics_limit")
    known = utils.CompilationMetrics.__dataclass_fields__
    refuse([f"{path}.CompilationMetrics.{name}" for name in EVENT if name not in known])
    return utils


def shape_config() -> Any:
    """The settings of symbolic shapes. torch gives them a `patch` when it runs."""
    return _module("torch.fx.experimental._config", "patch", "use_duck_shape")


def pytree() -> Any:
    """How torch takes nested arguments apart."""
    return _module("torch.utils._pytree", "tree_flatten", "tree_map", "tree_unflatten")


def dispatch_mode() -> Any:
    """The class of contexts that see every operation."""
    return _module("torch.utils._python_dispatch", "TorchDispatchMode").TorchDispatchMode


def argument_names(operation: Any) -> list[str]:
    """The names of an operation's arguments."""
    return [argument.name for argument in operation._schema.arguments]


def replace_compiled_call(module: nn.Module, wrap: Callable[[Any], Any]) -> None:
    """Put something around what `Module.compile` has made."""
    compiled = getattr(module, COMPILED_CALL, None)
    refuse([] if compiled else [f"nn.Module.{COMPILED_CALL}"])
    setattr(module, COMPILED_CALL, wrap(compiled))


def _module(path: str, *names: str) -> Any:
    try:
        module = importlib.import_module(path)
    except ImportError:
        refuse([path])
        raise
    refuse([f"{path}.{name}" for name in names if not hasattr(module, name)])
    return module


def refuse(lacks: Sequence[str], library: str = "torch") -> None:
    """Raise if a library lacks names."""
    if lacks:
        version = importlib.import_module(library).__version__
        raise ck.MachineError(
            f"{library} {version} has no {', '.join(lacks)}, which this step uses: install one "
            "that `pip install compilekit` accepts, or a newer compilekit"
        )
