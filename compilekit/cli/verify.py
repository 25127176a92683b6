"""`compilekit verify`: whether a bundle is whole, and still gives its numbers."""

from __future__ import annotations

import warnings
from typing import Annotated

import typer

from compilekit.base.bytesize import size
from compilekit.base.progress import Progress
from compilekit.cli import options
from compilekit.cli.shared import echo, host_of, print_json, print_table
from compilekit.errors import VerificationError


def run(
    bundle: options.Bundle,
    replay: Annotated[
        bool, typer.Option("--replay", help="Load it too, and compare the recorded numbers.")
    ] = False,
    key: options.Keys = None,
    plugin: options.Plugins = None,
    *,
    json: options.Json = False,
) -> None:
    """Check every file of a bundle against its digest; its signature and its numbers too.

    Without --key, whoever changed the files could have changed the digests too. Without --replay
    nothing of the bundle is loaded. Exit code 1 when a file was altered or a number is worse than
    when it was built, 3 when the bundle was built for another machine.
    """
    from compilekit.bundle.files import check_files, total
    from compilekit.bundle.manifest import Manifest
    from compilekit.bundle.signing import check_trust, is_signed

    manifest, digest = Manifest.read_with_digest(bundle)
    signers = check_trust(bundle, manifest, digest, key)
    signed = is_signed(bundle, manifest, digest)
    check_files(bundle, manifest, Progress())
    rows = []
    if replay:
        from compilekit.api import load
        from compilekit.load.verify import replay as replayed

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            subject = load(bundle, check="code", host=host_of(plugin))
        rows = list(replayed(bundle, manifest, subject))
        if not rows:
            raise VerificationError(
                f"{bundle}: it holds no recorded call to replay, so no number was compared"
            )
    if json:
        numbers = [{"entry": r.entry, "recorded": r.recorded, "error": r.error} for r in rows]
        print_json(
            {
                "files": len(manifest.files),
                "manifest_has_digest": bool(manifest.own_digest),
                "signed": signed,
                "signed_by": [str(path) for path in signers],
                "replay": numbers,
            }
        )
    else:
        echo(f"{len(manifest.files)} files, {size(total(manifest.files))}: as the manifest lists")
        whole = "as it was written" if manifest.own_digest else "unchecked: it holds no own digest"
        echo(f"the manifest: {whole}")
        for path in signers:
            echo(f"signed by {path}")
        if not signers:
            echo(
                "signed by a key that was not checked: name the public one with --key"
                if signed
                else "not signed: an accident would be noticed, a forgery would not"
            )
        if rows:
            cells = [
                (r.entry, f"{r.recorded:.2e}", f"{r.error:.2e}", "ok" if r.ok else "worse")
                for r in rows
            ]
            print_table(["entry point", "error when built", "now", ""], cells)
    worse = [row.entry for row in rows if not row.ok]
    if worse:
        raise VerificationError(f"{bundle}: {', '.join(worse)}: the error is larger than it was")
