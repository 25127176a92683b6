"""Every step before every other: the plan's verdict is the manual's, and what plans runs right."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import adapter
from support import SAMPLE

import compilekit as ck
from compilekit.testing import tiny_pipeline

PAGE = Path(__file__).parents[2] / "docs" / "steps.md"

STEPS = {
    "attention": "attention{sdpa=[math]}",
    "attention, slicing": "attention{components=unet, slicing=auto}",
    "channels_last": "channels_last{components=unet}",
    "lora": "lora{source=ADAPTER}",
    "lora, fused": "lora{source=ADAPTER, fuse=true}",
    "memory, group": "memory{components=unet, offload=group, group={folder: WAITING}}",
    "memory, layerwise": "memory{components=unet, layerwise={storage: float8_e4m3fn}}",
    "precision": "precision{dtype=bfloat16}",
    "qkv_fusion": "qkv_fusion{components=unet}",
    "scheduler": "scheduler{name=DDIMScheduler}",
    "swap_component": "swap_component{components=vae, source=VAE}",
    "torch_compile": "torch_compile{components=unet, backend=eager}",
    "torchao": "torchao{components=unet, config=int8_weight, min_features=16}",
    "torchao, some layers": (
        "torchao{components=unet, config=int8_weight, min_features=16, include=['*ff*']}"
    ),
    "torchao_int8": "torchao_int8{components=unet, min_features=16}",
}
"""One way to write each step, by how the table in the manual calls it."""

GOOD, SWAP, NEVER = "yes", "turn", "no"

TELLING = [
    ("attention, slicing", "torch_compile"),
    ("channels_last", "qkv_fusion"),
    ("lora", "torch_compile"),
    ("lora", "torchao_int8"),
    ("lora, fused", "qkv_fusion"),
    ("lora, fused", "torchao_int8"),
    ("precision", "torchao_int8"),
    ("qkv_fusion", "torchao_int8"),
    ("qkv_fusion", "precision"),
    ("scheduler", "qkv_fusion"),
    ("swap_component", "lora, fused"),
    ("torchao, some layers", "torchao, some layers"),
    ("torchao_int8", "torch_compile"),
]
"""The pairs that `make test` runs; `make test-all` runs all that plan."""


HOST = ck.load_host()


def plans(*names: str) -> bool:
    try:
        recipe = ck.Recipe.from_steps(", ".join(STEPS[name] for name in names), sample=SAMPLE)
        ck.plan(recipe, host=HOST)
    except ck.RecipeError:
        return False
    return True


def verdict(first: str, second: str) -> str:
    if plans(first, second):
        return GOOD
    return SWAP if first != second and plans(second, first) else NEVER


def written() -> dict[tuple[str, str], str]:
    """The table in the manual: the row's step first, then the column's."""
    text = PAGE.read_text(encoding="utf-8")
    lines = re.findall(r"^\|.*\|$", text[text.index("## Which go together") :], re.MULTILINE)
    table = [[cell.strip().replace("`", "") for cell in line.split("|")[1:-1]] for line in lines]
    numbers = {row[0]: row[1] for row in table[2:]}
    return {
        (row[1], numbers[column]): cell
        for row in table[2:]
        for column, cell in zip(table[0][2:], row[2:], strict=True)
    }


def test_the_plans_verdict_on_every_pair_is_the_manuals():
    found = {pair: verdict(*pair) for pair in itertools.product(STEPS, repeat=2)}
    assert found == written()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An adapter, and a VAE, in folders."""
    root = tmp_path_factory.mktemp("files")
    tiny_pipeline("sd", seed=5).vae.save_pretrained(root / "vae")
    adapter(root / "adapter")
    places = {"VAE": "vae", "ADAPTER": "adapter", "WAITING": "waiting"}
    return {word: str(root / name) for word, name in places.items()}


def run(pair: tuple[str, str], files: dict[str, str]) -> Any:
    first, second = (STEPS[name] for name in pair)
    if first == second:
        # Of what quantises some layers a second one is for others.
        second = second.replace("*ff*", "*attn*")
    steps = f"{first}, {second}"
    for word, path in files.items():
        steps = steps.replace(word, path)
    recipe = ck.Recipe.from_steps(steps, sample=SAMPLE)
    return ck.apply(recipe, tiny_pipeline("sd"), progress=False)


def runs() -> list[Any]:
    return [
        pytest.param(pair, id=" + ".join(pair), marks=() if pair in TELLING else pytest.mark.full)
        for pair in itertools.product(STEPS, repeat=2)
        if written().get(pair) == GOOD
    ]


@pytest.mark.usefixtures("process_as_before")
@pytest.mark.parametrize("pair", runs())
def test_a_pair_that_plans_runs_and_is_right(pair, files):
    done = run(pair, files)
    assert np.isfinite(done.after.images).all()
    assert {m.entry: m.error for m in done.report.final}["unet"] < 0.1
    assert done.report.end_to_end.psnr > 25
    assert all(any(row.matched.values()) for row in done.report.steps)
