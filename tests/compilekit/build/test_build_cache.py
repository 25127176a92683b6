"""What was built before is used again, and nothing is served that is not as it was."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support import EXPORTER, RESNET, SAMPLE, Twice, draw
from torch import nn

import compilekit as ck
from compilekit.base import environment
from compilekit.build import keys
from compilekit.testing import tiny_pipeline

CONVOLUTION = "eager_export{components=vae, modules=[decoder.conv_in]}"
FACTOR = {0: 1.0}
INPUTS = {"x": torch.linspace(-1, 1, 16).reshape(2, 8)}


@pytest.fixture
def world(tmp_path, exporter, monkeypatch):
    """Builds into numbered folders; `exports()` gives what was compiled since it was last asked."""
    log = tmp_path / "exports"
    monkeypatch.setenv("EXPORT_LOG", str(log))
    numbers = iter(range(1000))

    def build(steps, model, sample=None, inputs=None, **more):
        recipe = ck.Recipe.from_steps(steps, sample=sample or {})
        arguments = {"host": exporter, "progress": False, "inputs": inputs, **more}
        return ck.build(recipe, model, tmp_path / f"bundle-{next(numbers)}", **arguments)

    def exports():
        found = log.read_text().split() if log.exists() else []
        log.write_text("")
        return found

    return SimpleNamespace(build=build, exports=exports)


def net(seed=0):
    torch.manual_seed(seed)
    return Twice().eval()


def build_net(world, model=None, steps="eager_export{components=model}", inputs=None, **more):
    return world.build(steps, model or net(), inputs=inputs or INPUTS, **more)


def files(built):
    return {file.path: file.sha256 for file in built.manifest.files}


def test_an_identical_build_is_a_copy_and_leaves_the_model_alone(world, load):
    steps = f"precision{{components=[vae, text_encoder], dtype=bfloat16}}, {RESNET}"
    first = world.build(steps, tiny_pipeline("sd"), SAMPLE)
    assert world.exports() == ["unet.mid_block.resnets.0"]
    untouched = tiny_pipeline("sd")
    second = world.build(steps, untouched, SAMPLE)
    assert world.exports() == []
    assert files(second) == files(first)
    assert (second.reused, second.before) == (1, None)
    assert second.report.to_json() == first.report.to_json()
    assert untouched.vae.dtype == torch.float32
    assert "1 part (1 from the cache)" in str(second)
    torch.testing.assert_close(draw(load(second.path)), draw(load(first.path)), rtol=0, atol=0)


def test_without_the_cache_all_is_made_anew_and_nothing_kept(world):
    build_net(world, cache=False)
    build_net(world)
    build_net(world, cache=False)
    assert world.exports() == ["model", "model", "model"]


@pytest.mark.full
def test_an_option_rebuilds_only_the_parts_that_it_reaches(world, load):
    pipe = tiny_pipeline("sd")
    world.build(f"{RESNET}, {CONVOLUTION}", copy.deepcopy(pipe), SAMPLE)
    assert world.exports() == ["unet.mid_block.resnets.0", "vae.decoder.conv_in"]
    # A step before it on the same component reaches it; one on another does not.
    cast = "precision{components=text_encoder, dtype=bfloat16}"
    other = "eager_export{components=vae, modules=[decoder.conv_in], sizes=fixed}"
    built = world.build(f"{cast}, {RESNET}, {other}", copy.deepcopy(pipe), SAMPLE)
    assert set(world.exports()) == {"vae.decoder.conv_in"}
    assert built.reused == 1
    assert draw(load(built.path)).shape == (1, 32, 32, 3)
    last = world.build(f"channels_last{{components=unet}}, {RESNET}", copy.deepcopy(pipe), SAMPLE)
    assert world.exports() == ["unet.mid_block.resnets.0"]
    assert last.reused == 0


@pytest.mark.full
def test_what_lies_at_a_path_that_a_step_reads_is_part_of_the_bundle(world, load, tmp_path):
    steps = f"swap_component{{components=vae, source={tmp_path / 'vae'}}}, {RESNET}"
    drawn = []
    for seed in (1, 1, 2):
        tiny_pipeline("sd", seed=seed).vae.save_pretrained(tmp_path / "vae")
        built = world.build(steps, tiny_pipeline("sd"), SAMPLE)
        drawn.append((built.before is None, draw(load(built.path))))
    copied, pictures = zip(*drawn, strict=True)
    assert copied == (False, True, False)
    assert abs(pictures[1] - pictures[0]).max() == 0
    assert abs(pictures[2] - pictures[0]).max() > 1e-3


def test_what_a_step_reads_from_the_hub_gives_no_bundle_to_use_again(exporter):
    from compilekit.model import Model

    recipe = ck.Recipe.from_steps(f"swap_component{{components=vae, source=nobody/vae}}, {RESNET}")
    planned = ck.plan(recipe, host=exporter, for_="build")
    with pytest.raises(keys.NoKeyError, match=r"steps\[0\].swap_component reads nobody/vae, which"):
        keys.bundle_key(planned, Model(tiny_pipeline("sd")), exporter)


@pytest.mark.full
def test_a_failed_build_leaves_its_finished_parts_to_the_next(world):
    pipe = tiny_pipeline("sd")
    cast = "precision{components=text_encoder, dtype=bfloat16, budget=1e-9}"
    recipe = f"{RESNET}, {CONVOLUTION}, {cast}"
    with pytest.raises(ck.CompilekitError, match="budget"):
        world.build(recipe, copy.deepcopy(pipe), SAMPLE)
    assert len(world.exports()) == len([RESNET, CONVOLUTION])
    built = world.build(f"{RESNET}, {CONVOLUTION}", copy.deepcopy(pipe), SAMPLE)
    assert (world.exports(), built.reused) == ([], len([RESNET, CONVOLUTION]))


def changed_weight(_):
    model = net()
    with torch.no_grad():
        model.one.weight[3, 3] += 1e-6
    return {"model": model}


def changed_setting(_):
    model = net()
    model.one.note = 3
    return {"model": model}


class Other(Twice):
    def forward(self, x, scale=2.0):
        return super().forward(x, scale)


def changed_class(_):
    torch.manual_seed(0)
    return {"model": Other().eval()}


def changed_function(_):
    model = net()
    model.one.activation = changed_weight
    return {"model": model}


def changed_version(monkeypatch):
    real = environment.installed_version
    newer = {"diffusers": "99.0"}
    monkeypatch.setattr(environment, "installed_version", lambda name: newer.get(name, real(name)))


def changed_variable(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_FREEZING", "1")


def changed_compiler(monkeypatch):
    monkeypatch.setattr(keys, "_compiler", lambda: "g++ 99")


def changed_machine(monkeypatch):
    monkeypatch.setattr(environment, "cpu_flags", lambda: "avx512_new")


def changed_setting_of_torch(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)


def changed_plugin(monkeypatch):
    text = EXPORTER.read_text() + "\n# another version\n"
    folder = Path(tempfile.mkdtemp())
    (folder / "eager_export.py").write_text(text)
    return {"host": ck.load_host([folder / "eager_export.py"])}


def changed_shape(_):
    return {"inputs": {"x": torch.linspace(-1, 1, 24).reshape(3, 8)}}


@pytest.mark.parametrize(
    "change",
    [
        changed_weight,
        changed_setting,
        changed_class,
        changed_function,
        changed_version,
        changed_variable,
        changed_compiler,
        changed_machine,
        changed_setting_of_torch,
        changed_plugin,
        changed_shape,
    ],
)
def test_what_changed_is_not_served(world, monkeypatch, change):
    build_net(world)
    assert build_net(world).reused == 1
    assert world.exports() == ["model"]
    changes = change(monkeypatch) or {}
    assert build_net(world, **changes).reused == 0
    assert world.exports() == ["model"]


READ = {
    "torch_compile{components=unet}": (
        "cpu",
        ["AOT_INDUCTOR_ENABLE_LTO", "TRITON_PTXAS_PATH", "NVCC_APPEND_FLAGS", "ROCM_HOME"],
    ),
    "gaudi": ("hpu", ["HABANA_VISIBLE_MODULES", "PT_HPU_LAZY_MODE", "GC_KERNEL_PATH"]),
    "neuron{height=64, width=64}": ("neuron", ["NEURON_CC_FLAGS", "XLA_FLAGS", "PT_XLA_DEBUG"]),
}
"""Variables that these steps' compilers read, and a target for each step."""

BY_ALL = ["TORCHINDUCTOR_FREEZING", "CUDA_HOME", "OMP_WAIT_POLICY", "CPATH", "LD_BIND_NOW"]
PLACES = ["TRITON_CACHE_DIR", "HABANA_LOGS_DIR", "NEURON_CC_CACHE", "TORCH_LOGS"]


@pytest.mark.parametrize("steps", READ)
def test_the_variables_that_a_step_s_compiler_reads_are_in_the_key(steps, monkeypatch):
    from compilekit.model import Model

    device, own = READ[steps]
    recipe = ck.Recipe.from_steps(steps, device=device, sample={"prompt": "a cat"})
    plan, host = ck.plan(recipe, for_="build"), ck.load_host()
    others = [name for _, names in READ.values() for name in names if name not in own]
    for name in [*own, *BY_ALL, *PLACES, *others]:
        monkeypatch.delenv(name, raising=False)
    model = Model(tiny_pipeline("sd"))
    before, variables = keys.bundle_key(plan, model, host), keys.variables(plan.steps)
    for name in [*own, *BY_ALL, *PLACES, *others]:
        monkeypatch.setenv(name, "7")
    # All of `PT_` is Gaudi's, so one of Neuron's is too.
    shared = ["PT_XLA_DEBUG"] if device == "hpu" else []
    found = keys.variables(plan.steps)
    assert found == {**variables, **dict.fromkeys([*own, *BY_ALL, *shared], "7")}
    for name in [*own[1:], *BY_ALL, *shared]:
        monkeypatch.delenv(name)
    assert keys.bundle_key(plan, model, host) != before
    monkeypatch.delenv(own[0])
    assert keys.bundle_key(plan, model, host) == before


def test_a_secret_counts_and_is_not_written_down(monkeypatch):
    from compilekit.model import Model

    plan, host = (
        ck.plan(ck.Recipe.from_steps("channels_last{components=model}"), for_="build"),
        ck.load_host(),
    )
    model = Model(torch.nn.Linear(8, 8).eval(), {"input": INPUTS["x"]})
    by_value = {}
    for value in ("hush", "shush"):
        monkeypatch.setenv("CC_API_KEY", value)
        by_value[value] = keys.bundle_key(plan, model, host)
    assert by_value["hush"].digest != by_value["shush"].digest
    name = "variables > CC_API_KEY"
    assert by_value["hush"].inputs[name] not in ("hush", by_value["shush"].inputs[name])


def test_a_weight_in_a_scheduler_or_tokenizer_counts_too(world):
    world.build(RESNET, tiny_pipeline("sd"), SAMPLE)
    pipe = tiny_pipeline("sd")
    pipe.scheduler.register_to_config(beta_end=0.5)
    built = world.build(RESNET, pipe, SAMPLE)
    config = built.path / "pipeline" / "scheduler" / "scheduler_config.json"
    assert '"beta_end": 0.5' in config.read_text()


def said(built):
    """All that two builds of one thing have in common: code holds paths of its sources."""
    made = built.manifest
    weights = {path: digest for path, digest in files(built).items() if "constants/" in path}
    parts = [(part.signature, part.constants, part.output) for part in made.parts]
    return made.recipe, made.components, weights, parts, made.entries


STEPS = st.sampled_from(
    [
        "eager_export{components=model}",
        "eager_export{components=model, sizes=fixed}",
        "precision{components=model, dtype=bfloat16}, eager_export{components=model}",
        "precision{components=model, dtype=float16}, eager_export{components=model}",
        "eager_export{components=model, sizes=one}",
    ]
)


@pytest.mark.full
@settings(
    max_examples=8,
    phases=[Phase.generate],
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(STEPS, st.integers(0, 1), st.integers(1, 2), st.booleans())
def test_whatever_is_edited_the_cache_gives_what_a_new_build_gives(
    world, load, steps, seed, rows, warm
):
    inputs = {"x": torch.linspace(-1, 1, 8 * rows).reshape(rows, 8)}
    if warm:
        build_net(world, net(seed), steps, inputs)
    served = build_net(world, net(seed), steps, inputs)
    anew = build_net(world, net(seed), steps, inputs, cache=False)
    assert said(served) == said(anew)
    models = [load(built.path) for built in (served, anew)]
    out = [model(inputs["x"].to(model.one.weight.dtype))["sum"] for model in models]
    torch.testing.assert_close(out[0], out[1], rtol=0, atol=0)


def test_a_damaged_part_is_built_again(world, capsys):
    cache = Path(os.environ["COMPILEKIT_CACHE"])
    build_net(world)
    for entry in (cache / "parts").iterdir():
        for path in (entry / "files").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert build_net(world, progress=True).reused == 0
    assert "a damaged entry of the cache is dropped" in capsys.readouterr().err
    assert build_net(world).reused == 1


class Otherwise(Twice):
    def forward(self, x, scale=1.0):
        return {"sum": self.one(x) - self.other(x) * scale, "x": x}


@pytest.mark.parametrize("model", [Otherwise(), nn.Linear(8, 8)], ids=["values", "weights"])
def test_a_part_that_answers_otherwise_is_not_used(world, monkeypatch, capsys, model):
    # A change that no key knows of must not happen, and is caught all the same.
    monkeypatch.setattr(keys, "_contents", lambda *_, **__: {"weights": "the same"})
    monkeypatch.setattr(keys, "_described", lambda *_, **__: {})
    build_net(world)
    steps = "eager_export{components=model, sizes=fixed}"
    name = "x" if isinstance(model, Twice) else "input"
    # One row: the other signature, were its key not made equal, is another.
    built = build_net(world, model.eval(), steps, {name: INPUTS["x"]}, progress=True)
    assert built.reused == 0


def test_a_model_of_which_it_cannot_be_told_is_built_and_not_kept(world, capsys):
    def hooked():
        model = net()
        model.one.register_forward_hook(lambda *_: None)
        return model

    build_net(world, hooked(), progress=True)
    assert "model is not cached: the model holds something that cannot be compared (function)" in (
        capsys.readouterr().err
    )
    build_net(world, hooked())
    assert world.exports() == ["model", "model"]


def test_what_only_python_knows_is_seen_where_code_is_ones_own(world, load, monkeypatch):
    class Hidden(Twice):
        def forward(self, x, scale=1.0):
            return super().forward(x, scale * FACTOR[0])

    first = build_net(world, Hidden().eval())
    monkeypatch.setitem(FACTOR, 0, 3.0)
    torch.manual_seed(0)
    model = Hidden().eval()
    second = build_net(world, model)
    assert (first.reused, second.reused) == (0, 0)
    wanted = model(**INPUTS)["sum"]
    torch.testing.assert_close(load(second.path)(**INPUTS)["sum"], wanted)


def test_code_from_no_file_is_not_kept(world, capsys):
    space = {"nn": nn, "__name__": "nowhere"}
    exec("class Made(nn.Linear):\n    pass", space)  # noqa: S102 - as in a notebook
    build_net(world, space["Made"](8, 8).eval(), inputs={"input": INPUTS["x"]}, progress=True)
    assert "is not cached: nowhere is in no file" in capsys.readouterr().err
