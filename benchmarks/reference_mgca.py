"""MGCA's training step, plainly, in the order of work of its released code: what `mgca_step.py` measures against.

Own words, from a description of that code, and nothing of it is copied: images in the usual (contiguous) layout, every
report padded to 112 tokens, word-pieces joined token by token, local losses and percentiles sample by sample, Sinkhorn
over 500 prototypes. It repeats what the released code does differently from the paper, too (all tokens at position 0,
padded words as negatives, word attention one token late), and names its tensors as the released checkpoints do.
"""

from collections.abc import Sequence

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertModel

TOKENS = 112
BACKBONES = {"resnet50": "resnet50", "vit": "deit_base_patch16_224"}


class _Embedding(nn.Module):
    """Into the joint space: for pooled vectors (B, C), or as 1x1 convolutions for tokens (B, C, N)."""

    def __init__(self, width: int, *, local: bool) -> None:
        super().__init__()
        layers = (
            [nn.Conv1d(width, 2048, 1), nn.BatchNorm1d(2048), nn.ReLU(), nn.Conv1d(2048, 128, 1)]
            if local
            else [nn.Linear(width, 2048), nn.BatchNorm1d(2048), nn.ReLU(), nn.Linear(2048, 128)]
        )
        self.head = nn.Sequential(*layers, nn.BatchNorm1d(128, affine=False))

    def forward(self, features: Tensor) -> Tensor:
        embedded: Tensor = self.head(features)
        return embedded


class _Encoder(nn.Module):
    """A model and its two heads, under the names of the checkpoints."""

    def __init__(self, model: nn.Module, width: int, local_width: int) -> None:
        super().__init__()
        self.model = model
        self.global_embed = _Embedding(width, local=False)
        self.local_embed = _Embedding(local_width, local=True)

    def embed(self, pooled: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C), (B, N, C) -> (B, E), (B, N, E) unit vectors."""
        tokens = self.local_embed(local.permute(0, 2, 1)).permute(0, 2, 1)
        return F.normalize(self.global_embed(pooled), dim=-1), F.normalize(tokens, dim=-1)


class ReferenceMGCA(nn.Module):
    """The whole step.

    Args:
        backbone: `resnet50` or `vit`.
        vocabulary: word-pieces by id; what begins with ## goes on with the word before it.
    """

    def __init__(self, backbone: str, vocabulary: Sequence[str]) -> None:
        super().__init__()
        self.vit = backbone == "vit"
        self.vocabulary = vocabulary
        if self.vit:
            image = timm.create_model(BACKBONES[backbone], num_classes=0)
            for block in image.blocks:
                block.attn.fused_attn = False  # the attention matrix is kept
            image.blocks[-1].attn.attn_drop.register_forward_hook(self._keep)
            self.img_encoder_q = _Encoder(image, 768, 768)
        else:
            self.img_encoder_q = _Encoder(
                timm.create_model(BACKBONES[backbone], features_only=True), 2048, 1024
            )
        config = BertConfig(vocab_size=len(vocabulary), num_hidden_layers=6, pad_token_id=0)
        config._attn_implementation = "eager"
        bert = BertModel(config, add_pooling_layer=False)
        nn.init.zeros_(bert.embeddings.token_type_embeddings.weight)  # the released code's BERT has none
        bert.embeddings.token_type_embeddings.weight.requires_grad_(False)
        self.text_encoder_q = _Encoder(bert, 768, 768)
        self.prototype_layer = nn.Linear(128, 500, bias=False)
        self._attention = torch.empty(0)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._attention = output.detach()  # (B, heads, 1 + P, 1 + P)

    def encode_image(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 224, 224) -> (B, C) pooled, (B, P, C) local."""
        body = self.img_encoder_q.model
        if self.vit:
            tokens = body.forward_features(images)  # type: ignore[operator]  # timm's, not typed
            return tokens[:, 0], tokens[:, 1:]
        images = F.interpolate(images, size=299, mode="bilinear", align_corners=True)
        maps = body(images)
        return maps[-1].mean((2, 3)), maps[-2].flatten(2).permute(0, 2, 1).contiguous()

    def encode_text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 112) ids and mask -> (B, 112, C) last hidden state, (B, 111) attention of [CLS] to what follows it."""
        found = self.text_encoder_q.model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=torch.zeros_like(ids),
            output_attentions=True,
            output_hidden_states=True,
        )
        return found.hidden_states[-1], found.attentions[-1][:, :, 0, 1:].mean(1).detach()

    def losses(self, images: Tensor, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The three terms, each with weight 1."""
        image, patches = self.encode_image(images)
        hidden, attention = self.encode_text(ids, mask)
        words, seen, counts = token_loop(hidden, attention, ids, self.vocabulary, TOKENS)
        words, seen = words[:, 1:], seen[:, 1:]  # (B, 111, C), (B, 111): without [CLS]
        empty = torch.arange(1, TOKENS) >= counts[:, None]  # (B, 111), True in padding
        v, patches = self.img_encoder_q.embed(image, patches)
        t, words = self.text_encoder_q.embed(hidden[:, 0], words)

        logits = v @ t.T / 0.07
        target = torch.arange(len(logits))
        ita = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)

        cta = logits.new_zeros(())
        for b in range(len(images)):
            weights = self._attention[b, :, 0, 1:].mean(0) if self.vit else None
            cta = cta + local_loss(patches[b], words[b], seen[b], empty[b], weights)

        with torch.no_grad():
            self.prototype_layer.weight.copy_(F.normalize(self.prototype_layer.weight, dim=1))
        score_v, score_t = self.prototype_layer(v), self.prototype_layer(t)  # (B, 500)
        code_v, code_t = sinkhorn(score_v), sinkhorn(score_t)
        cpa = -(code_v * F.log_softmax(score_t / 0.2, 1)).sum(1).mean()
        cpa = cpa - (code_t * F.log_softmax(score_v / 0.2, 1)).sum(1).mean()
        return {"ita": ita, "cta": cta / len(images), "cpa": cpa / 2}


def token_loop(
    hidden: Tensor, attention: Tensor, ids: Tensor, vocabulary: Sequence[str], slots: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Word-pieces to words, token by token: [CLS], the words, [SEP], zeros up to `slots`.

    A report whose [SEP] the loop does not reach, because attention ends before it, loses its last word.

    Args:
        hidden: (B, T, C).
        attention: (B, T) or shorter; a token beyond its end is not looked at.
        ids: (B, T).
        vocabulary: word-pieces by id.
        slots: words that each report is padded to.

    Returns:
        (B, slots, C) sums over the pieces of each word, (B, slots) sums of their attention, (B,) words of each report.
    """
    reports, weights, counts = [], [], []
    for states, row, values in zip(hidden, ids.tolist(), attention, strict=True):
        words: list[Tensor] = []
        sums: list[Tensor] = []
        pieces: list[Tensor] = []
        seen: list[Tensor] = []
        for state, number, value in zip(states, row, values, strict=False):
            piece = vocabulary[number]
            if not piece.startswith("##") and pieces:
                words.append(torch.stack(pieces).sum(0))
                sums.append(torch.stack(seen).sum(0))
                pieces, seen = [], []
            pieces.append(state)
            seen.append(value)
            if piece == "[SEP]":
                words.append(state)
                sums.append(value)
                break
        counts.append(len(words))
        missing = slots - len(words)
        reports.append(torch.cat([torch.stack(words), states.new_zeros(missing, states.shape[1])]))
        weights.append(torch.cat([torch.stack(sums), values.new_zeros(missing)]))
    return torch.stack(reports), torch.stack(weights), torch.tensor(counts)


def local_loss(
    patches: Tensor, words: Tensor, seen: Tensor, empty: Tensor, patch_attention: Tensor | None
) -> Tensor:
    """Word-patch alignment of one pair.

    Args:
        patches: (P, E) unit vectors.
        words: (W, E) unit vectors.
        seen: (W,) attention of the words, 0 in padding.
        empty: (W,) bool, True in padding.
        patch_attention: (P,) of a ViT; None for a CNN, whose patches count alike.
    """
    similar = words @ patches.T / 0.1  # (W, P)
    context = F.normalize(similar.softmax(1) @ patches, dim=-1)  # (W, E)
    loss = two_way(words @ context.T / 0.1, clipped(seen, seen != 0))
    told = similar.T.masked_fill(empty, float("-inf")).softmax(1) @ words  # (P, E)
    if patch_attention is None:
        told = F.normalize(told, dim=-1)
        weights = patches.new_full((len(patches),), 1 / len(patches))
    else:
        weights = clipped(patch_attention, torch.ones_like(patch_attention, dtype=torch.bool))
    return loss + two_way(patches @ told.T / 0.1, weights)


def two_way(logits: Tensor, weights: Tensor) -> Tensor:
    """(N, N), (N,) -> weighted cross entropy to the diagonal, mean of both directions."""
    target = torch.arange(len(logits))
    rows = F.cross_entropy(logits, target, reduction="none")
    columns = F.cross_entropy(logits.T, target, reduction="none")
    return ((rows + columns) * weights).sum() / 2


@torch.no_grad()
def clipped(attention: Tensor, there: Tensor) -> Tensor:
    """(N,) attention, clipped to its own 10th and 90th percentile where `there`, with sum 1."""
    known = attention[there]
    weights = torch.zeros_like(attention)
    weights[there] = known.clamp(known.quantile(0.1), known.quantile(0.9))
    return weights / weights.sum()


@torch.no_grad()
def sinkhorn(scores: Tensor) -> Tensor:
    """(B, K) prototype scores -> (B, K) codes: 3 rounds over prototypes and samples, each spread evenly."""
    q = (scores / 0.05).exp().T  # (K, B)
    q = q / q.sum()
    prototypes, samples = q.shape
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / prototypes
        q = q / q.sum(0, keepdim=True) / samples
    return (q * samples).T
