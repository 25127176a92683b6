"""`engine: optimum`, once more: its bundles, and a stand-in that is wrong on purpose."""

from __future__ import annotations

import numpy as np
import pytest
from gaudi.conftest import session

CLOSE = 1e-4

BUILD = """
    import shutil
    from diffusers import DDIMScheduler

    pipeline = made("sd")
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    options = {"engine": "optimum", "gaudi_config": "Habana/stable-diffusion-2", "batch_size": 2}
    built = ck.build(recipe(options, shapes=[{"height": 96}]), pipeline, TARGET, cache=False,
                     progress=False)
    details = dict(built.manifest.whole.details)
    answer = [built.manifest.whole.error, details["recipes"], details["versions"]["optimum-habana"],
              draw(pipeline).tolist(), "habana_frameworks.torch" in sys.modules]
"""

LOAD = """
    import numpy as np
    pipeline = ck.load(TARGET, progress=False)
    from habana_frameworks.torch import standin
    warm = dict(standin.counts)
    got = draw(pipeline)
    after = dict(standin.counts)
    answer = [got.tolist(), type(pipeline).__name__, warm["compilations"], warm["hits"],
              after["captures"] - warm["captures"]]
"""


def test_a_bundle_is_built_and_loaded_in_a_new_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    target = str(folder / "sd")
    error, recipes, release, want, is_imported = session(folder, BUILD, TARGET=target)
    assert error < CLOSE
    assert (release, is_imported) == ("1.21.2", False)
    assert recipes > 2  # two captures, and what lies between them
    got, kind, compiled, hits, captures = session(folder, LOAD, TARGET=target)
    assert np.abs(np.array(got) - np.array(want)).max() < CLOSE
    assert kind == "GaudiStableDiffusionPipeline"
    assert (compiled, captures) == (0, 0)
    assert hits > 2


MUTATED = """
    from diffusers import DDIMScheduler

    def look():
        pipeline, row = apply(ddim(), {"engine": "optimum", "recompiles": "allow"})
        return apart(want, draw(pipeline)), raised(draw, pipeline, height=96)

    def ddim():
        pipeline = made("sd")
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        return pipeline

    want = draw(ddim())
    answer = {"right": look()}
    # Only now: the driver package must not be imported before the step says how.
    from habana_frameworks.torch import standin
    for fault in ("no-replay", "no-copy", "no-shape"):
        standin.FAULT = fault
        answer[fault] = look()
"""


@pytest.mark.full
def test_a_stand_in_that_is_wrong_draws_other_pictures(tmp_path):
    found = session(tmp_path, MUTATED)
    assert found["right"][0] < CLOSE
    assert found["right"][1] == "nothing"
    assert found["no-replay"][0] > 100 * CLOSE
    assert found["no-copy"][0] > 100 * CLOSE
    assert "must match" in found["no-shape"][1]
