"""What all protocols of classification share: the loss against a loop, and thresholds that can not be chosen."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medbench.data.index import Index
from medbench.data.splits import Split
from medbench.protocols.classification import label_loss, log_odds
from medbench.protocols.linear_probe import LinearProbe
from medbench.task import TaskData


@pytest.mark.parametrize("exclusive", [False, True])
def test_loss_is_that_of_a_loop(exclusive: bool) -> None:
    rng = np.random.default_rng(0)
    labels = np.eye(3)[rng.integers(0, 3, 9)] if exclusive else (rng.random((9, 3)) < 0.4) * 1.0
    labels[[2, 5]] = np.nan
    if not exclusive:
        labels[7, 1] = np.nan
    logits = torch.tensor(rng.normal(size=(9, 3)), requires_grad=True)
    loss = label_loss(logits, torch.tensor(labels), exclusive)
    terms = []
    for z, row in zip(logits, labels, strict=True):
        if exclusive and not np.isnan(row).any():
            terms.append(torch.log(torch.exp(z).sum()) - z[int(row.argmax())])
        elif not exclusive:
            for k in range(3):
                if not np.isnan(row[k]):
                    p = 1 / (1 + torch.exp(-z[k]))
                    terms.append(-torch.log(p) if row[k] == 1 else -torch.log(1 - p))
    slow = torch.stack(terms).mean()
    torch.testing.assert_close(loss, slow)
    torch.testing.assert_close(
        torch.autograd.grad(loss, logits, retain_graph=True), torch.autograd.grad(slow, logits)
    )
    nothing = label_loss(logits, torch.full((9, 3), torch.nan, dtype=torch.float64), exclusive)
    assert nothing.item() == 0
    assert torch.autograd.grad(nothing, logits)[0].abs().sum() == 0


def test_log_odds_are_those_of_the_softmax() -> None:
    logits = torch.tensor(np.random.default_rng(0).normal(size=(5, 3)))
    torch.testing.assert_close(log_odds(logits).sigmoid(), logits.softmax(1))
    assert log_odds(logits[:, []]).shape == (5, 0)


def test_without_a_positive_or_an_order_no_threshold_is_stored() -> None:
    names = ("a", "b", "c", "d")
    rows = np.arange(8)
    table = pd.DataFrame({"sample": [f"s{k}" for k in rows], "patient": [f"p{k}" for k in rows]})
    for name in names:
        table[f"label_{name}"] = np.tile([0.0, 1.0], 4)
    table.loc[:3, "label_a"] = 0.0  # no positive in validation
    table["label_d"] = np.nan
    data = TaskData(
        Index("d", Path(), "phantom", table, names),
        Split("any", rows[:0], rows[:4], rows[4:]),
        lambda side, fit: pytest.fail("no film is needed"),
    )
    scores = np.stack([rows[:4], np.zeros(4), rows[:4], rows[:4]], 1) * 1.0  # b: one score
    task = LinearProbe("tiny", split="any", classes=names)
    found = task.predictions(data, scores, scores)
    assert [bool(found[f"threshold_{name}"].isna().all()) for name in names] == [True, True, False, True]
    metrics = {metric.name: metric for metric in task.score(found)}
    assert metrics["macro_f1"].reason == (
        "a: no threshold was chosen (left out of the mean); b: no threshold was chosen (left out of the mean);"
        " d: no known label (left out of the mean)"
    )
    assert metrics["macro_f1"].value == metrics["macro_f1"].per_class["c"]
    unknown = task.score(found.assign(**{f"target_{name}": np.nan for name in names}))
    assert all(metric.value is None and metric.reason for metric in unknown)
    assert [metric.name for metric in unknown] == list(metrics)
