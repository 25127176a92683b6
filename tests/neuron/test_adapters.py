"""ControlNets, adapters and image prompts, compiled in."""

from __future__ import annotations

import pytest
from neuron.models import ip_adapter, lora

CLOSE = 1e-4


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("controlnet", "StableDiffusionControlNetPipeline"),
        pytest.param(
            "controlnet-xl", "StableDiffusionXLControlNetPipeline", marks=pytest.mark.full
        ),
    ],
)
def test_a_controlnet_is_compiled_with_the_pipeline(models, build, there, tmp_path, name, kind):
    built = build(models(name), tmp_path / name, sample={})
    found = there(
        """
        pipe, other = load(bundle), plain(model, kind)
        said = {"image": picture(), "guidance_scale": 5.0}
        one = draw(pipe, **said)
        answer = [
            apart(one, draw(other, height=64, width=64, **said)),
            apart(one, draw(pipe, **said, controlnet_conditioning_scale=0.0)),
        ]
        """,
        bundle=str(built.path),
        model=str(models(name)),
        kind=kind,
    )
    assert "controlnet_0" in built.manifest.whole.details["parts"]
    assert found[0] < CLOSE
    assert found[1] > 10 * CLOSE


def test_an_adapter_is_fused_and_changes_the_picture(models, build, there, tmp_path):
    source = lora(tmp_path / "adapter")
    adapter = {"source": str(source), "weight_name": "adapter.safetensors", "scale": 0.5}
    built = build(models("sd"), tmp_path / "lora", lora=[adapter])
    found = there(
        """
        other = plain(model)
        without = draw(other)
        other.load_lora_weights(source, weight_name="adapter.safetensors")
        other.fuse_lora(lora_scale=0.5)
        one = draw(load(bundle))
        answer = [apart(one, draw(other)), apart(one, without)]
        """,
        bundle=str(built.path),
        model=str(models("sd")),
        source=str(source),
    )
    assert found[0] < CLOSE
    assert found[1] > 100 * CLOSE
    assert built.manifest.whole.error < CLOSE


@pytest.mark.full
def test_two_adapters_are_fused_each_with_its_scale(models, build, there, tmp_path):
    sources = [str(lora(tmp_path / f"adapter{n}", seed=n)) for n in range(2)]
    adapters = [
        {"source": source, "weight_name": "adapter.safetensors", "scale": 0.25 + n}
        for n, source in enumerate(sources)
    ]
    built = build(models("sd"), tmp_path / "lora", lora=adapters)
    found = there(
        """
        other = plain(model)
        for n, source in enumerate(sources):
            other.load_lora_weights(source, weight_name="adapter.safetensors", adapter_name=f"a{n}")
        other.set_adapters(["a0", "a1"], adapter_weights=[0.25, 1.25])
        other.fuse_lora()
        answer = apart(draw(load(bundle)), draw(other))
        """,
        bundle=str(built.path),
        model=str(models("sd")),
        sources=sources,
    )
    assert found < CLOSE


@pytest.mark.full
def test_an_image_prompt_changes_the_picture(models, build, there, tmp_path):
    source = ip_adapter(tmp_path / "ip" / "models")
    adapter = {"source": str(source.parent), "subfolder": "models", "weight_name": "ip.safetensors"}
    built = build(models("image-prompt"), tmp_path / "bundle", sample={}, ip_adapter=adapter)
    found = there(
        """
        import optimum.neuron.modeling_diffusion  # once, for the child too

        said = {"ip_adapter_image": picture(), "guidance_scale": 5.0}

        def unmended():
            pipe = without("image-projection", bundle, "StableDiffusionPipeline")
            return list(draw(pipe, **said).shape)

        wrong = in_child(unmended)
        pipe, other = load(bundle), plain(model)
        other.load_ip_adapter(source, subfolder="models", weight_name="ip.safetensors")
        other.set_ip_adapter_scale(1.0)
        one = draw(pipe, **said)
        answer = [
            apart(one, draw(other, **said)),
            apart(one, draw(pipe, **{**said, "ip_adapter_image": picture(seed=1)})),
            wrong,
        ]
        """,
        bundle=str(built.path),
        model=str(models("image-prompt")),
        source=str(source.parent),
    )
    assert found[0] < CLOSE
    assert found[1] > CLOSE
    # Without its fix the adapter is taken for the kind that wants hidden states.
    assert "has no attribute 'hidden_states'" in found[2]
