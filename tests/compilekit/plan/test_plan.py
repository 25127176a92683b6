"""The plan: a recipe checked against the plugins, with every problem in one report."""

from __future__ import annotations

import pytest

import compilekit as ck

SEVEN_MISTAKES = """\
compilekit: 1
name: seven
target: {device: cuda}
sample: {prompt: a cat, seed: zero}
steps:
  - torch_compile: {components: [vae.decode], mode: max}
  - channels_last: {components: [unet, vae], memory: fast}
  - chanels_last: {components: [unet]}
  - neuron_only: {components: [unet]}
  - torchao_int8: {components: [unet]}
"""

NEURON_ONLY = """
import compilekit as ck

class Nothing(ck.Options): pass

@ck.hookimpl
def describe():
    return ck.StepDescription(help="For Neuron.", options=Nothing, targets=frozenset({"neuron"}),
                              effects=lambda options, device: ck.effects("runtime"))

@ck.hookimpl
def optimize_model():
    return ck.StepResult(matched={}, changed={})
"""


def test_seven_mistakes_are_reported_at_once_with_their_places(write):
    path = write("seven.yaml", SEVEN_MISTAKES)
    host = ck.load_host([write("neuron_only.py", NEURON_ONLY)])
    with pytest.raises(ck.RecipeError) as caught:
        ck.plan(path, host=host)
    expected = [
        '4:31: sample.seed: "zero" is not an integer',
        '6:53: steps[0].torch_compile.mode: "max" is not one of default, reduce-overhead, '
        'max-autotune, max-autotune-no-cudagraphs. Did you mean "max-autotune"?',
        "7:5: steps[1].channels_last must come before steps[0].torch_compile on vae: "
        "it changes layout, which compiled code does not see",
        '7:46: steps[1].channels_last.memory: unknown key "memory". '
        "Known keys: allow_no_match, budget, components",
        '8:5: steps[2].chanels_last: no plugin brings a step "chanels_last". '
        'Did you mean "channels_last"?',
        '9:5: steps[3].neuron_only: does not support the target "cuda", only neuron',
        "10:5: steps[4].torchao_int8 needs a later step that makes unet "
        '"compiled", and there is none. Steps that give it: torch_compile',
    ]
    lines = [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]
    assert lines == expected


def test_a_plan_prints_what_it_would_do():
    recipe = ck.Recipe.from_steps(
        "precision{dtype=bfloat16}, torch_compile{components=[unet, vae.decode], fullgraph=true}"
    )
    assert str(ck.plan(recipe)) == (
        "steps: 2 steps on cpu\n"
        "  0  precision      the pipeline      changes dtype, runtime  dtype=bfloat16\n"
        "  1  torch_compile  unet, vae.decode  changes compiled        fullgraph=true"
    )


def test_recipes_that_mean_the_same_have_one_digest():
    short = ck.plan(ck.Recipe.from_steps("torch_compile{components=unet}"))
    long = ck.plan(ck.Recipe.from_steps("torch_compile{mode=default, components=[unet]}"))
    assert short.digest == long.digest


def test_the_name_of_a_recipe_is_no_part_of_its_digest():
    text = (
        "compilekit: 1\nname: NAME\ntarget: {device: cpu}\nsteps: [{precision: {dtype: bfloat16}}]"
    )
    one, other = (ck.plan(ck.Recipe.parse(text.replace("NAME", n))) for n in ("one", "other"))
    assert one.digest == other.digest


def test_another_option_is_another_digest():
    one = ck.plan(ck.Recipe.from_steps("torch_compile{components=unet}"))
    other = ck.plan(ck.Recipe.from_steps("torch_compile{components=unet, fullgraph=true}"))
    assert one.digest != other.digest


def test_a_budget_in_the_recipe_overrides_the_steps_own():
    (step,) = ck.plan(ck.Recipe.from_steps("channels_last{components=unet, budget=0.5}")).steps
    assert step.budget == 0.5


def test_a_step_that_must_name_its_components_says_so():
    with pytest.raises(ck.RecipeError, match="name the components to work on"):
        ck.plan(ck.Recipe.from_steps("channels_last"))


def test_a_step_that_compiles_and_cannot_export_is_refused_in_a_build(write):
    plugin = write(
        "jit.py",
        """
        import compilekit as ck
        @ck.hookimpl
        def describe():
            return ck.StepDescription(
                help="x", options=ck.Options, effects=lambda *_: ck.effects("compiled")
            )
        @ck.hookimpl
        def optimize_model(): ...
        """,
    )
    recipe, host = ck.Recipe.from_steps("jit{components=unet}"), ck.load_host([plugin])
    assert ck.plan(recipe, host=host)
    with pytest.raises(ck.RecipeError, match="compiles and cannot export"):
        ck.plan(recipe, host=host, for_="build")


def test_dynamic_int8_on_cuda_must_be_compiled_later():
    recipe = ck.Recipe.from_steps("torchao_int8{components=unet}", device="cuda")
    with pytest.raises(ck.RecipeError, match=r"Steps that give it: torch_compile"):
        ck.plan(recipe)
    assert ck.plan(ck.Recipe.from_steps("torchao_int8{components=unet}", device="cpu")).steps


PRUNE = """
import compilekit as ck

class Prune(ck.Options):
    amount: float = 0.5

def what_it_does(options, device):
    return ck.effects("weights", needs=["plain_linear_weights"], gives=["pruned"],
                      conflicts=["fused_qkv"])

@ck.hookimpl
def describe():
    return ck.StepDescription(help="Prune.", options=Prune, effects=what_it_does)

@ck.hookimpl
def optimize_model(model, options, context):
    return ck.StepResult(matched={}, changed={})
"""


@pytest.mark.parametrize(
    ("other", "right"),
    [
        ("torchao_int8", "prune(unet), torchao_int8(unet)"),
        ("qkv_fusion", "prune(unet), qkv_fusion(unet)"),
        ("torch_compile", "prune(unet), torch_compile(unet)"),
    ],
)
def test_a_strangers_step_is_ordered_against_every_built_in(write, other, right):
    host = ck.load_host([write("prune.py", PRUNE)])
    recipe = ck.Recipe.from_steps(f"{other}{{components=unet}}, prune{{components=unet}}")
    with pytest.raises(ck.RecipeError) as caught:
        ck.plan(recipe, host=host)
    assert caught.value.advice == f"The right order is: {right}."


@pytest.mark.parametrize("other", ["channels_last", "precision{dtype=bfloat16}"])
def test_a_strangers_step_goes_where_nothing_stands_against_it(write, other):
    host = ck.load_host([write("prune.py", PRUNE)])
    for steps in (f"{other}, prune", f"prune, {other}"):
        named = steps.replace("channels_last", "channels_last{components=unet}")
        recipe = ck.Recipe.from_steps(named.replace("prune", "prune{components=unet}"))
        assert len(ck.plan(recipe, host=host).steps) == 2


def test_what_a_step_says_against_its_options_moves_no_cursor():
    steps = 'gaudi{gaudi_config: "\\u001b[2J", outside: round}'.replace(": ", "=")
    with pytest.raises(ck.RecipeError) as raised:
        ck.plan(ck.Recipe.from_steps(steps, device="hpu"))
    assert "[2J" in str(raised.value)
    assert all(line.isprintable() for line in str(raised.value).split("\n"))
