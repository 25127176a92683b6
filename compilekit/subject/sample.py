"""The sample of a recipe, made ready: pictures opened, inputs of a plain module drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compilekit.errors import Problem, RecipeError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from compilekit.recipe import Recipe, TensorSpec

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


def module_inputs(specs: Mapping[str, TensorSpec], seed: int) -> dict[str, torch.Tensor]:
    """Random inputs of a plain module, as the recipe's `model.inputs` describes them."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    inputs: dict[str, torch.Tensor] = {}
    for name, spec in specs.items():
        dtype: torch.dtype = getattr(torch, spec.dtype)
        if dtype.is_floating_point:
            inputs[name] = torch.randn(spec.shape, generator=generator).to(dtype)
        else:
            # Small numbers: token ids and indices must stay inside tables of unknown length.
            low = spec.low or 0
            high = low + 2 if spec.high is None else spec.high
            inputs[name] = torch.randint(low, high, spec.shape, generator=generator).to(dtype)
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
