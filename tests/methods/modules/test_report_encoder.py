import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from medbench.errors import WeightsError
from medbench.method import Setup
from medbench_methods.modules.report_encoder import (
    ReportEncoder,
    share_alike,
    similarity_quantile,
)
from medbench_methods.modules.text_encoder import TextConfig, build_text
from medbench_methods.modules.tokenizer import ReportTokenizer

REPORTS = [
    ["heart size is normal", "no pleural effusion"],
    ["small left pleural effusion", "left basal atelectasis", "no pneumothorax"],
    ["opacity"],
    [],
] * 20
CONFIG = TextConfig(
    text_encoder="scratch",
    text_layers=1,
    text_width=32,
    text_heads=4,
    text_vocabulary=200,
    text_max_tokens=40,
    text_pooling="mean",
    text_dropout=0.5,
)


def built(seed: int = 0) -> tuple[ReportEncoder, ReportTokenizer]:
    torch.manual_seed(seed)
    encoder, tokenizer = build_text(CONFIG, REPORTS, Setup(offline=True))
    return ReportEncoder(encoder), tokenizer


def test_vectors_are_unit_means_of_tokens_and_never_train() -> None:
    encoder, tokenizer = built()
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    text = tokenizer(REPORTS[:4])
    with torch.no_grad():
        hidden = encoder.encoder.bert(text.ids, attention_mask=text.mask.long()).last_hidden_state
    wanted = torch.stack([row[present].mean(0) for row, present in zip(hidden, text.mask, strict=True)])
    torch.testing.assert_close(encoder(text), F.normalize(wanted, dim=1), rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(encoder(text), encoder(text.to(torch.device("cpu"))), rtol=0, atol=0)
        assert encoder(text).dtype == torch.float32


def test_the_corpus_is_encoded_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, tokenizer = built()
    setup = Setup(store=tmp_path / "text")
    first = encoder.of_corpus(REPORTS, tokenizer, setup)
    assert first.shape == (80, 32)
    torch.testing.assert_close(first, encoder(tokenizer(REPORTS)), rtol=1e-4, atol=1e-5)
    with monkeypatch.context() as patch:
        patch.setattr(ReportEncoder, "_encode", None)  # asked again, it would raise
        assert torch.equal(encoder.of_corpus(REPORTS, tokenizer, setup), first)
    encoder.of_corpus(REPORTS[:8], tokenizer, setup)  # other reports
    built(1)[0].of_corpus(REPORTS, tokenizer, setup)  # other weights
    assert len(list((tmp_path / "text").iterdir())) == 3
    torch.manual_seed(5)
    before = torch.get_rng_state()
    unkept = encoder.of_corpus(REPORTS, tokenizer, dataclasses.replace(setup, store=None))
    assert torch.equal(unkept, first)
    assert torch.equal(torch.get_rng_state(), before)  # so what comes after does not depend on the store


def test_damaged_vectors_are_named(tmp_path: Path) -> None:
    encoder, tokenizer = built()
    setup = Setup(store=tmp_path)
    encoder.of_corpus(REPORTS, tokenizer, setup)
    (file,) = tmp_path.iterdir()
    save_file({"vectors": torch.zeros(3, 32)}, file)
    with pytest.raises(WeightsError, match=r"shape \(3, 32\); expected \(80, 32\). Delete it"):
        encoder.of_corpus(REPORTS, tokenizer, setup)
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(WeightsError, match="not a safetensors file"):
        encoder.of_corpus(REPORTS, tokenizer, setup)


@pytest.mark.parametrize(("n", "compared"), [(2, 2), (31, 31), (2_500, 2_000)])
def test_quantile_of_pair_similarities(n: int, compared: int) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(n, 6, generator=generator) + 0.5, dim=1)
    rows = np.unique(np.linspace(0, n - 1, compared).round().astype(int))
    cosines = (vectors[rows] @ vectors[rows].T).numpy()[np.triu_indices(len(rows), 1)]
    for quantile in (0.0, 0.5, 0.98):
        assert similarity_quantile(vectors, quantile) == pytest.approx(
            np.quantile(cosines, quantile), abs=1e-5
        )


def test_equal_reports_always_reach_the_quantile() -> None:
    same = F.normalize(torch.rand(1, 700), dim=1).expand(50, -1)
    assert similarity_quantile(same, 1.0) < float((same @ same.T).min())


@pytest.mark.parametrize("n", [2, 31])
def test_share_of_the_pairs_of_different_reports(n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(n, 6, generator=generator), dim=1)
    reports = [["opacity"], *([f"finding {i % 7}"] for i in range(n - 1))]
    pairs = [(i, j) for i in range(n) for j in range(i) if reports[i] != reports[j]]
    for threshold in (-1.0, 0.2, 1.0):
        reached = sum(float(vectors[i] @ vectors[j]) >= threshold for i, j in pairs)
        assert share_alike(vectors, reports, threshold) == pytest.approx(reached / len(pairs))


def test_share_where_no_two_reports_differ() -> None:
    assert share_alike(torch.ones(3, 1), [["normal"]] * 3, 0.5) == 0
    assert share_alike(torch.empty(0, 4), [], 0.5) == 0
