"""Tracing every part on the CPU, by optimum-neuron's own configs, before the compiler runs.

Each part runs on two different inputs, as it is and traced. That finds code that cannot be traced,
wrong shapes, inputs that change nothing, values that were baked in, and outputs that are no
numbers. Of the SDK's packages only names are needed, and where they are absent empty ones serve.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

from .fixes import mend
from .model import controlnets, lora_arguments, pipeline

CLOSE = 1e-3
TEXT = ("text_encoder", "text_encoder_2")


def check(job: Any) -> tuple[list[str], list[str]]:
    """What is wrong, and which parts were looked at."""
    _names_of_the_sdk()
    mend("export", job.request.get("without", ()))
    import torch

    parts = _parts(job)
    widths: dict[str, int] = {}
    faults: list[str] = []
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (module, config) in parts.items():
            job.say(f"tracing {name}")
            faults += [f"{name}: {fault}" for fault in _faults(name, module, config, widths)]
    return [*faults, *_misfit(job, widths, parts)], list(parts)


def _names_of_the_sdk() -> None:
    """Put empty modules where optimum-neuron imports a package that it does not call here."""
    if importlib.util.find_spec("neuronx_distributed") is not None:
        return
    names = (
        "",
        ".parallel_layers",
        ".parallel_layers.parallel_state",
        ".trace",
        ".trace.hlo_utils",
        ".trace.model_builder",
    )
    for name in names:
        module: Any = types.ModuleType(f"neuronx_distributed{name}")
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None, is_package=True)
        module.__path__ = []
        module.BaseModelInstance = module.ModelBuilder = type("Absent", (), {})
        sys.modules[module.__name__] = module
        parent, _, last = module.__name__.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)


def _parts(job: Any) -> dict[str, Any]:
    """Every part with its config, as they would be exported."""
    from optimum.exporters.neuron import __main__ as exporter
    from optimum.exporters.neuron.utils import get_diffusion_models_for_export

    from .export import shapes

    subject = pipeline(job, to_export=True)
    nets = controlnets(job)
    sizes = exporter.infer_shapes_of_diffusers(shapes(job.options), subject, bool(nets))
    parts: dict[str, Any] = get_diffusion_models_for_export(
        pipeline=subject,
        tensor_parallel_size=1,
        text_encoder_input_shapes=sizes["text_encoder"],
        unet_input_shapes=sizes.get("unet"),
        transformer_input_shapes=sizes.get("transformer"),
        vae_encoder_input_shapes=sizes["vae_encoder"],
        vae_decoder_input_shapes=sizes["vae_decoder"],
        lora_args=lora_arguments(job.options.get("lora", [])),
        dynamic_batch_size=job.options["dynamic_batch"],
        controlnet_ids=nets or None,
        controlnet_input_shapes=sizes.get("controlnet"),
        image_encoder_input_shapes=sizes.get("image_encoder"),
        text_encoder_2_input_shapes=sizes.get("text_encoder_2"),
        model_name_or_path=job.request["model"],
    )
    return parts


def _faults(name: str, module: Any, config: Any, widths: dict[str, int]) -> Iterator[str]:
    import torch

    bad = [key for key, value in module.state_dict().items() if not _is_finite(value)]
    if bad:
        yield f"the weight {bad[0]} holds NaN or infinity"
        return
    _as_exported(module, config)
    first, second = _inputs(config, 1), _inputs(config, 2)
    wrapped, _ = config.patch_model_and_prepare_aliases(module, list(first))
    if name.startswith(("unet", "controlnet")):
        widths[name] = first["encoder_hidden_states"].shape[-1]
    try:
        plain = [_flat(wrapped(*inputs.values())) for inputs in (first, second)]
        jit: Any = torch.jit
        traced = jit.trace(wrapped, tuple(first.values()), strict=False, check_trace=False)
        again = [_flat(traced(*inputs.values())) for inputs in (first, second)]
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        yield f"it cannot be traced: {str(error).strip().splitlines()[0]}"
        return
    if name in TEXT:
        widths[name] = plain[0][0 if plain[0][0].dim() == 3 else 1].shape[-1]  # noqa: PLR2004
    yield from _compared(plain, again)
    yield from _dead(traced, first)


def _as_exported(module: Any, config: Any) -> None:
    """What optimum-neuron sets before it traces."""
    if hasattr(module, "config"):
        module.config.return_dict = True
        module.config.torchscript = True
        if hasattr(module.config, "to_diff_dict"):
            for name, value in (config.values_override or {}).items():
                setattr(module.config, name, value)


def _compared(plain: list[list[Any]], again: list[list[Any]]) -> Iterator[str]:
    """What differs between a part and its trace: on the same input, and on another."""
    errors = []
    for outputs, others in zip(plain, again, strict=True):
        if not all(map(_is_finite, outputs)):
            yield "its output holds NaN or infinity"
            return
        if [output.shape for output in outputs] != [other.shape for other in others]:
            yield "its trace gives other shapes for another input"
            return
        errors.append(max(map(_distance, outputs, others)))
    if errors[0] > CLOSE:
        yield f"its trace gives other numbers ({errors[0]:.2g} away)"
    elif errors[1] > CLOSE:
        yield (
            "its trace is right for one input and wrong for another "
            f"({errors[1]:.2g} away): a value was baked in, or it decides by its data"
        )


def _dead(traced: Any, inputs: dict[str, Any]) -> Iterator[str]:
    """Inputs that nothing in the graph reads."""
    for name, value in zip(inputs, list(traced.inlined_graph.inputs())[1:], strict=False):
        if not value.uses():
            yield f"the input {name} changes nothing: no operation reads it"


def _inputs(config: Any, seed: int) -> dict[str, Any]:
    import numpy as np
    import torch
    from optimum.exporters.neuron.convert import prepare_dummy_inputs

    axes = {name: getattr(config, name) for name in config.mandatory_axes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - upstream's inputs come from there
        return dict(prepare_dummy_inputs(config, axes))


def _misfit(job: Any, widths: dict[str, int], parts: dict[str, Any]) -> Iterator[str]:
    """Whether what the text encoders give is as wide as what the denoiser takes."""
    width = sum(widths[name] for name in TEXT if name in widths)
    for name in ("unet", *(part for part in parts if part.startswith("controlnet"))):
        takes = widths.get(name, width)
        if width and takes != width:
            yield (
                f"{name}: it takes text of width {takes} (cross_attention_dim), and the text "
                f"encoders of {job.request['class']} give {width}"
            )


def _flat(output: Any) -> list[Any]:
    import torch

    if isinstance(output, torch.Tensor):
        return [output]
    items = output.values() if isinstance(output, dict) else output
    return [tensor for item in items if item is not None for tensor in _flat(item)]


def _is_finite(tensor: Any) -> bool:
    import torch

    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _distance(output: Any, other: Any) -> float:
    scale = float(output.float().norm()) or 1.0
    return float((output.float() - other.float()).norm()) / scale
