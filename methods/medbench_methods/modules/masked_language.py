"""Masked-word pretraining of a text encoder on the reports of a corpus, where no pretrained one is at hand.

BERT's recipe (arXiv 1810.04805, section 3.1) on whole words: a share of the words is hidden, all word-pieces of
each, and told from the rest. The head that tells them is thrown away; its output matrix is the embedding of the
word-pieces.

What is learnt depends on the reports, the architecture and the seed, and on no method, so it is kept in a folder and
found again:

    <store>/<key>/encoder.safetensors   the tensors of the BERT
    <store>/<key>/tokenizer.json
    <store>/<key>/about.json            what it was made of and what came of it, with the SHA-256 of the other two
    <store>/<key>.lock                  held by the process that makes or reads it
"""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from medbench.files import replacing, sha256_file, write_atomic
from medbench.method import Setup
from medbench.model import TextBatch
from medbench.seeding import derive_seed
from medbench_methods.losses.masked_words import masked_words
from medbench_methods.modules.tokenizer import SPECIAL, ReportTokenizer

if TYPE_CHECKING:
    from transformers.models.bert.modeling_bert import BertModel

FORMAT: Final = 1
"""Part of the key: raised when the same inputs would give another encoder or another folder, and with it `ENGINE` in
`medbench.weights`, as every method that starts from it changes too."""

TENSORS: Final = "encoder.safetensors"
TOKENIZER: Final = "tokenizer.json"
ABOUT: Final = "about.json"

WARMUP: Final = 0.1
"""Share of the steps with a rising learning rate; then half a cosine down to 0. BERT warms up for 1 % of its million
steps; a run of some hundred needs more."""

WEIGHT_DECAY: Final = 0.01
"""Of AdamW, on every parameter (BERT's value)."""

SHOWN_AS_MASK: Final = 0.8
"""Of the hidden words, the share that [MASK] stands for (BERT). The rest is shown as other word-pieces or as it is,
since no report holds a [MASK] when features are asked for."""

SHOWN_AS_OTHER: Final = 0.1
"""Of the hidden words, the share that random word-pieces stand for (BERT)."""

MEASURED: Final = 128
"""Reports, evenly spaced, that the accuracy before and after is measured on; always the same words are hidden."""

TIMED: Final = "masked_words_seconds"
"""Name in `Setup.times`."""

BUCKET: Final = 8
"""Reports whose lengths differ by fewer tokens than this may share a batch."""


@dataclass(frozen=True, kw_only=True)
class MaskedWordTraining:
    """How the words are learnt.

    Attributes:
        epochs: passes over the reports.
        share: of the words that are hidden, 0 to 1.
        lr: peak learning rate.
        batch_size: reports a step.
    """

    epochs: int
    share: float
    lr: float
    batch_size: int


class MaskedWordHead(nn.Module):
    """BERT's head: a layer with normalisation, then the word-piece embedding as output matrix, and a bias."""

    def __init__(self, width: int, vocabulary: int) -> None:
        """Width of the encoder and size of its vocabulary."""
        super().__init__()
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """(..., D) last hidden states and (V, D) the embedding of the word-pieces -> (..., V) logits."""
        return F.linear(self.norm(F.gelu(self.dense(hidden))), embedding, self.bias)


def encode(bert: "BertModel", ids: Tensor, mask: Tensor, added: Tensor | None = None) -> Tensor:
    """Last hidden states of a BERT.

    Args:
        bert: a BertModel.
        ids: (B, T) int64.
        mask: (B, T) bool, True where there is a token.
        added: (B, D) added to the embedding of every token; None for nothing.

    Returns:
        (B, T, D).
    """
    hidden: Tensor = bert.embeddings(ids)
    if added is not None:
        hidden = hidden + added[:, None]
    for layer in bert.encoder.layer:
        hidden = layer(hidden, mask[:, None, None, :])
    return hidden


def pick_words(word: Tensor, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Hide each word with probability `share`, with all its word-pieces.

    Args:
        word: (B, T) int64, index of the word that a word-piece belongs to, -1 for none.
        share: 0 to 1.
        generator: on the device of `word`; None for torch's default one.

    Returns:
        (B, T) bool, True where a word-piece is hidden.
    """
    # A number a word, of which T suffice; words come first, so that more padding does not change the others' numbers.
    drawn = torch.rand(word.shape[::-1], generator=generator, device=word.device).T  # (B, T)
    return (drawn.gather(1, word.clamp_min(0)) < share) & (word >= 0)


def _disguise(
    text: TextBatch, hidden: Tensor, mask_id: int, vocabulary: int, draw: torch.Generator
) -> Tensor:
    """(B, T) ids as the encoder sees them: hidden words as [MASK], as other word-pieces, or as they are."""
    kind = torch.rand(text.word.shape, generator=draw).gather(
        1, text.word.clamp_min(0)
    )  # the same for a whole word
    other = torch.randint(min(len(SPECIAL), vocabulary - 1), vocabulary, text.ids.shape, generator=draw)
    shown = torch.where(kind < SHOWN_AS_MASK + SHOWN_AS_OTHER, other, text.ids)
    shown = torch.where(kind < SHOWN_AS_MASK, mask_id, shown)
    return torch.where(hidden, shown, text.ids)


def pretrained_on_words(
    make_tokenizer: Callable[[], ReportTokenizer],
    make_bert: Callable[[int], "BertModel"],
    architecture: Mapping[str, Any],
    reports: Sequence[Sequence[str]],
    training: MaskedWordTraining,
    setup: Setup,
) -> tuple["BertModel", ReportTokenizer]:
    """A BERT that was trained to tell hidden words of `reports`: found in `setup.store`, or made now and kept there.

    Draws nothing from the caller's random state, found or made.

    Args:
        make_tokenizer: learns the vocabulary of `reports`.
        make_bert: builds the BERT for a vocabulary of that size, initialised from torch's default generator.
        architecture: JSON types, all that these two depend on beside the reports; with `max_tokens`.
        reports: each a list of sentences.
        training: how it is trained.
        setup: seed, device, store, and where to say what was done.

    Returns:
        The BERT on the CPU, and its tokenizer.
    """
    seed = derive_seed(setup.seed, "masked words")
    with torch.random.fork_rng([setup.device] if setup.device.type == "cuda" else []):
        _seed(seed, setup.device)
        if setup.store is None:
            tokenizer = make_tokenizer()
            bert = make_bert(len(tokenizer))
            _train(bert, tokenizer, reports, training, setup, seed)
            return bert, tokenizer
        inputs = {
            "format": FORMAT,
            "architecture": dict(architecture),
            "training": asdict(training),
            "reports": len(reports),
            "reports_sha256": hashlib.sha256(json.dumps([list(r) for r in reports]).encode()).hexdigest(),
            "seed": setup.seed,
            "device": setup.device.type,  # another one rounds otherwise
        }
        key = f"text-{hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:24]}"
        folder = setup.store / key
        setup.store.mkdir(parents=True, exist_ok=True)
        with _locked(setup.store / f"{key}.lock", setup):
            if folder.exists():
                found = _read(folder, make_bert, int(architecture["max_tokens"]), setup)
                if found is not None:
                    return found
                shutil.rmtree(folder)
                _seed(seed, setup.device)  # what was read may have drawn numbers
            tokenizer = make_tokenizer()
            bert = make_bert(len(tokenizer))
            outcome = _train(bert, tokenizer, reports, training, setup, seed)
            _keep(folder, bert, tokenizer, {**inputs, **outcome})
            return bert, tokenizer


def _seed(seed: int, device: torch.device) -> None:
    """Of the generators that `fork_rng` puts back, and of no other."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def _locked(path: Path, setup: Setup) -> Iterator[None]:
    """Hold the lock; say so if another process has it. The system frees it when a process dies."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        setup.say(f"text encoder: another process is making it; waiting ({path})")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _read(
    folder: Path, make_bert: Callable[[int], "BertModel"], max_tokens: int, setup: Setup
) -> tuple["BertModel", ReportTokenizer] | None:
    """What `_keep` wrote; None, with a line for the user, where it is not what was written."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        for name in (TENSORS, TOKENIZER):
            if sha256_file(folder / name) != about["sha256"][name]:
                raise ValueError(f"{name} is not the file that {ABOUT} describes")
        tokenizer = ReportTokenizer.from_bytes((folder / TOKENIZER).read_bytes(), max_tokens)
        bert = make_bert(len(tokenizer))
        bert.load_state_dict(load_file(folder / TENSORS))
        line = f"text encoder: found, {_describe(about)}"
        setup.times[TIMED] = float(about["seconds"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        setup.say(
            f"text encoder in {folder}: can not be read ({type(error).__name__}: {error}); it is made again"
        )
        return None
    setup.say(line)
    return bert, tokenizer


def _keep(folder: Path, bert: "BertModel", tokenizer: ReportTokenizer, about: Mapping[str, Any]) -> None:
    """Write the folder, which appears as a whole or not at all; called with the lock held."""
    for leftover in folder.parent.glob(f"{folder.name}.*.tmp"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    building = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    building.mkdir()
    try:
        tensors = {name: tensor.detach().contiguous() for name, tensor in bert.state_dict().items()}
        with replacing(building / TENSORS) as partial:
            save_file(tensors, partial, metadata={"format": "pt"})
        write_atomic(building / TOKENIZER, tokenizer.to_bytes())
        sha256 = {name: sha256_file(building / name) for name in (TENSORS, TOKENIZER)}
        write_atomic(building / ABOUT, json.dumps({**about, "sha256": sha256}, indent=2).encode())
        building.replace(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _train(
    bert: "BertModel",
    tokenizer: ReportTokenizer,
    reports: Sequence[Sequence[str]],
    training: MaskedWordTraining,
    setup: Setup,
    seed: int,
) -> dict[str, Any]:
    """Train `bert` in place, in float32; what came of it, as JSON types."""
    start = time.monotonic()
    draw = torch.Generator().manual_seed(seed)  # on the CPU: order and masks are the same on every device
    text = tokenizer([report for report in reports if any(report)])
    mask_id = tokenizer.mask_id
    assert mask_id is not None  # it was trained here, with all special tokens
    head = MaskedWordHead(int(bert.config.hidden_size), len(tokenizer))
    both: Any = nn.ModuleList([bert, head]).to(setup.device)
    lengths = text.mask.sum(1)
    steps = training.epochs * -(-len(lengths) // training.batch_size)
    before = _accuracy(bert, head, mask_id, text, training, setup, seed)
    optimiser = torch.optim.AdamW(both.parameters(), lr=training.lr, weight_decay=WEIGHT_DECAY, fused=True)
    schedule = LambdaLR(optimiser, lambda step: _rate(step, steps))
    both.train()
    losses = []  # of the last epoch
    for epoch in range(training.epochs):
        for rows in _batches(lengths, training.batch_size, draw):
            part = _rows(text, rows)
            hidden = pick_words(part.word, training.share, draw)
            shown = _disguise(part, hidden, mask_id, len(tokenizer), draw)
            loss = _loss(bert, head, part, shown, hidden, setup.device)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            optimiser.step()
            schedule.step()
            if epoch == training.epochs - 1:
                losses.append(loss.detach())
    both.to("cpu")
    optimiser.zero_grad()  # no gradient leaves with the encoder
    after = _accuracy(bert, head, mask_id, text, training, setup, seed)
    bert.train()
    outcome: dict[str, Any] = {
        "trained_reports": len(lengths),
        "epochs": training.epochs,
        "seconds": round(time.monotonic() - start, 1),
        "accuracy_before": before,
        "accuracy_after": after,
        "loss_of_last_epoch": float(torch.stack(losses).mean()) if losses else None,
    }
    setup.times[TIMED] = outcome["seconds"]
    setup.say(f"text encoder: {_describe(outcome)}")
    return outcome


def _describe(outcome: Mapping[str, Any]) -> str:
    return (
        f"masked words of {outcome['trained_reports']:,} reports, {outcome['epochs']} epochs, "
        f"{outcome['seconds']:.1f} s; {100 * outcome['accuracy_before']:.1f} % of the hidden words told before, "
        f"{100 * outcome['accuracy_after']:.1f} % after"
    )


def _rate(step: int, steps: int) -> float:
    """Share of the peak learning rate at `step` (from 0) of `steps`."""
    warm = max(1, round(WARMUP * steps))
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


def _batches(lengths: Tensor, size: int, draw: torch.Generator) -> list[Tensor]:
    """Rows of each batch of an epoch: reports of about the same length, batches in any order."""
    jittered = lengths + BUCKET * torch.rand(len(lengths), generator=draw)
    batches = torch.split(jittered.argsort(), size)
    return [batches[int(i)] for i in torch.randperm(len(batches), generator=draw)]


def _rows(text: TextBatch, rows: Tensor) -> TextBatch:
    """Some reports, padded to the longest of them."""
    longest = int(text.mask[rows].sum(1).max())
    return TextBatch(*(part[rows, :longest] for part in (text.ids, text.mask, text.word, text.sentence)))


def _loss(
    bert: "BertModel",
    head: MaskedWordHead,
    text: TextBatch,
    shown: Tensor,
    hidden: Tensor,
    device: torch.device,
) -> Tensor:
    """Of one batch on the CPU. Only hidden positions go through the head, whose matrix is half of the work."""
    at = hidden.flatten().nonzero()[:, 0]  # on the CPU, so that no device is waited for
    target = text.ids.flatten()[at].to(device)
    states = encode(bert, shown.to(device), text.mask.to(device)).flatten(0, 1)[at.to(device)]  # (N, D)
    logits = head(states, bert.embeddings.word_embeddings.weight)
    return masked_words(logits, target, torch.ones_like(target, dtype=torch.bool))


@torch.no_grad()
def _accuracy(
    bert: "BertModel",
    head: MaskedWordHead,
    mask_id: int,
    text: TextBatch,
    training: MaskedWordTraining,
    setup: Setup,
    seed: int,
) -> float:
    """Share of hidden words of which every word-piece is told; all of them shown as [MASK]."""
    device = next(head.parameters()).device
    draw = torch.Generator().manual_seed(seed)
    bert.train(False)
    told, asked = 0, 0
    chosen = torch.linspace(0, len(text.ids) - 1, min(MEASURED, len(text.ids))).round().long()
    for rows in torch.split(chosen, training.batch_size):
        part = _rows(text, rows)
        hidden = pick_words(part.word, training.share, draw)
        shown = torch.where(hidden, mask_id, part.ids)
        at = hidden.flatten().nonzero()[:, 0]
        states = encode(bert, shown.to(device), part.mask.to(device)).flatten(0, 1)[at.to(device)]  # (N, D)
        guess = head(states, bert.embeddings.word_embeddings.weight).argmax(-1).cpu()  # (N,)
        wrong = torch.zeros_like(hidden).flatten().index_put((at,), guess != part.ids.flatten()[at])
        slots = torch.arange(part.word.shape[1])
        pieces = (part.word[:, None, :] == slots[None, :, None]) & hidden[:, None, :]  # (B, W, T)
        missed = (pieces & wrong.view_as(hidden)[:, None, :]).any(2)
        words = pieces.any(2)
        told, asked = told + int((words & ~missed).sum()), asked + int(words.sum())
    return told / max(1, asked)
