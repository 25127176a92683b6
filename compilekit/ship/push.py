"""Pushing a bundle to the Hub: checked first, listed first, uploaded as it is. Light: no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from compilekit.base.arguments import refuse_uncallable
from compilekit.base.progress import Progress
from compilekit.bundle.files import check_files
from compilekit.bundle.manifest import NAME, SIGNATURE, File, Manifest, folder_of
from compilekit.errors import CompilekitError, UsageError
from compilekit.recipe.messages import shown


def uploads(folder: str | Path, *, progress: bool = True) -> list[File]:
    """The files that a push of a bundle uploads, each compared with its digest."""
    path = folder_of(folder)
    manifest = Manifest.read(path)
    check_files(path, manifest, Progress(enabled=progress))
    extra = [path / name for name in (NAME, SIGNATURE) if (path / name).is_file()]
    rows = [File(path=file.name, size=file.stat().st_size, sha256="0" * 64) for file in extra]
    return [*rows, *manifest.files]


def push(
    bundle: str | Path,
    repository: str,
    *,
    private: bool = True,
    revision: str = "",
    token: str | None = None,
    confirm: Callable[[list[File]], bool] | None = None,
    api: Any = None,
    progress: bool = True,
) -> str:
    """Upload a bundle to a model repository on the Hub; gives the address of the commit.

    repository: "user/name"; it is made where it is not there.
    private: whether a new one is private; one that is there stays as it is.
    revision: the branch; left out, the main one.
    token: left out, what `hf auth login` has stored.
    confirm: is given the files first, and says whether to go on.
    api: an object like `huggingface_hub.HfApi`, in place of one.
    progress: whether to show progress on standard error.

    Every file is compared with the manifest before anything is uploaded.

    >>> import compilekit as ck
    >>> ck.push("no-such-folder", "me/bundle")
    Traceback (most recent call last):
    compilekit.errors.BundleError: no-such-folder: no such folder
    """
    refuse_uncallable("confirm", confirm)
    if not isinstance(repository, str):
        raise UsageError(f'a repository is a name such as "user/name", not {shown(repository)}')
    files = uploads(bundle, progress=progress)
    if confirm is not None and not confirm(files):
        raise UsageError("nothing was uploaded")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    hub = api or HfApi(token=token)
    try:
        hub.create_repo(repository, private=private, repo_type="model", exist_ok=True)
        done = hub.upload_folder(
            repo_id=repository,
            folder_path=str(bundle),
            repo_type="model",
            revision=revision or None,
            allow_patterns=[file.path for file in files],
            commit_message=f"Bundle {Manifest.read(bundle).name}",
        )
    except HFValidationError as error:
        raise UsageError(f"{repository}: {error}") from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CompilekitError(f"{repository}: the upload failed: {reason}") from error
    return str(getattr(done, "commit_url", done))
