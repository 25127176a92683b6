"""How `tune` searches: on planted speeds, without processes and without torch."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import compilekit as ck
from compilekit.base.component import ComponentFacts
from compilekit.plugin.host import load_host
from compilekit.recipe.source import read_text
from compilekit.recipe.text import steps_to_text
from compilekit.report import Speed
from compilekit.studies.tune.data import Facts, Gain, Trial, front
from compilekit.studies.tune.search import Search
from compilekit.studies.tune.space import given, offered
from compilekit.studies.tune.study import Study

UNET = ComponentFacts(
    name="unet", kind="UNet2DConditionModel", parameters=10**9, repeated=9,
    layers={"Conv2d": 40, "Attention": 16}, calls={"unet": 20},
)  # fmt: skip
VAE = ComponentFacts(
    name="vae", kind="AutoencoderKL", parameters=10**7, layers={"Conv2d": 40},
    calls={"vae.decode": 1},
)  # fmt: skip
FACTS = Facts(
    components=(UNET, VAE),
    calls={"unet": 20, "vae.decode": 1},
    seconds={"unet": 1.0, "vae.decode": 8.0},
    took=10.0,
)
MACHINE = ck.Machine(system="linux", cpu="x", cpu_flags=("avx2",), cores=2, memory=8 << 30)
HEAD = "compilekit: 1\ntarget: {device: cpu}\nsample: {prompt: a cat}\n"

PACKED = "torch_compile{components=[unet], weights=packed}"
DECODER = "torch_compile{components=[vae.decode], weights=packed}"


def document(steps=""):
    return read_text(HEAD + steps)


def planted(speeds, failing=None, noise=0.01):
    """Trials whose speeds are the products of those of their steps, by entry point."""
    asked = []

    def run(plan, thorough, limit):
        del limit
        text = steps_to_text(plan.recipe.steps)
        asked.append((text, thorough))
        entries = {"unet": 1.0, "vae.decode": 1.0}
        for step in plan.recipe.steps:
            name = steps_to_text([step])
            if name in (failing or {}):
                index = next(i for i, s in enumerate(plan.recipe.steps) if s is step)
                return Trial(steps="", state=failing[name], why="planted", step=index, seconds=5)
            for component in step.components:
                entry = "vae.decode" if component.startswith("vae") else component
                entries[entry] *= speeds.get(name, 1.0)
        width = noise / thorough
        is_compiled = "torch_compile" in text
        return Trial(
            steps="",
            speeds=tuple(_speed(name, value, width) for name, value in entries.items()),
            errors=dict.fromkeys(entries, 1e-6),
            seconds=90.0 if is_compiled else 12.0,
            compiling=60.0 if is_compiled else 0.0,
        )

    return run, asked


def _speed(name, value, width):
    return Speed(
        entry=name, calls=FACTS.calls[name], seconds=FACTS.seconds[name] / value,
        seconds_as_loaded=FACTS.seconds[name], speedup=value,
        low=value * (1 - width), high=value * (1 + width),
    )  # fmt: skip


@pytest.fixture
def search(tmp_path):
    """A search in the space that the built-in plugins offer, or in that of a recipe's choices."""

    def _search(run, steps="", seconds=3600.0, folder="study"):
        host = load_host()
        if steps:
            space = given(document(steps), host, "apply")
        else:
            space = offered(document(), FACTS.components, host, MACHINE, "apply")
        study = Study.opened(tmp_path / folder, {})
        if study.facts is None:
            study.keep_facts(FACTS)
        return Search(space, FACTS, study, run, lambda _: None, seconds)

    return _search


def texts(asked):
    return [text for text, _ in asked]


def best_of(found, point):
    return steps_to_text(found.space.plan(point).recipe.steps)


def test_what_is_fast_is_found_for_each_component(search):
    run, asked = planted({PACKED: 1.5, DECODER: 1.3, "channels_last{components=[unet]}": 1.1})
    found = search(run)
    point, trial = found.run()
    assert best_of(found, point).split(", torch")[0] == "channels_last{components=[unet]}"
    assert PACKED in best_of(found, point)
    assert DECODER in best_of(found, point)
    assert trial.gain.speedup == pytest.approx(28 / (20 / 1.65 + 8 / 1.3))
    assert len(asked) < found.space.size / 3


def test_what_is_slower_is_not_taken(search):
    run, _ = planted({PACKED: 0.5, DECODER: 0.5, "qkv_fusion{components=[unet]}": 0.9})
    found = search(run)
    assert found.run() == (found.space.start, None)


def test_cheap_trials_come_first(search):
    run, asked = planted({PACKED: 1.5})
    search(run).run()
    compiled = ["torch_compile" in text for text in texts(asked)]
    assert compiled == sorted(compiled)


def test_what_gains_only_beside_a_compiler_is_found(search):
    run, _ = planted({PACKED: 1.5})

    def together(plan, thorough, limit):
        trial = run(plan, thorough, limit)
        if "channels_last{components=[unet]}" in trial.steps or not {
            "channels_last", "torch_compile",
        } <= {s.plugin for s in plan.recipe.steps if s.components[0] == "unet"}:  # fmt: skip
            return trial
        speeds = [s.model_copy(update={k: getattr(s, k) * 1.2 for k in ("speedup", "low", "high")})
                  if s.entry == "unet" else s for s in trial.speeds]  # fmt: skip
        return trial.model_copy(update={"speeds": tuple(speeds)})

    found = search(together)
    point, _ = found.run()
    assert best_of(found, point).startswith("channels_last{components=[unet]}, torch_compile")


@pytest.mark.parametrize(
    "state", ["over budget", "does not fit", "failed", "crashed", "took too long", "out of memory"]
)
def test_a_failure_ends_nothing_and_is_the_fault_of_one_component(search, state):
    run, asked = planted({PACKED: 2.0, DECODER: 1.5}, {PACKED: state})
    found = search(run)
    point, trial = found.run()
    assert DECODER in best_of(found, point)
    assert PACKED not in best_of(found, point)
    assert trial.state == "measured"
    failed = [t for t in found.trials if t.state != "measured"]
    assert {t.state for t in failed} == {state}
    assert len(failed) == 1, texts(asked)


def test_where_it_is_not_known_which_component_failed_each_is_tried_alone(search):
    run, _ = planted({PACKED: 2.0, DECODER: 1.5}, {DECODER: "crashed"})

    def unknown(*arguments):
        return run(*arguments).model_copy(update={"step": None})

    found = search(unknown)
    point, _ = found.run()
    assert PACKED in best_of(found, point)
    assert DECODER not in best_of(found, point)


def test_what_keeps_its_budgets_alone_and_not_together_is_not_taken_together(search):
    run, _ = planted({PACKED: 2.0, DECODER: 1.05})

    def together(plan, thorough, limit):
        text = steps_to_text(plan.recipe.steps)
        if PACKED in text and DECODER in text:
            return Trial(steps="", state="over budget", why="the images are too far apart")
        return run(plan, thorough, limit)

    found = search(together)
    point, trial = found.run()
    assert best_of(found, point) == PACKED
    assert trial.state == "measured"


def test_equal_choices_are_the_same(search):
    run, _ = planted({}, noise=0.02)
    assert search(run).run()[1] is None


def test_when_time_is_over_the_best_so_far_is_taken(search):
    clock = itertools.count()
    run, _ = planted({"channels_last{components=[unet]}": 1.2, PACKED: 3.0})
    found = search(run, seconds=1.0)

    def timed(*arguments):
        if next(clock):
            found.seconds = -1e9
        return run(*arguments)

    found.run_trial = timed
    found.seconds = 1e9
    point, trial = found.run()
    assert best_of(found, point).startswith("channels_last{components=[unet]}")
    assert PACKED not in best_of(found, point)
    assert trial.gain.kind == "faster"
    assert any("no time left" in text for text in found.left_out)


def test_what_time_did_not_suffice_for_is_tried_again_later(search):
    run, asked = planted({PACKED: 1.5}, {PACKED: "took too long"})
    found = search(run, seconds=200.0)
    assert found.run()[1] is None
    assert any("the time was over meanwhile" in text for text in found.left_out)
    assert PACKED in " ".join(texts(asked))
    assert not any(PACKED in trial.steps for trial in found.study.trials.values())
    run, _ = planted({PACKED: 1.5})
    found = search(run)
    assert PACKED in best_of(found, found.run()[0])


def test_what_a_study_has_is_not_measured_again(search):
    speeds = {PACKED: 1.5, DECODER: 1.2}
    run, asked = planted(speeds)
    first = search(run)
    result = first.run()
    again, more = planted(speeds)
    second = search(again)
    assert second.run() == result
    assert more == []
    assert [t.steps for t in second.trials] == [t.steps for t in first.trials]
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("kept", range(1, 6))
def test_a_search_that_was_killed_goes_on_and_measures_nothing_twice(search, kept):
    speeds = {PACKED: 1.5, DECODER: 1.2}

    class KilledError(BaseException):
        pass

    run, before = planted(speeds)

    def killed(*arguments):
        if len(before) == kept:
            raise KilledError
        return run(*arguments)

    with pytest.raises(KilledError):
        search(killed).run()
    file = Path(search(run).study.folder, "trials.jsonl")
    with file.open("a") as lines:
        lines.write('{"key": "half a li')
    run, after = planted(speeds)
    found = search(run)
    point, _ = found.run()
    assert PACKED in best_of(found, point)
    assert not set(before) & set(after)


def test_the_choices_of_a_recipe_are_the_space(search):
    steps = (
        "steps:\n"
        "  - choices: [channels_last: {components: unet}, null]\n"
        "  - torch_compile: {components: unet, weights: {choices: [shared, packed]}}\n"
    )
    run, asked = planted({PACKED: 1.5, "torch_compile{components=[unet], weights=shared}": 1.2})
    found = search(run, steps)
    assert found.space.size == 4
    point, _ = found.run()
    assert best_of(found, point) == PACKED
    assert all("torch_compile" in text for text in texts(asked))


def test_what_does_not_fit_together_is_never_tried(search):
    steps = (
        "steps:\n"
        "  - choices: [torch_compile: {components: unet}, null]\n"
        "  - choices: [channels_last: {components: unet}, null]\n"
    )
    run, asked = planted({"torch_compile{components=[unet]}": 1.5})
    found = search(run, steps)
    found.run()
    assert not any("channels_last" in text and "torch_compile" in text for text in texts(asked))
    (why,) = found.space.refused.values()
    assert "must come before" in why


TOGETHER = (
    "steps:\n"
    "  - choices: [channels_last: {components: unet}, null]\n"
    "  - choices: [swap_component: {components: vae, source: x}, null]\n"
)


def test_what_fits_alone_and_not_together_ends_nothing(search, monkeypatch):
    run, _ = planted({"channels_last{components=[unet]}": 1.3})
    found = search(run, TOGETHER)
    allowed = found.space.plan

    def plan(point):
        return None if point == (0, 0) else allowed(point)

    monkeypatch.setattr(found.space, "plan", plan)
    point, _ = found.run()
    assert best_of(found, point) == "channels_last{components=[unet]}"


def test_what_breaks_a_budget_when_it_is_measured_again_is_not_taken(search):
    run, _ = planted({PACKED: 1.5})

    def again(plan, thorough, limit):
        if thorough > 1:
            found.seconds = -1e9
            return Trial(steps="", state="over budget", why="now it is", step=0)
        return run(plan, thorough, limit)

    found = search(again)
    point, trial = found.run()
    assert PACKED not in best_of(found, point)
    assert trial is None or trial.state == "measured"


def test_where_every_recipe_is_refused_the_planner_says_why(search):
    steps = (
        "steps:\n"
        "  - torch_compile: {components: unet}\n"
        "  - choices: [channels_last: {components: unet}, precision: {dtype: bfloat16}]\n"
    )
    with pytest.raises(ck.RecipeError, match="must come before"):
        search(planted({})[0], steps)


def test_steps_without_a_choice_stay_where_nothing_is_faster(search):
    steps = (
        "steps:\n"
        "  - channels_last: {components: unet}\n"
        "  - choices: [torch_compile: {components: unet}, null]\n"
    )
    run, _ = planted({"torch_compile{components=[unet]}": 0.5})
    found = search(run, steps)
    point, _ = found.run()
    assert best_of(found, point) == "channels_last{components=[unet]}"


def test_gains_of_two_trials_are_compared_with_an_interval():
    first = Gain(speedup=1.2, low=1.17, high=1.23)
    second = Gain(speedup=1.25, low=1.2, high=1.3)
    assert second.over(first).kind == "same"
    assert Gain(speedup=1.5, low=1.45, high=1.55).over(first).kind == "faster"
    assert first.over(Gain(speedup=1.5, low=1.45, high=1.55)).kind == "slower"


def test_the_front_has_what_no_other_beats():
    def trial(speedup, error):
        gain = Gain(speedup=speedup, low=speedup, high=speedup)
        return Trial(steps=f"{speedup}", gain=gain, errors={"unet": error})

    trials = [trial(1.0, 0.0), trial(1.5, 1e-3), trial(1.4, 1e-2), trial(1.2, 1e-6)]
    assert [t.steps for t in front(trials)] == ["1.0", "1.5", "1.2"]
