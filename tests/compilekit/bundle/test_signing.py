"""Signatures: who signed, and whether it is still what was signed."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from model_signing import verifying
from support import EXPORTER, draw
from support import edit_manifest as rewrite
from typer.testing import CliRunner

import compilekit as ck
from compilekit.cli import app
from compilekit.plugin.host import Host


def make_key(folder, name, key=None, encryption=None):
    key = key or ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    form = encryption or NoEncryption()
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, form))
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture
def ours(tmp_path):
    return make_key(tmp_path, "ours")


@pytest.fixture
def theirs(tmp_path):
    return make_key(tmp_path, "theirs")


@pytest.fixture
def nothing_runs(monkeypatch):
    """Fails if code of a bundle, or a step of it, is about to run."""

    def run(*_, **__):
        pytest.fail("code of the bundle runs")

    monkeypatch.setattr(Host, "load_compiled", run)
    monkeypatch.setattr(Host, "optimize_model", run)


def test_a_signed_bundle_loads_for_who_trusts_the_key(bundle, load, ours, theirs):
    assert ck.sign(bundle, ours[0]) == bundle / "model.sig"
    assert draw(load(bundle, trust=ours[1])).shape == (1, 32, 32, 3)
    load(bundle, trust=[theirs[1], ours[1]])
    load(bundle)


def test_other_tools_can_check_the_signature(bundle, ours, theirs):
    ck.sign(bundle, ours[0])
    check = verifying.Config().use_elliptic_key_verifier(public_key=ours[1])
    check.verify(bundle, bundle / "model.sig")
    other = verifying.Config().use_elliptic_key_verifier(public_key=theirs[1])
    with pytest.raises(ValueError, match="Key mismatch"):
        other.verify(bundle, bundle / "model.sig")
    weights = next((bundle / "constants").iterdir())
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=weights.name):
        check.verify(bundle, bundle / "model.sig")


def alter_file(bundle, _):
    path = next(bundle.glob("parts/*/*/program.json"))
    path.write_bytes(path.read_bytes().replace(b"aten", b"atem"))


def alter_file_and_manifest(bundle, theirs):
    alter_file(bundle, theirs)
    from compilekit.bundle.files import listed

    files = [file.model_dump(mode="json") for file in listed(bundle)]
    rewrite(bundle, lambda manifest: manifest.update(files=files))


def resign(bundle, theirs):
    ck.sign(bundle, theirs[0])


def remove(bundle, _):
    (bundle / "model.sig").unlink()


def alter_signature(bundle, _):
    path = bundle / "model.sig"
    signature = json.loads(path.read_text())
    sig = signature["dsseEnvelope"]["signatures"][0]["sig"]
    signature["dsseEnvelope"]["signatures"][0]["sig"] = sig[:20] + "AAAA" + sig[24:]
    path.write_text(json.dumps(signature))


def link_signature(bundle, _):
    (bundle / "model.sig").rename(bundle.parent / "model.sig")
    (bundle / "model.sig").symlink_to(bundle.parent / "model.sig")


@pytest.mark.parametrize(
    ("attack", "answer"),
    [
        (alter_file, r"program\.json: was altered"),
        (alter_file_and_manifest, r"manifest\.json: was changed after the bundle was signed"),
        (resign, r"signed by a key that is not trusted \(trusted: .*ours\.pub\)"),
        (remove, r"is not signed, and must be, by .*ours\.pub"),
        (alter_signature, r"model\.sig: is no valid signature"),
        (link_signature, r"model\.sig: is no signature"),
        (lambda b, _: (b / "model.sig").write_text("[]"), r"model\.sig: is no valid signature"),
        (lambda b, _: (b / "model.sig").write_text("{}"), r"model\.sig: is no valid signature"),
        (lambda b, _: (b / "model.sig").write_bytes(b"\xff\x00"), r"is no valid signature"),
        (lambda b, _: rewrite(b, lambda m: m.update(name="x")), r"manifest\.json: was changed"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("way", ["argument", "environment"])
def test_what_is_not_as_signed_is_refused_before_any_of_it_runs(
    bundle, load, ours, theirs, nothing_runs, monkeypatch, attack, answer, way
):
    ck.sign(bundle, ours[0])
    attack(bundle, theirs)
    trust = {}
    if way == "argument":
        trust = {"trust": ours[1]}
    else:
        monkeypatch.setenv("COMPILEKIT_TRUST", str(ours[1]))
    with pytest.raises(ck.BundleError, match=answer):
        load(bundle, **trust)


def test_the_environment_holds_whatever_the_caller_says(bundle, load, ours, theirs, monkeypatch):
    ck.sign(bundle, theirs[0])
    monkeypatch.setenv("COMPILEKIT_TRUST", str(ours[1]))
    with pytest.raises(ck.SignatureError, match="not trusted"):
        load(bundle, trust=theirs[1])
    monkeypatch.setenv("COMPILEKIT_TRUST", "")
    with pytest.raises(ck.UsageError, match="COMPILEKIT_TRUST is set and empty"):
        load(bundle)


def test_without_a_hint_each_trusted_key_is_tried(bundle, load, ours, theirs, capsys):
    ck.sign(bundle, ours[0])
    path = bundle / "model.sig"
    signature = json.loads(path.read_text())
    del signature["verificationMaterial"]["publicKey"]["hint"]
    path.write_text(json.dumps(signature))
    load(bundle, trust=[theirs[1], ours[1]])
    assert "WARNING" not in capsys.readouterr().out
    with pytest.raises(ck.SignatureError, match=r"is no valid signature by .*theirs\.pub"):
        load(bundle, trust=theirs[1])
    rewrite(bundle, lambda manifest: manifest.update(name="x"))
    with pytest.raises(ck.SignatureError, match=r"manifest\.json: was changed"):
        load(bundle, trust=[theirs[1], ours[1]])


def test_a_release_of_the_library_that_lacks_a_name_is_refused(bundle, ours, monkeypatch):
    monkeypatch.delattr("model_signing._hashing.hashing.Digest")
    said = r"model-signing \S+ is not 1\.1, which .* 'Digest' .*: install compilekit\[signing\]"
    with pytest.raises(ck.MachineError, match=said):
        ck.sign(bundle, ours[0])


def test_a_bundle_that_is_not_whole_is_not_signed(bundle, ours):
    alter_file(bundle, None)
    with pytest.raises(ck.BundleError, match="was altered"):
        ck.sign(bundle, ours[0])
    assert not (bundle / "model.sig").exists()


def test_without_a_key_verify_says_what_it_checked_and_no_more(bundle, ours):
    ck.sign(bundle, ours[0])
    run = CliRunner().invoke
    rewrite(bundle, lambda manifest: manifest.update(name="x"))
    edited = run(app, ["verify", str(bundle)])
    assert edited.exit_code == 1
    assert "manifest.json: was changed after the bundle was signed" in edited.output
    (bundle / "model.sig").unlink()
    unsigned = run(app, ["verify", str(bundle)])
    assert unsigned.exit_code == 0
    assert unsigned.stdout.splitlines()[1:] == [
        "the manifest: unchecked: it holds no own digest",
        "not signed: an accident would be noticed, a forgery would not",
    ]
    data = json.loads(run(app, ["verify", str(bundle), "--json"]).stdout)
    assert (data["manifest_has_digest"], data["signed"]) == (False, False)


def test_a_replay_of_nothing_is_an_error(bundle):
    rewrite(bundle, lambda manifest: manifest.update(replay=[]))
    done = CliRunner().invoke(app, ["verify", str(bundle), "--replay", "--plugin", str(EXPORTER)])
    assert done.exit_code == 1
    assert "it holds no recorded call to replay, so no number was compared" in done.output


def test_an_encrypted_key_wants_its_password(bundle, load, tmp_path, monkeypatch):
    private, public = make_key(tmp_path, "locked", encryption=BestAvailableEncryption(b"word"))
    with pytest.raises(ck.UsageError, match="COMPILEKIT_KEY_PASSWORD"):
        ck.sign(bundle, private)
    monkeypatch.setenv("COMPILEKIT_KEY_PASSWORD", "wrong")
    with pytest.raises(ck.UsageError, match="is no private elliptic-curve key"):
        ck.sign(bundle, private)
    monkeypatch.setenv("COMPILEKIT_KEY_PASSWORD", "word")
    ck.sign(bundle, private)
    load(bundle, trust=public)


def test_keys_of_another_kind_are_refused(bundle, load, ours, tmp_path):
    ck.sign(bundle, ours[0])
    private, public = make_key(tmp_path, "rsa", rsa.generate_private_key(65537, 2048))
    for key in (private, public, ours[1], bundle / "manifest.json"):
        with pytest.raises(ck.UsageError, match="is no private elliptic-curve key"):
            ck.sign(bundle, key)
    for key in (private, public, ours[0], bundle / "manifest.json"):
        with pytest.raises(ck.UsageError, match="is no public elliptic-curve key"):
            load(bundle, trust=key)
    with pytest.raises(ck.UsageError, match=r"none\.pub: cannot be read: No such file"):
        load(bundle, trust=tmp_path / "none.pub")


def test_without_the_package_it_is_named(bundle, load, ours, monkeypatch):
    ck.sign(bundle, ours[0])
    for name in [name for name in sys.modules if name.startswith("model_signing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(ck.MachineError, match=r"install compilekit\[signing\]"):
        load(bundle, trust=ours[1])
    load(bundle)  # nobody asked for a signature


def test_the_commands_sign_and_check(bundle, ours, theirs):
    run = CliRunner().invoke
    signed = run(app, ["sign", str(bundle), "--key", str(ours[0])])
    assert (signed.exit_code, signed.stdout) == (0, f"signed: {bundle / 'model.sig'}\n")
    good = run(app, ["verify", str(bundle), "--key", str(ours[1])])
    assert good.exit_code == 0
    assert f"signed by {ours[1]}" in good.output
    bad = run(app, ["verify", str(bundle), "--key", str(theirs[1])])
    assert (bad.exit_code, "not trusted" in bad.output) == (1, True)
    unasked = run(app, ["verify", str(bundle)])
    assert unasked.stdout.splitlines()[1:] == [
        "the manifest: as it was written",
        "signed by a key that was not checked: name the public one with --key",
    ]
    shutil.copy(bundle / "model.sig", bundle / "other.sig")
    extra = run(app, ["verify", str(bundle)])
    assert (extra.exit_code, "other.sig: is not in the manifest" in extra.output) == (1, True)
