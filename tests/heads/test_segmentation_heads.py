"""The decoders of segmentation: a U-Net over five maps, and the one over the patches of a ViT."""

import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medbench.heads.setr import Setr, SetrConfig
from medbench.heads.unet import UNet, UNetConfig
from medbench.seeding import drawn_from

SIDE = 64
CHANNELS = (4, 6, 8, 10, 12)
NARROW_UNET = UNetConfig(widths=(16, 12, 8, 8, 4))
NARROW_SETR = SetrConfig(widths=(16, 12, 8, 8))


def maps(batch: int, seed: int = 0, side: int = SIDE) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand(batch, c, side // s, side // s, generator=generator)
        for c, s in zip(CHANNELS, (2, 4, 8, 16, 32), strict=True)
    ]


def unet(seed: int) -> nn.Module:
    return UNet(CHANNELS, NARROW_UNET, seed)


def setr(seed: int) -> nn.Module:
    return Setr(CHANNELS[3:4], NARROW_SETR, seed)


def seen_by(head: nn.Module, features: Sequence[Tensor]) -> Sequence[Tensor]:
    return features[3:4] if isinstance(head, Setr) else features


BOTH = pytest.mark.parametrize("make", [unet, setr])


@BOTH
@pytest.mark.parametrize("side", [32, 96])
def test_logits_have_the_size_of_the_film(make: Callable[[int], nn.Module], side: int) -> None:
    head = make(0)
    logits = head(seen_by(head, maps(3, side=side)))
    assert logits.shape == (3, 1, side, side)
    assert logits.dtype == torch.float32


def test_default_widths_are_the_published_ones() -> None:
    resnet = UNet((64, 256, 512, 1024, 2048), UNetConfig(), seed=0)
    assert [block.conv2[0].out_channels for block in resnet.decoder.blocks] == [256, 128, 64, 32, 16]
    vit = Setr((768,), SetrConfig(), seed=0)
    convolutions = [m for m in vit.decoder if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [
        (768, 512),
        (512, 256),
        (256, 128),
        (128, 64),
        (64, 1),
    ]
    assert vit.linear.weight.shape == (768, 768)


@BOTH
def test_seed_alone_decides_the_initial_weights(make: Callable[[int], nn.Module]) -> None:
    before = torch.get_rng_state()
    one, same, other = (make(seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    weights = [name for name, value in one.items() if value.ndim > 1]
    assert len(weights) > 5
    assert not any(torch.equal(one[name], other[name]) for name in weights)


@BOTH
def test_gradients_reach_every_parameter_and_every_map(make: Callable[[int], nn.Module]) -> None:
    head = make(0)
    features = [m.requires_grad_() for m in seen_by(head, maps(2))]
    head(features).square().mean().backward()
    for tensor in (*features, *head.parameters()):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
    assert all(bool(m.grad.abs().sum() > 0) for m in features if m.grad is not None)


def test_unet_is_the_one_of_segmentation_models_pytorch() -> None:
    import segmentation_models_pytorch as smp

    whole = smp.Unet("resnet18", encoder_weights=None, classes=1, decoder_channels=NARROW_UNET.widths).eval()
    ours = UNet(whole.encoder.out_channels[1:], NARROW_UNET, seed=0).eval()
    ours.decoder.load_state_dict(whole.decoder.state_dict())
    ours.out.load_state_dict(whole.segmentation_head.state_dict())
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(whole.encoder(images)[1:]), whole(images))


def test_unet_begins_with_the_weights_of_segmentation_models_pytorch() -> None:
    head = UNet(CHANNELS, UNetConfig(), seed=5)
    weight = head.decoder.blocks[0].conv1[0].weight
    bound = (6 / (weight.shape[1] * 9)) ** 0.5  # He, uniform
    assert 0.99 * bound < weight.abs().max() <= bound
    assert torch.count_nonzero(head.out[0].bias) == 0


def test_setr_agrees_with_its_steps_one_by_one() -> None:
    head = Setr((10,), NARROW_SETR, seed=3).double()
    patches = maps(2)[3].double()
    x = torch.stack(
        [head.linear(p) for p in patches.permute(0, 2, 3, 1).reshape(-1, 10)]
    )  # a token at a time
    x = x.reshape(2, 4, 4, 10).permute(0, 3, 1, 2)
    steps = list(head.decoder)
    for i in range(4):
        convolution, norm = steps[4 * i], steps[4 * i + 1]
        assert isinstance(convolution, nn.Conv2d)
        x = F.conv2d(x, convolution.weight, convolution.bias, padding=1)
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
        x = ((x - mean) / (variance + norm.eps).sqrt()).clamp(min=0)
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    last = steps[-1]
    assert isinstance(last, nn.Conv2d)
    expected = F.conv2d(x, last.weight, last.bias, padding=1)
    torch.testing.assert_close(head([patches]), expected.float())


def test_other_maps_than_expected_are_refused() -> None:
    with pytest.raises(ValueError, match="found 3 maps"):
        UNet((8, 8, 8), NARROW_UNET, seed=0)
    with pytest.raises(ValueError, match="patches of a ViT alone, found 3 maps"):
        Setr((8, 8, 8), NARROW_SETR, seed=0)


class Stages(nn.Module):
    """A small CNN with maps at strides 2 to 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in zip((1, *CHANNELS), CHANNELS, strict=False)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps


class Patches(nn.Module):
    """The patch embedding of a ViT, and nothing after it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 64, 16, 16)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.embed(images)]


def dice_of_eight_films(encoder: nn.Module, head: nn.Module, side: int, steps: int) -> Tensor:
    """Train both on bright boxes on noise, and one film without any -> (7,) Dice; 0 for all if there is a box on it."""
    generator = torch.Generator().manual_seed(0)
    images, masks = 0.2 * torch.rand(8, 1, side, side, generator=generator), torch.zeros(8, 1, side, side)
    for i in range(7):
        x, y = (2 + 3 * i) % (side // 2), (5 + 7 * i) % (side // 2)
        masks[i, :, y : y + side // 3 + i % 3, x : x + side // 3 + i % 4] = 1
    images += masks
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-2)
    for step in range(steps):
        if step == 3 * steps // 4:
            optimiser.param_groups[0]["lr"] = 1e-3
        loss = F.binary_cross_entropy_with_logits(head(encoder(images)), masks)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    encoder.eval()
    head.eval()
    with torch.no_grad():
        predicted = head(encoder(images)) > 0
    both, total = (predicted & masks.bool()).sum((1, 2, 3)), predicted.sum((1, 2, 3)) + masks.sum((1, 2, 3))
    return (2 * both / total)[:7] * (not predicted[7].any())


def test_unet_overfits_eight_masks() -> None:
    with drawn_from(0):
        encoder = Stages()
    assert dice_of_eight_films(encoder, unet(0), side=32, steps=120).min() > 0.95


def test_setr_overfits_eight_masks() -> None:
    with drawn_from(0):
        encoder = Patches()
    head = Setr((64,), SetrConfig(widths=(48, 24, 16, 8)), seed=0)
    assert dice_of_eight_films(encoder, head, side=48, steps=300).min() > 0.95


@BOTH
def test_forward_under_bfloat16_gives_float32(make: Callable[[int], nn.Module]) -> None:
    head = make(0).eval()
    features = seen_by(head, maps(2))
    with torch.no_grad():
        exact = head(features)
        with torch.autocast("cpu", torch.bfloat16):
            rough = head(features)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.05)


def test_importing_the_heads_loads_no_library() -> None:
    code = (
        "import sys, medbench.heads.unet, medbench.heads.setr\n"
        "assert not {'segmentation_models_pytorch', 'timm'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
