"""A library that lacks a private name is refused with a reason, before anything goes wrong."""

from __future__ import annotations

import importlib

import pytest
from diffusers.models import attention_dispatch

import compilekit as ck
from compilekit.base import torch_internals
from compilekit_plugins import diffusers_internals
from compilekit_plugins import torch_internals as for_plugins


def refused(library, what):
    return pytest.raises(ck.MachineError, match=rf"{library} \S+ has no .*{what}.*: install ")


def test_torch_has_every_name_and_lacks_are_named(monkeypatch):
    torch_internals._probe()
    monkeypatch.setattr(torch_internals, "_MODULE_NAMES", ("_parameters", "_gone"))
    monkeypatch.setattr(torch_internals, "CONFIG", "_left")
    with refused("torch", r"nn\.Module\._gone, compiler\.config\._left"):
        torch_internals._probe()


@pytest.mark.parametrize("name", ["ORIGINAL", "WRAPPED"])
def test_a_compiler_whose_results_look_otherwise_is_refused(name, monkeypatch):
    torch_internals._probe_compiler.__wrapped__()
    monkeypatch.setattr(torch_internals, name, "_renamed")
    with refused("torch", "_renamed"):
        torch_internals._probe_compiler.__wrapped__()


@pytest.mark.parametrize(
    ("ask", "path", "name"),
    [
        (for_plugins.pytree, "torch.utils._pytree", "tree_map"),
        (for_plugins.dynamo_metrics, "torch._dynamo.utils", "counters"),
        (for_plugins.dynamo_errors, "torch._dynamo.exc", "Unsupported"),
        (for_plugins.inductor, "torch._inductor", "list_mode_options"),
    ],
)
def test_a_step_says_which_name_of_torch_it_lacks(ask, path, name, monkeypatch):
    monkeypatch.delattr(importlib.import_module(path), name)
    with refused("torch", rf"{path}\.{name}"):
        ask()


def test_a_module_of_torch_that_is_gone_is_named():
    with refused("torch", r"torch\._gone"):
        for_plugins._module("torch._gone", "name")


def test_a_step_says_which_name_of_diffusers_it_lacks(monkeypatch):
    with refused("diffusers", "_skip_layerwise"), diffusers_internals.also_uncast(object(), ()):
        pass
    monkeypatch.delattr(attention_dispatch._AttentionBackendRegistry, "_active_backend")
    with refused("diffusers", "_active_backend"), diffusers_internals.default_attention_kept():
        pass
