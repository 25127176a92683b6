"""`load` and `bundle_of`: using a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from compilekit.base.progress import Progress
from compilekit.bundle.loaded import Loaded
from compilekit.bundle.loaded import bundle_of as _bundle_of
from compilekit.bundle.manifest import Manifest, folder_of
from compilekit.bundle.signing import Trust, check_trust
from compilekit.load.open import open_bundle
from compilekit.plugin.host import Host, given_host


def load(
    bundle: str | Path,
    *,
    device: str | None = None,
    on_mismatch: Literal["error", "eager"] = "error",
    on_uncovered: Literal["error", "eager"] = "error",
    check: Literal["all", "code"] = "all",
    copy: bool = False,
    pipeline: str = "",
    trust: Trust | None = None,
    host: Host | None = None,
    progress: bool = True,
) -> Any:
    """Load a bundle: an ordinary pipeline, whose compiled parts need no compiler.

    device: the device, if there are several: "cuda:1".
    on_mismatch: if the bundle was built for another machine, raise `MismatchError` ("error"), or
        warn and run its weights without the compiled code ("eager").
    on_uncovered: if a call has a size that was not compiled, raise `UncoveredCallError`
        ("error"), or run it in Python ("eager"); `bundle_of(pipeline).counts()` counts them.
    check: compare the digests of "all" files, or only of the "code", without weights.
    copy: read the weights into memory. By default they are mapped: the files must stay as they
        are while the pipeline is used.
    pipeline: the pipeline class to load, if the bundle is a whole pipeline whose components fit
        several classes: "StableDiffusionXLImg2ImgPipeline".
    trust: public keys (PEM files); one of them must have signed the bundle as it is now. The
        environment variable `COMPILEKIT_TRUST` names keys for every load.
    host: plugins. By default, the installed ones.

    Compiled parts are native code: load only bundles that you trust.

    >>> import compilekit as ck
    >>> ck.load("no-such-folder")
    Traceback (most recent call last):
    compilekit.errors.BundleError: no-such-folder: no such folder
    """
    folder = folder_of(bundle)
    manifest, digest = Manifest.read_with_digest(folder)
    check_trust(folder, manifest, digest, trust)
    return open_bundle(
        folder,
        manifest,
        host=given_host(host),
        device=device,
        on_mismatch=on_mismatch,
        on_uncovered=on_uncovered,
        check=check,
        copy=copy,
        pipeline=pipeline,
        progress=Progress(enabled=progress),
    )


def bundle_of(pipeline: Any) -> Loaded:
    """The bundle that a pipeline was loaded from: its manifest, and counts of its calls.

    >>> import compilekit as ck
    >>> ck.bundle_of(3)
    Traceback (most recent call last):
    compilekit.errors.UsageError: this int did not come out of a bundle
    """
    return _bundle_of(pipeline)
