"""Values of a wrong kind, wherever the Python API takes a path, a host or a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support import Twice

import compilekit as ck

CAST = ck.Recipe.from_steps("precision{dtype=bfloat16}")
REPORT = ck.Report(recipe="a", digest="", device="cpu", reference="float32")

CALLS: dict[str, Callable[[Any], Any]] = {
    "a bundle is the path of a folder": ck.load,
    "a target is the path of a new folder": lambda v: ck.build(CAST, Twice(), v, progress=False),
    "a reproducer is the path of a folder": ck.replay,
    "a plugin is the path of a file": lambda v: ck.load_host([v]),
    "a report is saved in a file": REPORT.save,
    "key= is the file of a private key": lambda v: ck.sign(".", v),
}


@pytest.mark.parametrize("value", [3, b"x", object(), "a\0b"], ids=["int", "bytes", "other", "nul"])
@pytest.mark.parametrize("said", CALLS)
def test_what_is_no_path_is_refused(said, value):
    with pytest.raises(ck.UsageError, match=f"^{said}, (not a value of type|and .* is no path)"):
        CALLS[said](value)


@pytest.mark.parametrize("trust", [3, [3], b"x"])
def test_keys_that_are_no_files_are_refused(trust, bundle, load):
    with pytest.raises(ck.UsageError, match=r"^trust= is the file of a public key, or a list of"):
        load(bundle, trust=trust)


@pytest.mark.parametrize("host", [3, [], "", {}])
def test_a_host_is_what_load_host_returns(host):
    for verb in (ck.plan, ck.apply, ck.build):
        with pytest.raises(ck.UsageError, match=r"^host= is what `load_host` returns, not a value"):
            verb(CAST, host=host)


@pytest.mark.parametrize("plugins", [None, 3, "a.py", b"x"])
def test_plugins_are_a_list(plugins):
    with pytest.raises(ck.UsageError, match=r"^plugins= is a list of files, not a value of type"):
        ck.load_host(plugins)


@pytest.mark.parametrize(
    "arguments",
    [{"batches": 3}, {"batches": "12"}, {"batches": [1.5]}, {"batches": [True]}, {"runs": None}],
)
def test_batches_and_runs_are_whole_numbers(arguments):
    with pytest.raises(ck.UsageError, match=r"^batches and runs must be whole numbers, 1 at the"):
        ck.bench(CAST, **arguments)


def test_other_values_of_a_wrong_kind_are_refused(bundle):
    with pytest.raises(ck.UsageError, match=r'^for_="load": say "apply" or "build"'):
        ck.plan(CAST, for_="load")
    with pytest.raises(ck.UsageError, match=r"^a sample is a mapping of arguments, not 5"):
        ck.Recipe.from_steps("channels_last", sample=5)
    with pytest.raises(ck.UsageError, match=r"^check= is a function, not a value of type int"):
        ck.bisect(CAST, Twice, check=3)
    with pytest.raises(ck.UsageError, match=r"^confirm= is a function, not a value of type int"):
        ck.push(bundle, "me/it", confirm=3)
    with pytest.raises(ck.UsageError, match=r"^a repository is a name such as"):
        ck.push(bundle, None)


def test_a_report_that_cannot_be_saved_says_so(tmp_path):
    with pytest.raises(ck.UsageError, match="cannot be written: Is a directory"):
        REPORT.save(tmp_path)


def test_a_plugin_of_a_name_that_no_file_can_have_is_not_there():
    with pytest.raises(ck.UsageError, match=r"a plugin is the path of a file, and .xxx.*too long"):
        ck.load_host(["x" * 5000])


def test_a_bundle_of_a_name_that_no_file_can_have_is_refused():
    with pytest.raises(
        ck.UsageError, match=r"^a bundle is the path of a folder, and 'xxx.*too long"
    ):
        ck.load("x" * 5000)
