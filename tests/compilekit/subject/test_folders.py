"""What a model's folder lacks is said in words, before anything large is read."""

from __future__ import annotations

import json

import pytest

import compilekit as ck

RECIPE = ck.Recipe.from_steps("channels_last{components=unet}")
INDEX = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}


def test_a_component_whose_folder_is_missing_is_named(tmp_path):
    index = {**INDEX, "vae": ["diffusers", "AutoencoderKL"], "safety_checker": [None, None]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "unet").mkdir()
    message = "its model_index.json names vae, and it has no such folder"
    with pytest.raises(ck.ModelError, match=f"{tmp_path}: {message}"):
        ck.apply(RECIPE, tmp_path, progress=False)


def test_a_component_in_place_of_another_that_has_no_config_is_named(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps(INDEX))
    (tmp_path / "new").mkdir()
    text = f"{RECIPE.to_yaml()}model: {{components: {{unet: '{tmp_path}/new'}}}}\n"
    message = rf"model\.components\.unet: {tmp_path}/new holds no config\.json"
    with pytest.raises(ck.ModelError, match=message):
        ck.apply(ck.Recipe.parse(text), tmp_path, progress=False)


def test_a_file_is_not_called_a_folder_that_is_missing(tmp_path):
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ck.ModelError, match=r"safetensors: a file, and a model is a folder or a"):
        ck.apply(RECIPE, file, progress=False)
    with pytest.raises(ck.BundleError, match=r"model\.safetensors: a file, not a folder"):
        ck.load(file)
