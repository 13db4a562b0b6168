"""MGCA's checkpoints (Wang et al., NeurIPS 2022, arXiv 2210.06044) as the whole model of `mgca`, with `compat=true`.

The authors' files hold, by name:

    img_encoder_q.model.*                            torchvision's ResNet, or timm's ViT
    img_encoder_q.{global,local}_embed.head.N.*      N: 0 linear, 1 BN, 3 linear, 4 BN without affine; the local ones
                                                     are convolutions of width 1
    text_encoder_q.model.*                           BERT without token types
    text_encoder_q.{global,local}_embed.head.N.*
    prototype_layer.weight

and parameters that their code makes and does not use (`UNUSED`).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from medbench.errors import WeightsError
from medbench_methods.released.lists import listed
from medbench_methods.released.vocabulary import assets as assets

UNUSED: Mapping[str, str] = {
    r"(patch|word)_local_atten_layer\..*": "learnt cross-attention of the token term, off by default",
    r"text_encoder_q\.model\.encoder\.layer\.\d+\.crossattention\..*": "cross-attention, not used for text alone",
    r"text_encoder_q\.model\.embeddings\.position_ids": "a counter, no weight",
    r"img_encoder_q\.model\.(head|fc)\..*": "classifier of its initialisation",
}
"""Regular expressions of the authors' names that have no place in the model, and why."""

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_HEADS = {
    "img_encoder_q.global_embed": "model.image_head",
    "img_encoder_q.local_embed": "model.patch_head",
    "text_encoder_q.global_embed": "model.text_head",
    "text_encoder_q.local_embed": "model.word_head",
}
_HEAD_PARTS = {
    "0": ("expand", ("weight", "bias")),
    "1": ("expand_norm", _NORM),
    "3": ("reduce", ("weight", "bias")),
    "4": ("reduce_norm", _NORM[2:]),  # without affine
}
_BERT_LAYER = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
_VIT_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")

_IMAGE, _TEXT = "img_encoder_q.model.", "text_encoder_q.model."


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' tensors under the names of `Mgca.state_dict()`.

    Args:
        state: `state_dict` of a Lightning file of theirs.

    Returns:
        What a model with `settings(state)` loads strictly. The token types that their BERT lacks are zeros.

    Raises:
        WeightsError: tensors are missing, or there are some that are neither used nor known to be of no use.
    """
    names = dict(_names(state))
    missing = [name for name in names if name not in state]
    unknown = [name for name in state if name not in names and unused(name) is None]
    if missing or unknown:
        wrong = listed(((missing, "missing"), (unknown, "not known")))
        raise WeightsError(
            f"not the whole of an MGCA checkpoint: of {len(names)} tensors {wrong}. Expected the"
            f" `state_dict` of a file that github.com/HKU-MedAI/MGCA wrote or released; check that it is whole and"
            f" that its names have no prefix before {_IMAGE}"
        )
    ours = {
        # A convolution of width 1 is a linear layer.
        new: state[old].squeeze(2) if "_embed.head." in old and state[old].dim() == 3 else state[old]
        for old, new in names.items()
    }
    words = state[f"{_TEXT}embeddings.word_embeddings.weight"]
    ours["model.text_encoder.bert.embeddings.token_type_embeddings.weight"] = torch.zeros(
        2, words.shape[-1] if words.dim() else 0, dtype=words.dtype
    )
    return ours


def settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a checkpoint says about the config of the model it fits, by field of `MgcaConfig`.

    Raises:
        WeightsError: it lacks the tensors that say so.
    """
    try:
        bank, head = state["prototype_layer.weight"], state["img_encoder_q.global_embed.head.0.weight"]
    except KeyError as error:
        raise WeightsError(
            f"no MGCA checkpoint: {error.args[0]} is missing. Expected the `state_dict` of a file that"
            " github.com/HKU-MedAI/MGCA wrote or released."
        ) from None
    if bank.dim() != 2 or head.dim() != 2:
        raise WeightsError(
            f"no MGCA checkpoint: prototypes of shape {tuple(bank.shape)} and a projection of {tuple(head.shape)},"
            " expected matrices."
        )
    prototypes, embed = bank.shape
    return {
        "compat": True,
        "backbone": "deit_base_patch16_224" if _is_vit(state) else "resnet50.tv2_in1k",
        "text_layers": _count(state, rf"{_TEXT}encoder.layer."),
        "prototypes": prototypes,
        "embed": embed,
        "hidden": len(head),
    }


def unused(name: str) -> str | None:
    """Why the authors' tensor of this name has no place in the model; None where it has one or is not known."""
    return next((why for pattern, why in UNUSED.items() if re.fullmatch(pattern, name)), None)


def _names(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Every tensor that the model needs: the authors' name and ours."""
    for name in _vit(state) if _is_vit(state) else _resnet(state):
        yield f"{_IMAGE}{name}", f"model.image_encoder.body.{name}"
    for name in _bert(state):
        yield f"{_TEXT}{name}", f"model.text_encoder.bert.{name}"
    for theirs, ours in _HEADS.items():
        for number, (part, leaves) in _HEAD_PARTS.items():
            for leaf in leaves:
                yield f"{theirs}.head.{number}.{leaf}", f"{ours}.{part}.{leaf}"
    yield "prototype_layer.weight", "prototypes.weight"


def _is_vit(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith((f"{_IMAGE}patch_embed.", f"{_IMAGE}blocks.")) for name in state)


def _vit(state: Mapping[str, Tensor]) -> Iterator[str]:
    yield from ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")
    for block in range(_count(state, f"{_IMAGE}blocks.")):
        for part in _VIT_BLOCK:
            yield from (f"blocks.{block}.{part}.weight", f"blocks.{block}.{part}.bias")
    yield from ("norm.weight", "norm.bias")


def _resnet(state: Mapping[str, Tensor]) -> Iterator[str]:
    yield "conv1.weight"
    yield from (f"bn1.{leaf}" for leaf in _NORM)
    convolutions = 3 if any(".conv3." in name for name in state) else 2  # bottleneck or basic blocks
    for stage in (1, 2, 3, 4):
        for block in range(_count(state, f"{_IMAGE}layer{stage}.")):
            at = f"layer{stage}.{block}"
            for number in range(1, convolutions + 1):
                yield f"{at}.conv{number}.weight"
                yield from (f"{at}.bn{number}.{leaf}" for leaf in _NORM)
            # The first block changes the width, that of the first stage only where its blocks widen.
            if block == 0 and (stage > 1 or convolutions == 3):
                yield f"{at}.downsample.0.weight"
                yield from (f"{at}.downsample.1.{leaf}" for leaf in _NORM)


def _bert(state: Mapping[str, Tensor]) -> Iterator[str]:
    yield from ("embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight")
    yield from ("embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias")
    for layer in range(_count(state, f"{_TEXT}encoder.layer.")):
        for part in _BERT_LAYER:
            yield from (f"encoder.layer.{layer}.{part}.weight", f"encoder.layer.{layer}.{part}.bias")


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many parts are numbered after `prefix`, at least 1: the highest number counts, so that gaps show."""
    found = (
        re.match(r"[0-9]{1,3}(?=\.)", name.removeprefix(prefix)) for name in state if name.startswith(prefix)
    )
    return max((int(number[0]) + 1 for number in found if number), default=1)
