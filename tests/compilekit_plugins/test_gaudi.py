"""The step `gaudi`, as far as no driver package is needed: options, versions, kinds of calls."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._pytree import tree_flatten
from typer.testing import CliRunner

import compilekit as ck
from compilekit.cli import app
from compilekit.testing import tiny_pipeline
from compilekit.workers.faults import Fault, MachineFault, ModelFault
from compilekit_plugins.gaudi import keys, machine
from compilekit_plugins.gaudi.options import Gaudi
from compilekit_plugins.gaudi.weights import Watch
from compilekit_plugins.gaudi.worker import config, environment, optimum, packages

run = CliRunner().invoke
DOCS = Path(__file__).parents[2] / "docs"


def refused(options: str, for_="apply") -> list[str]:
    recipe = ck.Recipe.from_steps(f"gaudi{{{options}}}", device="hpu")
    with pytest.raises(ck.RecipeError) as caught:
        ck.plan(recipe, for_=for_)
    return [problem.message for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ("mode=graph", 'Did you mean "graphs"?'),
        (
            "engine=optimum, mode=compile",
            "mode: optimum-habana has no torch.compile; `engine: native` has",
        ),
        (
            "engine=optimum, max_graphs=2",
            "max_graphs: optimum-habana captures by itself, so it means nothing there",
        ),
        ("batch_size=4", "batch_size: it is for `engine: optimum`"),
        (
            "engine=optimum, python=there",
            "python: only a build runs elsewhere; start that interpreter for `apply`",
        ),
        ("stale=recompile", "stale: there are no stored recipes to be stale; it is for `build`"),
        (
            "gaudi_config=Habana/stable-difusion",
            "gaudi_config: Habana/stable-difusion: neither a file or folder here, nor one of "
            "Habana/stable-diffusion, Habana/stable-diffusion-2",
        ),
    ],
)
def test_an_option_that_is_wrong_or_means_nothing_is_an_error(options, wrong):
    assert wrong in " ".join(refused(options))


def test_it_is_for_the_hpu_alone():
    with pytest.raises(ck.RecipeError, match='does not support the target "cuda", only hpu'):
        ck.plan(ck.Recipe.from_steps("gaudi", device="cuda"))


def test_shapes_may_stand_in_a_build_and_nothing_comes_after():
    text = {
        "compilekit": 1,
        "target": {"device": "hpu"},
        "sample": {"prompt": "a cat"},
        "shapes": [{"height": 96}],
        "steps": [{"gaudi": {}}],
    }
    assert ck.plan(ck.Recipe.parse(json.dumps(text)), for_="build").whole is not None


def test_a_pipeline_is_moved_without_migration_and_its_device_waited_for(monkeypatch):
    host, calls = ck.load_host(), []
    to = SimpleNamespace(to=lambda *args, **kwargs: calls.append((args, kwargs)))
    host.mover("hpu")(to)
    assert calls == [(("hpu",), {"hpu_migration": False})]
    assert (host.mover("cuda"), host.waits("cuda")) == (None, ())
    (wait,) = host.waits("hpu")
    wait()
    hpu = SimpleNamespace(is_available=lambda: True, synchronize=lambda: calls.append("waited"))
    monkeypatch.setattr(torch, "hpu", hpu, raising=False)
    wait()
    assert calls[1:] == ["waited"]


def test_without_the_driver_package_apply_says_where_it_comes_from():
    recipe = ck.Recipe.from_steps("gaudi", device="hpu", sample={"prompt": "a cat"})
    with pytest.raises(ck.MachineError) as caught:
        ck.apply(recipe, tiny_pipeline("sd"), progress=False)
    assert str(caught.value).startswith(
        "steps[0].gaudi: habana-torch-plugin is not installed: it comes with Intel's Gaudi "
        "container or installer, with a torch of its own: no package index has it"
    )
    assert "PT_HPU_LAZY_MODE" not in os.environ


def test_both_named_configurations_come_along():
    assert config.names() == ["Habana/stable-diffusion", "Habana/stable-diffusion-2"]
    assert config.read("Habana/stable-diffusion") == {"use_torch_autocast": True}
    second = config.read("Habana/stable-diffusion-2")
    assert (len(second["autocast_bf16_ops"]), len(second["autocast_fp32_ops"])) == (27, 44)
    assert config.without_lists(second) == {
        "use_torch_autocast": True,
        "use_fused_adam": True,
        "use_fused_clip_norm": True,
    }


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("[]", "holds no mapping"),
        ("{", "no JSON"),
        ('{"use_torch_autocast": 1}', "use_torch_autocast: 1 is not what belongs there"),
        ('{"autocast_bf16_ops": "mm"}', "autocast_bf16_ops: 'mm' is not what belongs there"),
        ('{"autocast_bf16_ops": ["mm"]}', "the driver wants both, or none"),
    ],
)
def test_a_configuration_that_is_wrong_says_where(write, said, wrong):
    path = write("gaudi_config.json", said)
    for named in (path, path.parent):
        with pytest.raises(Fault, match=wrong):
            config.read(str(named))


def test_op_lists_are_files_with_an_operation_a_line(tmp_path):
    found = {"autocast_bf16_ops": ["mm", "bmm"], "autocast_fp32_ops": ["exp"]}
    variables = environment.wanted("compile", found, tmp_path, 512)
    first = variables.pop("PT_HPU_AUTOCAST_LOWER_PRECISION_OPS_LIST")
    second = variables.pop("PT_HPU_AUTOCAST_FP32_OPS_LIST")
    assert [Path(path).read_text() for path in (first, second)] == ["mm\nbmm\n", "exp\n"]
    assert variables == {
        "PT_HPU_LAZY_MODE": "0",
        "PT_HPU_ENABLE_CACHE_METRICS": "1",
        "PT_HPU_RECIPE_CACHE_CONFIG": f"{tmp_path / 'recipes'},false,512",
    }


def test_what_was_set_is_put_back_where_the_driver_cannot_be_imported(monkeypatch):
    monkeypatch.setenv("PT_HPU_LAZY_MODE", "2")
    with pytest.raises(MachineFault, match="habana-torch-plugin is not installed"):
        environment.set_up({"PT_HPU_LAZY_MODE": "1", "PT_HPU_ENABLE_CACHE_METRICS": "1"})
    assert os.environ["PT_HPU_LAZY_MODE"] == "2"
    assert "PT_HPU_ENABLE_CACHE_METRICS" not in os.environ


def test_op_lists_of_the_same_content_are_not_too_late(monkeypatch, tmp_path, write):
    first, second = write("a.txt", "mm\n"), write("b.txt", "mm\n")
    other = write("c.txt", "bmm\n")
    name = "PT_HPU_AUTOCAST_FP32_OPS_LIST"
    monkeypatch.setitem(sys.modules, environment.DRIVER, sys)
    monkeypatch.setenv(name, str(first))
    assert environment.set_up({name: str(second)}) == {}
    with pytest.raises(MachineFault, match="It is too late to set it"):
        environment.set_up({name: str(other)})


def installed(monkeypatch, device=("gaudi2", "1.24.0-abc"), **versions):
    named = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(packages, "version", lambda name: named.get(name, ""))
    monkeypatch.setattr(packages, "device", lambda: device)


GOOD = {
    "habana_torch_plugin": "1.24.0.535",
    "torch": "2.10.0+hpu.git1234",
    "optimum_habana": "1.21.2",
}


def test_what_goes_together_is_not_complained_about(monkeypatch):
    installed(monkeypatch, **GOOD)
    assert list(packages.findings("optimum")) == []
    assert list(packages.findings("native")) == []


@pytest.mark.parametrize(
    ("changes", "grave", "said"),
    [
        ({"habana_torch_plugin": ""}, True, "habana-torch-plugin is not installed: it comes"),
        (
            {"torch": "2.13.0"},
            True,
            "SynapseAI 1.24.0 belongs to Intel's torch 2.10, and torch 2.13.0 is installed: go "
            "back to the container's own",
        ),
        ({"device": ("", "")}, True, "no Gaudi device: hl-smi is not there, or shows none"),
        (
            {"device": ("gaudi2", "1.23.1-abc")},
            False,
            "the driver is 1.23.1-abc, and habana-torch-plugin is 1.24.0.535: they belong together",
        ),
        (
            {"optimum_habana": ""},
            True,
            "optimum-habana is not installed: pip install optimum-habana==1.21.2",
        ),
        (
            {"optimum_habana": "1.19.1"},
            True,
            "optimum-habana 1.19.1 was validated with SynapseAI 1.22, and 1.24.0 is here; 1.21 "
            "goes with it",
        ),
        (
            {"optimum_habana": "2.0.0"},
            True,
            "optimum-habana 2.0.0 is not known here; 1.4 to 1.21 are",
        ),
    ],
)
def test_what_does_not_go_together_is_told(monkeypatch, changes, grave, said):
    installed(monkeypatch, **{**GOOD, **changes})
    found = list(packages.findings("optimum"))
    assert any(is_grave == grave and said in text for is_grave, text in found), found
    # Never another torch: the container's own must stay.
    assert not any("pip install torch" in text for _, text in found)


@pytest.mark.parametrize(
    ("release", "synapse"),
    [("1.4.0", "1.8"), ("1.7.5", "1.11"), ("1.18.0", "1.20"), ("1.18.1", "1.21"), ("1.3.0", "")],
)
def test_the_table_goes_from_1_4_on(release, synapse):
    assert packages.validated(release) == synapse


def test_the_table_of_the_manual_is_that_of_the_code():
    text = (DOCS / "gaudi.md").read_text(encoding="utf-8")
    lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| 1.")]
    found = {}
    for cells in lines:
        plain = [cell.strip() for cell in cells]
        for releases, synapse in ((plain[0], plain[1]), (plain[3], plain[4])):
            for release in releases.split(", ") if releases else []:
                found["1.18" if release == "1.18.0" else release] = synapse
    assert found == packages.VALIDATED


def test_the_device_is_asked_for_by_the_vendors_tool(monkeypatch, write):
    tool = write("hl-smi", '#!/bin/sh\necho "HL-325, 1.24.0-fw-62"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent))
    assert packages.device() == ("gaudi3", "1.24.0-fw-62")
    tool.write_text("#!/bin/sh\nexit 1\n")
    assert packages.device() == ("", "")


def test_doctor_tells_what_is_missing_and_how_to_get_it():
    rows = json.loads(run(app, ["doctor", "--json"]).output)
    found = {row["what"]: row for row in rows if row["what"].startswith("gaudi: ")}
    assert found["gaudi: habana-torch-plugin"]["state"] == "absent"
    assert "no package index has it" in found["gaudi: habana-torch-plugin"]["advice"]
    advice = found["gaudi: optimum-habana"]["advice"]
    assert advice == "for `engine: optimum` alone: pip install optimum-habana==1.21.2"
    assert found["gaudi: device"]["state"] == "absent"


def test_a_build_on_a_machine_without_gaudi_says_so_and_leaves_nothing(tmp_path):
    recipe = ck.Recipe.from_steps(
        "gaudi", device="hpu", sample={"prompt": "a cat", "num_inference_steps": 1}
    )
    with pytest.raises(ck.MachineError) as caught:
        ck.build(recipe, tiny_pipeline("sd"), tmp_path / "sd", cache=False, progress=False)
    assert "this machine will not do:" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_build_without_a_sample_has_nothing_to_warm_up_with(tmp_path):
    recipe = ck.Recipe.from_steps("gaudi", device="hpu")
    with pytest.raises(ck.StepError, match="nothing to warm up with: the recipe needs a `sample:`"):
        ck.build(recipe, tiny_pipeline("sd"), tmp_path / "sd", cache=False, progress=False)


def test_pipelines_that_optimum_habana_has_not_are_refused():
    with pytest.raises(ModelFault, match="optimum-habana has no pipeline for KandinskyPipeline"):
        optimum.refuse_unknown("KandinskyPipeline")


def key(*args, **kwargs):
    return keys.key_of(*tree_flatten((args, kwargs)))


X = torch.zeros(2, 3)


def test_whatever_differs_in_a_call_makes_another_kind():
    calls = [
        key(X),
        key(torch.zeros(3, 3)),
        key(X.double()),
        key(X, 1),
        key(X, True),
        key(X, 1.0),
        key(X, scale=1),
        key([X]),
        key({"x": X}),
        key(X, None),
    ]
    with torch.autocast("hpu", dtype=torch.bfloat16):
        calls.append(key(X))
    assert len(set(calls)) == len(calls)
    assert key(X, scale=1) == key(torch.ones(2, 3), scale=1)
    assert key(torch.Generator()) == key(torch.Generator())
    with pytest.raises(keys.UnkeyedError, match="a object among its arguments"):
        key(object())


def test_a_call_is_padded_to_the_next_batch_or_split_into_the_largest():
    known = [key(torch.zeros(n, 3), torch.zeros(n), 5) for n in (4, 8)]

    def into(count):
        found = keys.padding(key(torch.zeros(count, 3), torch.zeros(count), 5), known)
        return None if found is None else (found.rows, found.into)

    assert [into(n) for n in (1, 4, 5, 20)] == [(1, 4), (4, 8), (5, 8), (20, 8)]
    for other in (
        key(torch.zeros(1, 4), torch.zeros(1), 5),
        key(torch.zeros(1, 3), torch.zeros(2), 5),
        key(torch.zeros(1, 3), torch.zeros(1), 6),
        key(torch.zeros(1, 3).double(), torch.zeros(1), 5),
        key(torch.zeros(1, 3), torch.zeros(1)),
    ):
        assert keys.padding(other, known) is None


def test_pieces_hold_every_row_once_and_the_last_is_filled_with_copies():
    known = [key(torch.zeros(4, 1), torch.zeros(7))]
    leaves = [torch.arange(6.0).reshape(6, 1), torch.arange(7.0)]
    found = keys.padding(key(*leaves), known)
    made = [
        ([tensor.flatten().tolist() for tensor in piece], real)
        for piece, real in keys.pieces(leaves, found)
    ]
    same = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert made == [
        ([[0.0, 1.0, 2.0, 3.0], same], 4),
        ([[4.0, 5.0, 5.0, 5.0], same], 2),
    ]


def test_a_module_is_another_when_tensors_or_settings_are_replaced_and_not_when_edited():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    watch = Watch(module)
    with torch.no_grad():
        module[0].weight.mul_(2)
    assert watch.changed() == ""
    module[0].weight.data = module[0].weight.data.clone()
    assert watch.changed() == "0.weight"
    module[0].bias = torch.nn.Parameter(torch.zeros(2))
    assert watch.changed() == "0.bias"
    module[0].scaling = {"style": 1.0}
    assert watch.changed() == "0.scaling"
    module[0].scaling["style"] = 0.5
    assert watch.changed() == "0.scaling"
    assert watch.changed() == ""


def test_python_of_builds_is_the_one_that_is_named(monkeypatch):
    assert machine.python_of("") == sys.executable
    monkeypatch.setenv(machine.PYTHON, "/there/python")
    assert machine.python_of("") == "/there/python"
    assert machine.python_of("/other") == "/other"
    assert machine.ingredients(Gaudi(engine="optimum")) is None
