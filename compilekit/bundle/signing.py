"""Signatures of bundles: an OpenSSF model signature, by a local key, over every file.

What is signed are the digests in the manifest, and the manifest's own. So one pass over the files
serves both: the signature vouches for the manifest, and the manifest for the rest. Other tools that
know OpenSSF model signatures can check them too. Light until it is used: no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compilekit.bundle.files import check_files
from compilekit.bundle.manifest import NAME, SIGNATURE, Manifest
from compilekit.errors import MachineError, SignatureError, UsageError

if TYPE_CHECKING:
    from model_signing._signing.sign_ec_key import Signer, Verifier

TRUST = "COMPILEKIT_TRUST"
"""The environment variable that names public keys; every bundle must be signed by one of them."""
PASSWORD = "COMPILEKIT_KEY_PASSWORD"  # noqa: S105 - its name, not its value
LIMIT = 64 << 20

Trust = str | Path | Sequence[str | Path]


def sign(bundle: str | Path, key: str | Path) -> Path:
    """Check every file of a bundle, and sign it; an older signature is replaced.

    key: a PEM file with a private elliptic-curve key. If it is encrypted, its password is in the
        environment variable `COMPILEKIT_KEY_PASSWORD`.

    >>> import compilekit as ck
    >>> ck.sign("no-such-folder", "key.pem")
    Traceback (most recent call last):
    compilekit.errors.BundleError: no-such-folder: no such folder
    """
    folder, name = Path(bundle), Path(bundle).resolve().name
    manifest, digest = Manifest.read_with_digest(folder)
    signer = _signer(Path(key))
    check_files(folder, manifest)
    from model_signing._signing.signing import Payload

    signature = signer.sign(Payload(_statement(name, _digests(manifest, digest))))
    target = folder / SIGNATURE
    half = target.with_name(f".{SIGNATURE}.{secrets.token_hex(4)}")
    try:
        signature.write(half)
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
    wanted = [keys for keys in (_given(trust), _from_environment()) if keys is not None]
    return [_signed_by(folder, manifest, digest, keys) for keys in wanted]


def _given(trust: Trust | None) -> list[Path] | None:
    if trust is None:
        return None
    keys = [trust] if isinstance(trust, str | Path) else list(trust)
    if not keys:
        raise UsageError("trust=[]: name at least one public key")
    return [Path(key) for key in keys]


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
    verifiers = [(key, _verifier(key)) for key in keys]
    path = folder / SIGNATURE
    named = ", ".join(map(str, keys))
    if not path.exists() and not path.is_symlink():
        raise SignatureError(f"{folder}: is not signed, and must be, by {named}")
    signature = _read(path)
    hint = _hint(signature)
    for key, verifier in verifiers:
        if hint in (None, _fingerprint(verifier)):
            with _invalid(path):
                signed = verifier.verify(signature)
            said = {d.identifier: d.digest.digest_hex for d in signed.resource_descriptors()}
            _compare(folder, said, _digests(manifest, digest))
            return key
    raise SignatureError(f"{folder}: is signed by a key that is not trusted (trusted: {named})")


def _compare(folder: Path, signed: dict[str, str], here: dict[str, str]) -> None:
    for name in sorted(signed.keys() | here.keys()):
        if signed.get(name) != here.get(name):
            what = "was changed" if name in signed and name in here else "was added or removed"
            raise SignatureError(f"{folder / name}: {what} after the bundle was signed")


def _digests(manifest: Manifest, own: str) -> dict[str, str]:
    return {NAME: own, **{file.path: file.sha256 for file in manifest.files}}


@contextlib.contextmanager
def _invalid(path: Path) -> Iterator[None]:
    """Whatever another library raises over a file from anywhere, it is no valid signature."""
    try:
        yield
    except Exception as error:
        what = str(error).strip() or type(error).__name__
        raise SignatureError(f"{path}: is no valid signature: {what}") from error


def _read(path: Path) -> Any:
    from model_signing._signing import sign_sigstore_pb

    if path.is_symlink() or not path.is_file() or path.stat().st_size > LIMIT:
        raise SignatureError(f"{path}: is no signature")
    with _invalid(path):
        return sign_sigstore_pb.Signature.read(path)


def _hint(signature: Any) -> str | None:
    key = signature.bundle.verification_material.public_key
    return getattr(key, "hint", None) or None


def _fingerprint(verifier: Verifier) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = verifier._public_key  # noqa: SLF001
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _statement(name: str, digests: dict[str, str]) -> Any:
    from model_signing._hashing.hashing import Digest
    from model_signing.manifest import Manifest as Statement
    from model_signing.manifest import SerializationType

    said = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    kind = SerializationType.from_args({**said, "ignore_paths": [SIGNATURE]})
    items = [
        kind.new_item(path, Digest("sha256", bytes.fromhex(digest)))
        for path, digest in sorted(digests.items())
    ]
    return Statement(name, items, kind)


def _signer(key: Path) -> Signer:
    with _key_of(key, "private"):
        from model_signing._signing.sign_ec_key import Signer

        password: Any = os.environ.get(PASSWORD)
        return Signer(key, password.encode() if password else None)


def _verifier(key: Path) -> Verifier:
    with _key_of(key, "public"):
        from model_signing._signing.sign_ec_key import Verifier

        return Verifier(key)


@contextlib.contextmanager
def _key_of(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MachineError(
            f"signatures need the package {error.name}: install compilekit[signing]"
        ) from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError) as error:
        hint = f" (its password: {PASSWORD})" if kind == "private" else ""
        raise UsageError(
            f"{path}: is no {kind} elliptic-curve key in PEM form{hint}: {error}"
        ) from error
