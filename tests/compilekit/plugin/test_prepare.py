"""What steps may do before torch is loaded, and what they may warm up with."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from support import SAMPLE

import compilekit as ck
from compilekit.testing import tiny_pipeline

EARLY = """
import sys
import compilekit as ck

class Options(ck.Options):
    fault: str = ""

def prepare(options, purpose):
    print("prepared for", purpose, "torch" in sys.modules)
    if options.fault == "machine":
        raise ck.MachineError("no driver")
    if options.fault:
        raise ValueError(options.fault)

@ck.hookimpl
def describe():
    return ck.StepDescription(help="Early.", options=Options, components="optional",
                              effects=lambda *_: ck.effects("runtime"), prepare=prepare)

@ck.hookimpl
def optimize_model(model, options, context):
    calls = context.calls
    for call in calls:
        context.run(call)
    shown = [{k: v for k, v in call.items() if k != "prompt"} for call in calls]
    return ck.StepResult(matched={"unet": ["all"]}, changed={}, details={"calls": shown})
"""


@pytest.fixture
def early(write):
    return write("early.py", EARLY)


def test_a_step_prepares_the_process_before_torch_is_loaded(early):
    code = f"""
import compilekit as ck
recipe = ck.Recipe.from_steps("early{{fault=machine}}", sample={{"prompt": "a cat"}})
try:
    ck.apply(recipe, host=ck.load_host([{str(early)!r}]), progress=False)
except ck.MachineError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "prepared for apply False",
        "steps[0].early: no driver",
    ]


def test_what_it_raises_otherwise_is_the_plugins_fault(early):
    recipe = ck.Recipe.from_steps("early{fault=oops}", sample=SAMPLE)
    with pytest.raises(ck.StepError, match=r"steps\[0\].early: plugin early .*oops"):
        ck.apply(recipe, tiny_pipeline("sd"), host=ck.load_host([early]), progress=False)


def test_a_step_warms_up_with_the_sample_in_every_size(early):
    said = {
        "compilekit": 1,
        "target": {"device": "cpu"},
        "sample": SAMPLE,
        "shapes": [{"height": 96}, {"batch": 2}],
        "steps": ["early"],
    }
    pipeline, seen = tiny_pipeline("sd"), []
    pipeline.unet.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    done = ck.apply(
        ck.Recipe.parse(json.dumps(said)), pipeline, host=ck.load_host([early]), progress=False
    )
    own = {"height": 32, "width": 32, "num_inference_steps": 1}
    assert done.report.steps[0].details["calls"] == [own, {**own, "height": 96}, own]
    assert {(2, 4, 16, 16), (2, 4, 48, 16), (4, 4, 16, 16)} == set(seen)


def test_a_module_is_warmed_up_by_batches(early):
    inputs = {"input": torch.ones(2, 4)}
    recipe = ck.Recipe.from_steps("early")
    done = ck.apply(
        recipe, torch.nn.Linear(4, 4), inputs=inputs, host=ck.load_host([early]), progress=False
    )
    assert done.report.steps[0].details["calls"] == [{}]
