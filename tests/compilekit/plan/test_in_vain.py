"""Steps that undo or repeat each other on one component are told in the plan."""

from __future__ import annotations

import json

import pytest
from support import command

import compilekit as ck
from compilekit.plan.in_vain import in_vain
from compilekit.recipe.library import names

UNDONE = "steps[1].precision undoes steps[0].precision on"
AGAIN = "steps[2].precision undoes steps[1].precision on"
REPEATED = "steps[1].precision repeats steps[0].precision on"
OUT = "; leave one of them out"


def precision(*casts: str) -> str:
    return ", ".join(f"precision{{{cast}}}" for cast in casts)


@pytest.mark.parametrize(
    ("steps", "warnings"),
    [
        (
            precision("dtype=bfloat16", "dtype=float32", "dtype=bfloat16"),
            [
                f"{UNDONE} the pipeline: both set dtype{OUT}",
                f"{AGAIN} the pipeline: both set dtype{OUT}",
            ],
        ),
        (
            precision("dtype=bfloat16, components=[unet, vae]", "dtype=float32, components=vae"),
            [f"{UNDONE} vae: both set dtype{OUT}"],
        ),
        (
            precision("dtype=bfloat16, components=unet", "dtype=bfloat16"),
            [f"{REPEATED} unet{OUT}"],
        ),
        (
            precision("dtype=bfloat16", "dtype=bfloat16, components=unet"),
            [f"{REPEATED} unet{OUT}"],
        ),
        (
            "channels_last{components=[unet, vae]}, channels_last{components=[unet, vae]}",
            [
                f"steps[1].channels_last repeats steps[0].channels_last on {name}{OUT}"
                for name in ("unet", "vae")
            ],
        ),
        (
            "scheduler{name=DDIMScheduler}, scheduler{name=EulerDiscreteScheduler}",
            [f"steps[1].scheduler undoes steps[0].scheduler on the pipeline: both set name{OUT}"],
        ),
        # A part of what an earlier step worked on may be treated otherwise.
        (precision("dtype=bfloat16", "dtype=float32, components=vae"), []),
        (precision("dtype=bfloat16, components=unet", "dtype=float32, components=vae"), []),
        # Weights that are changed twice are changed by both.
        (
            "lora{components=unet, source=a/b, fuse=true}, "
            "lora{components=unet, source=c/d, fuse=true}",
            [],
        ),
        ("attention{components=unet, sdpa=[math]}, attention{components=unet, slicing=auto}", []),
    ],
)
def test_steps_of_one_kind_are_compared_by_their_options(steps: str, warnings: list[str]) -> None:
    plan = ck.plan(ck.Recipe.from_steps(steps))
    assert plan.warnings == warnings
    assert str(plan).splitlines()[len(plan.steps) + 1 :] == [f"warning: {w}" for w in warnings]


def planned(index: int, name: str, **properties: list[str]) -> ck.PlannedStep:
    does = ck.effects("weights", **properties)
    return ck.PlannedStep(
        index=index,
        name=name,
        components=("unet",),
        options=ck.Options(),
        effects=does,
        description=ck.StepDescription(help="", options=ck.Options, effects=lambda *_: does),
    )


def test_a_step_that_takes_away_what_another_gave_is_told() -> None:
    pack, unpack = planned(0, "pack", gives=["packed"]), planned(2, "unpack", removes=["packed"])
    message = f'steps[2].unpack undoes steps[0].pack on unet: it removes "packed"{OUT}'
    assert in_vain([pack, planned(1, "other"), unpack]) == [message]
    assert in_vain([pack, planned(1, "user", needs=["packed"]), unpack]) == []
    uses_up = planned(1, "use", needs=["packed"], removes=["packed"])
    assert in_vain([pack, uses_up]) == []


@pytest.mark.parametrize("name", names())
def test_no_shipped_recipe_has_steps_in_vain(name: str) -> None:
    purpose = "build" if name.startswith("neuron/") else "apply"
    assert ck.plan(name, for_=purpose).warnings == []


NONE = "the recipe has no steps, so it changes nothing"


@pytest.mark.parametrize("steps", ["", "steps: []\n"])
def test_a_recipe_without_steps_is_warned_of(steps: str, write) -> None:
    path = write("none.yaml", f"compilekit: 1\ntarget: {{device: cpu}}\n{steps}")
    assert ck.plan(path).warnings == [NONE]
    done = command("plan", path)
    assert (done.returncode, done.stdout) == (0, f"none: 0 steps on cpu\nwarning: {NONE}\n")
    assert json.loads(command("plan", path, "--json").stdout)["warnings"] == [NONE]


@pytest.mark.parametrize("steps", ["", " "])
def test_an_empty_text_of_steps_is_refused(steps: str) -> None:
    done = command("plan", "sd/compile", "--steps", steps)
    assert (done.returncode, done.stderr) == (
        2,
        "compilekit: <steps>:1:1: there is no step here: name one\n",
    )
