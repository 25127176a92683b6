"""The step `neuron`, as far as no vendor's library is needed: options, machine, folders."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import compilekit as ck
from compilekit.cli import app
from compilekit.testing import tiny_pipeline
from compilekit_plugins.neuron import ingredients, machine
from compilekit_plugins.neuron.options import Neuron
from compilekit_plugins.neuron.worker import fixes, host, packages
from compilekit_plugins.neuron.worker.sizes import Sizes

run = CliRunner().invoke
GB = 1_000_000_000


def planned(options: str, for_="build"):
    recipe = ck.Recipe.from_steps(f"neuron{{{options}}}", device="neuron")
    return ck.plan(recipe, for_=for_).steps[0].options


def refused(options: str, for_="build") -> list[str]:
    with pytest.raises(ck.RecipeError) as caught:
        planned(options, for_)
    return [problem.message for problem in caught.value.problems]


def test_the_defaults_are_those_of_the_guides():
    options = planned("height=512, width=512")
    assert (options.auto_cast, options.auto_cast_type, options.optlevel) == ("matmul", "bf16", 2)
    assert (options.instance_type, options.batch_size, options.data_parallel) == (
        "inf2",
        1,
        "auto",
    )


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ("height=512", "required, and missing"),
        ("height=512, width=512, optlvl=3", 'Did you mean "optlevel"?'),
        ("height=33, width=512", "height: 33 is no multiple of 8, as latents need; 32 is"),
        ("height=512, width=512, optlevel=4", "4"),
        ("height=512, width=512, batch_size=0", "0"),
        (
            "height=512, width=512, auto_cast=none, auto_cast_type=bf16",
            "auto_cast_type: nothing is cast with `auto_cast: none`; leave it out",
        ),
        (
            "height=512, width=512, dynamic_batch=true, inline_weights=false",
            "inline_weights: false does not go with dynamic_batch; leave one of them out",
        ),
    ],
)
def test_an_option_that_is_wrong_or_means_nothing_is_an_error(options, wrong):
    assert wrong in " ".join(refused(options))


def test_apply_is_refused_with_the_reason():
    assert refused("height=512, width=512", for_="apply") == [
        "compiles for a Neuron device ahead of time, so there is nothing to run in this process: "
        "use `compilekit build`, and `compilekit plan --for build` to check it"
    ]


def test_it_is_for_neuron_alone():
    with pytest.raises(ck.RecipeError, match='does not support the target "cuda", only neuron'):
        ck.plan(ck.Recipe.from_steps("neuron{height=64, width=64}", device="cuda"), for_="build")


def meminfo(root: Path, available: int, swap: int = 0, limit: int | None = None) -> Path:
    (root / "proc").mkdir()
    lines = f"MemTotal: 99 kB\nMemAvailable: {available // 1024} kB\nSwapFree: {swap // 1024} kB\n"
    (root / "proc" / "meminfo").write_text(lines)
    if limit is not None:
        (root / "sys/fs/cgroup").mkdir(parents=True)
        (root / "sys/fs/cgroup/memory.max").write_text(f"{limit}\n")
        (root / "sys/fs/cgroup/memory.current").write_text("1024\n")
    return root


def test_memory_is_what_is_free_with_swap_or_what_the_group_leaves(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert host.memory(meminfo(tmp_path / "a", 8 * 1024**3, 1024**3)) == 9 * 1024**3
    assert host.memory(meminfo(tmp_path / "b", 8 * 1024**3, 0, 2048)) == 1024


GOOD = host.Facts(
    memory=200 * GB,
    disk=200 * GB,
    weights=7 * GB,
    denoiser=3_440_000_000,
    is_xl=False,
    python=(3, 11),
    versions={"optimum-neuron": "0.4.5"},
    device=True,
)


def test_a_machine_that_has_all_is_not_complained_about():
    assert host.findings(GOOD) == []


@pytest.mark.parametrize(
    ("changes", "grave", "said"),
    [
        (
            {"memory": 23 * GB},
            True,
            "memory: compiling takes about 35 GB (stated by AWS), and 23.0 GB can be had, swap "
            "included",
        ),
        (
            {"memory": 64 * GB, "is_xl": True, "denoiser": 5_135_000_000},
            True,
            "memory: compiling takes about 92 GB (stated by AWS), and 64.0 GB can be had, swap "
            "included",
        ),
        (
            {"memory": 1 * GB, "denoiser": 344_000_000},
            True,
            "memory: compiling takes about 4 GB (a guess, by the size of its UNet), and 1.0 GB "
            "can be had, swap included",
        ),
        ({"disk": 2 * GB}, True, "disk: about 21.0 GB are needed, and 2.0 GB are free"),
        (
            {"python": (3, 12)},
            True,
            f"{sys.executable} is Python 3.12; optimum-neuron runs on 3.10 and 3.11",
        ),
        (
            {"placeholders": ["torch-neuronx", "neuronx-cc"]},
            True,
            "torch-neuronx, neuronx-cc: the public index has only empty packages of these names; "
            "the real ones come from AWS's own index (see `compilekit doctor`)",
        ),
        (
            {"absent": ["neuronx-cc"]},
            True,
            f"not installed for {sys.executable}: neuronx-cc; `compilekit doctor` says where they "
            "come from",
        ),
        (
            {"versions": {"optimum-neuron": "0.5.0"}},
            False,
            "optimum-neuron 0.5.0: this was tried with 0.4.5 alone",
        ),
        (
            {"device": False},
            False,
            "no Neuron device here: what is compiled cannot run or be validated",
        ),
    ],
)
def test_what_a_machine_lacks_is_said(changes, grave, said):
    assert host.findings(replace(GOOD, **changes)) == [(grave, said)]


def test_placeholders_are_known_by_their_versions(monkeypatch):
    found = {"torch-neuronx": "1.0", "neuronx-cc": "1.0.post1", "libneuronxla": "2.2.12677.0"}
    monkeypatch.setattr(packages, "version", lambda name: found.get(name, ""))
    assert packages.placeholders() == ["torch-neuronx", "neuronx-cc"]
    assert packages.absent() == ["optimum-neuron", "diffusers", "neuronx-distributed"]


@pytest.mark.parametrize(
    ("field", "built", "here", "verdict"),
    [
        ("neuronx-cc", "2.21.33363.0", "2.21.33363.0+standin", "note"),
        ("neuronx-cc", "2.21.33363.0", "2.20.1", "fatal"),
        ("neuronx-cc", "2.21.33363.0", "2.22.1", "note"),
        ("neuronx-cc", "2.21.33363.0", "", "fatal"),
        ("neuronx-cc", "999.0.0.0+standin", "2.21.33363.0+82129205", "fatal"),
        ("neuron", "inf2", "trn1", "note"),
        ("neuron", "inf2", "trn2", "fatal"),
        ("neuron", "inf2", "", "note"),
        ("torch", "2.8.0", "2.7.1", "fatal"),
        ("torch", "2.8.0", "2.9.0", "warning"),
        ("diffusers", "0.35.2", "0.36.0", "warning"),
        ("cpu_flags", "avx", "", "note"),
        ("platform", "linux-x86_64", "linux-aarch64", None),
    ],
)
def test_differences_are_judged_by_what_compiled_code_can_stand(field, built, here, verdict):
    assert machine.judge(field, built, here) == verdict


def test_a_fix_is_left_out_where_upstream_does_without():
    each = fixes.Fix("name", "load", "wrong", lambda: None, fixed_in="0.4.6")
    assert [each.applies(found) for found in ("0.4.5", "0.4.6.dev4", "0.4.6", "0.5.0")] == [
        True,
        False,
        False,
        False,
    ]
    assert replace(each, fixed_in="").applies("99.0")


def test_what_options_name_is_what_a_build_reads():
    adapter = {"source": "adapter", "weight_name": "adapter.safetensors"}
    options = Neuron(height=64, width=64, lora=(adapter,), ip_adapter=adapter, unet="unet")
    assert ck.load_host().descriptions["neuron"].reads(options) == ["adapter", "adapter", "unet"]
    assert ck.load_host().descriptions["neuron"].reads(Neuron(height=64, width=64)) == []


def test_an_interpreter_that_cannot_be_asked_is_named():
    options = Neuron(height=64, width=64, python="/no/such/python")
    with pytest.raises(ck.MachineError, match="/no/such/python: cannot be asked for its packages"):
        ingredients.ingredients(options)


@pytest.fixture
def compiled(tmp_path):
    """A folder as optimum-neuron lays it out."""
    folder = tmp_path / "compiled"
    (folder / "unet").mkdir(parents=True)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "unet" / "model.neuron").write_bytes(b"code")
    said = {
        "auto_cast": "matmul",
        "auto_cast_type": "bf16",
        "compiler_type": "neuronx-cc",
        "compiler_version": "2.21.33363.0",
        "dynamic_batch_size": False,
        "float_dtype": "fp32",
        "inline_weights_to_neff": False,
        "instance_type": "inf2",
        "optlevel": "2",
        "static_batch_size": 4,
        "static_height": 64,
    }
    (folder / "unet" / "config.json").write_text(json.dumps({"neuron": said}))
    return folder


def test_inspect_reads_a_compiled_folder_without_the_sdk(compiled):
    done = run(app, ["inspect", str(compiled)])
    assert done.output.splitlines() == [
        f"{compiled}: a StableDiffusionPipeline, compiled for Neuron",
        "  by neuronx-cc 2.21.33363.0 for inf2, optlevel 2",
        "  cast: matmul to bf16",
        "  unet: batch_size 4, height 64; fp32, weights beside the code",
    ]


def test_a_damaged_compiled_folder_is_named(compiled):
    (compiled / "unet" / "config.json").write_text("{")
    done = run(app, ["inspect", str(compiled)])
    assert done.exit_code == 2
    assert "unet/config.json: cannot be read" in done.output


def test_doctor_says_how_to_get_the_sdk(monkeypatch):
    monkeypatch.delenv(machine.PYTHON, raising=False)
    monkeypatch.setattr(packages, "version", lambda name: {"neuronx-cc": "1.0"}.get(name, ""))
    rows = {row[0]: row[1:] for row in machine.doctor()}
    lacks = "optimum-neuron, diffusers, torch-neuronx, libneuronxla, neuronx-distributed"
    placeholder = "neuronx-cc (an empty placeholder is there)"
    assert rows["packages"] == ("absent", "", f"no {lacks}, {placeholder}: {machine.INSTALL}")
    assert rows["device"] == (
        "absent",
        "",
        f"to run, on Inf2 or Trn1: {machine.DRIVER}; to build, none is needed",
    )


def test_an_interpreter_without_the_sdk_names_what_it_lacks(tmp_path):
    recipe = ck.Recipe.from_steps("neuron{height=64, width=64}", device="neuron")
    with pytest.raises(ck.MachineError) as caught:
        ck.build(recipe, tiny_pipeline("sd"), tmp_path / "sd", cache=False, progress=False)
    assert "not installed for" in str(caught.value)
    assert "optimum-neuron, torch-neuronx, neuronx-cc" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "release", "said"),
    [
        ("from torch_neuronx.xla_impl.trace import trace, other\n", "2.8.0.2", ""),
        ("def trace():\n    pass\n", "2.8.0.2", ""),
        ("backend = 'a trace of it'\n", "2.13.1", "torch-neuronx 2.13.1 has no `trace`"),
        ("", "1.0", ""),
    ],
)
def test_torch_neuron_is_known_by_what_it_lacks(monkeypatch, tmp_path, code, release, said):
    package = tmp_path / "torch_neuronx"
    package.mkdir()
    (package / "__init__.py").write_text(f"{code}raise ImportError('it was imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(packages, "version", lambda _: release)
    assert packages.torch_neuron().startswith(said)
    assert bool(packages.torch_neuron()) == bool(said)
    rows = [row for row in machine.doctor() if row[0] == "torch-neuronx"]
    assert [row[1] for row in rows] == ([] if release == "1.0" else ["absent" if said else "ok"])


SIZES = Sizes(height=64, width=32, batch=2, images=3, spread=False, dynamic=False)


@pytest.mark.parametrize(
    ("changes", "call", "said"),
    [
        ({}, {"prompt": ["a", "b"], "height": 64, "width": None}, ""),
        ({}, {"prompt": ["a", "b"], "height": 32}, "height 32"),
        ({}, {"prompt": ["a", "b"], "width": 64}, "width 64"),
        ({}, {"prompt": "a"}, "a batch of 1"),
        ({}, {"prompt": ["a"] * 4}, "a batch of 4"),
        ({}, {"prompt": ["a", "b"], "num_images_per_prompt": 1}, "images for each prompt: 1"),
        ({"spread": True}, {"prompt": ["a"] * 4}, ""),
        ({"dynamic": True}, {"prompt": ["a"] * 6}, ""),
        (
            {"dynamic": True},
            {"prompt": ["a"], "num_images_per_prompt": 4},
            "a batch of 1, images for each prompt: 4",
        ),
    ],
)
def test_a_call_is_covered_if_it_has_the_sizes_that_were_compiled(changes, call, said):
    assert replace(SIZES, **changes).uncovered(call) == said


def test_a_sample_that_was_not_compiled_for_is_refused_before_the_compiler_runs(tmp_path):
    recipe = ck.Recipe.from_steps(
        "neuron{height=64, width=64}", device="neuron", sample={"prompt": "a cat", "height": 32}
    )
    with pytest.raises(ck.StepError, match="the sample asks for height 32; compiled is height 64"):
        ck.build(recipe, tiny_pipeline("sd"), tmp_path / "sd", cache=False, progress=False)


def test_plain_modules_are_refused(tmp_path):
    import torch

    recipe = ck.Recipe.from_steps("neuron{height=64, width=64}", device="neuron")
    with pytest.raises(ck.StepError, match="it compiles pipelines, not plain modules"):
        ck.build(
            recipe,
            torch.nn.Linear(8, 8),
            tmp_path / "x",
            inputs={"input": torch.ones(1, 8)},
            cache=False,
            progress=False,
        )


def test_the_worker_s_files_import_of_compilekit_only_faults_and_parse_as_python_3_10():
    import ast

    folder = Path(ingredients.WORKER)
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and not node.level:
                module = node.module or ""
                is_own = module.startswith("compilekit")
                assert module == "compilekit.workers.faults" or not is_own, path.name
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("compilekit") for alias in node.names)


def test_a_pipeline_that_calls_its_unet_with_three_times_the_batch_needs_a_dynamic_one():
    from types import SimpleNamespace

    from compilekit.workers.faults import Fault
    from compilekit_plugins.neuron.worker.export import _refuse

    options = Neuron(height=64, width=64).model_dump(mode="json")
    request = {"class": "StableDiffusionInstructPix2PixPipeline"}
    with pytest.raises(Fault, match="three times the batch: say `dynamic_batch: true`"):
        _refuse(SimpleNamespace(request=request, options=options))
    _refuse(SimpleNamespace(request=request, options={**options, "dynamic_batch": True}))
