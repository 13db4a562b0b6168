import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medbench.errors import UsageError
from medbench.method import PretrainConfig, Setup
from medbench.model import ImageTextBatch
from medbench_methods.losses.score_contrast import score_contrast
from medbench_methods.reclf import PairScores, Reclf, ReclfConfig

REPORTS = [
    ["heart size is normal", "no pleural effusion"],
    ["small left pleural effusion", "left basal atelectasis", "no pneumothorax"],
    ["opacity"],
]
MICRO: ReclfConfig = Reclf.recipes["micro"].config
LENGTHS = (6, 4, 1, 0)
"""Of four reports: a full one, a padded one, one word, and none at all."""


def build(**changes: Any) -> Reclf:
    torch.manual_seed(0)
    return Reclf.from_corpus(dataclasses.replace(MICRO, **changes), REPORTS * 2, Setup(offline=True))


def batch_for(method: Reclf) -> ImageTextBatch:
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return ImageTextBatch(images, method.model.tokenize(REPORTS))


def scorer(**changes: Any) -> PairScores:
    """In float64, with small odd widths."""
    torch.manual_seed(0)
    config = dataclasses.replace(MICRO, **({"embed": 5, "matching_width": 3} | changes))
    scores = PairScores(config).double()
    for parameter in scores.parameters():  # biases are not 0 and batch normalisation is not plain
        torch.nn.init.normal_(parameter, mean=0.3)
    return scores


def example(lengths: tuple[int, ...] = LENGTHS) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def units(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, 5, generator=generator, dtype=torch.float64)
        return F.normalize(drawn, dim=-1).requires_grad_()

    n, longest = len(lengths), max(lengths)
    return {
        "regions": units(n, 7),
        "image": units(n),
        "words": units(n, longest),
        "mask": torch.arange(longest)[None] < torch.tensor(lengths)[:, None],
        "report": units(n),
    }


def twin(module: PairScores, inputs: dict[str, Tensor], lengths: tuple[int, ...]) -> dict[str, list[Any]]:
    """Scores pair by pair and matching by matching, written from the equations."""
    n = len(lengths)
    matchings = {}
    for i in range(n):
        for j, length in enumerate(lengths):
            whole = (inputs["image"][i] - inputs["report"][j]) ** 2
            vectors = [module.matchings.whole(whole)]
            regions, words = inputs["regions"][i], inputs["words"][j, :length]
            share = torch.stack([(module.matchings.word_scale * (words @ u)).softmax(0) for u in regions])
            for word in range(length):
                looks = (module.matchings.region_scale * share[:, word]).softmax(0)
                found = sum(look * u for look, u in zip(looks, regions, strict=True))
                vectors.append(module.matchings.local((found / found.norm() - words[word]) ** 2))
            matchings[i, j] = [s / s.norm() for s in vectors]

    assert module.srm is not None
    assert module.irm is not None
    srm = {}
    for pair, vectors in matchings.items():
        nodes = vectors
        for query, key, relate in zip(module.srm.query, module.srm.key, module.srm.relate, strict=True):
            after = []
            for p in nodes:
                edges = torch.stack([(query(p) * key(q)).sum() for q in nodes]).softmax(0)
                after.append(relate(sum(e * q for e, q in zip(edges, nodes, strict=True))).relu())
            nodes = after
        srm[pair] = module.srm.score(nodes[0])[0]

    numbers = torch.stack([module.irm.weigh(s)[0] for vectors in matchings.values() for s in vectors])
    norm, irm = module.irm.norm, {}
    mean, variance = numbers.mean(), numbers.var(correction=0)
    for pair, vectors in matchings.items():
        values = [(module.irm.weigh(s)[0] - mean) / (variance + norm.eps).sqrt() for s in vectors]
        weights = [torch.sigmoid(v * norm.weight[0] + norm.bias[0]) for v in values]
        kept = sum(w / sum(weights) * s for w, s in zip(weights, vectors, strict=True))
        irm[pair] = module.irm.score(kept / kept.norm())[0]
    return {
        name: [[scores[i, j] for j in range(n)] for i in range(n)]
        for name, scores in (("srm", srm), ("irm", irm))
    }


def stack(rows: list[Any]) -> Tensor:
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("lengths", [LENGTHS, (4, 2)])
@pytest.mark.parametrize("steps", [1, 3])
def test_scores_equal_the_loop_in_value_and_gradient(lengths: tuple[int, ...], steps: int) -> None:
    module, inputs = scorer(srm_steps=steps), example(lengths)
    fast, slow = module(**inputs), twin(module, inputs, lengths)
    leaves = [*(v for v in inputs.values() if v.requires_grad), *module.parameters()]
    assert list(fast) == ["srm", "irm"]
    for name, scores in fast.items():
        wanted = stack(slow[name])
        torch.testing.assert_close(scores, wanted, rtol=1e-10, atol=1e-10)
        grads, expected = (
            torch.autograd.grad(
                score_contrast(s, temperature=0.3), leaves, retain_graph=True, allow_unused=True
            )
            for s in (scores, wanted)
        )
        for g, w in zip(grads, expected, strict=True):
            assert (g is None) is (w is None)
            if g is not None:
                torch.testing.assert_close(g, w, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("recompute", [False, True])
def test_neither_chunks_nor_recomputing_change_anything(recompute: bool) -> None:
    found = []
    for chunk, again in ((4, False), (1, recompute), (2, recompute), (3, recompute), (4, recompute)):
        module, inputs = scorer(chunk=chunk, recompute=again), example()
        loss = torch.stack([score_contrast(s, temperature=0.1) for s in module(**inputs).values()]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        assert module.irm is not None
        assert module.irm.norm.num_batches_tracked == 1  # not once more in the backward pass
        grads = {name: value.grad for name, value in inputs.items() if value.requires_grad}
        grads |= {name: value.grad for name, value in module.named_parameters()}
        found.append({"loss": loss.detach(), **grads, **dict(module.named_buffers())})
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-10, atol=1e-12)
    buffers = dict(scorer().named_buffers())
    assert found[0]["irm.norm.running_var"] != buffers["irm.norm.running_var"]


def test_statistics_are_those_of_all_matchings_and_are_used_in_eval() -> None:
    module, inputs = scorer(), example()
    assert module.irm is not None
    nodes = module.matchings(**inputs)
    present = F.pad(inputs["mask"], (1, 0), value=True)
    numbers = module.irm.weigh(nodes)[..., 0][present.expand(4, -1, -1)]
    assert len(numbers) == 4 * (sum(LENGTHS) + 4)
    module(**inputs)
    norm = module.irm.norm
    torch.testing.assert_close(norm.running_mean, 0.1 * numbers.mean()[None])
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * numbers.var()[None])
    module.eval()
    scores = module(**inputs)["irm"]
    assert norm.num_batches_tracked == 1
    one = {name: value[:1] for name, value in inputs.items()}
    torch.testing.assert_close(module(**one)["irm"], scores[:1, :1])  # no longer a matter of the batch


def test_padding_and_order_do_not_matter() -> None:
    module, inputs = scorer(), example()
    scores = module(**inputs)
    mask = inputs["mask"]
    longer = inputs | {
        "words": F.pad(torch.where(mask[:, :, None], inputs["words"], 7.0), (0, 0, 0, 3), value=2.0),
        "mask": F.pad(mask, (0, 3)),
    }
    torch.testing.assert_close(module(**longer), scores)
    order = torch.tensor([2, 0, 3, 1])
    moved = module(**{name: value[order] for name, value in inputs.items()})
    for name, value in moved.items():
        torch.testing.assert_close(value, scores[name][order][:, order])


def test_terms_and_their_order() -> None:
    method = build()
    assert list(method.losses(batch_for(method), 0)) == ["global", "srm", "irm"]


@pytest.mark.parametrize("term", ["global", "srm", "irm"])
def test_a_weight_scales_its_term_and_zero_leaves_it_out(term: str) -> None:
    values = []
    for weight in (1.0, 2.5):
        method = build(**{f"{term}_weight": weight}).eval()
        values.append(method.losses(batch_for(method), 0)[term].item())
    assert values[1] == pytest.approx(2.5 * values[0], rel=1e-4)
    without = build(**{f"{term}_weight": 0.0})
    assert term not in without.losses(batch_for(without), 0)
    parts = {name.split(".")[1] for name, _ in without.named_parameters() if name.startswith("scores.")}
    assert parts == {"matchings", "srm", "irm"} - {term}


def test_without_both_modules_it_is_global_contrast_alone() -> None:
    method = build(srm_weight=0.0, irm_weight=0.0)
    assert list(method.losses(batch_for(method), 0)) == ["global"]
    assert method.scores is None
    assert not any("patch_head" in name for name, _ in method.named_parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"recompute": True, "chunk": 2},
        {"srm_steps": 1},
        {"words": 3},
        {"global_weight": 0.0},
        {"backbone": "vit_tiny_patch16_224"},
    ],
)
def test_every_option_trains(changes: dict[str, Any]) -> None:
    method = build(**changes)
    losses = method.losses(batch_for(method), 0)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_words_behind_the_last_one_are_not_matched() -> None:
    method = build(words=2).eval()
    batch = batch_for(method)
    assert method.scores is not None
    seen: list[torch.Size] = []
    method.scores.register_forward_pre_hook(lambda _, given: seen.append(given[2].shape))
    with torch.no_grad():
        method.losses(batch, 0)
    assert seen == [torch.Size([3, 2, MICRO.embed])]
    assert batch.text.word.max() > 2


@pytest.mark.parametrize("field", ["words", "matching_width", "srm_steps", "chunk"])
def test_numbers_below_one_are_refused(field: str) -> None:
    with pytest.raises(UsageError, match=rf"method\.{field} is 0; expected at least 1"):
        build(**{field: 0})


def test_the_defaults_are_glorias_where_it_has_them() -> None:
    paper = Reclf.recipes["paper"]
    config = paper.config
    assert config == ReclfConfig()
    assert (config.text_layers, config.text_summed_layers, config.text_pooling) == (12, 4, "mean")
    assert (config.embed, config.hidden, config.text_max_tokens, config.words) == (768, 2048, 97, 95)
    assert config.preprocessing.mean == (0.485, 0.456, 0.406)
    assert config.preprocessing.std == (0.229, 0.224, 0.225)
    assert (config.gather, config.upsample) == (False, 299)
    assert (config.word_scale, config.region_scale, config.temperature) == (10, 4, 0.1)
    assert (config.matching_width, config.srm_steps) == (256, 3)
    assert (config.global_weight, config.srm_weight, config.irm_weight) == (1, 1, 1)
    assert paper.pretrain == PretrainConfig(
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


@pytest.mark.parametrize("recompute", [False, True])
def test_from_token_ids_to_losses_it_is_one_graph(recompute: bool) -> None:
    method = build(recompute=recompute, chunk=2)
    batch = batch_for(method)
    step = torch.compile(lambda b: method.losses(b, 0), fullgraph=True, backend="eager")
    found = step(batch)
    torch.testing.assert_close(found, method.losses(batch, 0), rtol=1e-3, atol=1e-4)
    torch.stack(list(found.values())).sum().backward()  # type: ignore[no-untyped-call]
