"""What the steps of a recipe really did, and what they did not."""

from __future__ import annotations

import json
import math
import re
import time

import pytest
import torch
import torch._dynamo
from support import SAMPLE, take_all_times
from torch import nn

import compilekit as ck
from compilekit.engine import pace
from compilekit.testing import tiny_pipeline

STEP = """
import compilekit as ck
class Options(ck.Options):
    seconds: float = 0.0
    by: float = 1.0
    bytes: int = 0
    nothing: bool = False
    leave: tuple[int, ...] = ()
def kinds(o):
    found = ["runtime"] if o.by == 1.0 else ["weights"]
    return [*found, *(["structure"] if o.bytes else [])]
@ck.hookimpl
def describe():
    return ck.StepDescription(
        help="Do something.", options=Options, budget=1e-3,
        effects=lambda o, d: ck.effects(*kinds(o)),
    )
@ck.hookimpl
def optimize_model(model, options, context):
    import time, torch
    for name in context.components:
        entry = model.entry_point(name)
        if options.by != 1.0:
            with torch.no_grad():
                for parameter in entry.owner.parameters():
                    parameter.mul_(options.by)
        if options.bytes:
            entry.owner.register_buffer("spare", torch.zeros(options.bytes, dtype=torch.uint8))
        if options.seconds:
            before = entry.function
            def slowly(*args, **kwargs):
                time.sleep(options.seconds)
                return before(*args, **kwargs)
            entry.replace(slowly)
    found = {name: [] if options.nothing else ["it"] for name in context.components}
    skipped = {f"model.{n}": f"{n} features, fewer than {100}" for n in options.leave}
    return ck.StepResult(matched=found, changed=found, skipped=skipped)
"""


COMPILER = """
import compilekit as ck
@ck.hookimpl
def describe():
    return ck.StepDescription(
        help="Compile.", options=ck.Options, effects=lambda o, d: ck.effects("compiled"),
    )
@ck.hookimpl
def optimize_model(model, context):
    import time
    entry = model.entry_point(context.components[0])
    before, is_ready = entry.function, hasattr(entry.owner, "spare")
    def run(*args, **kwargs):
        if not is_ready:
            time.sleep(0.1)
        return before(*args, **kwargs)
    entry.replace(run)
    found = {context.components[0]: ["it"]}
    return ck.StepResult(matched=found, changed=found)
"""


class Net(nn.Module):
    """One layer, that takes as long as it is told."""

    def __init__(self, seconds=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 8)
        self.seconds = seconds

    def forward(self, x):
        if self.seconds:
            time.sleep(self.seconds)
        return self.linear(x)


INPUTS = {"x": torch.linspace(-1, 1, 32).reshape(4, 8)}


@pytest.fixture(autouse=True)
def _busy(monkeypatch):
    """On a machine that does other work too, equal times may differ by any factor."""
    take_all_times(monkeypatch)
    monkeypatch.setattr("compilekit.report.verdict.WIDEST", math.inf)
    monkeypatch.setattr(pace, "WIDEST", math.inf)


@pytest.fixture
def host(write):
    return ck.load_host([write("act.py", STEP)])


@pytest.fixture
def explain(host):
    """Explain steps on a small net."""

    def _explain(steps, net=None, rest="", **more):
        recipe = ck.Recipe.parse(ck.Recipe.from_steps(steps).to_yaml() + rest)
        return ck.explain(
            recipe, net or Net().eval(), **{"inputs": INPUTS, "host": host, **more}, progress=False
        )

    return _explain


def verdicts(found):
    return [step.verdict for step in found.steps]


def test_a_step_that_changes_nothing_is_dead(explain):
    found = explain("act{components=model}", Net(0.002).eval())
    assert verdicts(found) == ["dead"]
    assert "outputs are the same to the bit" in str(found)


def test_a_step_that_moves_outputs_by_rounding_alone_is_dead(explain):
    found = explain("act{components=model, by=1.0000002}", Net(0.002).eval())
    assert 0 < found.steps[0].moved[0].change < 1e-6
    assert verdicts(found) == ["dead"]


@pytest.mark.parametrize("what", ["by=1.0001", "bytes=1000"])
def test_a_step_that_changes_values_or_bytes_is_not_dead(explain, what):
    assert verdicts(explain(f"act{{components=model, {what}}}", Net(0.002).eval())) == ["changed"]


def test_a_step_that_slows_the_model_down_is_named_with_the_ratio(explain):
    found = explain(
        "act{components=model}, act{components=model, seconds=0.03}, act{components=model}",
        Net(0.005).eval(),
    )
    assert verdicts(found) == ["dead", "slower", "dead"]
    (timing,) = found.steps[1].timings
    assert 3 < timing.ratio < 8
    assert timing.low < timing.ratio < timing.high
    assert f"  model: {timing.ratio:.2f}x slower (" in str(found)


def test_a_model_below_its_least_speedup_is_told(explain):
    found = explain(
        "act{components=model, seconds=0.03}",
        Net(0.005).eval(),
        rest="verify: {min_speedup: 1.0}\n",
    )
    (problem,) = found.problems
    assert "and min_speedup is 1. `act` is to blame" in problem
    assert f"apply would stop at the end: {problem}" in str(found)


def test_a_compiler_that_makes_the_model_slower_is_named_and_what_was_gained_before_is_not_lost(
    explain,
):
    found = explain(
        "act{components=model, by=1.001, budget=0.1}, "
        "torch_compile{components=model, backend=drowsy}"
    )
    assert verdicts(found) == ["changed", "slower"]
    first, second = found.steps[0].timings[0], found.steps[1].timings[0]
    assert (first.verdict, first.later) == ("untold", "steps[1].torch_compile")
    assert (second.verdict, second.together) == ("slower", [])
    assert "x slower than uncompiled (" in str(found)


def test_a_compiler_that_gains_nothing_is_told(write, explain):
    host = ck.load_host([write("act.py", STEP), write("build.py", COMPILER)])
    found = explain(
        "act{components=model, bytes=100}, build{components=model}", Net(0.005).eval(), host=host
    )
    assert verdicts(found) == ["changed", "no gain"]
    (timing,) = found.steps[1].timings
    assert (timing.verdict, timing.together) == ("noise", ["steps[0].act"])


@torch._dynamo.register_backend
def drowsy(graph, _):
    """A compiler for torch whose code waits."""

    def run(*arguments):
        time.sleep(0.03)
        return graph(*arguments)

    return run


class Talking(Net):
    """Its graph breaks, and it is compiled again for another width."""

    def forward(self, x):
        y = self.linear(x)
        torch._dynamo.graph_break()
        return y * 2


def test_graph_breaks_and_recompiles_come_with_their_source_lines_and_shapes(explain):
    found = explain(
        "torch_compile{components=model, backend=eager}",
        Talking().eval(),
        rest="shapes: [{batch: 4}, {batch: 7}, {batch: 9}]\n",
    )
    (step,) = found.steps
    line = Talking.forward.__code__.co_firstlineno + 2
    assert len(step.graph_breaks) == 1
    assert f"test_explain.py:{line}: " in step.graph_breaks[0]
    # The second size is compiled for, with a symbol; so the third is no news.
    assert {each.cause for each in step.recompiles} == {"batch=7"}
    assert all("size mismatch at index 0. expected 4, actual 7" in e.what for e in step.recompiles)
    assert [shape.shape for shape in found.shapes] == ["batch=4", "batch=7", "batch=9"]
    assert f"  recompiles by batch=7: {len(step.recompiles)}\n" in str(found)


def test_a_broken_budget_is_told_and_stops_nothing(explain):
    steps = "act{components=model, by=1.02}, act{components=model, by=1.5, budget=0.6}"
    found = explain(steps, rest="verify: {max_relative_error: 0.1}\n")
    assert verdicts(found) == ["changed", "changed"]
    assert [len(step.problems) for step in found.steps] == [1, 0]
    assert "apply would stop here: it moved model by 0.02, over its budget 0.001" in str(found)
    assert "apply would stop at the end: the finished model is out of budget: model" in str(found)
    assert [row.budget for row in found.report.steps] == [0.001, 0.6]


@pytest.mark.parametrize("budget", [1e-4, 3e-3, 1e-2])
def test_a_budget_is_broken_where_apply_stops(explain, host, budget):
    steps = f"precision{{dtype=bfloat16}}, act{{components=model, by=1.004, budget={budget}}}"
    told = bool(explain(steps).steps[1].problems)
    stops = False
    try:
        ck.apply(
            ck.Recipe.from_steps(steps), Net().eval(), inputs=INPUTS, host=host, progress=False
        )
    except ck.VerificationError:
        stops = True
    assert told == stops


def test_a_step_that_matches_nothing_is_told_and_stops_nothing(explain):
    found = explain("act{components=model, nothing=true}, act{components=model}", Net(0.002).eval())
    assert verdicts(found) == ["unmatched", "dead"]
    assert "steps[0].act: matched nothing\n" in str(found)
    assert "apply would stop here: it matched nothing, and the recipe does not say" in str(found)
    allowed = explain("act{components=model, nothing=true, allow_no_match=true}")
    assert allowed.steps[0].problems == []


def test_where_outputs_are_not_finite_the_explanation_ends(explain):
    found = explain("act{components=model, by=.nan}, act{components=model}")
    assert [step.key for step in found.steps] == ["steps[0].act"]
    assert "model gives NaN or infinity" in found.problems[0]
    assert found.problems[0].endswith("; later steps are not explained")


def test_what_was_left_alone_is_grouped_by_reason(explain):
    found = explain("act{components=model, leave=[8, 16, 64, 3, 5]}")
    (group,) = found.steps[0].skipped
    assert group.reason == "3 to 64 features, fewer than 100"
    assert "  left alone: 5\n    5: 3 to 64 features, fewer than 100 (model.8, " in str(found)
    assert "model.64 and 2 more)" in str(found)


SD = {key: value for key, value in SAMPLE.items() if key != "seed"}


def test_what_the_sample_calls_and_no_step_covers_is_listed(write):
    host = ck.load_host([write("act.py", STEP), write("build.py", COMPILER)])
    recipe = ck.Recipe.from_steps(
        "act{components=[unet, vae.encode]}, build{components=unet}", sample=SD
    )
    found = ck.explain(recipe, tiny_pipeline("sd"), host=host, progress=False)
    called = {each.entry: each for each in found.calls}
    assert list(called) == ["text_encoder", "unet", "vae.decode"]
    assert [each.calls for each in found.calls] == [2, 2, 1]
    assert called["unet"].steps == ["steps[0].act", "steps[1].build"]
    assert (called["vae.decode"].steps, called["vae.decode"].compiled) == ([], False)
    assert 0.3 < called["unet"].share < sum(each.share for each in found.calls) < 1
    assert re.search(
        r"\n  vae.decode +\d+% of the time, 1 call in 1 way: "
        r"no step works on it; nothing compiles it\n",
        str(found),
    )
    assert found.steps[0].uncalled == ["vae.encode"]
    assert "the sample never calls vae.encode, so nothing is known of that" in str(found)


def test_a_step_that_means_to_change_the_image_and_does_not_is_dead():
    recipe = ck.Recipe.from_steps(
        "scheduler{name=DDIMScheduler}, scheduler{name=EulerDiscreteScheduler}", sample=SD
    )
    found = ck.explain(recipe, tiny_pipeline("sd"), progress=False)
    assert verdicts(found) == ["dead", "changed"]
    assert "  the sample's output is the same to the bit\n" in str(found)
    assert "  the sample's output is another\n" in str(found)


def test_a_shape_that_does_not_run_is_told_and_an_unknown_one_is_an_error():
    recipe = ck.Recipe.from_steps("channels_last{components=vae}", sample=SD)
    odd = ck.Recipe.parse(recipe.to_yaml() + "shapes: [{height: 100}, {batch: 2}]\n")
    found = ck.explain(odd, tiny_pipeline("sd"), progress=False)
    assert [bool(shape.error) for shape in found.shapes] == [True, False]
    assert "with height=100 the sample does not run: `height` and `width` have to be" in str(found)
    wrong = ck.Recipe.parse(recipe.to_yaml() + "shapes: [{hieght: 96}]\n")
    with pytest.raises(ck.RecipeError, match=r'shapes\[0\].hieght: .*Did you mean "height"'):
        ck.explain(wrong, tiny_pipeline("sd"), progress=False)


def test_a_step_that_fails_is_an_error_as_in_apply(explain):
    with pytest.raises(ck.StepError, match=r"steps\[0\].torch_compile.backend"):
        explain("torch_compile{components=model, backend=no}")


def test_the_explanation_is_json_that_can_be_read_again(explain):
    found = explain("act{components=model}")
    assert ck.Explanation.model_validate_json(found.to_json()) == found
    assert json.loads(found.to_json())["steps"][0]["key"] == "steps[0].act"


class Locked(Net):
    """Cannot be copied."""

    def __deepcopy__(self, memo):
        raise TypeError("not this one")


def test_where_the_model_cannot_be_copied_no_time_is_judged(explain):
    found = explain("act{components=model, seconds=0.01}", Locked().eval())
    assert verdicts(found) == ["untold"]
    said = "times were not compared: the model cannot be copied (TypeError: not this one)\n"
    assert said in str(found)
    assert str(found).endswith("\n  model: its time was not compared")


def test_leaving_a_step_out_shows_what_it_gains_once_compiled(write, tmp_path, monkeypatch):
    from diffusers import UNet2DModel

    def forward(self, sample, timestep):
        time.sleep(0.005)  # a busy machine disturbs it less than the real one
        return sample + self.conv_in.bias.sum()

    monkeypatch.setattr(UNet2DModel, "forward", forward)
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=2,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    unet.save_pretrained(tmp_path / "model")
    recipe = write(
        "small.yaml",
        """
        compilekit: 1
        target: {device: cpu}
        model:
          pipeline: UNet2DModel
          inputs: {sample: {shape: [1, 3, 8, 8]}, timestep: {shape: [1], dtype: int64}}
        steps:
          - act: {components: [model], bytes: 100}
          - act: {components: [model]}
          - build: {components: [model]}
        """,
    )
    host = ck.load_host([write("act.py", STEP), write("build.py", COMPILER)])
    model = tmp_path / "model"
    found = ck.explain(recipe, model, leave_out=True, host=host, progress=False)
    assert verdicts(found)[:2] == ["faster", "dead"]
    (timing,) = found.steps[0].timings
    assert (timing.left_out, timing.verdict, timing.later) == (True, "faster", "")
    assert "x faster than without this step, once compiled (" in str(found)
    with pytest.raises(ck.UsageError, match="pass a folder or a hub id, not a UNet2DModel"):
        ck.explain(recipe, unet, leave_out=True, host=host, progress=False)


class Large(Net):
    """Its copy finds no memory left once it runs."""

    def __deepcopy__(self, memo):
        found = Large()
        found.seconds = None
        return found

    def forward(self, x):
        if self.seconds is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


def test_where_the_copy_does_not_run_no_time_is_judged(explain):
    found = explain("act{components=model, by=2}", Large().eval())
    assert verdicts(found) == ["changed"]
    assert found.untimed == (
        "a copy of the model does not run beside it (OutOfMemoryError: CUDA out of memory)"
    )
