"""Builds and sessions in the Neuron environment, over the stand-in for the closed packages."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forks import Forks

import compilekit as ck

HERE = Path(__file__).parent
STANDIN = HERE.parent / "standin_neuron"

SAMPLE = {"prompt": "a cat", "num_inference_steps": 2, "seed": 7}
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join(filter(None, [str(STANDIN), os.environ.get("PYTHONPATH")])),
    "USE_TORCH_XLA": "0",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.neuron)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of tiny pipelines, by the names in `models.py`; no test writes to them."""
    from neuron.models import saved

    folder = tmp_path_factory.mktemp("models")
    return lambda name: folder / name if (folder / name).exists() else saved(name, folder)


@pytest.fixture(scope="session")
def standin() -> None:
    """Let workers find the stand-in."""
    os.environ.update(ENVIRONMENT)


@pytest.fixture(scope="session")
def build(standin: None) -> Callable[..., ck.Built]:
    """Build a folder's pipeline for 64x64 pictures, without the cache."""

    def _build(model: Path, target: Path, sample: Any = None, **options: Any) -> ck.Built:
        cache = options.pop("cache", False)
        recipe = recipe_of(sample=SAMPLE if sample is None else sample, **options)
        return ck.build(recipe, str(model), target, cache=cache, progress=False)

    return _build


@pytest.fixture(scope="session")
def bundles(build: Any, models: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Bundles that several tests look at, by name; no test writes to them."""
    from neuron.models import lcm_unet

    folder = tmp_path_factory.mktemp("bundles")
    two = {"prompt": ["a cat", "a dog"], "num_inference_steps": 1, "guidance_scale": 0.0, "seed": 7}
    how: dict[str, tuple[str, dict[str, Any]]] = {
        "four": ("sd", {"num_images_per_prompt": 4}),
        "base": ("sdxl", {}),
        "refiner": ("refiner", {"sample": {}}),
        "turbo": ("sdxl", {"sample": two, "data_parallel": "all"}),
        "lcm-xl": ("sdxl", {}),
    }
    made: dict[str, ck.Built] = {}

    def _bundle(name: str) -> ck.Built:
        if name not in made:
            model, options = how[name]
            if name == "lcm-xl":
                options = {"unet": str(lcm_unet(folder))}
            # A path with a space, and one with a word that upstream takes for a part's name.
            target = folder / "unet of mine" / name
            target.parent.mkdir(exist_ok=True)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("NEURON_STANDIN_LOG", str(folder / f"{name}.log"))
                made[name] = build(models(model), target, **options)
        return made[name]

    _bundle.logs = folder
    return _bundle


def recipe_of(*, sample: Any, **options: Any) -> ck.Recipe:
    said = {"height": 64, "width": 64, "auto_cast": "none", **options}
    text = json.dumps(
        {
            "compilekit": 1,
            "target": {"device": "neuron"},
            "sample": sample,
            "steps": [{"neuron": said}],
        }
    )
    return ck.Recipe.parse(text)


@pytest.fixture(scope="session")
def there(standin: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Run code in a process of its own: what `session.py` has is there, and the values given."""

    forks = Forks()

    def _there(code: str, **values: Any) -> Any:
        folder = tmp_path_factory.mktemp("session")
        path = folder / "code.py"
        given = "".join(f"{name} = {value!r}\n" for name, value in values.items())
        path.write_text(given + textwrap.dedent(code), encoding="utf-8")
        out, errors = forks.run([str(HERE / "session.py"), str(path)], folder, os.environ)
        lines = [line for line in out.splitlines() if line.startswith("ANSWER ")]
        assert lines, errors[-4000:]
        return json.loads(lines[-1].removeprefix("ANSWER "))

    return _there
