import dataclasses
import json
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.resnet import BasicBlock, ResNet
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertModel

from medbench.errors import UsageError, WeightsError
from medbench.method import PretrainConfig, Setup
from medbench.model import ImageTextBatch, TextBatch
from medbench_methods.gloria import Gloria, GloriaConfig
from medbench_methods.released.gloria import convert, unused

REPORTS = [
    ["heart size is normal"],
    ["small left pleural effusion with ∂ atelectasis"],
    ["no pneumothorax"],
    ["mild ∂ ß cardiomegaly and lines in place"],
    ["opacity"],
]
"""One sentence each; some with words that no vocabulary has."""

LONG = [
    ["heart size is normal", "no pleural effusion", "lines are in place", "no pneumothorax"],
    ["opacity"],
    [],
]
MICRO: GloriaConfig = Gloria.recipes["micro"].config
RELEASED = dataclasses.replace(
    MICRO,
    layers=(1, 1, 1, 1),
    channels=None,
    upsample=75,
    text_layers=5,
    text_summed_layers=4,
    text_width=32,
    text_vocabulary=80,  # small, so that words fall into pieces
    text_max_tokens=24,  # so that one report is cut
)


def build(config: GloriaConfig = MICRO, seed: int = 0, **changes: Any) -> Gloria:
    torch.manual_seed(seed)
    known = [[s.encode("ascii", "ignore").decode() for s in report] for report in REPORTS + LONG if report]
    return Gloria.from_corpus(dataclasses.replace(config, **changes), known * 3, Setup(offline=True))


def batch_for(method: Gloria, reports: list[list[str]]) -> ImageTextBatch:
    images = torch.randn(len(reports), 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return ImageTextBatch(images, method.model.tokenize(reports))


class Twin(torch.nn.Module):
    """The released model in its own order of work and under its own names, from torchvision and transformers.

    Written from the description of it: texts padded to the most tokens, word-pieces put together one by one, the mean
    over all slots, contexts formed.
    """

    def __init__(self, method: Gloria) -> None:
        super().__init__()
        config = method.config
        self.most, self.upsample, self.summed = (
            config.text_max_tokens,
            config.upsample,
            config.text_summed_layers,
        )
        vocabulary = json.loads(method.model.tokenizer.to_bytes())["model"]["vocab"]
        self.words = {number: token for token, number in vocabulary.items()}
        self.img_encoder = torch.nn.Module()
        self.img_encoder.model = ResNet(BasicBlock, [1, 1, 1, 1])
        self.img_encoder.model.fc = torch.nn.Identity()
        self.img_encoder.global_embedder = torch.nn.Linear(512, config.text_width)
        self.img_encoder.local_embedder = torch.nn.Conv2d(256, config.text_width, 1, bias=False)
        self.text_encoder = torch.nn.Module()
        self.text_encoder.model = BertModel(
            BertConfig.from_dict(method.model.text_encoder.bert.config.to_dict())
        )

    def checkpoint(self) -> dict[str, Tensor]:
        """As a Lightning file of theirs has it, from an old version of transformers."""
        state = {f"gloria.{name}": value.clone() for name, value in self.state_dict().items()}
        ids = torch.arange(self.most)[None]
        return state | {"gloria.text_encoder.model.embeddings.position_ids": ids}

    def images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, E) global and (B, E, H, W) local embeddings."""
        net = self.img_encoder.model
        x = F.interpolate(images, size=self.upsample, mode="bilinear", align_corners=True)
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        middle = net.layer3(net.layer2(net.layer1(x)))
        pooled = F.adaptive_avg_pool2d(net.layer4(middle), 1).flatten(1)
        return self.img_encoder.global_embedder(pooled), self.img_encoder.local_embedder(middle)

    def texts(self, text: TextBatch) -> tuple[Tensor, Tensor, list[list[str]]]:
        """(B, E) global and (B, most, E) local embeddings, and the words of each text."""
        n = min(text.ids.shape[1], self.most)
        ids = F.pad(text.ids[:, :n], (0, self.most - n))
        mask = F.pad(text.mask[:, :n], (0, self.most - n))
        states = self.text_encoder.model(ids, mask.long(), output_hidden_states=True).hidden_states
        layers = torch.stack(states[-self.summed :], 1)  # (B, layers, T, E)
        put_together, names = [], []
        for vectors, row in zip(layers.transpose(1, 2), ids.tolist(), strict=True):
            whole: list[Tensor] = []
            said: list[str] = []
            for vector, token in zip(vectors, (self.words[number] for number in row), strict=True):
                if token.startswith("##"):
                    whole[-1] = whole[-1] + vector
                    said[-1] += token[2:]
                else:
                    whole.append(vector)
                    said.append(token)
                if token == "[SEP]":
                    break
            slots = self.most - len(whole)
            put_together.append(torch.cat([torch.stack(whole), vectors.new_zeros(slots, *vectors.shape[1:])]))
            names.append(said + ["[PAD]"] * slots)
        slotted = torch.stack(put_together)  # (B, most, layers, E)
        return slotted.mean(1).sum(1), slotted.sum(2), names

    def losses(self, batch: ImageTextBatch, unknown_are_words: bool) -> dict[str, Tensor]:
        image, regions = self.images(batch.images)
        text, words, names = self.texts(batch.text)
        columns = []
        for i, said in enumerate(names):
            count = 1 + sum(not w.startswith("[") or (unknown_are_words and w == "[UNK]") for w in said)
            query = words[i, :count]  # (T, E)
            spread = regions.flatten(2)  # (B, E, P)
            shares = torch.einsum("te,bep->bpt", query, spread).softmax(2)
            attention = (4 * shares).softmax(1)
            context = torch.einsum("bep,bpt->bte", spread, attention)
            columns.append((5 * F.cosine_similarity(query[None], context, dim=2)).exp().sum(1).log())
        own = torch.arange(len(names))

        def both(scores: Tensor) -> Tensor:
            return F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)

        cosine = F.cosine_similarity(image[:, None], text[None], dim=2)
        return {"local": both(10 * torch.stack(columns, 1)), "global": both(10 * cosine)}


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_released_checkpoint_gives_the_released_embeddings_and_losses(mode: str, compat: bool) -> None:
    method = build(RELEASED, compat=compat, full_report=True)
    torch.manual_seed(7)
    twin = Twin(method)
    for module in twin.modules():  # statistics as of a trained net
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    method.load_state_dict(convert(twin.checkpoint()))
    method.train(mode == "train")
    twin.train(mode == "train")
    model, batch = method.model, batch_for(method, REPORTS)
    assert batch.text.ids.shape[1] > RELEASED.text_max_tokens
    assert (batch.text.ids == model.tokenizer.unknown).sum() == 3

    cut = model.shorten(batch.text)
    image, regions = twin.images(batch.images)
    text, words, _ = twin.texts(cut)
    found, spoken = model.encode_image(batch.images), model.encode_text(batch.text)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(model.embed_image(found), F.normalize(image, dim=1), **close)
    torch.testing.assert_close(
        model.embed_patches(found), regions.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(model.embed_text(spoken), F.normalize(text, dim=1), **close)
    local, mask = model.embed_words(spoken)
    for i in range(len(REPORTS)):
        n = int(mask[i].sum())
        torch.testing.assert_close(local[i, :n], words[i, :n], rtol=1e-4, atol=1e-4)

    ours = method.losses(batch, 0)
    theirs = twin.losses(ImageTextBatch(batch.images, cut), unknown_are_words=not compat)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)
    torch.stack(list(ours.values())).sum().backward()  # type: ignore[no-untyped-call]
    torch.stack(list(theirs.values())).sum().backward()  # type: ignore[no-untyped-call]
    gradients = convert({f"gloria.{n}": p.grad for n, p in twin.named_parameters() if p.grad is not None})
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None
        if name.endswith("key.bias"):  # shifts all scores of a softmax alike: nothing but rounding
            continue
        scale = gradients[name].abs().max()
        torch.testing.assert_close(parameter.grad / scale, gradients[name] / scale, rtol=1e-3, atol=1e-3)


def test_compat_takes_a_word_for_each_unknown_one() -> None:
    values = []
    for compat in (False, True):
        method = build(compat=compat, full_report=True).eval()
        with torch.no_grad():
            values.append(method.losses(batch_for(method, REPORTS), 0))
    assert values[0]["global"] == values[1]["global"]
    assert values[0]["local"] != values[1]["local"]


def test_every_tensor_of_a_checkpoint_is_accounted_for() -> None:
    method = build(RELEASED)
    state = Twin(method).checkpoint()
    converted = convert(state)
    assert set(converted) == set(method.state_dict())
    left = [name for name in state if unused(name)]
    assert len(converted) + len(left) == len(state)
    assert sorted(left) == [
        "gloria.text_encoder.model.embeddings.position_ids",
        "gloria.text_encoder.model.pooler.dense.bias",
        "gloria.text_encoder.model.pooler.dense.weight",
    ]
    bare = {name.removeprefix("gloria."): value for name, value in state.items()}
    assert set(convert(bare)) == set(converted)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("gloria.", "model.", r"tensors not known: model\..* and more; 4 parts without a tensor"),
        ("model.conv1.", "model.features.", r"1 tensors not known: gloria.img_encoder.model.features.weight"),
        ("img_encoder.local_", "text_encoder.model.pooler.", "1 parts without a tensor: model.patch_head"),
    ],
)
def test_other_files_are_refused_by_name(old: str, new: str, message: str) -> None:
    state = {name.replace(old, new): value for name, value in Twin(build(RELEASED)).checkpoint().items()}
    with pytest.raises(WeightsError, match=message):
        convert(state)


def test_a_sentence_is_drawn_anew_by_the_seed_of_the_step() -> None:
    method = build().eval()
    batch = batch_for(method, LONG)
    values = []
    for seed in (0, 0, 1, 2, 3):
        torch.manual_seed(seed)
        with torch.no_grad():
            values.append(method.losses(batch, 0)["global"].item())
    assert values[0] == values[1]
    assert len({round(value, 5) for value in values}) > 1
    whole = build(full_report=True).eval()
    with torch.no_grad():
        everything = [whole.losses(batch, 0)["global"].item() for _ in range(3)]
    assert len(set(everything)) == 1


def test_one_sentence_is_the_loss_of_that_sentence_alone() -> None:
    method, spoken = build().eval(), [report[:1] for report in LONG]
    whole = build(full_report=True).eval()
    torch.manual_seed(3)
    drawn = int(torch.rand(len(LONG))[0] * len(LONG[0]))
    spoken[0] = [LONG[0][drawn]]
    torch.manual_seed(3)
    with torch.no_grad():
        found = method.losses(batch_for(method, LONG), 0)
        wanted = whole.losses(batch_for(whole, spoken), 0)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_a_step_is_one_graph() -> None:
    """No host looks at the device between the token ids and the losses."""
    method = build(compat=True)
    batch = batch_for(method, LONG)

    def step(images: Tensor, text: TextBatch) -> Tensor:
        return torch.stack(list(method.losses(ImageTextBatch(images, text), 0).values())).sum()

    torch.manual_seed(0)
    plain = step(batch.images, batch.text)
    torch.manual_seed(0)
    traced = torch.compile(step, fullgraph=True, backend="eager")(batch.images, batch.text)
    torch.testing.assert_close(traced, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("term", ["local", "global"])
def test_a_weight_scales_its_term_and_zero_leaves_it_out(term: str) -> None:
    values = []
    for weight in (1.0, 2.5):
        method = build(**{f"{term}_weight": weight}).eval()
        torch.manual_seed(3)
        values.append(method.losses(batch_for(method, LONG), 0)[term].item())
    assert values[1] == pytest.approx(2.5 * values[0], rel=1e-4)
    without = build(**{f"{term}_weight": 0.0})
    assert list(without.losses(batch_for(without, LONG), 0)) == [t for t in ("local", "global") if t != term]


def test_reports_that_look_alike_give_twice_the_log_of_the_batch() -> None:
    method = build().eval()
    batch = batch_for(method, [["opacity"]] * 4)
    same = ImageTextBatch(batch.images[:1].expand(4, -1, -1, -1), batch.text)
    for value in method.losses(same, 0).values():
        assert value.item() == pytest.approx(2 * math.log(4), rel=1e-4)


def test_whole_reports_are_encoded_up_to_the_most_tokens() -> None:
    method = build(text_max_tokens=8).eval()
    long, short = (method.model.tokenize([report]) for report in (LONG[0], LONG[0][:1]))
    assert long.ids.shape[1] > 8
    with torch.no_grad():
        features = method.model.encode_text(long)
        assert features.local.shape[1] == 6
        assert method.model.encode_text(short).local.shape[1] <= 6
    with pytest.raises(UsageError, match=r"report_max_tokens is 96; .*text_max_tokens \(120\)"):
        build(text_max_tokens=120)


def test_the_defaults_are_those_of_the_released_code() -> None:
    paper = Gloria.recipes["paper"]
    config, pretrain = paper.config, paper.pretrain
    assert config == GloriaConfig()
    assert config.backbone == "resnet50.tv_in1k"
    assert (config.upsample, config.text_layers, config.text_summed_layers) == (299, 12, 4)
    assert (config.attention_scale, config.matching_scale, config.contrast_scale) == (4, 5, 10)
    assert (config.text_max_tokens, config.full_report, config.compat) == (97, False, False)
    assert pretrain == PretrainConfig(
        epochs=50,
        batch_size=48,
        accumulate=1,
        lr=5e-5,
        final_lr=0.0,
        warmup=0.0,
        schedule="plateau",
        plateau_factor=0.5,
        plateau_patience=5,
        betas=(0.5, 0.999),
        weight_decay=1e-6,
        clip_gradient=0.25,
        patience=10,
    )
