"""What differs between two bundles."""

from __future__ import annotations

import json

import pytest
from support import EXPORTER, Twice
from typer.testing import CliRunner

import compilekit as ck
from compilekit.bundle.compare import compare
from compilekit.cli import app
from compilekit.plan.digest import digest_of


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    import torch

    folder = tmp_path_factory.mktemp("pair")
    host = ck.load_host([EXPORTER])

    def build(name, steps, seed):
        torch.manual_seed(seed)
        recipe = ck.Recipe.from_steps(steps)
        inputs = {"x": torch.linspace(-1, 1, 16).reshape(2, 8)}
        arguments = {"inputs": inputs, "host": host, "cache": False, "progress": False}
        ck.build(recipe, Twice().eval(), folder / name, **arguments)
        return folder / name

    one = build("one", "eager_export{components=model}", 0)
    cast = "precision{components=model, dtype=bfloat16}"
    return one, build("two", f"{cast}, eager_export{{components=model, sizes=fixed}}", 0)


def rows(first, second):
    return compare(ck.Manifest.read(first), ck.Manifest.read(second))


def test_a_bundle_is_like_itself(pair):
    assert rows(pair[0], pair[0]) == []


def test_every_kind_of_difference_is_shown(pair):
    found = {(what, where): (first, second) for what, where, first, second in rows(*pair)}
    assert found["steps", "order"] == ("eager_export", "precision, eager_export")
    assert found["step", "eager_export.sizes"] == ("batch", "fixed")
    one, two = found["weights", "constants/model.safetensors"]
    assert one.split()[-1] != two.split()[-1]
    assert "float32[2, 8]" in found["covers", "model"][0]
    assert "bfloat16[2, 8]" in found["covers", "model"][1]
    assert found["error", "model"][0] < found["error", "model"][1]
    assert ("plugin", "precision") in found
    assert ("size", "") in found


def test_versions_and_machines_are_compared(pair, tmp_path):
    text = json.loads((pair[0] / "manifest.json").read_text())
    text["fingerprint"]["torch"] = "2.8.0"
    text["recipe"]["verify"]["min_psnr"] = 30.0
    text |= {"digest": digest_of(text["recipe"]), "own_digest": ""}
    (tmp_path / "manifest.json").write_text(json.dumps(text))
    here = ck.Manifest.read(pair[0]).fingerprint["torch"]
    assert rows(pair[0], tmp_path) == [
        ("recipe", "verify.min_psnr", "-", "30.0"),
        ("machine", "torch", here, "2.8.0"),
    ]


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (0.1, 0.1005, True),
        (0.1, 0.2, False),
        ("NaN", 0.1, False),
        (0.1, "NaN", False),
        ("NaN", "NaN", True),
        ("Infinity", 0.1, False),
        ("Infinity", "Infinity", True),
    ],
)
def test_an_error_that_is_no_number_differs_from_numbers(before, after, same, pair):
    first, second = (ck.Manifest.read(pair[0]).model_copy(deep=True) for _ in range(2))
    for manifest, error in ((first, before), (second, after)):
        manifest.report["final"][0]["error"] = error
    assert (compare(first, second) == []) == same


def test_the_command_prints_a_table_or_json(pair):
    run = CliRunner().invoke
    table = run(app, ["diff", *map(str, pair)])
    assert table.exit_code == 0
    assert "precision, eager_export" in table.output
    found = json.loads(run(app, ["diff", *map(str, pair), "--json"]).stdout)
    assert found[0] == {
        "what": "steps",
        "where": "order",
        "first": "eager_export",
        "second": "precision, eager_export",
    }
    same = run(app, ["diff", str(pair[0]), str(pair[0])])
    assert same.output == "they are the same, up to times\n"
    none = run(app, ["diff", str(pair[0]), "nowhere"])
    assert (none.exit_code, "nowhere: no such folder" in none.output) == (1, True)
