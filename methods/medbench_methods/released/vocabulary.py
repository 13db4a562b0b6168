"""What of a pretrained BERT a released whole model needs: its architecture and its vocabulary, not its weights."""

from collections.abc import Mapping
from typing import Any

from medbench.errors import UsageError, WeightsError
from medbench_methods.modules.bert import architecture_and_vocabulary
from medbench_methods.modules.text_encoder import SCRATCH


def assets(config: Any, offline: bool) -> Mapping[str, bytes]:
    """The files that `Method.from_assets` builds a text encoder from, where all its weights come from elsewhere.

    Args:
        config: with the fields of `TextConfig`; `text_encoder` names a folder with config.json and vocab.txt (or
            tokenizer.json), or a model of the hub.
        offline: ask no hub.

    Raises:
        UsageError: the config asks for more layers or tokens than the released model's BERT has, or for a vocabulary
            learnt here, which no released weights fit.
        WeightsError: architecture or vocabulary are not there, or do not belong together.
    """
    name = config.text_encoder
    if name == SCRATCH:
        raise UsageError(
            f"method.text_encoder is {SCRATCH!r}, expected the BERT that the released model has the vocabulary of: a"
            f" folder with its config.json and vocab.txt, or its name on the hub."
        )
    try:
        bert, tokenizer = architecture_and_vocabulary(config, offline)
    except OSError as error:  # what transformers raises for a missing folder, file, repository or connection
        looked = (
            "in the local Hugging Face cache (offline)" if offline else "in the local cache and on the hub"
        )
        raise WeightsError(
            f"vocabulary of {name!r}: looked for as a folder and {looked}; not found. Give a folder with its"
            f" config.json and vocab.txt with --set method.text_encoder=FOLDER; its weights are not needed."
        ) from error
    return {
        "text_encoder.json": str(bert.to_json_string()).encode(),
        "tokenizer.json": tokenizer.to_bytes(),
    }
