"""`torchao` and its preset `torchao_int8`: what is quantised, how well, and what is left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from support import SAMPLE, draw
from torch import nn

import compilekit as ck
from compilekit.testing import tiny_pipeline
from compilekit_plugins.torchao import layers

ON_CPU = {
    "int8_dynamic": 0.01,
    "int8_weight": 0.005,
    "float8_weight": 0.03,
    "int4_weight, group_size=32": 0.08,
}
"""The configs that a CPU can run, and how far each may move a tiny UNet."""


def apply(steps: str, subject: Any = None, **more: Any) -> ck.Applied:
    recipe = ck.Recipe.from_steps(steps, sample=None if more else SAMPLE)
    return ck.apply(recipe, subject or tiny_pipeline("sd"), progress=False, **more)


def planned(steps: str, device: str = "cpu", **more: Any) -> ck.Plan:
    return ck.plan(ck.Recipe.from_steps(steps, device=device), **more)


def message(steps: str, device: str = "cpu", **more: Any) -> str:
    with pytest.raises(ck.RecipeError) as caught:
        planned(steps, device, **more)
    return str(caught.value)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)).eval()


def rows(count: int = 32) -> dict[str, torch.Tensor]:
    return {"input": torch.randn(count, 64, generator=torch.Generator().manual_seed(1))}


def distance(actual: Any, wanted: Any) -> float:
    return float(np.linalg.norm(actual - wanted) / np.linalg.norm(wanted))


def quantised(module: nn.Module) -> list[str]:
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and hasattr(layer.weight, "__tensor_flatten__")
    ]


@pytest.mark.parametrize("config", ON_CPU)
def test_each_config_of_the_cpu_makes_weights_smaller_and_stays_near_float32(config, tmp_path):
    done = apply(f"torchao{{components=unet, config={config}}}")
    (step,) = done.report.steps
    assert quantised(done.pipeline.unet) == step.matched["unet"] == step.changed["unet"]
    assert len(step.matched["unet"]) >= 12
    plain = tiny_pipeline("sd").unet
    before = sum(plain.get_parameter(f"{name}.weight").nbytes for name in step.matched["unet"])
    assert done.report.parameter_bytes - step.parameter_bytes > 0.6 * before
    assert 1e-3 < step.measurements[0].error < ON_CPU[config]
    assert step.state == {}
    with pytest.raises(ck.SaveError, match=r"steps\[0\]\.torchao changed"):
        done.pipeline.save_pretrained(tmp_path)


@pytest.mark.parametrize("config", ON_CPU)
def test_each_config_of_the_cpu_compiles_to_what_it_computes_eagerly(config):
    steps = f"torchao{{components=model, config={config}}}"
    eager = apply(steps, net(), inputs=rows()).report.final[0].error
    torch.compiler.reset()
    done = apply(f"{steps}, torch_compile{{components=model}}", net(), inputs=rows())
    assert done.report.steps[1].details["graphs"] == 1
    assert done.report.final[0].error == pytest.approx(eager, rel=0.02)


NEW_PROCESS = """
import json, sys
sys.modules["torchao"] = None
import torch
import compilekit as ck
model = ck.load(sys.argv[1], progress=False)
x = torch.randn(32, 64, generator=torch.Generator().manual_seed(2))
print(json.dumps([model(x).tolist(), [n for n in sys.modules if n.startswith("torchao.")]]))
"""


def test_a_bundle_has_small_weights_and_loads_where_torchao_is_not(tmp_path):
    steps = (
        "torchao{components=model, config=int8_weight, include=['0']}, "
        "torchao{components=model, config=float8_weight, include=['2']}, "
        "torch_compile{components=model}"
    )
    recipe = ck.Recipe.from_steps(steps)
    ck.build(recipe, net(), tmp_path / "made", inputs=rows(), progress=False)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NEW_PROCESS, tmp_path / "made"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer, modules = json.loads(done.stdout)
    assert modules == []
    with torch.no_grad():
        wanted = net()(torch.randn(32, 64, generator=torch.Generator().manual_seed(2)))
    assert 1e-3 < distance(np.array(answer), wanted.numpy()) < 0.05
    (stored,) = (tmp_path / "made").rglob("model.safetensors")
    assert stored.stat().st_size < 1.2 * (net()[0].weight.numel() + net()[2].weight.numel())


def test_what_cannot_be_compiled_ahead_of_time_is_refused_in_a_build_alone():
    steps = "torchao{components=unet, config=int4_weight}, torch_compile{components=unet}"
    assert planned(steps)
    assert planned(steps, "cuda", for_="build")
    assert message(steps, for_="build") == (
        "<steps>:1:1: steps[0].torchao: config: int4_weight cannot be compiled ahead of time on a "
        "CPU: torch makes constants for it while it compiles, and a bundle has only those of the "
        "model; int8_weight can"
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("min_rows=1", "steps[0].torchao.config: required, and missing"),
        ("config=int8_weight, group_size=32", "group_size is for the config int4_weight, not int8"),
        ("config=float8_weight, granularity=per_row", "granularity is for the config float8_dynam"),
        ("config=int4_weight, group_size=48", "group_size: 48 is not one of 32, 64, 128, 256"),
        ("config=int4_weight, group_size=256", 'on the target "cpu" it is one of 32, 64, 128'),
        ("config=float8_dynamic", 'float8_dynamic is for the target "cuda": a CPU has no float8'),
        ("config=int8_weight, min_rows=0", "steps[0].torchao.min_rows: "),
    ],
)
def test_options_that_make_no_sense_are_refused_by_the_plan(options, problem):
    assert problem in message(f"torchao{{components=unet, {options}}}")


def test_a_group_size_of_256_is_for_cuda():
    assert planned("torchao{components=unet, config=int4_weight, group_size=256}", "cuda")


@pytest.mark.parametrize("config", ["int8_dynamic", "float8_dynamic"])
def test_dynamic_configs_on_cuda_must_be_compiled_later(config):
    problem = message(f"torchao{{components=unet, config={config}}}", "cuda")
    assert 'needs a later step that makes unet "compiled", and there is none' in problem


@pytest.mark.parametrize("config", ["int8_weight", "int4_weight", "float8_weight"])
def test_configs_for_weights_alone_need_nothing_later(config):
    assert planned(f"torchao{{components=unet, config={config}}}", "cuda")


def test_two_quantisers_share_a_component_and_each_says_what_it_left_to_the_other():
    done = apply(
        "torchao{components=unet, config=int8_weight, include=['*attn*']}, "
        "torchao{components=unet, config=int8_dynamic, include=['*ff*']}"
    )
    first, second = done.report.steps
    assert len(first.matched["unet"]) == 8
    assert all("attn" in name for name in first.matched["unet"])
    assert len(second.matched["unet"]) == 2
    assert all(".ff." in name for name in second.matched["unet"])
    reasons = {second.skipped[f"unet.{name}"] for name in first.matched["unet"]}
    assert reasons == {"it is quantised already (Int8Tensor)"}
    dynamic = done.pipeline.unet.get_submodule(second.matched["unet"][0]).weight
    stored = done.pipeline.unet.get_submodule(first.matched["unet"][0]).weight
    assert dynamic.act_quant_kwargs is not None
    assert stored.act_quant_kwargs is None
    assert done.report.final[0].error < 0.01


def test_a_quantiser_of_everything_comes_after_one_of_some_layers():
    some = "torchao{components=unet, config=int8_weight, include=['*attn*']}"
    rest = "torchao{components=unet, config=float8_weight}"
    assert planned(f"{some}, {rest}")
    assert planned(f"{some}, torchao_int8{{components=unet}}")
    assert "steps[1].torchao must come before steps[0].torchao on unet" in message(
        f"{rest}, {some}"
    )
    # Leaving layers out says as much.
    assert planned(f"torchao{{components=unet, config=int8_weight, exclude=['*ff*']}}, {rest}")


def test_projections_are_fused_before_any_of_them_is_quantised():
    some = "torchao{components=unet, config=int8_weight, include=['*ff*']}"
    fused = "qkv_fusion{components=unet}"
    assert planned(f"{fused}, {some}")
    assert message(f"{some}, {fused}") == (
        "<steps>:1:65: steps[1].qkv_fusion must come before steps[0].torchao on unet: it conflicts "
        'with "quantised_weights", which steps[0].torchao gives\n'
        "The right order is: qkv_fusion(unet), torchao(unet)."
    )


HOOKED = """
import compilekit as ck

@ck.hookimpl
def describe():
    return ck.StepDescription(
        help="x", options=ck.Options, effects=lambda *_: ck.effects("runtime", gives=["PROPERTY"])
    )

@ck.hookimpl
def optimize_model(): ...
"""


@pytest.mark.parametrize("property_", ["offloaded_inside", "cast_inside"])
@pytest.mark.parametrize("step", ["torchao{config=int8_weight, components=unet}", "torchao_int8"])
def test_weights_are_quantised_before_hooks_move_or_cast_them(write, step, property_):
    step = step if "{" in step else f"{step}{{components=unet}}"
    host = ck.load_host([write("hooked.py", HOOKED.replace("PROPERTY", property_))])
    problem = message(f"hooked{{components=unet}}, {step}", host=host)
    assert f'it conflicts with "{property_}", which steps[0].hooked gives' in problem
    assert planned(f"{step}, hooked{{components=unet}}", host=host)


def test_the_preset_is_dynamic_int8_by_another_name():
    filters = "components=unet, min_features=32, exclude=['*to_out*']"
    steps = [f"torchao_int8{{{filters}}}", f"torchao{{{filters}, config=int8_dynamic}}"]
    one, other = (planned(each).steps[0] for each in steps)
    assert (one.effects, one.budget) == (other.effects, other.budget)
    short, long = (apply(each) for each in steps)
    for name in ("matched", "skipped", "details"):
        assert getattr(short.report.steps[0], name) == getattr(long.report.steps[0], name)
    assert np.array_equal(draw(short.pipeline), draw(long.pipeline))


@pytest.fixture
def adapted() -> Any:
    """A pipeline with LoRA layers beside its own, as wide as those."""
    from peft import LoraConfig

    pipeline = tiny_pipeline("sd")
    torch.manual_seed(0)
    config = LoraConfig(
        r=64, lora_alpha=256, init_lora_weights=False, target_modules=["to_q", "to_v"]
    )
    pipeline.unet.add_adapter(config)
    return pipeline


@pytest.mark.parametrize("config", ["int8_dynamic", "int8_weight"])
def test_adapters_are_left_alone_and_what_they_adapt_is_quantised(config, adapted):
    plain = draw(tiny_pipeline("sd"))
    wanted = draw(adapted)
    done = apply(f"torchao{{components=unet, config={config}}}", adapted)
    (step,) = done.report.steps
    assert [name for name in step.matched["unet"] if ".lora_" in name] == []
    assert len([name for name in step.matched["unet"] if name.endswith("to_q.base_layer")]) == 2
    adapters = [name for name in step.skipped if ".lora_" in name]
    assert len(adapters) == 32
    assert {step.skipped[name] for name in adapters} == {"it belongs to an adapter"}
    assert done.report.final[0].error < 0.015
    assert distance(draw(adapted), wanted) < 0.2 * distance(plain, wanted)


class Odd(nn.Module):
    """Layers that each have a reason of their own to stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(64, 64)
        self.wide = nn.Linear(64, 64, dtype=torch.float64)
        self.idle = nn.Linear(64, 64)
        self.narrow = nn.Linear(64, 72)
        self.ragged = nn.Linear(72, 64)
        self.computed = nn.utils.parametrizations.weight_norm(nn.Linear(64, 64))
        self.attention = nn.MultiheadAttention(64, 2, batch_first=True)

    def forward(self, x):
        y = self.ragged(self.narrow(self.computed(self.plain(x))))
        return self.wide(self.attention(y, y, y)[0].double()).float()


@pytest.mark.filterwarnings("ignore:.*attention fast path")
def test_what_is_left_alone_is_listed_with_its_reason():
    steps = "torchao{components=model, config=int4_weight, group_size=64}"
    inputs = {"x": torch.randn(1, 8, 64)}
    done = apply(steps, Odd().eval(), inputs=inputs)
    (step,) = done.report.steps
    assert step.matched == {"model": ["plain"]}
    assert step.skipped == {
        "model.wide": "its weight is float64, and int4_weight takes float32 or bfloat16 or float16",
        "model.idle": "the sample never calls it",
        "model.narrow": "72 out_features, no multiple of 16",
        "model.ragged": "72 in_features, no multiple of 64",
        "model.computed": "its weight is no parameter, but computed from others",
        "model.attention.out_proj": "torch's attention layer reaches into its weight",
    }


def test_what_torchao_leaves_out_without_a_word_is_not_counted_as_quantised(monkeypatch):
    monkeypatch.setattr(layers, "unfit", lambda *_: "")
    steps = "torchao{components=model, config=int4_weight}"
    (step,) = apply(steps, net(), inputs=rows()).report.steps
    assert step.matched == step.changed == {"model": ["2"]}
    assert step.skipped == {"model.0": "torchao left it as it was, and did not say why"}


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ("config=int8_dynamic", "4 rows a call, fewer than min_rows 17"),
        ("config=int8_weight", ""),
        ("config=int8_weight, min_rows=5", "4 rows a call, fewer than min_rows 5"),
    ],
)
def test_few_rows_matter_where_activations_are_quantised(steps, reason):
    recipe = f"torchao{{components=model, allow_no_match=true, {steps}}}"
    (step,) = apply(recipe, net(), inputs=rows(4)).report.steps
    assert set(step.skipped.values()) == ({reason} if reason else set())


def test_weights_that_are_offloaded_part_by_part_are_left_alone():
    from accelerate import cpu_offload

    pipeline = tiny_pipeline("sd")
    cpu_offload(pipeline.unet, torch.device("cpu"))
    steps = "torchao{components=unet, config=int8_weight}"
    recipe = ck.Recipe.from_steps(steps, sample=SAMPLE).model_dump()
    recipe["verify"] = {"reference": "as_loaded"}
    with pytest.raises(ck.NoMatchError, match=r"its weight is not in memory \(offloaded\?\)"):
        ck.apply(ck.Recipe.model_validate(recipe), pipeline, progress=False)
