"""Steps that export the whole pipeline: built, loaded, checked, compared, refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from support import SAMPLE, draw
from typer.testing import CliRunner

import compilekit as ck
from compilekit.cli import app
from compilekit.testing import tiny_pipeline

BOXED = Path(__file__).parents[2] / "plugins" / "boxed.py"
run = CliRunner().invoke


@pytest.fixture(scope="module")
def host():
    return ck.load_host([BOXED])


@pytest.fixture
def make(host, tmp_path):
    def _make(steps="boxed", name="box", pipeline=None, **arguments):
        recipe = ck.Recipe.from_steps(steps, sample=SAMPLE, device=arguments.pop("device", "cpu"))
        pipeline = pipeline or tiny_pipeline("sd")
        arguments = {"cache": False, "progress": False, "host": host, **arguments}
        return ck.build(recipe, pipeline, tmp_path / name, **arguments)

    return _make


def load(folder, host, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ck.load(folder, host=host, progress=False, **arguments)


def test_the_folder_of_the_step_becomes_the_bundle(make, host):
    built = make()
    files = {file.path for file in built.manifest.files}
    assert {"model_index.json", "boxed.txt", "replay.safetensors"} <= files
    assert (built.manifest.components, built.manifest.entries, built.manifest.parts) == ((), (), ())
    assert built.manifest.whole.model_dump() == {
        "step": 0,
        "details": {"class": "StableDiffusionPipeline"},
        "reference": True,
        "error": 0.0,
    }
    assert sorted(path.name for path in built.path.parent.iterdir()) == ["box"]
    pipeline = load(built.path, host)
    assert np.array_equal(draw(pipeline), draw(tiny_pipeline("sd")))
    assert ck.bundle_of(pipeline).manifest == built.manifest


def test_it_may_be_for_a_device_that_is_not_here(make, host):
    built = make(device="neuron")
    assert load(built.path, host).device.type == "cpu"


def test_steps_before_it_change_what_it_exports(make, host):
    built = make("scheduler{name=EulerDiscreteScheduler}, boxed")
    assert type(load(built.path, host).scheduler).__name__ == "EulerDiscreteScheduler"


def test_another_pipeline_of_the_same_parts_can_be_asked_for(make, host):
    built = make()
    loaded = load(built.path, host, pipeline="StableDiffusionImg2ImgPipeline")
    assert type(loaded).__name__ == "StableDiffusionImg2ImgPipeline"
    with pytest.raises(ck.ModelError, match="there is no Nothing"):
        load(built.path, host, pipeline="Nothing")


def test_pictures_over_the_budget_leave_no_bundle(make, tmp_path):
    with pytest.raises(ck.VerificationError) as caught:
        make("boxed{shift=0.1}")
    assert "its pictures are 0." in str(caught.value)
    assert "(relative L2), over its budget 0.01" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_are_no_numbers_leave_no_bundle(make, tmp_path):
    with pytest.raises(ck.NonFiniteError, match="a picture that it draws holds NaN or infinity"):
        make("boxed{shift=.nan}")
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_run_here_is_said_and_checked_where_it_can(make, host, monkeypatch):
    built = make("boxed{runs=false}")
    assert built.report.warnings == [
        "steps[0].boxed: what it compiled has not run here, so its pictures were not compared; "
        "`compilekit verify --replay` does that where it can run"
    ]
    done = run(app, ["verify", str(built.path), "--replay", "--plugin", str(BOXED)])
    assert done.exit_code == 0, done.output
    assert "the sample's pictures" in done.output


def test_that_its_speed_is_not_checked_is_said(host, tmp_path):
    recipe = ck.Recipe.parse(
        "compilekit: 1\ntarget: {device: cpu}\nsteps: [boxed]\n"
        "sample: {prompt: a cat, height: 32, width: 32, num_inference_steps: 2}\n"
        "verify: {min_speedup: 1.5}\n"
    )
    arguments = {"cache": False, "progress": False, "host": host}
    built = ck.build(recipe, tiny_pipeline("sd"), tmp_path / "box", **arguments)
    assert built.report.verdict is None
    assert built.report.warnings == [
        "min_speedup was not checked: steps[0].boxed compiled the pipeline as a whole, and such a "
        "pipeline is not timed beside the model as loaded"
    ]


def test_the_commands_know_such_a_bundle(make, host):
    built, other = make(), make("boxed{runs=false}", name="other")
    shown = run(app, ["inspect", str(built.path)])
    assert "compiled\n" in shown.output
    assert (
        run(app, ["diff", str(built.path), str(built.path)]).output
        == "they are the same, up to times\n"
    )
    assert "boxed.runs" in run(app, ["diff", str(built.path), str(other.path)]).output
    done = run(
        app, ["run", str(built.path), "-o", str(built.path.parent / "out"), "--plugin", str(BOXED)]
    )
    assert done.exit_code == 0, done.output
    assert (built.path.parent / "out" / "image.png").exists()


def test_altered_files_are_refused(make, host):
    built = make()
    (built.path / "boxed.txt").write_text("BOXED")
    with pytest.raises(ck.BundleError, match=r"boxed\.txt: was altered"):
        load(built.path, host)


def test_another_machine_is_refused_field_by_field(make, host, monkeypatch):
    built = make()
    monkeypatch.setenv("BOXED_HERE", "2")
    with pytest.raises(ck.MismatchError) as caught:
        load(built.path, host)
    assert str(caught.value).splitlines()[1:] == [
        "  fatal: boxer: built with 1, here 2; load it on a machine like that, or build the "
        "bundle again here"
    ]


def test_a_process_that_lacks_the_packages_says_so_before_all_else(make, host, monkeypatch):
    built = make()
    monkeypatch.setenv("BOXED_MISSING", "no boxer is installed")
    with pytest.raises(ck.MachineError) as caught:
        load(built.path, host)
    assert str(caught.value) == f"{built.path} cannot be loaded here: no boxer is installed"


def test_it_cannot_run_eagerly(make, host):
    built = make()
    with pytest.raises(ck.UsageError, match="it cannot run eagerly"):
        load(built.path, host, on_mismatch="eager")


def test_it_is_for_its_own_device_alone(make, host):
    built = make()
    with pytest.raises(ck.UsageError, match='device="cuda": this bundle is a pipeline compiled'):
        load(built.path, host, device="cuda")


def test_a_bundle_of_parts_is_no_other_pipeline(bundle, exporter):
    with pytest.raises(ck.UsageError, match="only a bundle of a whole pipeline loads as another"):
        load(bundle, exporter, pipeline="StableDiffusionImg2ImgPipeline")


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        ("boxed, scheduler{name=DDIMScheduler}", "scheduler must come before"),
        ("boxed{components=unet}", "leave `components` out"),
        ("attention{slicing=auto}, boxed", "which loses how this process runs it"),
        ("boxed, channels_last{components=unet}", "nothing can come after it"),
    ],
)
def test_what_cannot_be_built_with_it_is_refused_in_the_plan(host, steps, wrong):
    with pytest.raises(ck.RecipeError) as caught:
        ck.plan(ck.Recipe.from_steps(steps), host=host, for_="build")
    assert wrong in str(caught.value)


def test_sizes_are_its_own_affair(host):
    recipe = ck.Recipe.parse(
        "compilekit: 1\ntarget: {device: cpu}\nshapes: [{height: 96}]\nsteps: [boxed]\n"
    )
    with pytest.raises(ck.RecipeError, match="leave `shapes:` out"):
        ck.plan(recipe, host=host, for_="build")


def test_names_that_the_bundle_needs_are_refused(make):
    with pytest.raises(ck.PluginContractError, match=r"wrote manifest\.json, which is compilekit"):
        make("boxed{writes=manifest.json}")


def test_an_identical_build_is_a_copy_and_another_compiler_is_none(make, monkeypatch):
    first = make(cache=True)
    again = make(name="again", cache=True)
    assert ": 1 part, " in str(first)
    assert ": 1 part (1 from the cache), " in str(again)
    assert again.manifest == first.manifest
    keys = cached()
    assert len(keys) == 1
    monkeypatch.setenv("BOXED_COMPILER", "2")
    make(name="other", cache=True)
    assert len(cached()) == len(keys) + 1
    make("boxed{file=unknown}", name="unknown", cache=True)
    assert len(cached()) == len(keys) + 1


def cached():
    from compilekit.cache import settings
    from compilekit.cache.store import Cache

    return [entry.key for entry, _ in Cache(settings.folder()).entries()]


def test_retrained_weights_are_built_anew(make):
    make(cache=True)
    pipeline = tiny_pipeline("sd")
    pipeline.unet.conv_in.weight.data += 1e-3
    make(name="retrained", pipeline=pipeline, cache=True)
    assert len(cached()) == 2


def test_its_checks_can_be_run_alone(host, make, tmp_path):
    recipe = ck.Recipe.from_steps("boxed", sample=SAMPLE)
    pipeline = tiny_pipeline("sd")
    said = {"host": host, "progress": False}
    assert ck.preflight(recipe, pipeline, **said) == [
        "look: fine, force is False",
        "think: fine, force is False",
    ]
    assert ck.preflight(recipe, pipeline, level="think", force=True, **said) == [
        "think: fine, force is True"
    ]
    with pytest.raises(ck.UsageError, match='level="guess": name one of look, think'):
        ck.preflight(recipe, pipeline, level="guess", **said)


def test_doctor_and_inspect_ask_it(make, tmp_path):
    done = run(app, ["doctor", "--plugin", str(BOXED)])
    assert "boxed: boxer" in done.output
    assert "buy one" in done.output


def test_a_whole_that_does_not_export_is_no_plugin(write):
    path = write(
        "half.py",
        """
        import compilekit as ck
        @ck.hookimpl
        def describe():
            return ck.StepDescription(
                help="", options=ck.Options, effects=lambda *_: ck.effects("compiled"),
                whole=ck.Whole(fingerprint=dict, missing=str),
            )
        @ck.hookimpl
        def optimize_model(): ...
        """,
    )
    with pytest.raises(ck.PluginLoadError, match="it has `whole`, and does not say `exports=True`"):
        ck.load_host([path])
