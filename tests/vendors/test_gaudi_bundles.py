"""Bundles for Gaudi over the stand-in: built by the worker, loaded in new processes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from gaudi.conftest import session
from typer.testing import CliRunner

import compilekit as ck
from compilekit.cli import app

CLOSE = 1e-4

BUILD = """
    import sys
    pipeline = made("sd")
    for name, stale in (("strict", "error"), ("lenient", "recompile")):
        built = ck.build(recipe({"stale": stale, "outside": "round"}, shapes=SHAPES), pipeline,
                         f"{FOLDER}/{name}", cache=False, progress=False)
    stock = made("sd")
    np.savez(f"{FOLDER}/want.npz", plain=draw(stock), tall=draw(stock, height=96),
             three=draw(stock, prompt=["a cat", "a dog", "a cow"]))
    details = dict(built.manifest.whole.details)
    answer = [details["recipes"], details["graphs"], built.manifest.whole.error,
              "habana_frameworks.torch" in sys.modules, details["stamps"]]
"""

LOAD = """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipeline = ck.load(BUNDLE, progress=False)
    from habana_frameworks.torch import standin
    warm = dict(standin.counts)
    pictures = {"plain": draw(pipeline), "tall": draw(pipeline, height=96),
                "three": draw(pipeline, prompt=["a cat", "a dog", "a cow"])}
    np.savez(OUT, **pictures)
    answer = [warm, dict(standin.counts), raised(draw, pipeline, width=96),
              [str(each.message) for each in caught if "stale" in str(each.message)]]
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Two bundles, strict and lenient, and the pictures of stock diffusers."""
    folder = tmp_path_factory.mktemp("built")
    shapes = [{"height": 96}, {"batch": 4}]
    code = BUILD
    answer = session(folder, code, SHAPES=shapes, FOLDER=str(folder))
    return folder, answer


def load(built, name, tmp_path, environment=None, before=""):
    folder = built[0]
    out = str(tmp_path / "got.npz")
    code = before + LOAD
    answer = session(tmp_path, code, environment, BUNDLE=str(folder / name), OUT=out)
    want, got = (np.load(path) for path in (folder / "want.npz", out))
    return answer, max(float(np.abs(want[key] - got[key]).max()) for key in want)


def test_a_build_keeps_recipes_of_the_warm_up_and_leaves_this_process_alone(built):
    folder, (recipes, graphs, error, is_imported, stamps) = built
    assert error < CLOSE
    assert not is_imported
    # Three sizes of the UNet and of the VAE; of the text encoder one prompt, and four.
    assert {name: each["captures"] for name, each in graphs.items()} == {
        "unet": 3,
        "vae.decode": 3,
        "text_encoder": 2,
    }
    # And what lies between them, which lazy mode compiles too.
    assert recipes > 8
    assert stamps == {
        "synapse": "1.24.9",
        "hpu_driver": "1.24.0-standin",
        "hpu_plugin": "1.24.9+standin",
        "hpu_torch": stamps["hpu_torch"],
        "hpu": "gaudi2",
    }
    warm_up = json.loads((folder / "strict" / "warm_up.json").read_text())
    assert [call.get("height") for call in warm_up["calls"]] == [32, 96, 32]
    assert [call["num_inference_steps"] for call in warm_up["calls"]] == [5, 5, 5]
    assert json.loads((folder / "strict" / "gaudi_config.json").read_text()) == {}
    index = json.loads((folder / "strict" / "model" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert "aud" not in json.dumps(index)


def test_a_new_process_compiles_nothing_and_draws_the_same(built, tmp_path):
    (warm, after, refused, warned), apart = load(built, "strict", tmp_path)
    assert apart < CLOSE
    assert (warm["compilations"], warm["captures"]) == (0, 8)
    assert warm["hits"] > 8
    assert after["captures"] == 8
    assert "was not warmed up" in refused
    assert warned == []


STAMPS = {
    "the kind of device": ({"GAUDI_STANDIN_DEVICE": "HL-325"}, "gaudi2, here gaudi3"),
    "the driver": ({"GAUDI_STANDIN_DRIVER": "1.24.1-x"}, "1.24.0-standin, here 1.24.1-x"),
}


@pytest.mark.parametrize(
    "name", [pytest.param("the kind of device", marks=pytest.mark.full), "the driver"]
)
def test_another_machine_is_refused_by_name_or_compiled_for(built, tmp_path, name):
    environment, said = STAMPS[name]
    code = "answer = raised(ck.load, BUNDLE, progress=False)"
    answer = session(tmp_path, code, environment, BUNDLE=str(built[0] / "strict"))
    assert answer.startswith("MismatchError")
    assert "its recipes are for another stack:" in answer
    assert f"{name}: built with {said}" in answer
    assert "build it again here; with `stale: recompile` it would be compiled now" in answer
    (warm, _, _, warned), apart = load(built, "lenient", tmp_path, environment)
    assert apart < CLOSE
    # Its recipes are not even looked at.
    assert (warm["hits"], warm["captures"]) == (0, 8)
    assert f"{name}: built with {said}" in warned[0]


@pytest.mark.parametrize("stamp", ["synapse", "hpu_driver", "hpu_plugin", "hpu_torch", "hpu"])
def test_each_stamp_is_compared(built, tmp_path, monkeypatch, stamp):
    from compilekit_plugins.gaudi import bundle
    from compilekit_plugins.gaudi.options import Gaudi

    stamps = built[1][-1]
    part = ck.StoredPart(
        folder=built[0] / "strict",
        device=None,
        constants={},
        details={"stamps": {**stamps, stamp: "another"}},
    )
    monkeypatch.setattr(bundle.packages, "stamps", lambda: stamps)
    with pytest.raises(ck.MismatchError) as caught:
        bundle.load(part, Gaudi(), "steps[0].gaudi")
    lines = [line for line in str(caught.value).splitlines() if "built with" in line]
    assert lines == [f"  {bundle.NAMES[stamp]}: built with another, here {stamps[stamp]}"]


def test_recipes_that_do_not_serve_are_noticed(built, tmp_path):
    spoilt = tmp_path / "spoilt"
    shutil.copytree(built[0] / "strict", spoilt)
    code = """
        from compilekit_plugins.gaudi import bundle
        bundle.recipes.spread = lambda folder, cache: 0
        answer = raised(ck.load, BUNDLE, progress=False)
    """
    answer = session(tmp_path, code, BUNDLE=str(spoilt))
    assert answer.startswith("MismatchError")
    assert " of its graphs were compiled anew, though the stack is the one that built it" in answer


def test_a_build_without_recipes_is_none(tmp_path):
    code = """
        answer = raised(ck.build, recipe({"outside": "round"}), made("sd"), f"{FOLDER}/new",
                        cache=False, progress=False)
    """
    environment = {"GAUDI_STANDIN_STORES": "nothing"}
    answer = session(tmp_path, code, environment, FOLDER=str(tmp_path))
    assert answer.startswith("MachineError")
    assert "the driver stored no recipe, so there is nothing to build" in answer
    assert not (tmp_path / "new").exists()


def test_a_driver_that_does_not_count_does_not_say_that_recipes_serve(built, tmp_path):
    code = """
        from compilekit_plugins.gaudi.worker import driver
        driver._metric = lambda name: {}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pipeline = ck.load(BUNDLE, progress=False)
        answer = [str(each.message) for each in caught if "recipes" in str(each.message)]
    """
    (warned,) = session(tmp_path, code, BUNDLE=str(built[0] / "strict"))
    assert "whether its recipes serve is not known" in warned


REAL = """
    from compilekit_plugins.gaudi.worker import packages
    found, real = packages.version, {packages.PLUGIN: "1.24.0.535", "torch": "2.10.0+hpu.git1"}
    packages.version = lambda name: real.get(name) or found(name)
"""


def test_what_was_made_over_the_stand_in_is_refused_outside_of_tests(built, tmp_path):
    code = f"{REAL}\n    answer = raised(ck.load, BUNDLE, progress=False)"
    answer = session(tmp_path, code, BUNDLE=str(built[0] / "strict"))
    assert answer.startswith("MismatchError")
    assert "SynapseAI: built with 1.24.9, here 1.24.0" in answer
    assert "habana-torch-plugin: built with 1.24.9+standin, here 1.24.0.535" in answer
    # Where the recipe allows it, all is compiled for that machine: no recipe is looked at.
    (warm, _, _, warned), apart = load(built, "lenient", tmp_path, before=REAL)
    assert apart < CLOSE
    assert (warm["hits"], warm["captures"]) == (0, 8)
    assert "built with 1.24.9+standin, here 1.24.0.535" in warned[0]


def test_without_the_driver_package_loading_ends_with_the_reason(built):
    result = CliRunner().invoke(app, ["run", str(built[0] / "strict"), "-o", str(built[0] / "o")])
    assert result.exit_code == 3
    assert "lacks habana-torch-plugin: it comes with Intel's Gaudi container" in result.output


def test_an_altered_recipe_is_refused_before_anything_runs(built, tmp_path):
    spoilt = tmp_path / "spoilt"
    shutil.copytree(built[0] / "strict", spoilt)
    path = next(spoilt.rglob("*.recipe"))
    path.write_text("something else")
    code = "answer = raised(ck.load, BUNDLE, progress=False)"
    answer = session(tmp_path, code, BUNDLE=str(spoilt))
    assert answer.startswith("BundleError")
    assert path.name in answer


MUTATIONS = """
    from compilekit_plugins.gaudi import captured, graphs, keys
    answer = {}
    want = draw(made("sd")), draw(made("sd"), height=96)

    def difference():
        pipeline, row = apply(made("sd"), {"outside": "capture"}, verify={"reference": "as_loaded"})
        return apart(want[0], draw(pipeline)), apart(want[1], draw(pipeline, height=96))

    answer["whole"] = difference()
    copy = graphs.copy_into
    graphs.copy_into = lambda held, leaves: None
    answer["no copy"] = raised(difference)
    graphs.copy_into = copy
    leaf = keys._leaf
    keys._leaf = lambda each: keys.Value(str, "any") if torch.is_tensor(each) else leaf(each)
    answer["no shape"] = raised(difference)
    keys._leaf = leaf
    answer["whole again"] = difference()
    from habana_frameworks.torch import standin
    standin.FAULT = "no-replay"
    answer["no replay"] = raised(difference)
"""


@pytest.mark.full
def test_a_stand_in_that_is_wrong_makes_these_tests_fail(tmp_path):
    """A replay that does nothing, inputs that are not copied, keys without shapes."""
    answer = session(tmp_path, MUTATIONS)
    assert max(answer["whole"]) < CLOSE
    assert max(answer["whole again"]) < CLOSE
    assert "VerificationError" in answer["no copy"]
    assert "VerificationError" in answer["no replay"]
    assert "must match the size of tensor b" in answer["no shape"]
