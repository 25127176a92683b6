"""A bundle for another machine is refused field by field, or runs eagerly on request."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import EXPORTER, draw, edit_manifest

import compilekit as ck
from compilekit.testing import tiny_pipeline


def edited(folder: Any, **fields: str) -> Any:
    def change(data: Any) -> None:
        for name, value in fields.items():
            table = data["plugins"] if name in data["plugins"] else data["fingerprint"]
            table[name] = value

    edit_manifest(folder, change)
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"torch": "1.2.3"}, "fatal: torch: built with 1.2.3, here .*install torch==1.2.3"),
        ({"torch": ""}, "fatal: torch: built with none, here .*; load it on a machine like that"),
        ({"torch": "9" * 5000}, "fatal: torch: built with 999"),
        ({"cpu_flags": "avx2 avx1024"}, "cpu_flags: .*this processor lacks avx1024"),
        ({"platform": "linux-riscv"}, "platform: built with linux-riscv"),
        ({"glibc": "99.0"}, "glibc: built with 99.0"),
        ({"eager_export": "other 2.0"}, "plugin eager_export: built with other 2.0, here eager"),
    ],
    ids=["torch", "no torch", "number", "instructions", "platform", "glibc", "plugin"],
)
def test_a_bundle_for_another_machine_is_refused_field_by_field(fields, message, bundle, load):
    with pytest.raises(ck.MismatchError, match=message) as caught:
        load(edited(bundle, **fields))
    assert caught.value.exit_code == 3
    assert 'on_mismatch="eager" runs it without compiled code' in str(caught.value)


def test_every_fatal_difference_is_named_at_once(bundle, load):
    with pytest.raises(ck.MismatchError) as caught:
        load(edited(bundle, torch="1.2.3", platform="linux-riscv", python="2.7"))
    assert [line.split(":")[1].strip() for line in str(caught.value).splitlines()[1:3]] == [
        "platform",
        "torch",
    ]


def test_a_bundle_for_another_machine_runs_eagerly_where_that_is_asked_for(bundle, load):
    with pytest.warns(UserWarning, match=r"was built for another machine(.|\n)*It runs eagerly"):
        pipeline = load(edited(bundle, torch="1.2.3"), on_mismatch="eager")
    assert ck.bundle_of(pipeline).eager
    assert abs(draw(pipeline) - draw(tiny_pipeline("sd"))).max() < 1e-6
    assert ck.bundle_of(pipeline).counts() == {}
    pipeline.to(torch.bfloat16)


def test_a_difference_that_may_matter_is_a_warning(bundle, load):
    with pytest.warns(UserWarning, match=r": diffusers: built with 0.1, here"):
        load(edited(bundle, diffusers="0.1"))


def test_a_difference_that_does_not_matter_is_only_noted(bundle, load):
    pipeline = load(edited(bundle, python="3.99", cpu="Abacus"))
    found = [(d.field, d.severity) for d in ck.bundle_of(pipeline).differences]
    assert found == [("cpu", "note"), ("python", "note")]


def test_the_plugin_judges_its_own_parts(bundle, load, write):
    text = EXPORTER.read_text().replace(
        '"warning" if field == "transformers"', '"fatal" if field == "python"'
    )
    strict = ck.load_host([write("eager_export.py", text)])
    edited(bundle, python="3.99", eager_export=strict.plugins["eager_export"].version)
    with pytest.raises(ck.MismatchError, match=r"fatal: python: built with 3.99"):
        load(bundle, host=strict)


def test_a_plugin_that_is_not_here_is_named(bundle, load):
    with pytest.raises(ck.MismatchError, match=r"plugin eager_export: .*here none; install eager"):
        load(bundle, host=ck.load_host())


def test_it_loads_on_no_other_kind_of_device(bundle, load):
    with pytest.raises(ck.UsageError, match='the bundle is for "cpu", and cannot be loaded on'):
        load(bundle, device="cuda:0")
    with pytest.raises(ck.UsageError, match='device="nonsense": torch knows no such device'):
        load(bundle, device="nonsense")
