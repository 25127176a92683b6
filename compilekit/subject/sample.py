"""The sample of a recipe, made ready: pictures opened, inputs of a plain module drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compilekit.base.bytesize import size
from compilekit.base.texts import summary
from compilekit.errors import Problem, RecipeError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from compilekit.recipe import Recipe

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def sample_arguments(recipe: Recipe) -> dict[str, Any]:
    """The keyword arguments of the sample; strings that name pictures are opened as such."""
    arguments, problems = dict(recipe.sample_arguments), []
    for name, path in picture_names(recipe).items():
        where = recipe.location("sample", name)
        try:
            arguments[name] = _opened(path)
        except UsageError as error:
            problems.append(Problem(where, f"sample.{name}", str(error)))
    if problems:
        raise RecipeError(problems)
    return arguments


def opened(arguments: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The arguments of a call, in which strings that name pictures are opened as such."""
    return {
        name: _opened(folder / value) if _names_picture(name, value) else value
        for name, value in arguments.items()
    }


def picture_names(recipe: Recipe) -> dict[str, Path]:
    """The arguments of the sample that are pictures, and their files."""
    named = recipe.sample_arguments.items()
    return {name: recipe.folder / value for name, value in named if _names_picture(name, value)}


def _names_picture(name: str, value: object) -> bool:
    # A prompt may well end in ".png".
    is_name = isinstance(value, str) and value.lower().endswith(PICTURES)
    return is_name and "prompt" not in name


def _opened(path: Path) -> Any:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise UsageError(f"{path}: {reason}") from error


def check_inputs(inputs: object) -> None:
    """Refuse inputs that no call of a plain module could be made of."""
    import torch

    if inputs is None:
        return
    if not isinstance(inputs, Mapping) or not all(isinstance(name, str) for name in inputs):
        raise UsageError(
            'inputs= is a dict of the names of arguments and their values, `{"x": tensor}`, not '
            f"a {type(inputs).__name__}" + (" with other keys" * isinstance(inputs, Mapping))
        )
    tensors = {n: value for n, value in inputs.items() if isinstance(value, torch.Tensor)}
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise UsageError(f"inputs: {name} is on the meta device, so it holds no values")
        if tensor.is_nested:
            raise UsageError(
                f"inputs: {name} is a nested tensor, which has no shape: pass a padded one"
            )
    if tensors and not any(tensor.numel() for tensor in tensors.values()):
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise UsageError(f"inputs: {shapes}: no input holds an element, so there is nothing to run")


def module_inputs(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Random inputs of a plain module, as the recipe's `model.inputs` describes them."""
    import torch

    specs = recipe.model.inputs if recipe.model else {}
    generator = torch.Generator().manual_seed(recipe.seed)
    inputs: dict[str, torch.Tensor] = {}
    for name, spec in specs.items():
        dtype: torch.dtype = getattr(torch, spec.dtype)
        try:
            if dtype.is_floating_point:
                inputs[name] = torch.randn(spec.shape, generator=generator).to(dtype)
            else:
                # Small numbers: token ids and indices must stay inside tables of unknown length.
                low = spec.low or 0
                high = low + 2 if spec.high is None else spec.high
                inputs[name] = torch.randint(low, high, spec.shape, generator=generator).to(dtype)
        except (RuntimeError, TypeError, OverflowError) as error:
            where = recipe.location("model", "inputs", name, "shape")
            takes = size(math.prod(spec.shape) * dtype.itemsize)
            why = f"no tensor of {takes} can be made here: {summary(error).splitlines()[0]}"
            raise RecipeError([Problem(where, f"model.inputs.{name}", why)]) from error
    return inputs


def images_of(output: Any) -> np.ndarray[Any, Any] | None:
    """The pictures of a pipeline's output as floats of shape (N, H, W, C), or None."""
    import numpy as np

    pictures = getattr(output, "images", None)
    if pictures is None:
        pictures = getattr(output, "frames", None)
    if isinstance(pictures, list) and pictures and hasattr(pictures[0], "convert"):
        pictures = np.stack([np.asarray(p.convert("RGB")) for p in pictures]) / 255.0
    if not isinstance(pictures, np.ndarray) or pictures.dtype.kind != "f":
        return None
    if pictures.ndim == 5:  # noqa: PLR2004 - videos: (batch, frames, height, width, channels)
        pictures = pictures.reshape(-1, *pictures.shape[2:])
    is_picture = pictures.ndim == 4 and pictures.shape[-1] in (1, 3, 4)  # noqa: PLR2004
    return pictures if is_picture else None
