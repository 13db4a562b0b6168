"""Whether the phantom's task is neither solved nor hopeless: an encoder trained on all labels, from scratch.

    python benchmarks/phantom_difficulty.py                    # a ResNet-18 at 128 px, minutes on two cores
    python benchmarks/phantom_difficulty.py --epochs 20 --side 224

Trains on the very films and split of `rsna_lp` with every label (pneumonia or not), random crops and flips, and
prints AUROC on its validation and test films after each epoch. The phantom is meant to leave the test figure of the
best validation epoch below 0.97. What untrained features reach is in every table: the row `random` of `rsna_lp`.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import timm
import torch
from platformdirs import user_cache_path
from sklearn.metrics import roc_auc_score
from torch.nn.functional import binary_cross_entropy_with_logits

from medbench.devices import autocast, resolve_device, resolve_precision
from medbench.memory import keep_freed_memory
from medbench.planner import Planner
from medbench.plugins import load_catalogue
from medbench.progress import Progress
from medbench.request import RunRequest

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--side", type=int, default=128, help="pixels that the encoder sees")
    parser.add_argument("--backbone", default="resnet18", help="timm's name")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--cache", type=Path, default=user_cache_path("medbench"), help="where phantoms are kept"
    )
    given = parser.parse_args()
    device = resolve_device("auto")
    precision = resolve_precision("auto", device)
    if device.type == "cpu":
        keep_freed_memory()

    progress = Progress("phantom")
    request = RunRequest((), (), results=Path("unused"), cache=given.cache, workers=os.cpu_count() or 1)
    opened = Planner(request, load_catalogue(third_party=False), precision, progress).evaluation("rsna")
    split = opened.dataset.split(opened.index, "mgca_cls")
    margin = given.side // 8
    films = opened.images(given.side + margin, "pad")
    labels = torch.from_numpy(opened.index.table["label_pneumonia"].to_numpy(np.float32))

    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    net = timm.create_model(given.backbone, pretrained=False, num_classes=1, in_chans=1).to(
        device, memory_format=torch.channels_last
    )
    steps = given.epochs * (len(split.train) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=given.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, given.lr, total_steps=steps, pct_start=0.1)

    def batch(rows: np.ndarray, y: int, x: int, flip: bool) -> torch.Tensor:
        part = torch.from_numpy(films.images[rows][:, y : y + given.side, x : x + given.side])
        part = part[:, None].to(device).float() / 127.5 - 1
        return (part.flip(3) if flip else part).contiguous(memory_format=torch.channels_last)

    def score(rows: np.ndarray) -> float:
        net.eval()
        with torch.inference_mode(), autocast(device, precision):
            parts = [
                net(batch(some, margin // 2, margin // 2, flip=False)) for some in np.array_split(rows, 12)
            ]
        return float(roc_auc_score(labels[rows], torch.cat(parts).float().cpu()[:, 0]))

    print(f"{given.backbone}, {given.side} px, {len(split.train):,} training films")
    best = (0.0, 0.0)
    for epoch in range(given.epochs):
        net.train()
        order = draw.permutation(split.train)
        with progress.track(f"epoch {epoch + 1} of {given.epochs}", len(order), "films") as advance:
            for rows in order[: len(order) // BATCH * BATCH].reshape(-1, BATCH):
                y, x = draw.integers(0, margin + 1, 2)
                with autocast(device, precision):
                    logits = net(batch(rows, y, x, flip=bool(draw.integers(2))))
                loss = binary_cross_entropy_with_logits(logits.float()[:, 0], labels[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                advance(len(rows))
        validation, test = score(split.val), score(split.test)
        best = max(best, (validation, test))
        print(f"epoch {epoch + 1:>2}: AUROC validation {validation:.3f}, test {test:.3f}", flush=True)
    print(f"best by validation: test AUROC {best[1]:.3f} (meant to stay below 0.97)")


if __name__ == "__main__":
    main()
