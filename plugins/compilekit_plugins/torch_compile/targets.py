"""What to compile: an entry point whole, or the blocks that repeat inside it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from torch import nn

import compilekit as ck
from compilekit_plugins.diffusers_internals import repeated_blocks
from compilekit_plugins.torch_compile import FEW

if TYPE_CHECKING:
    from compilekit.model import Model
    from compilekit_plugins.torch_compile.compiler import Compiler


def whole(model: Model, name: str, compiler: Compiler) -> list[str]:
    """Compile an entry point, beneath offload hooks and other layers around it."""
    entry = model.entry_point(name)
    if entry.is_bare_forward:
        compiler.in_place(entry.owner)
    else:
        entry.replace(compiler.function(entry.function))
    return [name]


def regions(model: Model, name: str, kind: str | list[str], compiler: Compiler) -> list[str]:
    """Compile the blocks of a component, each in place; blocks that are alike share code."""
    blocks = blocks_of(model, name, kind)
    for block in blocks.values():
        compiler.in_place(block)
    return [f"{block} ({type(part).__name__})" for block, part in blocks.items()]


def few_blocks(name: str, kind: str | list[str], count: int) -> list[str]:
    """Advice if regions gain little. The plan knows no model, so it is given when the step runs."""
    if kind == "accelerate" or not 0 < count < FEW:
        return []
    blocks = f"{count} block{'s' * (count > 1)}"
    return [
        f"{name} has only {blocks} to compile: regions pay where many are alike; try it whole",
    ]


def blocks_of(model: Model, name: str, kind: str | list[str]) -> dict[str, nn.Module]:
    """The blocks of a component, by their names in it."""
    module = model.entry_point(name).owner
    if kind == "auto":
        return repeated(module)
    if kind == "accelerate":
        return of_accelerate(module)
    classes = kind if isinstance(kind, list) else repeated_blocks(module)
    if not classes:
        raise ck.StepError(
            f"{name}: a {type(module).__name__} names no repeated blocks; name the block classes "
            "(`regions: [Block]`), or say `regions: auto`"
        )
    return of_classes(module, classes)


def quantised_outside(module: nn.Module, blocks: dict[str, nn.Module]) -> list[str]:
    """Layers with quantised weights in no block: in a bundle they must be compiled as well."""
    return [
        path
        for path, layer in module.named_modules()
        if any(hasattr(p, "__tensor_flatten__") for p in layer.parameters(recurse=False))
        and not any(f"{path}.".startswith(f"{block}.") for block in blocks)
    ]


def of_classes(module: nn.Module, classes: list[str]) -> dict[str, nn.Module]:
    """The modules of these classes, by name; of nested ones the outermost."""
    present = {type(part).__name__ for part in module.modules()}
    missing = sorted(set(classes) - present)
    if missing and not set(classes) & present:
        raise ck.StepError(
            f"a {type(module).__name__} has no block of class {', '.join(missing)}; "
            f"it has {', '.join(sorted(present))}"
        )
    return _outermost({n: m for n, m in module.named_modules() if type(m).__name__ in classes})


def repeated(module: nn.Module) -> dict[str, nn.Module]:
    """The members of module lists that have a twin: the same class and shapes of weights.

    Of nested twins the outermost counts, and a class that is part of one (a block's feed-forward
    layer, say) is no region elsewhere either.
    """
    twins: dict[object, dict[str, nn.Module]] = defaultdict(dict)
    for owner, parent in module.named_modules():
        if not isinstance(parent, nn.ModuleList):
            continue
        for index, part in enumerate(parent):
            shapes = tuple((name, tuple(p.shape)) for name, p in part.named_parameters())
            if shapes and any(part.children()):
                twins[type(part), shapes][f"{owner}.{index}"] = part
    repeats = {
        name: part for group in twins.values() if len(group) > 1 for name, part in group.items()
    }
    outer = _outermost(repeats)
    parts = {type(part) for name, part in repeats.items() if name not in outer}
    return {name: part for name, part in outer.items() if type(part) not in parts}


def of_accelerate(module: nn.Module, path: str = "") -> dict[str, nn.Module]:
    """What accelerate's `compile_regions` compiles: lists of equal blocks, and all around them."""
    from accelerate.utils.other import has_repeated_blocks, is_repeated_blocks

    if not (is_repeated_blocks(module) or has_repeated_blocks(module)):
        # A list is never called; its members are, and accelerate leaves those of mixed lists out.
        return {} if isinstance(module, nn.ModuleList | nn.ModuleDict) else {path: module}
    regions: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        regions |= {inner: child} if is_repeated_blocks(module) else of_accelerate(child, inner)
    return regions


def _outermost(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    return {
        name: part
        for name, part in modules.items()
        if not any(name.startswith(f"{other}.") for other in modules)
    }
