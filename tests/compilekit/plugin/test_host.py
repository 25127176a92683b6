"""The host: finds plugins, isolates bad ones, calls one and names who is to blame."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import compilekit as ck
from compilekit.plugin.discovery import installed_plugins
from compilekit.plugin.host import Host

STEP = """
import compilekit as ck

class Nothing(ck.Options):
    pass

@ck.hookimpl
def describe():
    return ck.StepDescription(
        help="A step.", options=Nothing, effects=lambda options, device: ck.effects("weights")
    )

@ck.hookimpl
def optimize_model():
    {body}
"""

BUILT_IN = [
    "attention",
    "channels_last",
    "gaudi",
    "lora",
    "memory",
    "neuron",
    "precision",
    "qkv_fusion",
    "scheduler",
    "swap_component",
    "torch_compile",
    "torchao",
    "torchao_int8",
]


def planned(host: Host, name: str) -> ck.PlannedStep:
    recipe = ck.Recipe.from_steps(f"{name}{{components=unet}}")
    return ck.plan(recipe, host=host).steps[0]


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put distributions on the path, each with one plugin: `distribution(name, plugin, code)`."""

    def make(name: str, plugin: str, code: str) -> None:
        root = tmp_path / name
        info = root / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        module = f"{name}_module"
        (info / "entry_points.txt").write_text(f"[compilekit]\n{plugin} = {module}\n")
        (root / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(str(root))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return make


def test_the_built_in_plugins_are_found_like_any_other():
    found = {plugin.name: plugin.kind for plugin in installed_plugins()}
    assert found == dict.fromkeys(BUILT_IN, "step")


def test_a_file_is_a_plugin_named_after_it(write):
    host = ck.load_host([write("prune.py", STEP.format(body="return None"))])
    assert host.plugins["prune"].kind == "step"


def test_a_distribution_whose_import_fails_is_named_only_when_its_step_is_used(distribution):
    distribution("acme", "shrink", "raise RuntimeError('no driver')")
    host = ck.load_host()
    assert host.plugins["shrink"].error == "importing it raised RuntimeError: no driver"
    assert sorted(host.descriptions) == BUILT_IN
    with pytest.raises(ck.PluginLoadError) as caught:
        host.describe("shrink")
    assert str(caught.value) == (
        "plugin shrink (acme 1.0) cannot be used: importing it raised RuntimeError: no driver"
    )


def test_a_plugin_that_exits_at_import_does_not_end_the_host(distribution):
    distribution("acme", "shrink", "raise SystemExit(3)")
    assert ck.load_host().plugins["shrink"].error == "importing it raised SystemExit: 3"


def test_two_distributions_that_bring_one_name_are_both_named(distribution):
    distribution("acme", "shrink", STEP.format(body="return None"))
    distribution("other", "shrink", STEP.format(body="return None"))
    with pytest.raises(ck.PluginLoadError, match=r"acme 1\.0 and other 1\.0|other 1\.0 and acme"):
        ck.load_host().describe("shrink")


def test_a_file_that_takes_the_name_of_an_installed_plugin_is_refused(write):
    path = write("precision.py", STEP.format(body="return None"))
    with pytest.raises(ck.PluginLoadError, match=r"compilekit 0\.1\.0 and .*precision\.py"):
        ck.load_host([path])


def test_a_misspelt_hook_is_refused_with_the_right_spelling(write):
    path = write("shrink.py", STEP.format(body="return None").replace("optimize_", "optimise_"))
    with pytest.raises(ck.PluginLoadError) as caught:
        ck.load_host([path])
    assert str(caught.value) == (
        f'plugin shrink ({path}): there is no hook "optimise_model". Did you mean "optimize_model"?'
    )


def test_an_argument_that_a_hook_does_not_have_is_refused(write):
    code = STEP.format(body="return None").replace("optimize_model()", "optimize_model(modell)")
    with pytest.raises(ck.PluginLoadError, match="modell"):
        ck.load_host([write("shrink.py", code)])


def test_a_file_without_hooks_is_no_plugin(write):
    with pytest.raises(ck.PluginLoadError, match="it implements no hook"):
        ck.load_host([write("shrink.py", "x = 1")])


def test_a_file_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ck.PluginLoadError, match=r"gone\.py: no such file"):
        ck.load_host([tmp_path / "gone.py"])


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("None", "describe returned None, not a StepDescription"),
        (
            'ck.StepDescription(help="", options=Nothing, effects=None, budget=0)',
            "describe: the budget must be above 0, not 0",
        ),
        (
            'ck.StepDescription(help="", options=int, effects=None)',
            "describe: options must be a class derived from compilekit.Options",
        ),
        (
            'ck.StepDescription(help="", options=Nothing, effects=None, targets={"gpu"})',
            'describe: "gpu" is no target; targets are cpu, cuda, hpu, neuron, mps, xpu',
        ),
        ("described(variables='HPU_')", "describe: variables must be a tuple of names"),
        ("described(variables=('HPU_', ''))", "describe: variables must be a tuple of names"),
        *(
            (f"described(targets={{'hpu'}}, {name}='hpu')", f"describe: {name} must be a function")
            for name in ("check", "judge", "sizes", "reads", "prepare", "move", "wait")
        ),
        ("described(move=print)", "describe: `move` and `wait` need exactly one target"),
        (
            "described(targets={'hpu', 'cuda'}, wait=print)",
            "describe: `move` and `wait` need exactly one target",
        ),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(write, answer, complaint):
    code = f"""
    import compilekit as ck
    class Nothing(ck.Options): pass
    def described(**more):
        return ck.StepDescription(help="", options=Nothing, effects=print, **more)
    @ck.hookimpl
    def describe(): return {answer}
    @ck.hookimpl
    def optimize_model(): ...
    """
    with pytest.raises(ck.PluginLoadError) as caught:
        ck.load_host([write("shrink.py", code)])
    assert str(caught.value).endswith(complaint)


def test_only_the_named_plugin_is_called_while_wrappers_of_others_run(write, capsys):
    one = write("one.py", STEP.format(body='print("one"); return ck.StepResult({}, {})'))
    code = STEP.format(body="raise AssertionError")
    two = write("two.py", code)
    observer = write(
        "observer.py",
        """
        import compilekit as ck
        @ck.hookimpl(wrapper=True)
        def optimize_model(options):
            print("before")
            result = yield
            print("after")
            return result
        """,
    )
    one.write_text(one.read_text().replace("({}, {})", "(matched={}, changed={})"))
    host = ck.load_host([two, observer, one])
    host.optimize_model(planned(host, "one"), None, None)
    assert capsys.readouterr().out.split() == ["before", "one", "after"]


def test_a_hook_that_returns_nothing_is_named(write):
    path = write("shrink.py", STEP.format(body="return None"))
    host = ck.load_host([path])
    with pytest.raises(ck.PluginContractError) as caught:
        host.optimize_model(planned(host, "shrink"), None, None)
    assert str(caught.value) == (
        f"steps[0].shrink: plugin shrink ({path}): optimize_model returned None, not a StepResult"
    )


def test_a_hook_that_raises_is_named_and_keeps_its_cause(write):
    path = write("shrink.py", STEP.format(body="return 1 / 0"))
    host = ck.load_host([path])
    with pytest.raises(ck.StepError) as caught:
        host.optimize_model(planned(host, "shrink"), None, None)
    assert str(caught.value) == (
        f"steps[0].shrink: plugin shrink ({path}): "
        "optimize_model raised ZeroDivisionError: division by zero"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_wrapper_that_raises_is_blamed_in_place_of_the_step(write):
    step = write("one.py", STEP.format(body="return ck.StepResult(matched={}, changed={})"))
    observer = write(
        "nosy.py",
        """
        import compilekit as ck
        @ck.hookimpl(wrapper=True)
        def optimize_model():
            yield
            raise KeyError("x")
        """,
    )
    host = ck.load_host([step, observer])
    with pytest.raises(ck.StepError, match=r"plugin nosy \(.*nosy\.py\): .*KeyError"):
        host.optimize_model(planned(host, "one"), None, None)


def test_an_observer_cannot_be_used_as_a_step(write):
    code = "import compilekit as ck\n@ck.hookimpl(wrapper=True)\ndef optimize_model(): yield\n"
    host = ck.load_host([write("nosy.py", code)])
    with pytest.raises(ck.PluginError, match='"nosy" is an observer, not a step'):
        host.describe("nosy")


def test_an_unknown_step_lists_the_near_matches():
    with pytest.raises(ck.PluginError) as caught:
        ck.load_host().describe("chanels_last")
    assert str(caught.value) == (
        'no plugin brings a step "chanels_last". Did you mean "channels_last"?'
    )


def test_effects_that_raise_are_the_plugins_fault(write):
    code = STEP.format(body="return None").replace('ck.effects("weights")', "1 / 0")
    host = ck.load_host([write("shrink.py", code)])
    with pytest.raises(ck.RecipeError, match=r"plugin shrink .*effects raised ZeroDivisionError"):
        planned(host, "shrink")


def test_effects_of_an_unknown_kind_are_the_plugins_fault(write):
    code = STEP.format(body="return None").replace('("weights")', '("wieghts")')
    host = ck.load_host([write("shrink.py", code)])
    with pytest.raises(ck.RecipeError, match=r'plugin shrink .*its effects change "wieghts"'):
        planned(host, "shrink")
