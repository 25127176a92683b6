"""`load` and `bundle_of`: using a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from compilekit.base.progress import Progress
from compilekit.bundle.loaded import Loaded
from compilekit.bundle.manifest import Manifest
from compilekit.bundle.signing import Trust, check_trust
from compilekit.load.open import open_bundle
from compilekit.plugin.host import Host, load_host


def load(
    bundle: str | Path,
    *,
    device: str | None = None,
    on_mismatch: Literal["error", "eager"] = "error",
    on_uncovered: Literal["error", "eager"] = "error",
    check: Literal["all", "code"] = "all",
    pipeline: str = "",
    trust: Trust | None = None,
    host: Host | None = None,
    progress: bool = True,
) -> Any:
    """Make a bundle ready: an ordinary pipeline, whose compiled parts need no compiler.

    device: which one, where there are several: "cuda:1".
    on_mismatch: what to do where the bundle was built for another machine: raise
        `MismatchError`, or run its weights "eager", without the compiled code, with a warning.
    on_uncovered: what a call does that no part was compiled for: raise `UncoveredCallError`, or
        run "eager"; `bundle_of(pipeline).counts()` says how often.
    check: compare the digests of "all" files, or of the "code" alone, which leaves weights out.
    pipeline: the class of pipeline to load, where the bundle is a whole pipeline whose components
        serve others too: "StableDiffusionXLImg2ImgPipeline".
    trust: public keys (PEM files); the bundle must be signed by one of them, as it is now. Where
        the environment variable `COMPILEKIT_TRUST` names keys, this is always so.
    host: plugins; left out, the installed ones.

    Compiled parts are native code: load only bundles that you trust.

    >>> import compilekit as ck
    >>> ck.load("no-such-folder")
    Traceback (most recent call last):
    compilekit.errors.BundleError: no-such-folder: no such folder
    """
    folder = Path(bundle)
    manifest, digest = Manifest.read_with_digest(folder)
    check_trust(folder, manifest, digest, trust)
    return open_bundle(
        folder,
        manifest,
        host=host or load_host(),
        device=device,
        on_mismatch=on_mismatch,
        on_uncovered=on_uncovered,
        check=check,
        pipeline=pipeline,
        progress=Progress(enabled=progress),
    )


def bundle_of(pipeline: Any) -> Loaded:
    """What a pipeline that `load` gave back knows of its bundle: its manifest, and its calls.

    >>> import compilekit as ck
    >>> ck.bundle_of(3)
    Traceback (most recent call last):
    compilekit.errors.UsageError: this int did not come out of a bundle
    """
    from compilekit.load.parts import bundle_of as find

    return find(pipeline)
