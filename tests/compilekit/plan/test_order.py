"""The order of steps, from effects alone."""

from __future__ import annotations

from compilekit import Effects, Options, PlannedStep, StepDescription, effects
from compilekit.plan.order import corrected, violations


def step(index: int, name: str, does: Effects, components: tuple[str, ...] = ("unet",)):
    description = StepDescription(help="", options=Options, effects=lambda *_: does)
    return PlannedStep(
        index=index,
        name=name,
        components=components,
        options=Options(),
        effects=does,
        description=description,
    )


LAYOUT = effects("layout")
COMPILE = effects("compiled", conflicts=["compiled"])
FUSE = effects("structure", needs=["plain_linear_weights"], gives=["fused_qkv"])
INT8 = effects("weights", needs=["plain_linear_weights"], removes=["plain_linear_weights"])
LORA = effects("results", "weights", needs=["plain_linear_weights"])
INT8_CUDA = effects("weights", removes=["plain_linear_weights"], needs_later=["compiled"])


def messages(*steps: PlannedStep) -> list[str]:
    return [violation.message for violation in violations(steps)]


def names(*steps: PlannedStep) -> list[str] | None:
    order = corrected(steps)
    return None if order is None else [each.name for each in order]


def test_a_right_order_has_nothing_wrong():
    steps = [step(0, "layout", LAYOUT), step(1, "fuse", FUSE), step(2, "int8", INT8)]
    assert messages(*steps, step(3, "compile", COMPILE)) == []


def test_what_changes_layout_cannot_come_after_compiled_code():
    assert messages(step(0, "compile", COMPILE), step(1, "layout", LAYOUT)) == [
        "steps[1].layout must come before steps[0].compile on unet: it changes layout, "
        "which compiled code does not see"
    ]


def test_compiling_one_component_leaves_others_free():
    assert messages(step(0, "compile", COMPILE), step(1, "layout", LAYOUT, ("vae",))) == []


def test_a_component_covers_its_entry_points():
    found = messages(step(0, "compile", COMPILE, ("vae.decode",)), step(1, "lay", LAYOUT, ("vae",)))
    assert len(found) == 1
    assert "on vae:" in found[0]


def test_two_entry_points_of_one_component_do_not_meet():
    one, two = step(0, "compile", COMPILE, ("vae.decode",)), step(1, "lay", LAYOUT, ("vae.encode",))
    assert messages(one, two) == []


def test_a_step_without_components_meets_every_component():
    assert len(messages(step(0, "compile", COMPILE), step(1, "cast", LAYOUT, ("*",)))) == 1


def test_what_needs_a_property_comes_before_what_removes_it():
    assert messages(step(0, "int8", INT8), step(1, "fuse", FUSE)) == [
        "steps[1].fuse must come before steps[0].int8 on unet: "
        'it needs "plain_linear_weights", which steps[0].int8 removes'
    ]


def test_what_needs_a_property_comes_after_what_gives_it():
    needs = effects("weights", needs=["fused_qkv"])
    assert messages(step(0, "tune", needs), step(1, "fuse", FUSE)) == [
        "steps[0].tune must come after steps[1].fuse on unet: "
        'it needs "fused_qkv", which steps[1].fuse gives'
    ]


def test_a_property_that_nothing_gives_is_no_matter_of_order():
    needs = effects("weights", needs=["fused_qkv"])
    (violation,) = violations([step(0, "tune", needs)])
    assert (violation.misplaced, violation.lacks) == (False, "fused_qkv")


def test_steps_that_change_results_come_before_all_others_on_any_component():
    assert messages(step(0, "layout", LAYOUT, ("vae",)), step(1, "lora", LORA)) == [
        "steps[1].lora must come before steps[0].layout: it changes the results, and the "
        "reference is recorded after the steps that do"
    ]


def test_a_conflict_names_the_step_that_gives_the_property():
    fussy = effects("weights", conflicts=["fused_qkv"])
    assert messages(step(0, "fuse", FUSE), step(1, "fussy", fussy)) == [
        "steps[1].fussy must come before steps[0].fuse on unet: "
        'it conflicts with "fused_qkv", which steps[0].fuse gives'
    ]


def test_compiling_twice_cannot_be_mended_by_another_order():
    (violation,) = violations([step(0, "one", COMPILE), step(1, "two", COMPILE)])
    assert violation.message == (
        'steps[1].two: unet is "compiled" already, by steps[0].one; leave one of them out'
    )
    assert not violation.misplaced


def test_what_must_be_compiled_later_says_so():
    (violation,) = violations([step(0, "int8", INT8_CUDA)])
    assert violation.message == (
        'steps[0].int8 needs a later step that makes unet "compiled", and there is none'
    )


def test_compiling_the_entry_point_satisfies_what_its_component_needs_later():
    quantise = step(0, "int8", INT8_CUDA, ("vae",))
    assert messages(quantise, step(1, "compile", COMPILE, ("vae.decode",))) == []


def test_the_corrected_order_is_as_near_to_the_written_one_as_can_be():
    wrong = [
        step(0, "compile", COMPILE),
        step(1, "int8", INT8),
        step(2, "layout", LAYOUT, ("vae",)),
        step(3, "fuse", FUSE),
        step(4, "lora", LORA),
    ]
    assert names(*wrong) == ["lora", "layout", "fuse", "int8", "compile"]


def test_two_steps_that_each_use_up_what_the_other_needs_have_no_order():
    assert names(step(0, "one", INT8), step(1, "two", INT8)) is None


def test_a_strangers_property_takes_part_without_being_known():
    prune = effects("weights", needs=["plain_linear_weights"], gives=["pruned"])
    finetune = effects("weights", needs=["pruned"], conflicts=["compiled"])
    steps = [step(0, "compile", COMPILE), step(1, "finetune", finetune), step(2, "prune", prune)]
    assert names(*steps) == ["prune", "finetune", "compile"]
