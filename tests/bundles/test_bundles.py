"""Real bundles, compiled by AOTInductor: built here, and loaded by a new process.

The new process has no compiler on its PATH and cannot import torchao.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import SAMPLE

import compilekit as ck
from compilekit.testing import tiny_pipeline, tiny_text_encoder

DTYPES = {
    "float32": "",
    "bfloat16": "precision{dtype=bfloat16}, ",
    "int8": "precision{dtype=bfloat16}, torchao_int8{components=PART}, ",
}
LIMITS = {"float32": 1e-3, "bfloat16": 0.1, "int8": 0.1}
PARTS = {"sd": "unet", "sdxl": "unet", "flux": "transformer", "encoder": "model"}
REPRESENTATIVE = ("sd", "float32", "auto")

NEW_PROCESS = """
import json, sys, warnings
sys.modules["torchao"] = None
started = []
starts = ("subprocess.Popen", "os.posix_spawn", "os.system", "os.exec", "os.fork")
sys.addaudithook(lambda event, args: event in starts and started.append(str(args)))
import numpy as np
import torch
import compilekit as ck

folder, part, seed, answer = sys.argv[1:]
subject = ck.load(folder, progress=False)
owner = subject if part == "model" else getattr(subject, part)
outputs = []
owner.register_forward_hook(lambda m, a, output: outputs.append(output[0].float().numpy()))
if part == "model":
    ids = torch.randint(5, 50, (4, 77), generator=torch.Generator().manual_seed(int(seed)))
    subject(input_ids=ids)
else:
    subject.set_progress_bar_config(disable=True)
    sample = {**ck.Manifest.read(folder).sample, "output_type": "np"}
    sample.pop("seed")
    sample["prompt"] = "something else"
    subject(**sample, generator=torch.Generator().manual_seed(int(seed)))
np.save(answer, outputs[-1])
counts = ck.bundle_of(subject).counts().values()
print(json.dumps({
    "compiled": sum(each.compiled for each in counts),
    "eager": sum(each.eager for each in counts),
    "started": started,
    "torchao": sorted(n for n, m in sys.modules.items() if n.startswith("torchao") and m),
}))
"""


def recipe_of(kind: str, dtype: str, regions: str) -> ck.Recipe:
    steps = f"{DTYPES[dtype]}torch_compile{{components=PART, regions={regions}}}"
    sample = None if kind == "encoder" else SAMPLE
    return ck.Recipe.from_steps(steps.replace("PART", PARTS[kind]), sample=sample)


def subject_of(kind: str) -> tuple[Any, dict[str, Any]]:
    if kind != "encoder":
        return tiny_pipeline(kind), {}
    ids = torch.randint(5, 50, (4, 77), generator=torch.Generator().manual_seed(0))
    return tiny_text_encoder(), {"inputs": {"input_ids": ids}}


@dataclass(frozen=True)
class Case:
    kind: str
    dtype: str

    def applied(self, regions: str) -> Any:
        subject, more = subject_of(self.kind)
        recipe = recipe_of(self.kind, self.dtype, regions)
        return ck.apply(recipe, subject, progress=False, **more).pipeline

    def answer(self, subject: Any, seed: int) -> Any:
        """The last output of the denoiser in a call with inputs that the build never saw."""
        outputs = []
        owner = subject if self.kind == "encoder" else getattr(subject, PARTS[self.kind])
        hook = owner.register_forward_hook(lambda m, a, out: outputs.append(out[0].float().numpy()))
        with torch.no_grad():
            if self.kind == "encoder":
                generator = torch.Generator().manual_seed(seed)
                subject(input_ids=torch.randint(5, 50, (4, 77), generator=generator))
            else:
                subject.set_progress_bar_config(disable=True)
                sample = {k: v for k, v in SAMPLE.items() if k != "seed"}
                sample |= {"prompt": "something else", "output_type": "np"}
                subject(**sample, generator=torch.Generator().manual_seed(seed))
        hook.remove()
        return outputs[-1]


def cases() -> list[Any]:
    found = []
    for kind in PARTS:
        for dtype in DTYPES:
            for regions in ("none", "auto"):
                case = (kind, dtype, regions)
                marks = [] if case == REPRESENTATIVE else [pytest.mark.full]
                found.append(pytest.param(*case, marks=marks, id="-".join(case)))
    return found


def error(actual: Any, wanted: Any) -> float:
    return float(np.linalg.norm(actual - wanted) / np.linalg.norm(wanted))


def in_a_new_process(folder: Path, part: str, seed: int, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "empty").mkdir(exist_ok=True)
    environment = {**os.environ, "PATH": str(tmp_path / "empty"), "CXX": "/nonexistent"}
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", NEW_PROCESS, folder, part, str(seed), tmp_path / "answer.npy"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert [path for path in tmp_path.glob("cache/**/*") if path.is_file()] == []
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Build a bundle for a case, once."""
    made: dict[tuple[str, ...], Path] = {}

    def _bundle_of(*case: str) -> Path:
        if case not in made:
            target = tmp_path_factory.mktemp("bundles") / "made"
            subject, more = subject_of(case[0])
            ck.build(recipe_of(*case), subject, target, progress=False, **more)
            made[case] = target
        return made[case]

    return _bundle_of


@pytest.fixture
def made(bundle_of: Callable[..., Path]) -> Path:
    """The bundle of the representative case."""
    return bundle_of(*REPRESENTATIVE)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "dtype", "regions"), cases())
def test_a_new_process_without_a_compiler_gives_what_apply_gives(
    kind, dtype, regions, tmp_path, bundle_of
):
    made = bundle_of(kind, dtype, regions)
    case = Case(kind, dtype)
    found = in_a_new_process(made, PARTS[kind], 11, tmp_path)
    assert found["compiled"] > 0
    # No compiler was started, nor anything else, and nothing of torchao was imported.
    assert (found["eager"], found["started"], found["torchao"]) == (0, [], [])
    answer = np.load(tmp_path / "answer.npy")
    assert error(answer, case.answer(case.applied(regions), 11)) < LIMITS[dtype]
    # Against float32 eager it is as near as the recipe's own steps allow.
    original, _ = subject_of(kind)
    assert error(answer, case.answer(original, 11)) < LIMITS[dtype]


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer's blocks, compiled by AOTInductor for two sizes and any batch to four."""
    target = tmp_path_factory.mktemp("bundles") / "flux"
    recipe = ck.Recipe.parse(
        "compilekit: 1\ntarget: {device: cpu}\n"
        f"sample: {json.dumps(SAMPLE)}\n"
        "shapes: [{batch: 2}, {height: 96, width: 32}, {height: 96, width: 32, batch: 2}]\n"
        "steps: [{torch_compile: {components: [transformer], regions: [FluxTransformerBlock]}}]\n"
    )
    ck.build(recipe, tiny_pipeline("flux"), target, progress=False)
    return target


def draw(pipeline: Any, **changes: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    arguments = {k: v for k, v in SAMPLE.items() if k != "seed"}
    arguments |= {"generator": torch.Generator().manual_seed(2), "output_type": "np", **changes}
    return pipeline(**arguments).images


@pytest.mark.full
def test_two_sizes_and_two_batches_run_and_a_third_is_refused(flux):
    pipeline, eager = ck.load(flux, progress=False), tiny_pipeline("flux")
    assert len(ck.Manifest.read(flux).parts) == 2
    for size in ({}, {"height": 96}):
        for prompt in ("a cat", ["a cat", "a dog"]):
            drawn = draw(pipeline, prompt=prompt, **size)
            assert error(drawn, draw(eager, prompt=prompt, **size)) < 1e-4
    with pytest.raises(ck.UncoveredCallError, match=r"is float32\[1, 1024, 64\]"):
        draw(pipeline, height=128, width=128)
    with pytest.raises(ck.UncoveredCallError, match=r"is float32\[3, 64, 64\]"):
        draw(pipeline, prompt=["a", "b", "c"])
    pipeline = ck.load(flux, progress=False, on_uncovered="eager")
    big = {"height": 128, "width": 128}
    assert error(draw(pipeline, **big), draw(eager, **big)) < 1e-4
    assert sum(each.eager for each in ck.bundle_of(pipeline).counts().values()) == 4


def test_an_edit_in_place_of_a_shared_weight_is_seen_by_compiled_code(made):
    pipeline, eager = ck.load(made, progress=False), tiny_pipeline("sd")
    before = draw(eager)
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_v.weight"
    for model in (pipeline, eager):
        with torch.no_grad():
            model.unet.get_parameter(name).mul_(4)
    assert error(before, draw(eager)) > 1e-3
    assert error(draw(pipeline), draw(eager)) < 1e-4


def test_no_file_of_a_bundle_is_a_pickle_and_none_names_this_machine(made):
    import pickletools

    for path in made.rglob("*"):
        if not path.is_file():
            continue
        content = path.read_bytes()
        assert not content.startswith(b"PK"), f"{path} is an archive"
        with pytest.raises((ValueError, IndexError, UnicodeDecodeError)):
            list(pickletools.genops(content))
        assert str(Path.cwd()).encode() not in content or path.suffix == ".so", path
    assert {path.suffix for path in made.rglob("*") if path.is_file()} == {
        ".json", ".safetensors", ".so",
    }  # fmt: skip


def test_nothing_is_unpickled(made, monkeypatch):
    loads = []
    original = torch.load
    monkeypatch.setattr(
        torch, "load", lambda *a, **k: loads.append(k.get("weights_only")) or original(*a, **k)
    )
    draw(ck.load(made, progress=False))
    assert False not in loads


def schedulers() -> list[Any]:
    """Every compatible one; `make test` has one of many steps, and one that draws noise."""
    names = sorted(kind.__name__ for kind in tiny_pipeline("sd").scheduler.compatibles)
    few = ("DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler")
    return [pytest.param(n, marks=[] if n in few else [pytest.mark.full]) for n in names]


@pytest.mark.filterwarnings("ignore")  # schedulers warn about NumPy, and about each other
@pytest.mark.parametrize("name", schedulers())
def test_eager_and_bundle_agree_for_every_compatible_scheduler(name, bundle_of, tmp_path):
    import diffusers

    kind = getattr(diffusers, name)
    pipeline = ck.load(bundle_of("sd", "float32", "auto"), progress=False)
    # As diffusers loads it: in memory, a config still knows which of its values are defaults.
    tiny_pipeline("sd").save_pretrained(tmp_path)
    eager = type(pipeline).from_pretrained(tmp_path)
    for model in (pipeline, eager):
        model.scheduler = _scheduler(kind, model.scheduler.config)
    wanted = draw(eager, num_inference_steps=4)
    assert np.isfinite(wanted).all()
    assert error(draw(pipeline, num_inference_steps=4), wanted) < 1e-3


def _scheduler(kind: Any, config: Any) -> Any:
    try:
        return kind.from_config(config)
    except ImportError as missing:
        pytest.skip(str(missing).strip().splitlines()[0])


class Decides(torch.nn.Module):
    """Has a branch that depends on its data."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(8, 8)

    def forward(self, x):
        if x.sum() > 0:
            return self.inner(x)
        return x


def test_a_branch_on_data_is_an_error_that_names_its_line_and_what_to_try(tmp_path):
    recipe = ck.Recipe.from_steps("torch_compile{components=model}")
    inputs = {"x": torch.ones(2, 8)}
    with pytest.raises(ck.StepError) as caught:
        ck.build(recipe, Decides().eval(), tmp_path / "made", inputs=inputs, progress=False)
    line = next(
        number
        for number, text in enumerate(Path(__file__).read_text().splitlines(), 1)
        if "if x.sum() > 0" in text
    )
    message = str(caught.value)
    assert message.startswith("steps[0].torch_compile: model cannot be compiled ahead of time: ")
    assert f"{Path(__file__).name}:{line} in forward" in message
    assert "Try `regions: model` or `regions: auto`" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.full
def test_packed_weights_lie_in_one_blob_and_nowhere_else(tmp_path):
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Linear(256, 256), torch.nn.GELU(), torch.nn.Linear(256, 64)
    )
    layers, x = layers.eval(), torch.randn(32, 256)
    sizes = {}
    for weights in ("shared", "packed"):
        recipe = ck.Recipe.from_steps(f"torch_compile{{components=model, weights={weights}}}")
        inputs = {"input": x}
        built = ck.build(recipe, layers, tmp_path / weights, inputs=inputs, progress=False)
        sizes[weights] = {Path(f.path).name: f.size for f in built.manifest.files}
        loaded = ck.load(tmp_path / weights, progress=False)
        with torch.no_grad():
            assert error(loaded(x + 1).numpy(), layers(x + 1).numpy()) < 1e-5
    assert "weights.blob" in sizes["packed"]
    assert "model.safetensors" not in sizes["packed"]
    assert "model.safetensors" in sizes["shared"]
    with pytest.raises(ck.SealedError, match="is packed, inside of compiled code"):
        loaded.get_parameter("0.weight").sum()
    with pytest.raises(ck.UncoveredCallError, match="it cannot run eagerly: its weights are ins"):
        ck.load(tmp_path / "packed", progress=False, on_uncovered="eager")(torch.ones(1, 256))


def test_packed_weights_serve_one_size_alone(tmp_path):
    recipe = ck.Recipe.from_steps("torch_compile{components=unet, weights=packed}", sample=SAMPLE)
    sizes = {**recipe.model_dump(), "shapes": ({"batch": 2},)}
    with pytest.raises(ck.StepError, match="a part serves calls of one size, and the recipe has"):
        ck.build(
            ck.Recipe.model_validate(sizes), tiny_pipeline("sd"), tmp_path / "made", progress=False
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("weights=packed, regions=auto", "weights: packed is for whole entry points"),
        ("backend=eager", 'backend "eager" cannot compile ahead of time'),
        ("mode=reduce-overhead", 'mode "reduce-overhead" means CUDA graphs'),
        ("inductor={freezing: true}", "freezing packs weights into compiled code"),
    ],
)
def test_options_without_a_meaning_ahead_of_time_are_refused_by_the_plan(options, message):
    recipe = ck.Recipe.from_steps(f"torch_compile{{components=unet, {options}}}", sample=SAMPLE)
    with pytest.raises(ck.RecipeError, match=message):
        ck.plan(recipe, for_="build")
