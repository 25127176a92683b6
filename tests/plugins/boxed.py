"""A backend of the tests' own: it saves the whole pipeline, and loads it. Nothing compiles."""

from __future__ import annotations

import os

import compilekit as ck


class Boxed(ck.Options):
    shift: float = 0.0
    runs: bool = True
    file: str = ""
    writes: str = ""


def _ingredients(options):
    if options.file == "unknown":
        return None
    return {"compiler": os.environ.get("BOXED_COMPILER", "1")}


def _lines(folder):
    if (folder / "boxed.txt").exists():
        yield f"{folder.name}: boxed"


@ck.hookimpl
def describe():
    return ck.StepDescription(
        help="Save the whole pipeline, and load it again.",
        options=Boxed,
        effects=lambda options, device: ck.effects("compiled", needs=["stock_state_dict"]),
        components="optional",
        budget=0.01,
        exports=True,
        judge=lambda field, built, here: "fatal" if field == "boxer" else "note",
        whole=ck.Whole(
            fingerprint=lambda: {"boxer": os.environ.get("BOXED_HERE", "1")},
            missing=lambda: os.environ.get("BOXED_MISSING", ""),
            ingredients=_ingredients,
            preflight=("look", "think"),
            inspect=_lines,
            doctor=lambda: [("boxer", "absent", "", "buy one")],
        ),
    )


@ck.hookimpl
def optimize_model(context):
    raise ck.StepError(f"{context.step.key}: this is for builds")


@ck.hookimpl
def export(model, options, destination, context):
    if context.preflight:
        context.note(f"{context.preflight}: fine, force is {context.force}")
        return ck.Part()
    (context.scratch / "work").mkdir()
    model.subject.save_pretrained(destination)
    (destination / "boxed.txt").write_text("boxed")
    if options.writes:
        (destination / options.writes).write_text("mine")
    pictures = model.run({**context.sample, "output_type": "np"}, context.seed).images
    return ck.Part(
        details={"class": type(model.subject).__name__},
        fingerprint={"boxer": "1", "torch": "2.8"},
        reference=pictures,
        drawn=pictures + options.shift if options.runs else None,
    )


@ck.hookimpl
def load_compiled(part):
    import diffusers

    kind = getattr(diffusers, part.pipeline or part.details["class"], None)
    if kind is None:
        raise ck.ModelError(f"there is no {part.pipeline}")
    return kind.from_pretrained(part.folder)
