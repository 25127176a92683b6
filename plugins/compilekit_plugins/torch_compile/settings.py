"""From the step's options to torch.compile's arguments, checked against the installed torch.

Settings go into `options=`, so that they hold for what this step compiles, also when it is
compiled again later, and for nothing else in the process.
"""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any

import torch

import compilekit as ck
from compilekit_plugins import torch_internals

if TYPE_CHECKING:
    from compilekit_plugins.torch_compile import TorchCompile

VARIANTS = 64
"""How many variants of one function may be compiled; past 8, torch goes eager without an error.

torch counts by the code of a function, which all blocks of a class share, and all models of
a class in a process too, unless it is told to keep them apart.
"""


def compile_arguments(options: TorchCompile, key: str) -> dict[str, Any]:
    """The keyword arguments of `torch.compile`."""
    _check_switched_on(key)
    arguments: dict[str, Any] = {"fullgraph": options.fullgraph, "dynamic": options.dynamic}
    # Newer torch alone takes these two.
    accepted = inspect.signature(torch.compile).parameters
    if "recompile_limit" in accepted:
        arguments["recompile_limit"] = VARIANTS
    if "isolate_recompiles" in accepted and options.regions == "none":
        arguments["isolate_recompiles"] = True
    if options.backend != "inductor":
        known = torch.compiler.list_backends(exclude_tags=())
        if options.backend not in known:
            raise ck.StepError(
                f'{key}.backend: torch {torch.__version__} has no backend "{options.backend}"; '
                f"it has {', '.join(sorted(known))}"
            )
        return {**arguments, "backend": options.backend}
    inductor = _inductor_options(options, key)
    return {**arguments, "options": inductor} if inductor else arguments


def aot_arguments(options: TorchCompile, key: str) -> dict[str, Any]:
    """The options of inductor for ahead-of-time code, which has no CUDA graphs."""
    _check_switched_on(key)
    inductor = _inductor_options(options, key)
    inductor.pop("triton.cudagraphs", None)
    if options.weights == "shared":
        # C++ templates keep a rearranged copy of each weight, which nothing else could share.
        inductor.setdefault("max_autotune_gemm_backends", "ATEN,TRITON")
    return inductor


def _check_switched_on(key: str) -> None:
    if torch_internals.dynamo_config().disable:
        raise ck.StepError(
            f"{key}: torch's compiler is switched off in this process (TORCH_COMPILE_DISABLE or "
            "TORCHDYNAMO_DISABLE is set), so nothing would be compiled"
        )


def _inductor_options(options: TorchCompile, key: str) -> dict[str, Any]:
    """The mode, expanded, and the recipe's own options: torch takes one or the other."""
    inductor = torch_internals.inductor()
    known = inductor.config.get_config_copy()
    for name, value in options.inductor.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f' Did you mean "{near[0]}"?' if near else ""
            raise ck.StepError(
                f"{key}.inductor.{name}: inductor of torch {torch.__version__} has no such "
                f"option.{hint}"
            )
        default = known[name]
        fits = type(value) is type(default) or (type(value), type(default)) == (int, float)
        if isinstance(default, bool | int | float | str) and not fits:
            raise ck.StepError(
                f"{key}.inductor.{name}: {value!r} is not a {type(default).__name__}, "
                f"as its default {default!r} is"
            )
    mode = {} if options.mode == "default" else inductor.list_mode_options(options.mode)
    packing = {"freezing": True} if options.weights == "packed" else {}
    return {**mode, **packing, **options.inductor}
