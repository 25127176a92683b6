"""How large a bundle is against the weights in it, and how much memory loading it takes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

# Without guidance, so that the UNet is called in one size: packed weights serve one.
SAMPLE = {
    "prompt": "a cat",
    "height": 64,
    "width": 64,
    "num_inference_steps": 1,
    "guidance_scale": 1.0,
}


def resident() -> int:
    """The bytes of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096


def child(bundle: Path) -> None:
    """Load a bundle, run it once, and print how memory grew."""
    import diffusers
    import transformers.models.clip.modeling_clip  # noqa: F401

    import compilekit as ck

    assert diffusers.StableDiffusionPipeline  # noqa: S101 - imported before memory is counted
    before = resident()
    pipe = ck.load(bundle, progress=False)
    loaded = resident() - before
    pipe.set_progress_bar_config(disable=True)
    pipe(**SAMPLE, output_type="np")
    print(json.dumps({"loaded": loaded, "ran": resident() - before}))


def main() -> None:
    """Build with shared and with packed weights, and print sizes and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--width", type=int, default=192, help="of the UNet; 192: 312 M parameters")
    parser.add_argument("--weights", nargs="+", default=["shared", "packed"])
    given = parser.parse_args()
    if given.child:
        child(Path(given.child))
        return
    import torch
    from models import pipeline

    import compilekit as ck
    from compilekit.bundle.files import total
    from compilekit.model import parameter_bytes

    for weights in given.weights:
        with tempfile.TemporaryDirectory() as folder:
            pipe = pipeline(given.width, torch.bfloat16)
            modules = (pipe.unet, pipe.vae, pipe.text_encoder)
            own = sum(parameter_bytes(module) for module in modules)
            steps = f"torch_compile{{components=unet, weights={weights}}}"
            recipe = ck.Recipe.from_steps(steps, sample=SAMPLE)
            built = ck.build(recipe, pipe, Path(folder) / "bundle", cache=False, progress=False)
            del pipe, modules
            files = built.manifest.files
            code = total(files, lambda f: f.path.startswith("parts/") and f.path.endswith(".so"))
            whole = total(files) - code
            command = [sys.executable, __file__, "--child", str(built.path)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            grew = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{weights}: weights {own / 1e6:.0f} MB, code {code / 1e6:.1f} MB, bundle without "
                f"code {whole / 1e6:.0f} MB ({whole / own:.3f}x); memory after load grew by "
                f"{grew['loaded'] / 1e6:.0f} MB ({grew['loaded'] / own:.3f}x), after a call by "
                f"{grew['ran'] / 1e6:.0f} MB ({grew['ran'] / own:.3f}x)"
            )


if __name__ == "__main__":
    main()
