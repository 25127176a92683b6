"""`torchao` on other hardware and in other versions: what it needs, and what it says without."""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from support import SAMPLE
from torch import nn

import compilekit as ck
from compilekit.model import Model
from compilekit.testing import tiny_pipeline
from compilekit_plugins import torchao as plugin

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)).eval()


def rows(seed: int = 1) -> dict[str, torch.Tensor]:
    return {"input": torch.randn(32, 64, generator=torch.Generator().manual_seed(seed))}


@dataclass
class OnCuda:
    """A context of a machine that has a GPU, for what is checked before the GPU is used."""

    step: ck.PlannedStep
    module: nn.Module
    components: tuple[str, ...] = ("model",)
    device: str = "cuda"

    def replay(self, component: str) -> int:
        self.module(rows()["input"].to(self.module[0].weight.dtype))
        return 1

    def progress(self, message: str) -> None:
        pass


def on_cuda(config: str, module: nn.Module) -> ck.StepResult:
    steps = f"torchao{{components=model, config={config}}}, torch_compile{{components=model}}"
    step = ck.plan(ck.Recipe.from_steps(steps, device="cuda")).steps[0]
    model = Model(module, inputs=rows())
    return plugin.optimize_model(model, step.options, OnCuda(step, module))


@pytest.mark.parametrize(
    ("config", "has", "needs"),
    [
        ("float8_dynamic", (8, 6), "8.9"),
        ("float8_dynamic, granularity=per_row", (8, 0), "8.9"),
        ("float8_weight", (8, 0), "8.9"),
        ("int4_weight", (7, 5), "8.0"),
    ],
)
def test_a_gpu_that_cannot_is_named_with_what_it_has_and_what_is_needed(
    config, has, needs, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: has)
    module = net().bfloat16()
    with pytest.raises(ck.StepError) as caught:
        on_cuda(config, module)
    assert str(caught.value) == (
        f"steps[0].torchao: config {config.split(',')[0]} needs a GPU of compute capability "
        f"{needs} or more, and cuda has {has[0]}.{has[1]}: say int8_weight or int8_dynamic, which "
        "it can do"
    )
    assert {type(weight) for weight in module.parameters()} == {nn.Parameter}


@pytest.mark.skipif(torch.cuda.is_available(), reason="torchao finds what it needs")
def test_a_gpu_that_can_is_not_refused_and_what_torchao_says_is_passed_on(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 9))
    with pytest.raises(ck.StepError) as caught:
        on_cuda("float8_dynamic", net().bfloat16())
    assert str(caught.value).startswith("steps[0].torchao: model: torchao 0.")
    assert "Float8 dynamic quantization requires CUDA" in str(caught.value)


@pytest.mark.parametrize(
    "config", ["int4_weight, group_size=32", "float8_dynamic, granularity=per_row"]
)
def test_a_dtype_that_the_gpus_product_does_not_take_is_a_reason(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    result = on_cuda(config, net())
    reason = f"its weight is float32, and {config.split(',')[0]} takes bfloat16"
    assert result.matched == {"model": []}
    assert result.skipped == {"model.0": reason, "model.2": reason}


@pytest.mark.parametrize(
    ("config", "module", "name", "what", "since"),
    [
        ("float8_weight", "quantization", "Float8WeightOnlyConfig", "float8_weight", "0.14"),
        (
            "int4_weight, group_size=32",
            "prototype.quantization.int4",
            "PrototypeInt4WeightOnlyConfig",
            "int4_weight on a CPU",
            "0.15",
        ),
    ],
)
def test_a_class_that_the_installed_torchao_lacks_is_named_with_its_version(
    config, module, name, what, since, monkeypatch
):
    import torchao

    monkeypatch.delattr(importlib.import_module(f"torchao.{module}"), name)
    recipe = ck.Recipe.from_steps(f"torchao{{components=model, config={config}}}")
    with pytest.raises(ck.StepError) as caught:
        ck.apply(recipe, net(), inputs=rows(), progress=False)
    assert str(caught.value) == (
        f"steps[0].torchao: torchao {torchao.__version__} has no {name}, which {what} needs: "
        f"install torchao {since} to 0.18, or say another config"
    )


FIRST_IMPORT = """
import json, logging
import compilekit as ck
from torch import nn, randn
net = nn.Linear(64, 64)
recipe = ck.Recipe.from_steps("torchao{components=model, config=int8_weight}")
report = ck.apply(recipe, net, inputs={"input": randn(32, 64)}, progress=False).report
levels = [logging.getLogger(name).level for name in ("torchao", "torch.utils._pytree")]
print(json.dumps([report.steps[0].details["extensions"], levels]))
"""


@pytest.mark.parametrize("skip", ["0", pytest.param("1", marks=pytest.mark.full)])
def test_the_report_says_which_extensions_are_loaded_and_the_terminal_stays_quiet(skip):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FIRST_IMPORT],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TORCHAO_FORCE_SKIP_LOADING_SO_FILES": skip},
    )
    assert done.stderr == ""
    line, levels = json.loads(done.stdout)
    assert levels == [logging.NOTSET, logging.NOTSET]
    import torchao

    title = f"torchao {torchao.__version__} with torch {torch.__version__}: "
    assert line.startswith(title)
    if skip == "1":
        assert line.removeprefix(title).startswith("left out: ")
        assert "TORCHAO_FORCE_SKIP_LOADING_SO_FILES" in line
    else:
        assert line.removeprefix(title).startswith(("loaded: ", "not loaded: _C"))
    assert "\n" not in line


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ("int8_dynamic", 0.1),
        ("int8_weight", 0.1),
        ("int4_weight, group_size=32", 0.3),
        ("float8_dynamic", 0.2),
        ("float8_dynamic, granularity=per_row", 0.2),
        ("float8_weight", 0.1),
    ],
)
def test_each_config_stays_near_float32_on_a_gpu(config, limit):
    steps = (
        "precision{dtype=bfloat16}, "
        f"torchao{{components=unet, config={config}, budget={limit}}}, "
        f"torch_compile{{components=unet, budget={limit}}}"
    )
    recipe = ck.Recipe.from_steps(steps, device="cuda", sample=SAMPLE)
    done = ck.apply(recipe, tiny_pipeline("sd"), progress=False)
    assert done.report.steps[1].matched["unet"]
    assert {m.entry: m.error for m in done.report.final}["unet"] < limit


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("config", ["int8_weight", "float8_weight", "float8_dynamic"])
def test_each_config_is_compiled_ahead_of_time_on_a_gpu(config, tmp_path):
    steps = (
        f"precision{{dtype=bfloat16}}, torchao{{components=model, config={config}, budget=0.3}}, "
        "torch_compile{components=model, budget=0.3}"
    )
    recipe = ck.Recipe.from_steps(steps, device="cuda")
    ck.build(recipe, net().cuda(), tmp_path / "made", inputs=rows(), progress=False)
    x = rows(2)["input"]
    with torch.no_grad():
        wanted = net()(x)
        actual = ck.load(tmp_path / "made", progress=False)(x.cuda().bfloat16())
    assert (actual.float().cpu() - wanted).norm() < 0.3 * wanted.norm()
