"""A checkpoint with the authors' names gives the authors' numbers.

The twin below is their model written out from its description: functions over a state dict with their names, texts
padded to full length, tokens and samples in loops, float64. Names are those of their files; sizes are small, and
theirs in the slow tests.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medbench.errors import WeightsError
from medbench.method import Setup
from medbench.model import ImageTextBatch, TextBatch
from medbench_methods.mgca import Mgca, MgcaConfig
from medbench_methods.released.mgca import convert, settings, unused

State = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of a model; the defaults are small."""

    tokens: int = 20
    width: int = 16
    layers: int = 2
    heads: int = 2
    embed: int = 8
    hidden: int = 24
    prototypes: int = 10
    size: int = 48
    resnet: str = "resnet50"
    blocks: tuple[int, int, int, int] = (1, 2, 1, 1)
    channels: tuple[int, int, int, int] = (8, 8, 16, 16)
    upsample: int = 75
    vit: str = "vit_tiny_patch16_224"
    vit_width: int = 192
    vit_heads: int = 3
    vit_depth: int = 12


SMALL = Sizes()
THEIRS = Sizes(
    tokens=112,
    width=768,
    layers=6,
    heads=12,
    embed=128,
    hidden=2048,
    prototypes=500,
    size=224,
    resnet="resnet50.tv2_in1k",
    blocks=(3, 4, 6, 3),
    channels=(64, 128, 256, 512),
    upsample=299,
    vit="deit_base_patch16_224",
    vit_width=768,
    vit_heads=12,
)
STEM = 64

REPORTS = [
    ["heart size is normal", "no pleural effusion"],
    [
        "small left pleural effusion",
        "left basal atelectasis",
        "no pneumothorax seen today",
        "unchanged since",
    ],
    ["opacity"],
    ["mild cardiomegaly"],
    ["no effusion", "no pneumothorax", "lines and tubes in place"],
]
KINDS = ["resnet", "vit"]


# A checkpoint with their names.


class Values:
    """Draws tensors by what they are."""

    def __init__(self, seed: int, sizes: Sizes) -> None:
        self.sizes = sizes
        self.generator = torch.Generator().manual_seed(seed)
        self.state: State = {}

    def normal(self, name: str, *shape: int, scale: float) -> None:
        self.state[name] = torch.randn(*shape, generator=self.generator) * scale

    def linear(self, name: str, out: int, into: int, *kernel: int, bias: bool = True) -> None:
        self.normal(f"{name}.weight", out, into, *kernel, scale=1.5 / math.sqrt(into * math.prod(kernel)))
        if bias:
            self.normal(f"{name}.bias", out, scale=0.1)

    def norm(self, name: str, width: int) -> None:
        self.state[f"{name}.weight"] = 1 + 0.2 * torch.randn(width, generator=self.generator)
        self.normal(f"{name}.bias", width, scale=0.2)

    def batch_norm(self, name: str, width: int, *, affine: bool = True) -> None:
        if affine:
            self.norm(name, width)
        self.normal(f"{name}.running_mean", width, scale=0.2)
        self.state[f"{name}.running_var"] = 0.5 + torch.rand(width, generator=self.generator)
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def head(self, name: str, into: int, *kernel: int) -> None:
        self.linear(f"{name}.head.0", self.sizes.hidden, into, *kernel)
        self.batch_norm(f"{name}.head.1", self.sizes.hidden)
        self.linear(f"{name}.head.3", self.sizes.embed, self.sizes.hidden, *kernel)
        self.batch_norm(f"{name}.head.4", self.sizes.embed, affine=False)


def checkpoint(kind: str, vocabulary: int, s: Sizes = SMALL) -> State:
    v = Values(3, s)
    at = "img_encoder_q.model"
    if kind == "resnet":
        v.linear(f"{at}.conv1", STEM, 3, 7, 7, bias=False)
        v.batch_norm(f"{at}.bn1", STEM)
        into = STEM
        for stage, (width, blocks) in enumerate(zip(s.channels, s.blocks, strict=True), 1):
            for number in range(blocks):
                block = f"{at}.layer{stage}.{number}"
                for n, (a, b, k) in enumerate(
                    ((into, width, 1), (width, width, 3), (width, 4 * width, 1)), 1
                ):
                    v.linear(f"{block}.conv{n}", b, a, k, k, bias=False)
                    v.batch_norm(f"{block}.bn{n}", b)
                # Blocks add little, as in a trained net; a deep one of large random blocks blows up rounding.
                v.state[f"{block}.bn3.weight"] *= 0.2
                if number == 0:
                    v.linear(f"{block}.downsample.0", 4 * width, into, 1, 1, bias=False)
                    v.batch_norm(f"{block}.downsample.1", 4 * width)
                into = 4 * width
        pooled, local = 4 * s.channels[3], 4 * s.channels[2]
    else:
        pooled = local = w = s.vit_width
        v.normal(f"{at}.cls_token", 1, 1, w, scale=0.5)
        v.normal(f"{at}.pos_embed", 1, 1 + (s.size // 16) ** 2, w, scale=0.5)
        v.linear(f"{at}.patch_embed.proj", w, 3, 16, 16)
        for n in range(s.vit_depth):
            block = f"{at}.blocks.{n}"
            v.norm(f"{block}.norm1", w)
            v.linear(f"{block}.attn.qkv", 3 * w, w)
            v.linear(f"{block}.attn.proj", w, w)
            v.norm(f"{block}.norm2", w)
            v.linear(f"{block}.mlp.fc1", 4 * w, w)
            v.linear(f"{block}.mlp.fc2", w, 4 * w)
        v.norm(f"{at}.norm", w)
    v.head("img_encoder_q.global_embed", pooled)
    v.head("img_encoder_q.local_embed", local, 1)

    at = "text_encoder_q.model"
    v.state[f"{at}.embeddings.position_ids"] = torch.arange(512)[None]
    v.normal(f"{at}.embeddings.word_embeddings.weight", vocabulary, s.width, scale=1)
    v.normal(f"{at}.embeddings.position_embeddings.weight", s.tokens, s.width, scale=1)
    v.norm(f"{at}.embeddings.LayerNorm", s.width)
    for n in range(s.layers):
        layer = f"{at}.encoder.layer.{n}"
        for part in ("query", "key", "value"):
            v.linear(f"{layer}.attention.self.{part}", s.width, s.width)
            v.linear(f"{layer}.crossattention.self.{part}", s.width, s.width)
        v.linear(f"{layer}.attention.output.dense", s.width, s.width)
        v.norm(f"{layer}.attention.output.LayerNorm", s.width)
        v.linear(f"{layer}.crossattention.output.dense", s.width, s.width)
        v.norm(f"{layer}.crossattention.output.LayerNorm", s.width)
        v.linear(f"{layer}.intermediate.dense", 4 * s.width, s.width)
        v.linear(f"{layer}.output.dense", s.width, 4 * s.width)
        v.norm(f"{layer}.output.LayerNorm", s.width)
    v.head("text_encoder_q.global_embed", s.width)
    v.head("text_encoder_q.local_embed", s.width, 1)

    v.normal("prototype_layer.weight", s.prototypes, s.embed, scale=0.3)
    for name in ("patch", "word"):
        v.linear(f"{name}_local_atten_layer.in_proj", 3 * s.embed, s.embed)
        v.linear(f"{name}_local_atten_layer.out_proj", s.embed, s.embed)
    return v.state


# Their model, written out.


@dataclasses.dataclass
class Twin:
    """Functions over a state dict; `train` is whether batch statistics are those of the batch."""

    state: State
    kind: str
    train: bool
    s: Sizes = SMALL

    def get(self, name: str) -> Tensor:
        return self.state[name].double()

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.get(f"{name}.weight").flatten(1).T + self.get(f"{name}.bias")

    def layer_norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return centred / scale * self.get(f"{name}.weight") + self.get(f"{name}.bias")

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        """(B, C, ...): statistics over everything but C."""
        others = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        if self.train:
            mean, variance = x.mean(others), x.var(others, correction=0)
        else:
            mean, variance = self.get(f"{name}.running_mean"), self.get(f"{name}.running_var")
        x = (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt()
        if f"{name}.weight" in self.state:
            x = x * self.get(f"{name}.weight").view(shape) + self.get(f"{name}.bias").view(shape)
        return x

    def head(self, name: str, x: Tensor) -> Tensor:
        """(B, D) or (B, N, D); statistics over the samples and, of local ones, over all N slots too."""
        for number in ("0", "3"):
            x = self.linear(f"{name}.head.{number}", x)
            norm = f"{name}.head.{int(number) + 1}"
            x = (
                self.batch_norm(norm, x.transpose(1, 2)).transpose(1, 2)
                if x.dim() == 3
                else self.batch_norm(norm, x)
            )
            x = x.clamp_min(0) if number == "0" else x
        return x / x.norm(dim=-1, keepdim=True)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int, added: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(N, D) each -> (N, D) what is found; (N, N) attention, mean over heads."""
        size = q.shape[1] // heads
        found, attentions = [], []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            scores = q[:, part] @ k[:, part].T / math.sqrt(size)
            attention = (scores if added is None else scores + added).softmax(-1)
            found.append(attention @ v[:, part])
            attentions.append(attention)
        return torch.cat(found, 1), torch.stack(attentions).mean(0)

    # Images.

    def convolve(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.get(f"{name}.weight")
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)

    def resnet(self, images: Tensor) -> tuple[Tensor, Tensor, None]:
        at = "img_encoder_q.model"
        x = F.interpolate(
            images, size=(self.s.upsample, self.s.upsample), mode="bilinear", align_corners=True
        )
        x = self.batch_norm(f"{at}.bn1", self.convolve(f"{at}.conv1", x, 2)).clamp_min(0)
        x = F.max_pool2d(x, 3, 2, 1)
        local = x
        for stage, blocks in enumerate(self.s.blocks, 1):
            for number in range(blocks):
                x = self.bottleneck(f"{at}.layer{stage}.{number}", x, 2 if stage > 1 and number == 0 else 1)
            local = x if stage == 3 else local
        cells = torch.stack(
            [local[:, :, r, c] for r in range(local.shape[2]) for c in range(local.shape[3])], 1
        )
        return x.mean((2, 3)), cells, None

    def bottleneck(self, block: str, x: Tensor, stride: int) -> Tensor:
        y = self.batch_norm(f"{block}.bn1", self.convolve(f"{block}.conv1", x)).clamp_min(0)
        y = self.batch_norm(f"{block}.bn2", self.convolve(f"{block}.conv2", y, stride)).clamp_min(0)
        y = self.batch_norm(f"{block}.bn3", self.convolve(f"{block}.conv3", y))
        if f"{block}.downsample.0.weight" in self.state:
            x = self.batch_norm(f"{block}.downsample.1", self.convolve(f"{block}.downsample.0", x, stride))
        return (y + x).clamp_min(0)

    def vit(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pooled, local, attentions = zip(*(self.vit_image(image) for image in images), strict=True)
        return torch.stack(pooled), torch.stack(local), torch.stack(attentions)

    def vit_image(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        at = "img_encoder_q.model"
        n = image.shape[1] // 16
        squares = [image[:, 16 * r : 16 * r + 16, 16 * c : 16 * c + 16] for r in range(n) for c in range(n)]
        x = self.linear(f"{at}.patch_embed.proj", torch.stack(squares).flatten(1))
        x = torch.cat([self.get(f"{at}.cls_token")[0], x]) + self.get(f"{at}.pos_embed")[0]
        attention = x
        for b in range(self.s.vit_depth):
            block = f"{at}.blocks.{b}"
            q, k, v = self.linear(f"{block}.attn.qkv", self.layer_norm(f"{block}.norm1", x, 1e-6)).chunk(3, 1)
            found, attention = self.attend(q, k, v, self.s.vit_heads, None)
            x = x + self.linear(f"{block}.attn.proj", found)
            inner = self.linear(f"{block}.mlp.fc1", self.layer_norm(f"{block}.norm2", x, 1e-6))
            x = x + self.linear(f"{block}.mlp.fc2", F.gelu(inner))
        x = self.layer_norm(f"{at}.norm", x, 1e-6)
        return x[0], x[1:], attention[0, 1:]

    # Texts.

    def bert(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        """Padded ids, 0 is padding -> (T, D) last layer; (T,) its attention from [CLS]."""
        at = "text_encoder_q.model"
        x = self.get(f"{at}.embeddings.word_embeddings.weight")[ids]
        x = x + self.get(f"{at}.embeddings.position_embeddings.weight")[0]  # position 0 for each of them
        x = self.layer_norm(f"{at}.embeddings.LayerNorm", x, 1e-12)
        added = torch.tensor([0.0 if i else -10_000.0 for i in ids], dtype=torch.float64)
        attention = x
        for n in range(self.s.layers):
            layer = f"{at}.encoder.layer.{n}"
            q, k, v = (self.linear(f"{layer}.attention.self.{p}", x) for p in ("query", "key", "value"))
            found, attention = self.attend(q, k, v, self.s.heads, added)
            found = self.linear(f"{layer}.attention.output.dense", found)
            x = self.layer_norm(f"{layer}.attention.output.LayerNorm", found + x, 1e-12)
            inner = F.gelu(self.linear(f"{layer}.intermediate.dense", x))
            inner = self.linear(f"{layer}.output.dense", inner)
            x = self.layer_norm(f"{layer}.output.LayerNorm", inner + x, 1e-12)
        return x, attention[0]

    def text(self, ids: list[int], tokens: list[str]) -> tuple[Tensor, Tensor, Tensor, list[bool]]:
        """One report of T tokens -> (D,) of [CLS]; (T - 1, D) slots, (T - 1,) attention, where there is a word."""
        hidden, attention = self.bert(ids)
        attention = attention[1:]  # of the tokens after [CLS]
        sums: list[Tensor] = []
        weights: list[Tensor] = []
        piece, share = None, None
        # The shorter list ends the loop: the last token is not seen, and each has the next one's attention.
        for vector, token, weight in zip(hidden, tokens, attention, strict=False):
            if token.startswith("##"):
                assert piece is not None
                assert share is not None
                piece, share = piece + vector, share + weight
                continue
            if piece is not None and share is not None:  # a word has ended
                sums.append(piece)
                weights.append(share)
            piece, share = vector, weight
            if token == "[SEP]":
                sums.append(vector)
                weights.append(weight)
                break
        words = len(sums)
        empty = self.s.tokens - words
        slots = torch.stack([*sums, *[torch.zeros(self.s.width, dtype=torch.float64)] * empty])
        shares = torch.stack([*weights, *[torch.zeros((), dtype=torch.float64)] * empty])
        return hidden[0], slots[1:], shares[1:], [i < words for i in range(1, self.s.tokens)]

    def run(self, images: Tensor, ids: list[list[int]], tokens: list[list[str]]) -> dict[str, Tensor]:
        pooled, local, looks = (self.resnet if self.kind == "resnet" else self.vit)(images.double())
        each = [self.text(i, t) for i, t in zip(ids, tokens, strict=True)]
        found = {
            "images": self.head("img_encoder_q.global_embed", pooled),
            "patches": self.head("img_encoder_q.local_embed", local),
            "reports": self.head("text_encoder_q.global_embed", torch.stack([e[0] for e in each])),
            "words": self.head("text_encoder_q.local_embed", torch.stack([e[1] for e in each])),
        }
        v, t = found["images"], found["reports"]
        scores = v @ t.T / 0.07
        n = len(v)
        found["ita"] = sum(nll(scores[i], i) / n + nll(scores[:, i], i) / n for i in range(n))
        found["cta"] = torch.stack(
            [
                self.tokens_of_one(
                    found["patches"][b], found["words"][b], each[b], None if looks is None else looks[b]
                )
                for b in range(n)
            ]
        ).mean()
        c = self.get("prototype_layer.weight")
        c = c / c.norm(dim=1, keepdim=True)
        z, y = v @ c.T, t @ c.T
        q, u = codes(z), codes(y)
        found["cpa"] = (
            -((u * (z / 0.2).log_softmax(1)).sum(1) + (q * (y / 0.2).log_softmax(1)).sum(1)).mean() / 2
        )
        return found

    def tokens_of_one(self, p: Tensor, w: Tensor, text: tuple[Any, ...], looks: Tensor | None) -> Tensor:
        _, _, shares, words = text
        a = clipped(shares)
        c = (w @ p.T / 0.1).softmax(1) @ p
        c = c / c.norm(dim=1, keepdim=True)
        total = two_ways(w @ c.T / 0.1, a)
        hidden = torch.tensor([0.0 if word else -math.inf for word in words], dtype=torch.float64)
        d = (p @ w.T / 0.1 + hidden).softmax(1) @ w
        if self.kind == "resnet":
            d = d / d.norm(dim=1, keepdim=True)
        b = torch.full((len(p),), 1 / len(p), dtype=torch.float64) if looks is None else clipped(looks)
        return total + two_ways(p @ d.T / 0.1, b)


def nll(scores: Tensor, right: int) -> Tensor:
    return scores.logsumexp(0) - scores[right]


def two_ways(scores: Tensor, weights: Tensor) -> Tensor:
    both = [nll(scores[i], i) + nll(scores[:, i], i) for i in range(len(scores))]
    return (weights * torch.stack(both)).sum() / 2


def clipped(values: Tensor) -> Tensor:
    there = values[values != 0]
    low, high = there.quantile(0.1), there.quantile(0.9)
    kept = torch.stack([v.clamp(low, high) if v != 0 else v for v in values])
    return kept / kept.sum()


def codes(scores: Tensor) -> Tensor:
    """SwAV's Sinkhorn, prototypes as rows."""
    q = (scores / 0.05).exp().T
    q = q / q.sum()
    k, n = q.shape
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / k
        q = q / q.sum(0, keepdim=True) / n
    return (q / q.sum(0, keepdim=True)).T


# The comparison.


def config_for(kind: str, s: Sizes) -> MgcaConfig:
    image: dict[str, Any] = (
        {"backbone": s.resnet, "layers": s.blocks, "channels": s.channels, "upsample": s.upsample}
        if kind == "resnet"
        else {"backbone": s.vit, "layers": None, "channels": None}
    )
    return dataclasses.replace(
        Mgca.recipes["micro"].config,
        **image,
        size=s.size,
        resize=s.size,
        compat=True,
        text_pooling="cls",
        text_layers=s.layers,
        text_width=s.width,
        text_heads=s.heads,
        text_vocabulary=60,  # small, so that words fall into pieces
        text_max_tokens=s.tokens,
        embed=s.embed,
        hidden=s.hidden,
        prototypes=s.prototypes,
    )


def build(kind: str, s: Sizes = SMALL) -> tuple[Mgca, State]:
    torch.manual_seed(0)
    method = Mgca.from_corpus(config_for(kind, s), REPORTS * 2, Setup(offline=True))
    return method, checkpoint(kind, len(method.model.tokenizer), s)


def as_they_pad(method: Mgca, text: TextBatch) -> tuple[list[list[int]], list[list[str]]]:
    """Ids and tokens, each padded to full length."""
    names = {number: name for name, number in method.model.tokenizer._tokenizer.get_vocab().items()}
    ids = [row + [0] * (method.config.text_max_tokens - len(row)) for row in text.ids.tolist()]
    return ids, [[names[i] for i in row] for row in ids]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "s", [pytest.param(SMALL, id="small"), pytest.param(THEIRS, id="theirs", marks=pytest.mark.slow)]
)
def test_embeddings_and_losses_are_the_authors(s: Sizes, kind: str, train: bool) -> None:
    method, state = build(kind, s)
    method.load_state_dict(convert(state))
    method.train(train)
    reports = [*REPORTS, [sentence for report in REPORTS * 2 for sentence in report]]
    text = method.model.tokenize(reports)
    lengths = text.mask.sum(1).tolist()
    assert max(lengths) == s.tokens  # a report of full length, and short ones
    assert min(lengths) < s.tokens // 2
    # Not white noise: its pooled features are nearly the same for all, and batch statistics would blow up rounding.
    coarse = torch.randn(len(reports), 3, 4, 4, generator=torch.Generator().manual_seed(1))
    images = F.interpolate(coarse, size=(s.size, s.size), mode="bicubic")
    wanted = Twin(state, kind, train, s).run(images, *as_they_pad(method, text))
    with torch.no_grad():
        image, words = method.model.encode_image(images), method.model.encode_text(text)
        found = {
            "images": method.model.embed_image(image),
            "patches": method.model.embed_patches(image),
            "reports": method.model.embed_text(words),
            "words": method.model.embed_words(words),
            **method.losses(ImageTextBatch(images, text), 1),
        }
    assert set(found) == set(wanted)
    for name, value in found.items():
        # A vector's error relative to its length, a loss's relative to itself; padded words are zero in both.
        expected = wanted[name] if value.dim() else wanted[name][None]
        error = (value.double() - expected).norm(dim=-1)
        assert (error <= 1e-4 * expected.norm(dim=-1)).all(), (name, float(error.max()))


def test_shorter_padding_changes_nothing() -> None:
    method, state = build("resnet")
    method.load_state_dict(convert(state))
    method.train()
    short, long = method.model.tokenize(REPORTS[2:4]), method.model.tokenize(REPORTS)
    assert short.ids.shape[1] < long.ids.shape[1]
    some = TextBatch(*(getattr(long, f.name)[2:4] for f in dataclasses.fields(long)))
    with torch.no_grad():
        one, two = (method.model.encode_text(text) for text in (short, some))
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(two, field.name)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_is_accounted_for(kind: str) -> None:
    method, state = build(kind)
    converted, ours = convert(state), method.state_dict()
    assert {name: tensor.shape for name, tensor in converted.items()} == {
        name: tensor.shape for name, tensor in ours.items()
    }
    left = [name for name in state if unused(name) is not None]
    made = 1  # token types
    assert len(state) - len(left) + made == len(ours)
    assert all("atten" in name or "position_ids" in name for name in left)


def test_a_checkpoint_says_which_model_it_fits() -> None:
    found = settings(checkpoint("vit", 30))
    assert found == {
        "compat": True,
        "backbone": "deit_base_patch16_224",
        "text_layers": SMALL.layers,
        "prototypes": SMALL.prototypes,
        "embed": SMALL.embed,
        "hidden": SMALL.hidden,
    }
    assert settings(checkpoint("resnet", 30))["backbone"] == "resnet50.tv2_in1k"
    assert set(found) <= {field.name for field in dataclasses.fields(MgcaConfig)}
    with pytest.raises(WeightsError, match=r"prototype_layer.weight is missing"):
        settings({})


def without(name: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("prototype_layer.weight"), r"1 missing: prototype_layer.weight\. Expected"),
        (
            without("img_encoder_q.model.layer3.0.bn2.running_var"),
            r"1 missing: img_encoder_q.model.layer3.0.bn2.running_var",
        ),
        (
            without("text_encoder_q.model.encoder.layer.0.output.dense.bias"),
            r"1 missing: text_encoder_q.model.encoder.layer.0.output.dense.bias",
        ),
        (without("text_encoder_q.local_embed.head.4.running_mean"), r"1 missing: text_encoder_q.local_embed"),
        (lambda state: {**state, "momentum.queue": torch.zeros(1)}, r"1 not known: momentum.queue"),
        (
            lambda state: {f"model.{name}": value for name, value in state.items()},
            r"missing: .* and more; \d+ not known: .* and more\. .*no prefix before img_encoder_q",
        ),
        (lambda state: {}, r"missing: img_encoder_q.model.conv1.weight, .* and more"),
    ],
)
def test_what_is_not_the_whole_checkpoint_is_refused(change: Callable[[State], State], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        convert(change(checkpoint("resnet", 30)))


def test_a_vit_without_a_block_is_refused() -> None:
    state = {k: v for k, v in checkpoint("vit", 30).items() if ".blocks.4." not in k}
    with pytest.raises(WeightsError, match=r"12 missing: img_encoder_q.model.blocks.4.norm1.weight"):
        convert(state)
