"""A bundle that was altered in any way is refused, before anything of it runs."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import edit_manifest as edit

import compilekit as ck
from compilekit.bundle import manifest as manifests
from compilekit.bundle.files import check_files


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def refused(bundle, load, monkeypatch):
    """Check that loading raises, and that no plugin was asked to load anything."""

    def _refused(match: str, kind: type[Exception] = ck.BundleError, **arguments: Any) -> None:
        def never(*_: Any, **__: Any) -> None:
            pytest.fail("code of the bundle was about to be loaded")

        monkeypatch.setattr(ck.Host, "load_compiled", never)
        monkeypatch.setattr(ck.Host, "optimize_model", never)
        with pytest.raises(kind, match=match):
            load(bundle, **arguments)

    return _refused


def test_it_is_a_whole_bundle_before_it_is_spoilt(bundle, load):
    assert type(load(bundle)).__name__ == "StableDiffusionPipeline"
    endings = {path.suffix for path in files_of(bundle)}
    # An older transformers writes a tokenizer's merges as text.
    assert endings - {".txt"} == {".json", ".safetensors"}


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_byte_in_any_file_but_the_manifest_is_noticed(seed, pristine, bundle, refused):
    for path in files_of(pristine):
        name = path.relative_to(pristine)
        whole = path.read_bytes()
        at = random.Random(f"{seed}{name}").randrange(len(whole))
        spoilt = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        (bundle / name).write_bytes(spoilt)
        # A manifest with such a byte may be none, or contradict itself.
        altered = f"{path.name}: was altered: its SHA-256 is"
        refused("manifest.json" if path.name == "manifest.json" else altered)
        (bundle / name).write_bytes(whole)


def test_a_truncated_file_is_noticed(pristine, bundle, refused):
    for path in files_of(pristine):
        name = path.relative_to(pristine)
        whole = path.read_bytes()
        (bundle / name).write_bytes(whole[:-7])
        refused("manifest.json" if path.name == "manifest.json" else f"{path.name}: has")
        (bundle / name).write_bytes(whole)


def test_a_missing_file_is_named(pristine, bundle, refused):
    for path in files_of(pristine):
        name = path.relative_to(pristine)
        (bundle / name).unlink()
        refused(f"holds no {name}" if path.name == "manifest.json" else f"{name}: is missing")
        (bundle / name).write_bytes(path.read_bytes())


@pytest.mark.parametrize("name", ["more.txt", "parts/evil.so", "pipeline/unet/hook.py", ".hidden"])
def test_an_extra_file_is_named(name, bundle, refused):
    (bundle / name).write_text("x")
    refused(f"{name}: is not in the manifest; a bundle holds nothing else")


def test_a_link_in_place_of_a_file_is_refused(bundle, tmp_path, refused):
    victim = bundle / "pipeline" / "model_index.json"
    elsewhere = tmp_path / "elsewhere.json"
    victim.rename(elsewhere)
    victim.symlink_to(elsewhere)
    refused("model_index.json: is a link, and a bundle holds only files")


def test_a_link_in_place_of_a_folder_is_refused(bundle, tmp_path, refused):
    (bundle / "parts").rename(tmp_path / "parts")
    (bundle / "parts").symlink_to(tmp_path / "parts")
    refused("parts: is a link")


def test_a_link_in_place_of_the_manifest_is_refused(bundle, tmp_path, refused):
    (bundle / "manifest.json").rename(tmp_path / "manifest.json")
    (bundle / "manifest.json").symlink_to(tmp_path / "manifest.json")
    refused("manifest.json: is a link")


def test_a_pipe_is_refused(bundle, refused):
    os.mkfifo(bundle / "pipe")
    refused("pipe: is no plain file")


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "./x",
        "a//b",
        "C:\\x",
        "a\\b",
        "",
        "a/",
        "x\n",
        "a\0b",
        "x.",
    ],
)
def test_a_path_that_could_leave_the_bundle_is_refused(path, bundle, refused):
    def change(data: Any) -> None:
        data["files"][0]["path"] = path

    edit(bundle, change)
    refused(r"files\.0\.path: '.*' is no plain path inside the bundle")


@pytest.mark.parametrize("name", ["../../x", "a/b", "", "a.b"])
def test_a_component_cannot_have_the_name_of_a_path(name, bundle, refused):
    edit(bundle, lambda data: data["components"][0].update(name=name))
    refused(r"components\.0\.name: String should match pattern")


def test_an_edited_manifest_is_noticed(bundle, refused):
    path = bundle / "manifest.json"
    text = path.read_text()
    for was, now in (('"name": "', '"name": "my '), ('"error": ', '"error": 1'), ("}\n", "}\n\n")):
        path.write_text(text.replace(was, now, 1))
        refused("manifest.json: was altered: its SHA-256 is not the one that it holds")


@pytest.mark.parametrize(
    ("name", "what", "pattern"),
    [
        (".DS_Store", "macOS writes into folders that it shows", ".ds_store"),
        ("pipeline/._unet", "macOS writes beside files on other file systems", "'._*'"),
        ("parts/Thumbs.db", "Windows writes into folders that it shows", "thumbs.db"),
        ("desktop.ini", "Windows writes into folders that it shows", "desktop.ini"),
        ("model.sig~", "an editor writes as a copy", "'*~'"),
    ],
)
def test_what_other_programs_leave_is_named_with_the_command_that_removes_it(
    name, what, pattern, bundle, load
):
    (bundle / name).write_text("x")
    with pytest.raises(ck.BundleError) as caught:
        load(bundle)
    said, _, command = str(caught.value).partition(" remove all of them with: ")
    assert said == f"{bundle / name}: is a file that {what}, and is no part of the bundle;"
    assert command == f"find {bundle} -type f -iname {pattern} -delete"
    subprocess.run(command, shell=True, check=True)
    load(bundle)


def test_a_wrong_digest_is_refused(bundle, refused):
    edit(bundle, lambda data: data["files"][0].update(sha256="0" * 64))
    refused("was altered: its SHA-256 is .*, not 000000000000")


@pytest.mark.parametrize(
    ("version", "shown"),
    [(0, "0"), (2, "2"), (99, "99"), ("1", '"1"'), (None, "null"), (True, "true"), ([1], "a list")],
)
def test_an_unknown_version_is_refused_before_all_else(version, shown, bundle, refused):
    def change(data: Any) -> None:
        data.clear()
        data["compilekit_bundle"] = version

    edit(bundle, change)
    refused(f"compilekit_bundle: version {shown} is not known here, only 1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Invalid JSON"),
        (b"not JSON", "Invalid JSON"),
        (b"[]", "Input should be an object"),
        (b"\xff\xfe", "Invalid JSON"),
        (b'{"a":' * 100_000, "Invalid JSON: recursion limit"),
        (b"{}", "compilekit_bundle: Field required"),
    ],
)
def test_a_manifest_that_is_none_is_refused(content, message, bundle, refused):
    (bundle / "manifest.json").write_bytes(content)
    refused(f"manifest.json: .*{message}")


def test_a_manifest_of_100_megabytes_is_refused_unread(bundle, refused):
    with (bundle / "manifest.json").open("wb") as file:
        file.truncate(100_000_000)
    refused("manifest.json: larger than 64 MB, so it is no manifest")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["files"].append(d["files"][0]), "is listed twice"),
        (lambda d: d["entries"][0].update(component="vae2"), "there is no component vae2"),
        (lambda d: d["entries"][0].update(parts=["parts/none"]), "there is no part parts/none"),
        (lambda d: d["parts"][0].update(step=7), "there is no step 7"),
        (lambda d: d["parts"][0].update(folder="parts/none"), "no file lies there"),
        (lambda d: d["plugins"].clear(), "its plugin is not among"),
        (lambda d: d.update(recipe={}), "recipe: its steps differ from those under `steps`"),
        (lambda d: d["recipe"].update(steps=3), "recipe: its steps differ from those"),
        (lambda d: d["recipe"].update(sample={}), "recipe: it does not match `digest`"),
        (lambda d: d.update(digest="0" * 64), "recipe: it does not match `digest`"),
        (lambda d: d["components"][0].update(constants="constants/x"), "is not among `files`"),
        (lambda d: d["parts"][0]["constants"].update(x="tensor:nosuch"), "has no 'tensor:nosuch'"),
        (lambda d: d["parts"][0]["constants"].update(x="file:/x"), "has no 'file:/x'"),
        (lambda d: d.update(surprise=1), "surprise: Extra inputs are not permitted"),
        (lambda d: d.update({"\x1b": 1}), r"\\x1b: Extra inputs are not permitted"),
        (lambda d: d["components"][0]["tensors"][0].update(dtype="object"), "dtype: Input should"),
        (lambda d: d["components"][0]["tensors"][0].update(shape=[-1]), "shape"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(change, message, bundle, refused):
    edit(bundle, change)
    refused(message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["components"][0].update(library="os.path"), "its class is of os.path"),
        (lambda d: d.update(class_name="Nosuch"), "diffusers has no pipeline Nosuch here"),
        (lambda d: d.update(class_name="UNet2DModel"), "has no pipeline UNet2DModel here"),
        (lambda d: d["entries"][0].update(name="unet.nosuch"), "no module or method"),
    ],
)
def test_a_manifest_that_names_what_is_not_there_is_refused(change, message, bundle, refused):
    edit(bundle, change)
    refused(message)


def test_a_component_without_its_config_is_named(bundle, refused):
    (bundle / "pipeline" / "unet" / "config.json").unlink()

    def change(data: Any) -> None:
        data["files"] = [f for f in data["files"] if f["path"] != "pipeline/unet/config.json"]

    edit(bundle, change)
    refused(r"unet: .*pipeline/unet is missing, or holds no config\.json")


def test_what_a_plugin_cannot_load_is_a_bundle_error(bundle, load):
    edit(bundle, lambda data: data["parts"][0]["details"].update(parameters=["nosuch"]))
    with pytest.raises(ck.BundleError, match="load_compiled raised KeyError: 'nosuch'"):
        load(bundle)


@pytest.mark.parametrize("folder", ["nosuch", "."])
def test_a_folder_that_is_no_bundle_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ck.BundleError, match=r"no such folder|is no bundle: it holds no manifest"):
        ck.load(folder)


def test_leaving_weights_out_of_the_check_still_checks_the_code(bundle, load, refused):
    weights = next((bundle / "constants").glob("vae*"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    load(bundle, check="code")
    refused("vae.safetensors: was altered")
    program = next((bundle / "parts").rglob("program.json"))
    program.write_bytes(program.read_bytes().replace(b"1", b"2"))
    refused("program.json: was altered", check="code")


def test_only_two_checks_are_known(bundle, refused):
    refused('check="none": say "all"', ck.UsageError, check="none")


def every_path(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = data.items() if isinstance(data, dict) else enumerate(data)
    found = []
    for key, value in children:
        found.append((*at, key))
        if isinstance(value, dict | list):
            found += every_path(value, (*at, key))
    return found


@pytest.fixture(scope="session")
def paths(pristine) -> tuple[Any, list[tuple[Any, ...]]]:
    data = json.loads((pristine / "manifest.json").read_text())
    del data["own_digest"]
    # One tensor of many will do, so that other places have their turn.
    for component in data["components"]:
        component["tensors"] = component["tensors"][:2]
    data["parts"][0]["constants"] = {}
    found = every_path(data)
    assert manifests.Manifest.parse(json.dumps(data).encode())
    return data, found


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from(["../x", "/etc", "unet", "parts", "manifest.json", "0" * 64]),
)


# What is drawn depends on the bundle at hand, so examples of earlier runs would be nonsense.
@settings(
    max_examples=1000,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_any_change_of_a_manifest_is_an_error_or_reads_as_what_it_says(paths, data):
    whole, places = paths
    changed = json.loads(json.dumps(whole))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places))
        owner: Any = changed
        try:
            for key in path[:-1]:
                owner = owner[key]
            if data.draw(st.booleans()):
                owner[path[-1]] = data.draw(JUNK)
            else:
                del owner[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    text = json.dumps(changed).encode()
    try:
        read = ck.Manifest.parse(text)
    except ck.BundleError:
        return
    assert ck.Manifest.parse(read.to_json().encode()).to_json() == read.to_json()


def test_checking_takes_the_files_alone(pristine):
    check_files(pristine, ck.Manifest.read(pristine))
