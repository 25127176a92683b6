"""`compilekit sign`: sign a bundle with a local key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compilekit.cli import options
from compilekit.cli.shared import echo


def run(
    bundle: options.Bundle,
    key: Annotated[
        Path,
        typer.Option(
            "--key",
            metavar="FILE",
            help="A private elliptic-curve key (PEM). The password of an encrypted one is in "
            "COMPILEKIT_KEY_PASSWORD.",
        ),
    ],
) -> None:
    """Sign a bundle: every file is checked first, and an older signature is replaced.

    Make a key with: openssl ecparam -name prime256v1 -genkey -noout -out key.pem; openssl ec
    -in key.pem -pubout -out key.pub. Check with: compilekit verify BUNDLE --key key.pub.
    """
    from compilekit.bundle.signing import sign

    echo(f"signed: {sign(bundle, key)}")
