"""An exporter written against the first version's hooks, by a stranger: it stays as it is.

It writes no code: a convolution or a linear layer is computed by hand when the part is loaded.
"""

from __future__ import annotations

import compilekit as ck


class ByHand(ck.Options):
    modules: tuple[str, ...] = ()


@ck.hookimpl
def describe():
    return ck.StepDescription(
        help="Compute convolutions and linear layers by hand.",
        options=ByHand,
        effects=lambda options, device: ck.effects("compiled", conflicts=["compiled"]),
        exports=True,
        judge=lambda field, built, here: "note",
    )


@ck.hookimpl
def optimize_model(model, context):
    return ck.StepResult(matched={}, changed={})


@ck.hookimpl
def regions(options, context):
    if not options.modules:
        return None
    return [f"{component}.{name}" for component in context.components for name in options.modules]


@ck.hookimpl
def export(destination, context):
    owner = context.flat.owner
    (destination / "kind.txt").write_text(type(owner).__name__)
    return ck.Part(
        constants={"weight": owner.weight, "bias": owner.bias},
        details={"padding": list(getattr(owner, "padding", ()))},
    )


@ck.hookimpl
def load_compiled(part):
    from torch.nn import functional

    weight, bias = part.constants["weight"], part.constants["bias"]
    if (part.folder / "kind.txt").read_text() == "Linear":
        return lambda inputs: [functional.linear(inputs[0], weight, bias)]
    padding = part.details["padding"]
    return lambda inputs: [functional.conv2d(inputs[0], weight, bias, padding=padding)]
