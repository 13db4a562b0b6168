import dataclasses

import pytest
import torch

from medbench.errors import UsageError
from medbench.method import Setup
from medbench_methods.random import Random

MICRO = Random.recipes["micro"].config


def test_it_has_no_text_half() -> None:
    method = Random.from_corpus(MICRO, [], Setup())
    features = method.model.encode_image(torch.zeros(1, 3, 64, 64))
    for call in (
        lambda: method.model.tokenize([["normal"]]),
        lambda: method.model.embed_image(features),
    ):
        with pytest.raises(NotImplementedError, match="no text half"):
            call()


def test_it_does_not_pretrain() -> None:
    method = Random.from_corpus(MICRO, [], Setup())
    with pytest.raises(NotImplementedError, match="method random does not pretrain"):
        method.losses(None, 0)  # type: ignore[arg-type]


def test_it_is_never_pretrained() -> None:
    with pytest.raises(UsageError, match="random is never pretrained"):
        Random.from_corpus(dataclasses.replace(MICRO, pretrained=True), [], Setup())
    assert not Random.recipes["paper"].config.pretrained
