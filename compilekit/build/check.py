"""Whether a bundle can hold a model: asked before the work starts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import nn

from compilekit.base.texts import summary
from compilekit.base.torch_internals import is_wrapper
from compilekit.bundle.calls import TRUSTED
from compilekit.errors import ModelError
from compilekit.load.skeleton import UNMADE, home_of, of_config, save_config
from compilekit.subject.model import Model

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def check_subject(model: Model) -> None:
    """Check before the work starts that another process could make this model for use."""
    for name, module in model.modules.items():
        _refuse_compiled(name, module)
        _refuse_training(name, module)
    if not model.is_pipeline:
        return
    import diffusers

    for name, module in model.modules.items():
        if home_of(module) is None:
            raise ModelError(
                f"{name}: {type(module).__name__} is no class of {' or '.join(TRUSTED)}, so the "
                "pipeline could not be loaded without your code"
            )
        _refuse_other_config(name, module)
    kind = type(model.subject)
    if getattr(diffusers, kind.__name__, None) is not kind:
        raise ModelError(
            f"{kind.__name__} is not one of diffusers' own pipelines, so a bundle could not be "
            "loaded without your code: build a bundle of its components instead"
        )


def _refuse_compiled(name: str, module: nn.Module) -> None:
    if is_wrapper(module):
        raise ModelError(
            f"{name} was compiled by torch.compile, which a bundle cannot hold: pass the original "
            "module"
        )


def _refuse_training(name: str, module: nn.Module) -> None:
    """A layer that adds noise, or learns from each call, gives compiled code other results."""
    for path, part in module.named_modules():
        drops = isinstance(part, DROPOUTS) and part.p > 0
        if part.training and (drops or isinstance(part, NORMS)):
            where = f"{name}.{path}".rstrip(".")
            raise ModelError(
                f"{where} is a {type(part).__name__} in training mode, which a bundle cannot "
                f"hold: call eval() on {name}"
            )


def _refuse_other_config(name: str, module: nn.Module) -> None:
    """A bundle makes a component of its config, which something may have changed since."""
    kind = type(module)
    with tempfile.TemporaryDirectory() as folder:
        save_config(module, Path(folder))
        try:
            made = of_config(kind, Path(folder))
        except UNMADE as error:
            what = f"{name}: a {kind.__name__} cannot be made of its config"
            raise ModelError(f"{what}: {summary(error)}") from error
    if difference := next(_differences(dict(module.named_modules()), made), ""):
        raise ModelError(
            f"{name}: its config does not describe it: {difference}. Some code changed the config "
            "after the model was made: load the model again"
        )


def _differences(modules: Mapping[str, nn.Module], made: nn.Module) -> Iterator[str]:
    """Where the modules differ from those that the config makes, as sentences.

    A module of another class was replaced on purpose: by an adapter, for example.
    """
    for path, wanted in made.named_modules():
        module = modules.get(path)
        if module is None or type(module) is not type(wanted):
            continue
        count, said = len(list(module.children())), len(list(wanted.children()))
        if isinstance(module, nn.ModuleList) and count != said:
            yield f"{path} has {count} modules, and the config says {said}"
        shapes = {n: list(tensor.shape) for n, tensor in wanted.named_parameters(recurse=False)}
        for key, tensor in module.named_parameters(recurse=False):
            if list(tensor.shape) != shapes.get(key, list(tensor.shape)):
                yield f"{path}.{key} is {list(tensor.shape)}, and the config says {shapes[key]}"
