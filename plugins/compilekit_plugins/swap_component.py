"""`swap_component`: another component in place of the pipeline's own: a better VAE, say.

What does not fit is refused before the pipeline runs: another class, or another number of channels
where other components take what it gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import compilekit as ck

if TYPE_CHECKING:
    from compilekit.model import Model

FITS = (
    "in_channels", "out_channels", "latent_channels", "cross_attention_dim",
    "joint_attention_dim", "pooled_projection_dim", "caption_channels", "addition_embed_type",
    "hidden_size", "projection_dim", "vocab_size", "max_position_embeddings",
)  # fmt: skip
"""The settings by which components fit together; the others are a component's own affair."""


class SwapComponent(ck.Options):
    """Options of `swap_component`.

    source: the folder or hub id of the new component.
    subfolder: the folder in it, where it is a whole pipeline's.
    revision: the version on the hub.
    dtype: load it as this; left out, as what it replaces.
    """

    source: str
    subfolder: str = ""
    revision: str = ""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None


@ck.hookimpl
def describe() -> ck.StepDescription:
    """Say what the step is."""
    return ck.StepDescription(
        help="Put another component in place of the pipeline's own, from a folder or the hub.",
        options=SwapComponent,
        # Adapters of the component that is there would be gone without a word.
        effects=lambda options, device: ck.effects(  # noqa: ARG005
            "results", conflicts=["lora_fused", "lora_layers"]
        ),
        reads=lambda options: [options.source],
    )


@ck.hookimpl
def optimize_model(model: Model, options: SwapComponent, context: ck.StepContext) -> ck.StepResult:
    """Load the new one, look whether it fits, and put it in its place."""
    key = context.step.key
    if not model.is_pipeline or len(context.components) != 1:
        raise ck.StepError(f"{key}: name one component of a pipeline")
    (name,) = context.components
    old: Any = model.module(name)
    new = _loaded(old, options, f"{key}: {name}")
    faults = list(_misfits(old, new))
    if faults:
        raise ck.StepError(f"{key}: {name} of {options.source} does not fit: {'; '.join(faults)}")
    model.subject.register_modules(**{name: new})
    swapped = {name: [f"{type(new).__name__} of {options.source}"]}
    return ck.StepResult(matched=swapped, changed=swapped)


def _loaded(old: Any, options: SwapComponent, where: str) -> Any:
    import torch

    kind: Any = type(old)
    if not hasattr(kind, "from_pretrained"):
        raise ck.StepError(f"{where}: a {kind.__name__} cannot be loaded from a folder")
    dtype = old.dtype if options.dtype is None else getattr(torch, options.dtype)
    place = {"subfolder": options.subfolder, "revision": options.revision}
    place = {name: value for name, value in place.items() if value}
    try:
        new = kind.from_pretrained(options.source, torch_dtype=dtype, **place)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ck.StepError(f"{where}: {options.source} cannot be loaded: {first}") from error
    return new.to(old.device).eval()


def _misfits(old: Any, new: Any) -> Iterator[str]:
    for setting in FITS:
        before, after = (getattr(part.config, setting, None) for part in (old, new))
        if before != after:
            yield f"{setting} is {after}, and must be {before}"
    # How much smaller than the picture the latents are.
    depths = [len(getattr(part.config, "block_out_channels", ())) for part in (old, new)]
    if hasattr(old, "decode") and depths[0] != depths[1]:
        yield f"it has {depths[1]} levels, and must have {depths[0]}"
