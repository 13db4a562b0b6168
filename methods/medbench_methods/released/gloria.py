"""GLoRIA's checkpoints (Huang et al., ICCV 2021, which is not on arXiv) as the whole model of `gloria`.

The authors' Lightning files hold, by name:

    gloria.img_encoder.model.*                 torchvision's ResNet, without its classifier
    gloria.img_encoder.global_embedder.*       linear, pooled features to the width of BERT
    gloria.img_encoder.local_embedder.weight   the same for the cells of layer3, as a convolution of width 1
    gloria.text_encoder.model.*                BERT of transformers

and what no loss or score of theirs reads (`UNUSED`).
"""

import re
from collections.abc import Mapping

from torch import Tensor

from medbench.errors import WeightsError
from medbench_methods.released.lists import listed
from medbench_methods.released.vocabulary import assets as assets

UNUSED: Mapping[str, str] = {
    r"text_encoder\.model\.embeddings\.position_ids": "a counter, no weight",
    r"text_encoder\.model\.pooler\..*": "a layer after [CLS], whose output is not asked for",
}
"""Regular expressions of the authors' names, behind `gloria.`, that have no place in the model, and why."""

_PLACES = {
    r"img_encoder\.model\.(?=(conv1|bn1|layer[1-4])\.)": "model.image_encoder.body.",
    r"img_encoder\.global_embedder\.(?=(weight|bias)$)": "model.image_head.",
    r"img_encoder\.local_embedder\.(?=weight$)": "model.patch_head.",
    r"text_encoder\.model\.(?=(embeddings|encoder)\.)": "model.text_encoder.bert.",
}
"""What stands before the authors' names, behind `gloria.`, and what before ours; the rest of a name is the same."""


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' tensors under the names of `Gloria.state_dict()`.

    Whether every tensor of the model is there shows when they are loaded, since the depth of the model is its config's.

    Args:
        state: `state_dict` of a Lightning file of theirs; `gloria.` before its names may be missing.

    Raises:
        WeightsError: a part of the model is missing, or there are tensors that are neither used nor known to be of no
            use (those of a DenseNet, say).
    """
    ours: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in state.items():
        new = _renamed(name)
        if new is not None:
            # A convolution of width 1 is a linear layer: (E, C, 1, 1) -> (E, C).
            ours[new] = (
                tensor.flatten(1) if new == "model.patch_head.weight" and tensor.dim() == 4 else tensor
            )
        elif unused(name) is None:
            unknown.append(name)
    lacking = [part for part in _PLACES.values() if not any(name.startswith(part) for name in ours)]
    if unknown or lacking:
        wrong = listed(((unknown, "tensors not known"), (lacking, "parts without a tensor")))
        raise WeightsError(
            f"not a GLoRIA checkpoint with a ResNet: {wrong}. Expected the `state_dict` of a file that"
            " github.com/marshuang80/gloria wrote or released; check that it is whole and that its names begin with"
            " gloria.img_encoder and gloria.text_encoder."
        )
    return ours


def unused(name: str) -> str | None:
    """Why the authors' tensor of this name has no place in the model; None where it has one or is not known."""
    behind = name.removeprefix("gloria.")
    return next((why for pattern, why in UNUSED.items() if re.fullmatch(pattern, behind)), None)


def _renamed(name: str) -> str | None:
    behind = name.removeprefix("gloria.")
    if unused(name) is not None:
        return None
    for before, ours in _PLACES.items():
        found = re.match(before, behind)
        if found:
            return ours + behind[found.end() :]
    return None
