"""Signatures of bundles: an OpenSSF model signature, by a local key, over every file.

What is signed are the digests in the manifest, and the manifest's own. So one pass over the files
serves both: the signature vouches for the manifest, and the manifest for the rest. Other tools that
know OpenSSF model signatures can check them too. Light until it is used: no torch.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from compilekit.base.arguments import path_of
from compilekit.base.environment import installed_version
from compilekit.base.progress import Progress
from compilekit.bundle.files import check_files
from compilekit.bundle.manifest import NAME, SIGNATURE, Manifest, folder_of
from compilekit.errors import MachineError, SignatureError, UsageError

TRUST = "COMPILEKIT_TRUST"
"""The environment variable that names public keys; every bundle must be signed by one of them."""
PASSWORD = "COMPILEKIT_KEY_PASSWORD"  # noqa: S105 - its name, not its value
LIMIT = 64 << 20
TESTED = "1.1"
"""The releases of model-signing that this was tested with."""

Trust = str | Path | Sequence[str | Path]


def sign(bundle: str | Path, key: str | Path, *, progress: bool = True) -> Path:
    """Check every file of a bundle, and sign it; an older signature is replaced.

    key: a PEM file with a private elliptic-curve key. If it is encrypted, its password is in the
        environment variable `COMPILEKIT_KEY_PASSWORD`.
    progress: whether to show progress on standard error.

    >>> import compilekit as ck
    >>> ck.sign("no-such-folder", "key.pem")
    Traceback (most recent call last):
    compilekit.errors.BundleError: no-such-folder: no such folder
    """
    folder, key = folder_of(bundle), path_of(key, "key= is the file of a private key")
    name = folder.resolve().name
    manifest, digest = Manifest.read_with_digest(folder)
    signer = _library().signing.Config()
    with _key_of(key, "private"):
        password = os.environ.get(PASSWORD, "").encode() or None
        signer.use_elliptic_key_signer(private_key=key, password=password)
    check_files(folder, manifest, Progress(enabled=progress))
    signer.set_hashing_config(_hashed(name, _digests(manifest, digest)))
    target = folder / SIGNATURE
    half = target.with_name(f".{SIGNATURE}.{secrets.token_hex(4)}")
    try:
        signer.sign(folder, half)
        half.replace(target)
    except OSError as error:
        raise UsageError(f"{target}: cannot be written: {error.strerror}") from error
    finally:
        half.unlink(missing_ok=True)
    return target


def check_trust(folder: Path, manifest: Manifest, digest: str, trust: Trust | None) -> list[Path]:
    """Check what the caller and the environment want of signatures; gives the keys that signed.

    This comes before anything of the bundle is used. The files themselves are compared with the
    manifest as always.
    """
    demands = (_from_caller(trust), _from_environment())
    return [_signed_by(folder, manifest, digest, keys) for keys in demands if keys is not None]


def _from_caller(trust: Trust | None) -> list[Path] | None:
    if trust is None:
        return None
    keys = trust if isinstance(trust, list | tuple) else [trust]
    if not keys:
        raise UsageError("trust=[]: name at least one public key")
    return [path_of(key, "trust= is the file of a public key, or a list of them") for key in keys]


def _from_environment() -> list[Path] | None:
    text = os.environ.get(TRUST)
    if text is None:
        return None
    keys = [Path(key) for key in text.split(os.pathsep) if key]
    if not keys:
        raise UsageError(f"{TRUST} is set and empty: name public keys in it, or unset it")
    return keys


def _signed_by(folder: Path, manifest: Manifest, digest: str, keys: Sequence[Path]) -> Path:
    """The key of these that signed the bundle as it is."""
    verifiers = [(key, *_verifier(key)) for key in keys]
    path, named = folder / SIGNATURE, ", ".join(map(str, keys))
    if not path.exists() and not path.is_symlink():
        raise SignatureError(f"{folder}: is not signed, and must be, by {named}")
    hint, signed = _read(path)
    faults = []
    for key, verifier, fingerprint in verifiers:
        if hint not in ("", fingerprint):
            continue
        try:
            # The library compares what was read with what was signed.
            verifier.set_hashing_config(_hashed(folder.name, signed))
            with contextlib.redirect_stdout(io.StringIO()):  # it warns if there is no hint
                verifier.verify(folder, path)
        except Exception as error:  # noqa: BLE001 - whatever it is, this key did not sign that
            faults.append(_text_of(error))
            continue
        _compare(folder, signed, _digests(manifest, digest))
        return key
    if not faults:
        raise SignatureError(f"{folder}: is signed by a key that is not trusted (trusted: {named})")
    raise SignatureError(f"{path}: is no valid signature by {named}: {faults[0]}")


def is_signed(folder: Path, manifest: Manifest, digest: str) -> bool:
    """Whether there is a signature, by a key not checked here. Raises if it signs other files."""
    path = folder / SIGNATURE
    if not path.exists() and not path.is_symlink():
        return False
    _compare(folder, _read(path)[1], _digests(manifest, digest))
    return True


def _compare(folder: Path, signed: Mapping[str, str], present: Mapping[str, str]) -> None:
    for name in sorted(signed.keys() | present.keys()):
        if signed.get(name) != present.get(name):
            what = "was changed" if name in signed and name in present else "was added or removed"
            raise SignatureError(f"{folder / name}: {what} after the bundle was signed")


def _digests(manifest: Manifest, digest: str) -> dict[str, str]:
    return {NAME: digest, **{file.path: file.sha256 for file in manifest.files}}


def _read(path: Path) -> tuple[str, dict[str, str]]:
    """The fingerprint of the key that a signature names, if it does, and the digests it is over."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > LIMIT:
        raise SignatureError(f"{path}: is no signature")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        hint = document["verificationMaterial"].get("publicKey", {}).get("hint") or ""
        payload = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
        return hint, {file["name"]: file["digest"] for file in payload["predicate"]["resources"]}
    except Exception as error:  # whatever a file from anywhere holds
        raise SignatureError(f"{path}: is no valid signature: {_text_of(error)}") from error


def _text_of(error: Exception) -> str:
    return str(error).strip() or type(error).__name__


def _verifier(key: Path) -> tuple[Any, str]:
    """What checks signatures by a public key, and what signatures call that key."""
    verifying = _library().verifying
    with _key_of(key, "public"):
        from cryptography.hazmat.primitives import serialization as form

        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
        public = form.load_pem_public_key(key.read_bytes())
        pem = public.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    return verifier, hashlib.sha256(pem).hexdigest()


def _hashed(name: str, digests: Mapping[str, str]) -> Any:
    """A way to hash a bundle's files whose result is known, so that none is read again."""
    library = _library()
    options = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    kind = library.manifest.SerializationType.from_args({**options, "ignore_paths": [SIGNATURE]})
    items = [
        kind.new_item(path, library.Digest("sha256", bytes.fromhex(digest)))
        for path, digest in sorted(digests.items())
    ]
    config = library.hashing.Config()
    config.hash = lambda *_, **__: library.manifest.Manifest(name, items, kind)
    return config


def _library() -> SimpleNamespace:
    """The public names of model-signing, and the one private name that is needed."""
    try:
        from model_signing import hashing, manifest, signing, verifying
        from model_signing._hashing.hashing import Digest
    except ImportError as error:
        what = f"signatures need the package {error.name}"
        if (error.name or "").startswith("model_signing."):
            version = installed_version("model-signing")
            what = (
                f"model-signing {version} is not {TESTED}, which compilekit is tested with: {error}"
            )
        raise MachineError(f"{what}: install compilekit[signing]") from error
    return SimpleNamespace(
        hashing=hashing, manifest=manifest, signing=signing, verifying=verifying, Digest=Digest
    )


@contextlib.contextmanager
def _key_of(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError) as error:
        hint = f" (its password: {PASSWORD})" if kind == "private" else ""
        raise UsageError(
            f"{path}: is no {kind} elliptic-curve key in PEM form{hint}: {error}"
        ) from error
