"""`torch_compile`: what is compiled, what is reported, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import compilekit as ck
from compilekit.testing import tiny_pipeline


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.linear(x))


class Stack(nn.Module):
    """Three equal blocks between two layers."""

    _repeated_blocks = ("Block",)

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(8, 16)
        self.blocks = nn.ModuleList([Block() for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.start(x)
        for block in self.blocks:
            x = block(x)
        return x


class Broken(Stack):
    """Stops the compiler in the middle."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        torch._dynamo.graph_break()
        return x * 2


def run(step: str, net: nn.Module | None = None, rows: int = 4) -> ck.Applied:
    recipe = ck.Recipe.from_steps(f"torch_compile{{components=model, {step}}}")
    inputs = {"x": torch.randn(rows, 8)}
    return ck.apply(recipe, net or Stack(), inputs=inputs, progress=False)


def details(applied: ck.Applied) -> dict[str, Any]:
    return applied.report.steps[0].details


def test_a_whole_model_is_one_graph():
    assert details(run("backend=eager"))["graphs"] == 1


@pytest.mark.parametrize("regions", ["model", "auto", "[Block]"])
def test_equal_blocks_are_compiled_once(regions):
    torch.compiler.reset()
    done = run(f"backend=eager, regions={regions}")
    assert done.report.steps[0].matched == {
        "model": ["blocks.0 (Block)", "blocks.1 (Block)", "blocks.2 (Block)"]
    }
    assert details(done)["graphs"] == 1


@pytest.mark.parametrize("regions", ["none", "auto"])
def test_modules_of_torchs_own_classes_are_compiled_too(regions):
    def layer() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 16), nn.Tanh())

    torch.compiler.reset()
    net: nn.Module = nn.Sequential(nn.Linear(8, 16), layer())
    if regions == "auto":
        net = Stack()
        net.blocks = nn.ModuleList([layer(), layer()])
    inputs = {"x" if regions == "auto" else "input": torch.randn(4, 8)}
    recipe = ck.Recipe.from_steps(
        f"torch_compile{{components=model, backend=eager, regions={regions}}}"
    )
    done = ck.apply(recipe, net, inputs=inputs, progress=False)
    assert details(done)["graphs"] == 1


def test_regions_of_a_model_that_names_none_say_what_to_do():
    net = Stack()
    net._repeated_blocks = ()
    with pytest.raises(ck.StepError, match="name the block classes"):
        run("backend=eager, regions=model", net)


def test_a_region_class_that_is_not_there_lists_those_that_are():
    with pytest.raises(ck.StepError, match=r"no block of class Blok; it has Block, Linear"):
        run("backend=eager, regions=[Blok]")


def test_graph_breaks_are_reported_with_their_source_line():
    found = details(run("backend=eager", Broken()))
    assert found["graphs"] == 2
    (line,) = found["graph_breaks"]
    assert "test_torch_compile.py:" in line


def test_fullgraph_makes_a_break_an_error_that_names_the_line():
    with pytest.raises(ck.StepError) as caught:
        run("backend=eager, fullgraph=true", Broken())
    message = str(caught.value)
    assert message.startswith("steps[0].torch_compile: ")
    assert "test_torch_compile.py" in message
    assert "Try `fullgraph: false`" in message


def test_an_inductor_option_that_torch_does_not_have_is_refused():
    with pytest.raises(ck.StepError) as caught:
        run("inductor={max_autotun: true}")
    assert f"inductor of torch {torch.__version__} has no such option" in str(caught.value)
    assert 'Did you mean "max_autotune"?' in str(caught.value)


def test_an_inductor_option_of_the_wrong_kind_is_refused():
    with pytest.raises(ck.StepError, match="'yes' is not a bool, as its default"):
        run("inductor={max_autotune: 'yes'}")


def test_an_unknown_backend_is_refused():
    with pytest.raises(ck.StepError, match='has no backend "inducter"'):
        run("backend=inducter")


def test_a_mode_for_another_backend_is_refused_by_the_plan():
    recipe = ck.Recipe.from_steps("torch_compile{components=m, backend=eager, mode=max-autotune}")
    with pytest.raises(ck.RecipeError, match='mode "max-autotune" is for the backend "inductor"'):
        ck.plan(recipe)


@pytest.mark.parametrize("entry", ["vae", "vae.encode"])
def test_an_entry_point_that_the_sample_never_calls_is_refused(sample, entry):
    step = f"torch_compile{{components={entry}, backend=eager}}"
    recipe = ck.Recipe.from_steps(step, sample=sample)
    with pytest.raises(ck.StepError, match="the sample never calls it"):
        ck.apply(recipe, tiny_pipeline("sd"), progress=False)


def test_a_compiler_that_is_switched_off_is_noticed():
    from torch._dynamo import config

    with config.patch(disable=True), pytest.raises(ck.StepError, match="switched off"):
        run("backend=eager")


def test_many_models_of_one_class_do_not_use_up_each_others_compilations():
    torch.compiler.reset()
    for _ in range(12):
        assert details(run("backend=eager"))["graphs"] == 1


POKE = """
import compilekit as ck

class Nothing(ck.Options): pass

@ck.hookimpl
def describe():
    return ck.StepDescription(help="Changes what compiled code guards on.", options=Nothing,
                              components="optional",
                              effects=lambda options, device: ck.effects("runtime"))

@ck.hookimpl
def optimize_model(model):
    model.module("model").scale = 1.0
    return ck.StepResult(matched={"model": ["scale"]}, changed={"model": ["scale"]})
"""


def test_what_is_compiled_again_after_the_step_is_reported_with_the_guard(write):
    class Scaled(Stack):
        scale = 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * self.scale

    recipe = ck.Recipe.from_steps("torch_compile{components=model, backend=eager}, poke")
    host = ck.load_host([write("poke.py", POKE)])
    inputs = {"x": torch.randn(4, 8)}
    report = ck.apply(recipe, Scaled(), inputs=inputs, host=host, progress=False).report
    (line,) = report.steps[0].details["recompiles"]
    assert line.startswith("forward at ")
    assert "scale" in line


def test_settings_hold_when_it_is_compiled_again_later_and_for_nothing_else():
    import torch._inductor.compile_fx
    from torch._inductor import config
    from torch._inductor.utils import fresh_cache

    seen: list[object] = []
    original = torch._inductor.compile_fx._compile_fx_inner

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append((config.max_fusion_size, config.epilogue_fusion))
        return original(*args, **kwargs)

    recipe = ck.Recipe.from_steps(
        "torch_compile{components=model, dynamic=false, "
        "inductor={max_fusion_size: 7, epilogue_fusion: false}}"
    )
    # A cache hit would compile nothing, and so show nothing.
    with fresh_cache(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch._inductor.compile_fx, "_compile_fx_inner", spy)
        net = ck.apply(recipe, Stack(), inputs={"x": torch.randn(4, 8)}, progress=False).pipeline
        assert seen == [(7, False)]
        assert (config.max_fusion_size, config.epilogue_fusion) != (7, False)
        with torch.no_grad():
            net(torch.randn(9, 8))
        assert seen == [(7, False), (7, False)]


def test_compiled_code_lies_beneath_an_offload_hook():
    from accelerate.hooks import ModelHook, add_hook_to_module

    calls: list[str] = []

    class Noting(ModelHook):  # type: ignore[misc]
        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            calls.append(type(module).__name__)
            return args, kwargs

    net = Stack()
    add_hook_to_module(net, Noting())
    done = run("backend=eager, fullgraph=true", net)
    assert details(done)["graphs"] == 1
    calls.clear()
    net(torch.randn(4, 8))
    assert calls == ["Stack"]


def test_a_second_compiling_step_is_no_recompilation_of_the_first(sample):
    recipe = ck.Recipe.from_steps(
        "torch_compile{components=unet, backend=eager}, "
        "torch_compile{components=vae.decode, backend=eager}",
        sample=sample,
    )
    steps = ck.apply(recipe, tiny_pipeline("sd"), progress=False).report.steps
    assert [step.details["recompiles"] for step in steps] == [[], []]
