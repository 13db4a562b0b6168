"""L2 logistic regression, for all classes and all penalties at once, to convergence, in float64.

One problem a (penalty, class): minimise over w, b

    1/n * sum_i log(1 + exp(-s_i * (x_i . w + b)))  +  penalty / 2 * |w|^2        s_i = +1 or -1

over the n rows whose label is known; the intercept b is not penalised. scikit-learn's `LogisticRegression(C)`
has the same minimum with C = 1 / (n * penalty).

Of classes that exclude each other there is one problem a penalty, with a w_k and b_k for every class (softmax):

    1/n * sum_i (log sum_k exp(x_i . w_k + b_k)  -  x_i . w_y - b_y)  +  penalty / 2 * sum_k |w_k|^2    y = class of i

Both minima are unique (the second up to a number that all b_k have in common, which changes no probability; here their
mean is 0), so the result depends on no seed, batch or step size.

Solver: L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.5) for all problems together, so that the
products with the features, which are nearly all of the work, are products of matrices. Exact changes of variables
make the problems well conditioned: the weights are turned to the principal axes of the features, those of classes that
exclude each other also to the axes between classes along which the loss bends (along the last one, on which all classes
move alike, it does not, and nothing moves there), and every axis is scaled by the curvature of the loss at w = 0, where
the search starts. What is as large as (rows, problems) is gone through in blocks of rows that stay in the processor's
cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

HISTORY = 40
"""Pairs of steps and gradient changes that L-BFGS remembers."""

TOLERANCE = 1e-8
"""Largest norm of the scaled gradient; the loss can still fall by about half its square (5e-17)."""

MAX_ITERATIONS = 2000
"""More than that means that something is wrong with the features."""

BLOCK = 2**18
"""Numbers of a block of (rows, problems): 2 MB."""


@dataclass(frozen=True)
class LogisticFit:
    """Minima of all problems.

    Attributes:
        weight: (K, C, D) float64, one row a penalty and class.
        intercept: (K, C) float64.
        gradient: (K, C) float64, norm of the scaled gradient at the end, at most `TOLERANCE`; of classes that exclude
            each other it is that of their common problem.
        iterations: of the slowest problem.
    """

    weight: Tensor
    intercept: Tensor
    gradient: Tensor
    iterations: int

    def predict(self, features: Tensor) -> Tensor:
        """(M, D) float64 features -> (K, C, M): log-odds, or of classes that exclude each other their logits."""
        return self.weight @ features.T + self.intercept[..., None]


def fit_logistic(
    features: Tensor, labels: Tensor, penalties: Tensor, *, exclusive: bool = False
) -> LogisticFit:
    """Fit every class at every penalty.

    Args:
        features: (n, D) float64, centred, best standardised.
        labels: (n, C) float64: 1, 0, or NaN where not known. Every class has a 1 and a 0. If the classes exclude each
            other, every row has exactly one 1, or is NaN throughout.
        penalties: (K,) float64, positive.
        exclusive: whether the classes exclude each other.

    Returns:
        The fits, on the device of `features`.

    Raises:
        ValueError: a class has one value only, a row has not exactly one class though they exclude each other, a
            penalty is not positive, or the features are not finite.
        RuntimeError: a problem did not converge in `MAX_ITERATIONS`.
    """
    known = ~labels.isnan()
    positive = (labels == 1).to(features.dtype)
    count = known.sum(0)
    share = positive.sum(0) / count
    if not bool(((share > 0) & (share < 1)).all()):
        raise ValueError(f"every class needs a 1 and a 0; shares of positives are {share.tolist()}")
    if exclusive:
        single = torch.where(known.all(1), positive.sum(1) == 1, ~known.any(1))
        if not bool(single.all()):
            raise ValueError(
                f"{int((~single).sum())} of {len(single)} rows have not exactly one class, though classes exclude each"
                " other"
            )
    if not bool((penalties > 0).all()):
        raise ValueError(f"penalties must be positive, found {penalties.tolist()}")
    if not all(bool(end.isfinite()) for end in features.aminmax()):  # without a copy as large as the features
        raise ValueError("features are not finite")

    shared = bool((known == known[:, :1]).all())
    if shared and not bool(known.all()):
        features, positive = features[known[:, 0]], positive[known[:, 0]]
    n, width = features.shape
    n_penalties, n_classes = len(penalties), labels.shape[1]
    basis = torch.linalg.qr(features.T).Q if n < width else None  # the minimum lies in the span of the rows
    rows = features if basis is None else features @ basis
    spread, axes = torch.linalg.eigh(rows.T @ rows / n)
    # Columns are (penalty, class) with the classes fastest. A problem has one of them, or those of all classes.
    begin, bend, turn = (share / (1 - share)).log(), share * (1 - share), None
    pull = torch.cat([axes.T @ (rows.T @ (positive / count)), share[None]])
    if exclusive:
        bend, turn = torch.linalg.eigh(share.diag() - share[:, None] * share)
        bend[0] = 1.0  # all classes alike: no slope, no bend
        pull, begin = pull @ turn, share.log() @ turn
        begin[0] = 0.0
    bend = bend.repeat(n_penalties)
    problems = _Problems(
        rows=rows,
        axes=axes,
        weight=None if shared else known / count,
        turn=turn,
        pull=pull.repeat(1, n_penalties),
        column=torch.arange(n_classes, device=features.device).repeat(n_penalties),
        group=n_classes if exclusive else 1,
        penalty=penalties.repeat_interleave(n_classes),
        scale=torch.cat(
            [
                (spread.clamp(min=0)[:, None] * bend + penalties.repeat_interleave(n_classes)).sqrt(),
                bend.sqrt()[None],
            ]
        ),
    )
    start = torch.zeros(
        rows.shape[1] + 1, n_penalties * n_classes, dtype=features.dtype, device=features.device
    )
    start[-1] = begin.repeat(n_penalties)
    solution, gradient, iterations = _minimise(problems, start)
    solution = problems.by_class(solution)
    weight = axes @ solution[:-1]  # (R, R) @ (R, K * C)
    if basis is not None:
        weight = basis @ weight
    return LogisticFit(
        weight=weight.T.reshape(n_penalties, n_classes, -1),
        intercept=solution[-1].reshape(n_penalties, n_classes),
        gradient=gradient.repeat_interleave(problems.group).reshape(n_penalties, n_classes),
        iterations=iterations,
    )


@dataclass(frozen=True)
class _Problems:
    """P problems of G classes each over the same n rows: J = P * G columns, those of a problem side by side.

    Parameters are (R + 1, J) along the principal axes, the intercept last. Of classes that exclude each other the
    columns of a problem are axes between them and not classes (`by_class`).

    Attributes:
        rows: (n, R).
        axes: (R, R) principal axes of the rows, one a column.
        weight: (n, C) of each row in the mean loss, 0 where the label is not known; None if it is 1 / n throughout.
        turn: (C, C) axes between classes that exclude each other, one a column; else None.
        pull: (R + 1, J) what the labels add to the slope of the mean loss, with the sign turned; it never changes.
        column: (J,) class of each column.
        group: G: 1, or C of classes that exclude each other.
        penalty: (J,).
        scale: (R + 1, J) square root of the curvature at w = 0.
    """

    rows: Tensor
    axes: Tensor
    weight: Tensor | None
    turn: Tensor | None
    pull: Tensor
    column: Tensor
    group: int
    penalty: Tensor
    scale: Tensor

    def select(self, keep: Tensor) -> "_Problems":
        """The problems with these (J,) columns."""
        return replace(
            self,
            pull=self.pull[:, keep],
            column=self.column[keep],
            penalty=self.penalty[keep],
            scale=self.scale[:, keep],
        )

    def sum(self, columns: Tensor) -> Tensor:
        """(J,) -> (P,)."""
        return columns.view(-1, self.group).sum(1)

    def spread(self, problems: Tensor) -> Tensor:
        """(P,) -> (J,)."""
        return problems.repeat_interleave(self.group)

    def by_class(self, parameters: Tensor) -> Tensor:
        """(R + 1, J) from axes between classes to classes."""
        if self.turn is None:
            return parameters
        return (parameters.view(len(parameters), -1, self.group) @ self.turn.T).view_as(parameters)

    def logits(self, parameters: Tensor) -> Tensor:
        """(n, J) of classes."""
        parameters = self.by_class(parameters)
        return torch.addmm(parameters[-1], self.rows, self.axes @ parameters[:-1])

    def gradient(self, parameters: Tensor, logits: Tensor) -> Tensor:
        """(R + 1, J), with respect to the scaled parameters."""
        push = torch.zeros_like(parameters)
        inside = push[:-1]
        for block in self.blocks():
            chance = self.weighted(self.chance(logits[block]), block)
            inside.addmm_(self.rows[block].T, chance)
            push[-1] += chance.sum(0)
        push[:-1] = self.axes.T @ inside
        if self.turn is not None:
            push = (push.view(len(push), -1, self.group) @ self.turn).view_as(push)
        slope = self.mean(push) - self.pull
        slope[:-1] += self.penalty * parameters[:-1]
        return slope / self.scale

    def along(self, logits: Tensor, direction: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Slope and curvature at `logits + length * direction` in that direction, but for pull and penalty: two (J,).

        Logits and direction are (n, J), the length is (J,). Those of a problem are the sums over its columns.
        """
        slope, curvature = torch.zeros_like(self.penalty), torch.zeros_like(self.penalty)
        for block in self.blocks():
            way = direction[block]
            pushed = self.chance(torch.addcmul(logits[block], way, length)).mul_(way)
            # of a problem: the mean of its ways, and their variance, by its probabilities
            mean = pushed
            if self.group > 1:
                mean = pushed.view(len(way), -1, self.group).sum(2).repeat_interleave(self.group, 1)
            curved = self.weighted(pushed * (way - mean), block)
            slope += self.weighted(pushed, block).sum(0)
            curvature += curved.sum(0)
        return self.mean(slope), self.mean(curvature)

    def chance(self, logits: Tensor) -> Tensor:
        """(b, J) logits -> probabilities."""
        if self.group == 1:
            return logits.sigmoid()
        return logits.view(len(logits), -1, self.group).softmax(2).view_as(logits)

    def weighted(self, values: Tensor, block: slice) -> Tensor:
        """(b, J) values times the weights of their rows, where these differ."""
        return values if self.weight is None else values * self.weight[block].index_select(1, self.column)

    def mean(self, sums: Tensor) -> Tensor:
        """What the sum over all rows is of the mean: itself, if it was weighted."""
        return sums / len(self.rows) if self.weight is None else sums

    def blocks(self) -> Iterator[slice]:
        """All rows, `BLOCK` numbers of (rows, columns) at a time."""
        size = max(1, BLOCK // len(self.column))
        return (slice(start, start + size) for start in range(0, len(self.rows), size))


def _minimise(problems: _Problems, start: Tensor) -> tuple[Tensor, Tensor, int]:
    """Parameters (R + 1, J), norm of the scaled gradient (P,), iterations of the slowest problem."""
    solution = start.clone()
    reached = problems.sum(torch.full_like(problems.penalty, torch.inf))
    left = torch.arange(len(reached), device=start.device)  # problems that are not finished
    columns = torch.arange(start.shape[1], device=start.device)
    parameters, logits = start, problems.logits(start)
    gradient = problems.gradient(parameters, logits)
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    for iteration in range(MAX_ITERATIONS + 1):
        norm = problems.sum(gradient.square().sum(0)).sqrt()
        solution[:, columns], reached[left] = parameters, norm
        open_ = norm > TOLERANCE
        if not bool(open_.any()):
            return solution, reached, iteration
        if not bool(open_.all()):  # finished problems cost nothing more
            keep = problems.spread(open_)
            problems, left, columns = problems.select(keep), left[open_], columns[keep]
            parameters, logits, gradient = parameters[:, keep], logits[:, keep], gradient[:, keep]
            steps, changes = [s[:, keep] for s in steps], [c[:, keep] for c in changes]
        scaled = _direction(problems, gradient, steps, changes)
        direction = scaled / problems.scale
        along = problems.logits(direction)
        slope = problems.sum((scaled * gradient).sum(0))
        length = problems.spread(_line_search(problems, parameters, direction, logits, along, slope))
        parameters = parameters + length * direction
        logits.addcmul_(along, length.expand_as(along))
        if iteration % 50 == 49:
            logits = problems.logits(parameters)  # sums of many steps drift
        before, gradient = gradient, problems.gradient(parameters, logits)
        steps = [*steps[-HISTORY + 1 :], length * scaled]
        changes = [*changes[-HISTORY + 1 :], gradient - before]
    raise RuntimeError(
        f"{len(left)} of {len(reached)} logistic regressions did not converge in {MAX_ITERATIONS} "
        f"iterations; the largest scaled gradient is {float(norm.max()):.1e}, {TOLERANCE:.0e} was asked for"
    )


def _direction(problems: _Problems, gradient: Tensor, steps: list[Tensor], changes: list[Tensor]) -> Tensor:
    """Minus the inverse Hessian times the gradient, as the last steps see it; each problem has its own."""

    def product(a: Tensor, b: Tensor) -> Tensor:
        return problems.spread(problems.sum((a * b).sum(0)))  # (J,), the same for all columns of a problem

    inverse = []
    for step, change in zip(steps, changes, strict=True):
        curvature = product(step, change)
        # Convexity makes it positive; close to the minimum rounding can undo that, and the pair is left out.
        inverse.append(torch.where(curvature > 0, 1 / curvature.clamp(min=1e-300), 0))
    q, shares = gradient, []
    for step, change, rho in zip(reversed(steps), reversed(changes), reversed(inverse), strict=True):
        share = rho * product(step, q)
        q = q - share * change
        shares.append(share)
    if steps:
        ratio = product(steps[-1], changes[-1]) / product(changes[-1], changes[-1]).clamp(min=1e-300)
        q = q * torch.where(ratio > 0, ratio, 1)
    for step, change, rho, share in zip(steps, changes, inverse, reversed(shares), strict=True):
        q = q + step * (share - rho * product(change, q))
    return torch.where(product(q, gradient) > 0, -q, -gradient)


def _line_search(
    problems: _Problems,
    parameters: Tensor,
    direction: Tensor,
    logits: Tensor,
    along: Tensor,
    first: Tensor,
) -> Tensor:
    """(P,) lengths at which the slope has fallen to a tenth of what it is at the start, `first` (P,).

    The logits along a line are linear in its length, so trying a length needs no product with the features.
    The loss along it is convex: Newton's step where it stays inside the bracket, otherwise its middle or
    twice the length. A problem whose length is found keeps it, whatever the others still need.
    """
    pull = (problems.pull * direction).sum(0)
    fixed = problems.sum(problems.penalty * (parameters[:-1] * direction[:-1]).sum(0) - pull)
    bend = problems.sum(problems.penalty * direction[:-1].square().sum(0))
    length, low = torch.ones_like(first), torch.zeros_like(first)
    high = torch.full_like(first, torch.inf)
    found = torch.zeros_like(first, dtype=torch.bool)
    for _ in range(60):  # a bracket halved 60 times is at the resolution of float64
        data, curved = problems.along(logits, along, problems.spread(length))
        slope = problems.sum(data) + fixed + length * bend
        curvature = problems.sum(curved) + bend
        found |= slope.abs() <= 0.1 * first.abs()
        if bool(found.all()):
            break
        low, high = torch.where(slope < 0, length, low), torch.where(slope < 0, high, length)
        newton = length - slope / curvature
        middle = torch.where(high.isinf(), 2 * length, (low + high) / 2)
        better = torch.where((newton > low) & (newton < high) & (newton <= 4 * length), newton, middle)
        length = torch.where(found, length, better)
    return length
