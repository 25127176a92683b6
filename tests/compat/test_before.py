"""What the first version wrote is still good: a bundle loads, the cache hits, a failure replays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from compat.make import SAMPLE, STEPS, pipeline

import compilekit as ck
from compilekit.build import reuse, run
from compilekit.build.keys import Key

BEFORE = Path(__file__).parent / "before"


@pytest.fixture(scope="module")
def by_hand():
    return ck.load_host([BEFORE.parent / "by_hand.py"])


def drawn(subject):
    subject.set_progress_bar_config(disable=True)
    return subject(
        batch_size=1,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images


@pytest.mark.filterwarnings("ignore:.*built with")
def test_a_bundle_of_the_first_version_loads_and_draws_the_same(by_hand):
    loaded = ck.load(BEFORE / "bundle", host=by_hand, progress=False)
    assert abs(drawn(loaded) - drawn(pipeline())).max() < 1e-5
    counts = ck.bundle_of(loaded).counts()
    assert {name: each.compiled for name, each in counts.items()} == {
        "unet.conv_in": 2,
        "unet.conv_out": 2,
    }


def key_of(kind, title=""):
    found = [
        json.loads(path.read_text()) for path in (BEFORE / "cache" / kind).glob("*/entry.json")
    ]
    return next(each["entry"]["key"] for each in found if title in each["entry"]["title"])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A copy of the first version's cache. Keys hold compilekit's own code: so say the old ones."""
    shutil.copytree(BEFORE / "cache", tmp_path / "cache")
    monkeypatch.setenv("COMPILEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(run, "bundle_key", lambda *_: Key(key_of("bundles"), {}))
    monkeypatch.setattr(
        reuse,
        "part_key",
        lambda plan, step, group, host: Key(key_of("parts", group.example.entry.name), {}),
    )
    return monkeypatch


def built(by_hand, target):
    recipe = ck.Recipe.from_steps(STEPS, sample=SAMPLE)
    return ck.build(recipe, pipeline(), target, host=by_hand, progress=False)


def test_a_bundle_in_the_first_versions_cache_is_copied(by_hand, cache, tmp_path):
    done = built(by_hand, tmp_path / "copied")
    assert done.reused == 2
    assert done.manifest == ck.Manifest.read(BEFORE / "bundle")


def test_parts_in_the_first_versions_cache_are_used_in_a_new_bundle(by_hand, cache, tmp_path):
    cache.setattr(run, "bundle_key", lambda *_: Key("0" * 64, {}))
    done = built(by_hand, tmp_path / "made")
    assert done.reused == 2
    loaded = ck.load(tmp_path / "made", host=by_hand, progress=False)
    assert abs(drawn(loaded) - drawn(pipeline())).max() < 1e-5


def test_a_reproducer_of_the_first_version_fails_in_the_same_way():
    with pytest.raises(ck.VerificationError, match=r"steps\[0\].precision.* moved unet by 0.01"):
        ck.replay(BEFORE / "repro" / "precision", progress=False)
