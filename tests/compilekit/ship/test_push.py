"""Pushing a bundle: checked, listed and agreed to first. The Hub is an object of the tests' own."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import compilekit as ck
from compilekit.cli import app
from compilekit.ship.push import uploads

run = CliRunner().invoke


class Hub:
    """Takes what `huggingface_hub.HfApi` takes, and keeps what it was told."""

    def __init__(self, wrong: Exception | None = None) -> None:
        self.said = []
        self.wrong = wrong

    def create_repo(self, *arguments, **keywords):
        self._note("create_repo", arguments, keywords)

    def upload_folder(self, *arguments, **keywords):
        self._note("upload_folder", arguments, keywords)
        if self.wrong:
            raise self.wrong
        return SimpleNamespace(commit_url="https://hub.example/me/mid/commit/1")

    def _note(self, name, arguments, keywords):
        from huggingface_hub import HfApi

        # What the real one would not take is an error here too.
        inspect.signature(getattr(HfApi, name)).bind(None, *arguments, **keywords)
        self.said.append((name, arguments, keywords))


def test_a_bundle_is_uploaded_with_the_files_that_were_listed(bundle):
    hub, listed = Hub(), []
    address = ck.push(
        bundle, "me/mid", revision="dev", confirm=lambda files: not listed.extend(files), api=hub
    )
    assert address == "https://hub.example/me/mid/commit/1"
    names = [file.path for file in listed]
    assert names[0] == "manifest.json"
    assert sorted(names) == sorted(
        str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()
    )
    made, uploaded = hub.said
    assert made == (
        "create_repo",
        ("me/mid",),
        {"private": True, "repo_type": "model", "exist_ok": True},
    )
    assert uploaded[2]["allow_patterns"] == names
    assert (uploaded[2]["repo_id"], uploaded[2]["revision"]) == ("me/mid", "dev")


def test_nothing_is_uploaded_without_agreement(bundle):
    hub = Hub()
    with pytest.raises(ck.UsageError, match="nothing was uploaded"):
        ck.push(bundle, "me/mid", confirm=lambda _: False, api=hub)
    assert hub.said == []


def test_an_altered_bundle_is_not_uploaded(bundle):
    path = next(bundle.glob("parts/*/*/program.json"), None) or next(bundle.rglob("config.json"))
    path.write_text(path.read_text() + " ")
    hub = Hub()
    with pytest.raises(ck.BundleError, match=r"has .* bytes, not"):
        ck.push(bundle, "me/mid", api=hub)
    assert hub.said == []


def test_a_refused_upload_is_told_in_one_line(bundle):
    with pytest.raises(ck.CompilekitError) as caught:
        ck.push(bundle, "me/mid", api=Hub(OSError("no route to the Hub\nat all")))
    assert str(caught.value) == "me/mid: the upload failed: no route to the Hub"


def test_the_command_lists_the_files_and_asks(bundle, monkeypatch):
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token: hub)
    refused = run(app, ["push", str(bundle), "me/mid"])
    assert refused.exit_code == 2
    assert "say --yes to upload without being asked" in refused.output
    assert hub.said == []
    monkeypatch.undo()


def test_the_command_uploads_with_yes(bundle, monkeypatch):
    import huggingface_hub

    real, hub = huggingface_hub.HfApi, Hub()
    hub._note = lambda name, arguments, keywords: (
        inspect.signature(getattr(real, name)).bind(None, *arguments, **keywords),
        hub.said.append((name, arguments, keywords)),
    )
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token: hub)
    done = run(app, ["push", str(bundle), "me/mid", "--yes", "--public"])
    assert done.exit_code == 0, done.output
    count = len(uploads(bundle))
    assert f"{count} files, " in done.output
    assert "to me/mid (public if new)" in done.output
    assert done.output.splitlines()[-1] == "uploaded: https://hub.example/me/mid/commit/1"
    assert hub.said[0][2]["private"] is False
