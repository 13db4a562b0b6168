"""A whole released model is built from a BERT's architecture and vocabulary; its weights are not asked for."""

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import BertConfig

from medbench.errors import UsageError, WeightsError
from medbench_methods.mgca import Mgca
from medbench_methods.released.vocabulary import assets

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "heart", "normal", "##ly"]


def folder(tmp_path: Path, **changes: int) -> Path:
    sizes = {"vocab_size": 8, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 12, **changes}
    BertConfig(**sizes).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    return tmp_path


def config_for(where: Path | str, **changes: int) -> object:
    fields = {
        "text_encoder": str(where),
        "text_layers": 2,
        "text_max_tokens": 10,
        "text_mlm_epochs": 0,
        **changes,
    }
    return dataclasses.replace(Mgca.recipes["micro"].config, **fields)


def test_no_weights_are_needed(tmp_path: Path) -> None:
    config = config_for(folder(tmp_path))
    method = Mgca.from_assets(config, assets(config, offline=True))  # type: ignore[arg-type]
    text = method.model.tokenize([["heart normally", "normal"]])
    assert text.ids.tolist() == [[2, 5, 6, 7, 6, 3]]
    assert len(method.model.text_encoder.bert.encoder.layer) == 2
    with torch.no_grad():
        assert method.model.encode_text(text).pooled.shape == (1, 16)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    where = folder(tmp_path)
    for changes, message in (
        ({"text_layers": 4}, "method.text_layers is 4, but .* has 3"),
        ({"text_max_tokens": 20}, "method.text_max_tokens is 20, but .* has 12"),
    ):
        with pytest.raises(UsageError, match=message):
            assets(config_for(where, **changes), offline=True)
    with pytest.raises(UsageError, match="expected the BERT that the released model has the vocabulary of"):
        assets(config_for("scratch"), offline=True)
    with pytest.raises(WeightsError, match="its weights are not needed"):
        assets(config_for(tmp_path / "nowhere"), offline=True)
    with pytest.raises(WeightsError, match="has 8 word-pieces, but its embedding has 7"):
        assets(config_for(folder(tmp_path, vocab_size=7)), offline=True)
