"""BERTs, small and new or pretrained. Imported where one is built: transformers takes seconds."""

import json
from typing import Any

from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertModel
from transformers.models.bert.tokenization_bert import BertTokenizer

from medbench.errors import UsageError, WeightsError
from medbench_methods.modules.attention import ATTENTION, attend
from medbench_methods.modules.load_reports import without_load_report
from medbench_methods.modules.text_encoder import TextConfig
from medbench_methods.modules.tokenizer import SPECIAL, ReportTokenizer

AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)  # BertModel makes boolean masks for it


def small_bert(config: TextConfig, vocabulary: int) -> BertModel:
    """One of the config's own width and depth, initialised from torch's default generator."""
    return _bert(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=config.text_heads,
            intermediate_size=4 * config.text_width,
            max_position_embeddings=config.text_max_tokens,
            initializer_range=config.text_init,
            hidden_dropout_prob=config.text_dropout,
            attention_probs_dropout_prob=config.text_dropout,
            pad_token_id=0,
        )
    )


def bert_of(architecture: bytes) -> BertModel:
    """One of this architecture, the JSON of transformers, for weights that are loaded afterwards."""
    return _bert(BertConfig.from_dict(json.loads(architecture)))


def _bert(architecture: BertConfig) -> BertModel:
    architecture._attn_implementation = ATTENTION
    return BertModel(architecture, add_pooling_layer=False)


def architecture_and_vocabulary(config: TextConfig, offline: bool) -> tuple[BertConfig, ReportTokenizer]:
    """Of a pretrained BERT, with the layers and the dropout that the config asks for; its weights are not needed.

    Raises:
        OSError: what transformers raises for a missing folder, file, repository or connection.
        UsageError: the config asks for more layers or tokens than it has.
        WeightsError: architecture and vocabulary do not belong together.
    """
    name = config.text_encoder
    bert = BertConfig.from_pretrained(name, local_files_only=offline)
    _check_fits(config, bert)
    bert.num_hidden_layers = config.text_layers
    bert.hidden_dropout_prob = bert.attention_probs_dropout_prob = config.text_dropout
    vocabulary = BertTokenizer.from_pretrained(name, local_files_only=offline)
    tokenizer = ReportTokenizer.from_bytes(
        vocabulary.backend_tokenizer.to_str().encode(), config.text_max_tokens
    )
    if (
        not len(SPECIAL) < len(tokenizer) <= bert.vocab_size
    ):  # transformers makes up an empty one if none is there
        raise WeightsError(
            f"text encoder {name!r}: its tokenizer has {len(tokenizer)} word-pieces, but its embedding has "
            f"{bert.vocab_size}. Expected the vocabulary that it was trained with; put its vocab.txt or "
            "tokenizer.json into the folder."
        )
    return bert, tokenizer


def pretrained_bert(config: TextConfig, offline: bool) -> tuple[BertModel, ReportTokenizer]:
    """A pretrained BERT, in float32, and its tokenizer.

    Args:
        config: names it, and says how many layers are kept.
        offline: look in the local cache only.

    Raises:
        UsageError: the config asks for more layers or tokens than it has.
        WeightsError: it is in neither place, or its weights do not cover the model.
    """
    name = config.text_encoder
    try:
        bert, tokenizer = architecture_and_vocabulary(config, offline)
        with without_load_report("transformers.modeling_utils"):  # layers and heads
            loading: Any = BertModel.from_pretrained(
                name,
                config=bert,
                add_pooling_layer=False,
                attn_implementation=ATTENTION,
                local_files_only=offline,
                output_loading_info=True,
            )
    except OSError as error:  # what transformers raises for a missing folder, file, repository or connection
        looked = "as a folder and in the local Hugging Face cache" + (
            " (offline)" if offline else ", then on the hub"
        )
        raise WeightsError(
            f"text encoder {name!r}: looked {looked}; not found. Give the folder of a BERT "
            "(config.json, vocab.txt or tokenizer.json, model.safetensors or pytorch_model.bin) with "
            f"--set method.text_encoder=FOLDER; or run `hf download {name}` on a machine that reaches the hub, copy "
            "its cache folder here and point HF_HOME to it."
        ) from error
    model, loaded = loading
    absent = [*loaded["missing_keys"], *loaded["mismatched_keys"]]
    if absent:  # transformers would go on with random values in their place
        raise WeightsError(
            f"text encoder {name!r}: its weight file lacks {len(absent)} of the model's tensors, or holds them "
            f"in another shape (first: {absent[0]}). Expected the weights of a BERT with {config.text_layers} "
            "layers or more; check the folder or give another one with --set method.text_encoder=FOLDER."
        )
    return model.float(), tokenizer


def _check_fits(config: TextConfig, bert: BertConfig) -> None:
    for name, asked, has, what in (
        ("text_layers", config.text_layers, bert.num_hidden_layers, "layers"),
        ("text_max_tokens", config.text_max_tokens, bert.max_position_embeddings, "positions"),
    ):
        if asked > has:
            raise UsageError(
                f"method.{name} is {asked}, but text encoder {config.text_encoder!r} has {has} {what}. "
                f"Set method.{name}={has} or lower."
            )
