"""Diffusion models as denoisers: against the package's own scheduler, and where they do not fit."""

import json
import shutil

import pytest
import torch
from command_line import run, said
from torch import nn

from citrus_lirpa.errors import ConfigError, InputError
from citrus_lirpa.models.diffusion import OneShot, load_diffusion

SHAPE, SIGMA = (1, 8, 8), 0.25
ALPHAS = torch.linspace(1e-4, 0.02, 1000).neg().add(1).cumprod(0)
KINDS = ("epsilon", "v_prediction", "sample")


class Answer(nn.Module):
    """A network whose answer is what it is told."""

    def __init__(self, answer):
        super().__init__()
        self.sample, self.seen = answer, []

    def forward(self, images, step):
        self.seen.append(images)
        return self


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_answer_gives_the_clean_image(kind):
    """At the step whose noise is nearest to σ: 2σ in pixels from -1 to 1."""
    torch.manual_seed(0)
    x, noise = torch.rand(3, *SHAPE), torch.randn(3, *SHAPE)
    step = int(((1 / ALPHAS - 1).sqrt() - 2 * SIGMA).abs().argmin())
    share = ALPHAS[step]
    level = float((1 / share - 1).sqrt() / 2)
    assert abs(level - SIGMA) < 0.003
    clean = 2 * x - 1
    right = {
        "epsilon": noise,
        "v_prediction": share.sqrt() * noise - (1 - share).sqrt() * clean,
        "sample": clean,
    }[kind]
    denoiser = OneShot(Answer(right), ALPHAS, kind, SIGMA)
    found = denoiser(x + level * noise)
    assert int(denoiser.step) == step
    torch.testing.assert_close(found, x, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        denoiser.unet.seen[0], share.sqrt() * clean + (1 - share).sqrt() * noise
    )


def test_noise_beyond_the_model_and_unknown_answers_are_refused():
    with pytest.raises(InputError, match="sigma is 100; the noise of this diffusion model ends at"):
        OneShot(Answer(None), ALPHAS, "epsilon", 100.0)
    with pytest.raises(ConfigError, match="unknown prediction_type 'flow'"):
        OneShot(Answer(None), ALPHAS, "flow", SIGMA)
    assert int(OneShot(Answer(None), ALPHAS, "epsilon", 1e-6).step) == 0


# -- with the package ---------------------------------------------------------------


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """Folders of small models with random weights, one for each prediction."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    torch.manual_seed(0)
    blocks = dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, add_attention=False, **blocks,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("diffusion")
    for kind in KINDS:
        scheduler = diffusers.DDPMScheduler(prediction_type=kind, clip_sample=True)
        diffusers.DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(folder / kind)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_clean_image_that_the_scheduler_predicts(pipelines, kind):
    import diffusers

    denoiser = load_diffusion(pipelines / kind, SHAPE, SIGMA)
    scheduler = diffusers.DDPMScheduler.from_pretrained(pipelines / kind, subfolder="scheduler")
    torch.manual_seed(1)
    x = torch.rand(4, *SHAPE) + SIGMA * torch.randn(4, *SHAPE)
    with torch.no_grad():
        noisy = scheduler.alphas_cumprod[denoiser.step].sqrt() * (2 * x - 1)
        answer = denoiser.unet(noisy, denoiser.step).sample
        expected = scheduler.step(answer, int(denoiser.step), noisy).pred_original_sample
        found = denoiser(x)
    torch.testing.assert_close(found, (expected + 1) / 2, rtol=0, atol=1e-5)
    assert 0 <= found.min() and found.max() <= 1


def changed(folder, to, **values):
    """A copy whose network's configuration has other values."""
    shutil.copytree(folder, to)
    file = to / "unet" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return to


def test_the_command_takes_a_folder_and_refuses_others_in_one_line(pipelines, tmp_path):
    made = ("train", "--preset", "digits", "--method", "ce", "--out", tmp_path / "run", "--quiet")
    assert run(*made, "--set", "train.epochs=1")[0] == 0
    smooth = ("smooth", tmp_path / "run", "--n", 100, "--limit", 2, "--quiet", "--sigma")
    good = pipelines / "epsilon"
    status, told = run(*smooth, 0.25, "--denoiser", good)
    assert status == 0 and "probability 0.999" in told
    for path, sigma, message in (
        (good, 100, "sigma is 100; the noise of this diffusion model ends at"),
        (changed(good, tmp_path / "a", sample_size=16), 1, "takes images (1, 16, 16), but"),
        (changed(good, tmp_path / "b", in_channels=3), 1, "takes images (3, 8, 8), but"),
        (changed(good, tmp_path / "c", out_channels=5), 1, "gives 5 channels; expected 1, or 2"),
        (changed(good, tmp_path / "d", block_out_channels=[4, 16]), 1, "cannot be read by diffuse"),
        (changed(good, tmp_path / "e", _class_name="Flux"), 1, "is a Flux; expected a UNet2DModel"),
        (changed(good, tmp_path / "f", sample_size=None, _class_name="UNet2DModel",
                 class_embed_type="timestep"), 1, "does not take images"),
    ):  # fmt: skip
        assert message in said(*run(*smooth, sigma, "--denoiser", path), 2), message
