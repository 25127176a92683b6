"""What is kept of a document that is wrong, so that a plan can report its own problems too."""

from __future__ import annotations

from compilekit.recipe import Draft, StepEntry, check
from compilekit.recipe.source import read_text


def draft_of(text: str) -> tuple[Draft, list[str]]:
    draft, problems = check(read_text(text, "r.yaml"))
    return draft, [problem.key for problem in problems]


def test_a_right_document_has_a_recipe_and_no_problems() -> None:
    draft, problems = draft_of("compilekit: 1\ntarget: {device: hpu}\nsteps: [a]\n")
    assert problems == []
    assert draft.recipe is not None
    assert draft.recipe.draft() == draft
    assert (draft.device, draft.steps) == ("hpu", [StepEntry(plugin="a")])


def test_a_wrong_document_has_no_recipe_but_its_device_and_steps() -> None:
    draft, problems = draft_of("target: {device: hpu}\nsteps: [a, 5, {b: {x: 1}}]\n")
    assert problems == ["compilekit", "steps[1]"]
    assert draft.recipe is None
    assert draft.device == "hpu"
    assert draft.steps == [
        StepEntry(plugin="a", index=0),
        StepEntry(plugin="b", index=2, options={"x": 1}),
    ]


def test_a_device_that_is_not_known_is_none() -> None:
    for target in ("{device: cudaa}", "{device: [cpu]}", "[cpu]", "{}"):
        draft, problems = draft_of(f"compilekit: 1\ntarget: {target}")
        assert (draft.device, len(problems)) == (None, 1)


def test_a_step_is_kept_without_the_keys_at_fault() -> None:
    draft, problems = draft_of("""\
compilekit: 1
target: {device: cpu}
steps:
  - a: {components: [unet, "!", vae, unet], budget: -1, allow_no_match: true, x: 1}
""")
    assert problems == ["steps[0].a.components[1]", "steps[0].a.budget"]
    assert draft.steps == [
        StepEntry(
            plugin="a", components=("unet", "vae"), allow_no_match=True, options={"x": 1}, index=0
        )
    ]


def test_a_step_with_no_component_left_is_dropped() -> None:
    text = "compilekit: 1\ntarget: {device: cpu}\nsteps: [{a: {components: ['!']}}]"
    assert draft_of(text)[0].steps == []


def test_an_option_may_have_the_name_of_a_part_of_a_step() -> None:
    text = "compilekit: 1\ntarget: {device: cpu}\nsteps: [{a: {plugin: x, options: 1, index: 2}}]"
    draft, problems = draft_of(text)
    assert problems == []
    assert draft.steps == [StepEntry(plugin="a", options={"plugin": "x", "options": 1, "index": 2})]
