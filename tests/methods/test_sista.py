import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from medbench.errors import UsageError
from medbench.method import Setup
from medbench.model import ImageTextBatch
from medbench.overrides import apply_overrides
from medbench_methods.losses.info_nce import info_nce
from medbench_methods.losses.semantic_alignment import semantic_alignment
from medbench_methods.mgca import SCHEDULE
from medbench_methods.modules.report_encoder import ReportEncoder, similarity_quantile
from medbench_methods.modules.text_encoder import TextConfig, build_text
from medbench_methods.sista import Sista, SistaConfig

REPORTS = [
    ["heart size is normal", "no pleural effusion"],
    ["small left pleural effusion", "left basal atelectasis", "no pneumothorax"],
    ["heart size is normal", "no pleural effusion seen"],
]
MICRO: SistaConfig = Sista.recipes["micro"].config


def build(setup: Setup | None = None, **changes: Any) -> Sista:
    torch.manual_seed(0)
    config = dataclasses.replace(MICRO, **changes)
    return Sista.from_corpus(config, REPORTS * 2, setup or Setup(offline=True))


def batch_for(method: Sista) -> ImageTextBatch:
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return ImageTextBatch(images, method.model.tokenize(REPORTS))


def test_terms_and_their_order() -> None:
    method = build()
    assert list(method.losses(batch_for(method), 0)) == ["sia", "sta"]


@pytest.mark.parametrize("term", ["sia", "sta"])
def test_a_weight_scales_its_term_and_zero_leaves_it_out(term: str) -> None:
    values = []
    for weight in (1.0, 2.5):
        method = build(**{f"{term}_weight": weight}).eval()
        values.append(method.losses(batch_for(method), 0)[term].item())
    assert values[1] == pytest.approx(2.5 * values[0], rel=1e-4)
    without = build(**{f"{term}_weight": 0.0})
    assert list(without.losses(batch_for(without), 0)) == [{"sia": "sta", "sta": "sia"}[term]]
    names = "".join(name for name, _ in without.named_parameters())
    assert ("report_encoder" in names) is (term != "sia")
    assert ("patch_head" in names) is (term != "sta")
    torch.stack(list(without.losses(batch_for(without), 0).values())).sum().backward()  # type: ignore[no-untyped-call]
    # Without the image-report contrast, nothing trains what films and reports as a whole need.
    idle = (
        ("model.image_encoder.body.layer4", "model.image_head", "model.text_head")
        if term == "sia"
        else ("-",)
    )
    for name, parameter in without.named_parameters():
        if parameter.requires_grad:
            assert (parameter.grad is None) is name.startswith(idle), name


def test_reports_are_compared_by_the_encoder_as_it_was_built() -> None:
    method = build(report_quantile=0.7)
    vectors = method.report_vectors(REPORTS * 2)
    assert vectors is not None
    assert method.threshold.item() == pytest.approx(similarity_quantile(vectors, 0.7))
    text = method.model.tokenize(REPORTS)
    with torch.no_grad():
        start = F.normalize(method.model.encode_text(text).pooled, dim=1)  # no step has been taken yet
        torch.testing.assert_close(vectors[:3], start, rtol=1e-4, atol=1e-5)
        for parameter in method.model.text_encoder.parameters():
            parameter.add_(0.1)
    again = method.report_vectors(REPORTS)
    assert again is not None
    torch.testing.assert_close(again, vectors[:3], rtol=1e-4, atol=1e-5)


def test_vectors_of_the_batch_and_of_its_tokens_give_the_same() -> None:
    method = build().eval()
    batch = batch_for(method)
    by_hand = method.losses(batch, 0)
    given = method.losses(dataclasses.replace(batch, report_vectors=method.report_vectors(REPORTS)), 0)
    torch.testing.assert_close(given, by_hand, rtol=1e-5, atol=1e-6)
    alike = torch.eye(1, 64).expand(3, -1)
    other = method.losses(dataclasses.replace(batch, report_vectors=alike), 0)
    assert not torch.allclose(other["sia"], given["sia"])


@pytest.mark.parametrize("false_negatives", ["soft", "mask", "keep"])
def test_sia_is_its_loss_of_the_embeddings(false_negatives: Any) -> None:
    method = build(false_negatives=false_negatives, report_quantile=0.7).eval()
    batch, model = batch_for(method), method.model
    with torch.no_grad():
        image = model.embed_image(model.encode_image(batch.images))
        text = model.embed_text(model.encode_text(batch.text))
        found = method.losses(batch, 0)["sia"]
        if false_negatives == "keep":
            assert method.report_encoder is None
            assert method.report_vectors(REPORTS) is None
            wanted = info_nce(image, text, 0.07)
        else:
            wanted = semantic_alignment(
                image,
                text,
                method.report_vectors(REPORTS),
                threshold=method.threshold,
                false_negatives=false_negatives,
            )
            assert wanted != info_nce(image, text, 0.07)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"false_negatives": "mask"},
        {"false_negatives": "keep"},
        {"sta_mirror": True},
        {"report_threshold": 0.9999},
        {"backbone": "vit_tiny_patch16_224"},
    ],
)
def test_every_option_trains(changes: dict[str, Any]) -> None:
    method = build(**changes)
    losses = method.losses(batch_for(method), 0)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
        else:
            assert name.startswith("report_encoder.")


def test_a_threshold_that_is_given_is_taken() -> None:
    assert build(report_threshold=0.9999).threshold.item() == pytest.approx(0.9999)


def test_the_threshold_goes_by_the_kind_of_embedding(bert: Path) -> None:
    said: list[str] = []
    setup = Setup(offline=True, say=said.append)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medbench_methods.sista.share_alike", lambda *_: 0.25)
        given = {"text_encoder": str(bert), "text_max_tokens": 40, "text_layers": 1, "report_layers": 1}
        for changes, delta, source in (
            ({**given, "report_pooling": "cls"}, 0.98, r"for \[CLS\] of a language model"),
            ({**given, "report_kind": "sentence"}, 0.85, "usual for embeddings of sentences"),
            ({**given, "report_kind": "sentence", "report_threshold": 0.7}, 0.7, "method.report_threshold"),
        ):
            assert build(setup, **changes).threshold.item() == pytest.approx(delta)
            told = rf"sista: 25\.0% of the sampled pairs .* reach delta={delta:.4f} \({source}\)"
            assert re.fullmatch(told, said[-1])
        for changes in ({**given, "report_pooling": "mean"}, {"report_pooling": "cls"}):
            method = build(setup, **changes)
            vectors = method.report_vectors(REPORTS * 2)
            assert vectors is not None
            assert method.threshold.item() == pytest.approx(similarity_quantile(vectors, 0.98))
            assert "(quantile 0.98 of the training reports' pairs)" in said[-1]


def test_a_threshold_that_most_different_reports_reach_is_refused() -> None:
    message = (
        r"100\.0% of the sampled pairs of different training reports reach delta=-1\.0000 \(method.report_threshold\);"
        r" expected at most 50%.*method.report_threshold.*method.report_encoder.*method.report_pooling=mean"
    )
    with pytest.raises(UsageError, match=message):
        build(report_threshold=-1.0)
    build(report_threshold=-1.0, false_negatives="keep")  # compares none


def test_another_encoder_compares_reports_with_its_own_vocabulary(bert: Path) -> None:
    own: dict[str, Any] = {"report_encoder": str(bert), "report_layers": 2, "report_kind": "sentence"}
    method = build(**own, report_threshold=0.99999)
    assert method.report_encoder is not None
    assert method.report_tokenizer is not None
    assert method.report_tokenizer.to_bytes() != method.model.tokenizer.to_bytes()
    assert (method.report_encoder.encoder.width, method.model.text_encoder.width) == (32, 64)
    vectors = method.report_vectors(REPORTS)
    assert vectors is not None
    direct = method.report_encoder(method.report_tokenizer(REPORTS))
    torch.testing.assert_close(vectors, direct, rtol=1e-4, atol=1e-5)
    batch = batch_for(method)
    with pytest.raises(UsageError, match=r"without report_vectors, .* has a vocabulary of its own"):
        method.losses(batch, 0)
    given = dataclasses.replace(batch, report_vectors=vectors)
    method.eval()
    again = Sista.from_assets(method.config, method.assets())
    again.load_state_dict(method.state_dict())
    again.eval()
    torch.testing.assert_close(again.losses(given, 0), method.losses(given, 0), rtol=0, atol=0)
    found = again.report_vectors(REPORTS)
    assert found is not None
    torch.testing.assert_close(found, vectors)
    with pytest.raises(
        UsageError, match=r"method.report_encoder is scratch; expected the folder or hub name"
    ):
        build(report_encoder="scratch")


def test_weights_hold_all_that_the_losses_need() -> None:
    method = build().eval()
    again = Sista.from_assets(method.config, method.assets())
    again.load_state_dict(method.state_dict())
    again.eval()
    batch = batch_for(method)
    torch.testing.assert_close(again.losses(batch, 0), method.losses(batch, 0), rtol=0, atol=0)


def test_what_the_store_holds_changes_nothing(tmp_path: Path) -> None:
    setup = Setup(offline=True, store=tmp_path)
    methods = [build(), build(setup), build(setup)]
    assert len(list(tmp_path.glob("report-vectors-*"))) == 1
    for other in methods[1:]:
        for name, value in methods[0].state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


def test_choices_that_can_not_be_are_refused() -> None:
    recipe = Sista.recipes["micro"]
    with pytest.raises(UsageError, match=r"method\.false_negatives=hard: Input should be"):
        apply_overrides(recipe, {"method.false_negatives": "hard"}, "sista")
    with pytest.raises(UsageError, match=r"report_quantile is 1\.5; expected at least 0 and at most 1"):
        build(report_quantile=1.5)
    with pytest.raises(UsageError, match=r"1 training reports; .* at least 2"):
        Sista.from_corpus(MICRO, REPORTS[:1], Setup(offline=True))


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A folder with a BERT of three layers and its tokenizer, whose vocabulary is of fewer reports."""
    scratch = TextConfig(
        text_encoder="scratch", text_layers=3, text_width=32, text_heads=4, text_vocabulary=120
    )
    torch.manual_seed(1)
    encoder, tokenizer = build_text(scratch, REPORTS[:2] * 2, Setup(offline=True))
    encoder.bert.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.to_bytes())
    words = sorted(tokenizer._tokenizer.get_vocab().items(), key=lambda item: item[1])
    (tmp_path / "vocab.txt").write_text("\n".join(word for word, _ in words) + "\n")
    return tmp_path


def test_a_pretrained_encoder_compares_with_layers_of_its_own(bert: Path) -> None:
    own: dict[str, Any] = {
        "text_encoder": str(bert),
        "text_max_tokens": 40,
        "text_layers": 1,
        "report_pooling": "cls",
        "report_threshold": 1.0,
    }
    method = build(**own, report_layers=3)
    assert isinstance(method.report_encoder, ReportEncoder)
    assert len(method.report_encoder.encoder.bert.encoder.layer) == 3
    assert len(method.model.text_encoder.bert.encoder.layer) == 1
    vectors = method.report_vectors(REPORTS)
    text = method.model.tokenize(REPORTS)
    with torch.no_grad():
        frozen = method.report_encoder.encoder.bert
        hidden = frozen(text.ids, attention_mask=text.mask.long()).last_hidden_state
    torch.testing.assert_close(vectors, F.normalize(hidden[:, 0], dim=1), rtol=1e-4, atol=1e-5)
    again = Sista.from_assets(method.config, method.assets())
    again.load_state_dict(method.state_dict())
    with pytest.raises(UsageError, match=r"method.report_layers=4 layers. .* has 3 layers"):
        build(**own, report_layers=4)


def test_the_defaults_are_mgcas_where_it_has_them() -> None:
    paper = Sista.recipes["paper"]
    config = paper.config
    assert config == SistaConfig()
    assert (config.sia_weight, config.sia_temperature, config.false_negatives) == (1, 0.07, "soft")
    assert (config.sta_weight, config.sta_temperature, config.sta_mirror) == (1, 0.07, False)
    assert (config.report_layers, config.report_pooling, config.report_kind) == (12, "cls", "language")
    assert (config.report_encoder, config.report_threshold, config.report_quantile) == (None, None, 0.98)
    assert (config.embed, config.hidden, config.text_layers, config.text_pooling) == (128, 2048, 6, "cls")
    assert (config.gather, config.text_max_tokens, config.upsample) == (False, 112, 299)
    assert paper.pretrain == SCHEDULE


@pytest.mark.parametrize(
    ("false_negatives", "with_vectors"),
    [
        ("soft", True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("soft", False), ("mask", True), ("mask", False))
        ),
    ],
)
def test_from_token_ids_to_losses_it_is_one_graph(false_negatives: str, with_vectors: bool) -> None:
    method = build(false_negatives=false_negatives, sta_mirror=True)
    vectors = method.report_vectors(REPORTS) if with_vectors else None
    batch = dataclasses.replace(batch_for(method), report_vectors=vectors)
    step = torch.compile(lambda b: method.losses(b, 0), fullgraph=True, backend="eager")
    torch.testing.assert_close(step(batch), method.losses(batch, 0), rtol=1e-3, atol=1e-4)
