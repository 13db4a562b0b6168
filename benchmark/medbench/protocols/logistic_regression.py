"""L2 logistic regression, for all classes and all penalties at once, to convergence, in float64.

One problem a (penalty, class): minimise over w, b

    1/n * sum_i log(1 + exp(-s_i * (x_i . w + b)))  +  penalty / 2 * |w|^2        s_i = +1 or -1

over the n rows whose label is known; the intercept b is not penalised. scikit-learn's `LogisticRegression(C)`
has the same minimum with C = 1 / (n * penalty). The minimum is unique, so the result depends on no seed,
batch or step size.

Solver: L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.5) over a (rows, problems) matrix. Two
exact changes of variables make the problems well conditioned: the features are rotated to their principal
axes (n < D rows span at most n of them), and every axis is scaled by the curvature of the loss at w = 0,
where the search starts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

HISTORY = 20
"""Pairs of steps and gradient changes that L-BFGS remembers."""

TOLERANCE = 1e-8
"""Largest norm of the scaled gradient; the loss can still fall by about half its square (5e-17)."""

MAX_ITERATIONS = 2000
"""More than that means that something is wrong with the features."""


@dataclass(frozen=True)
class LogisticFit:
    """Minima of all problems.

    Attributes:
        weight: (K, C, D) float64, one row a penalty and class.
        intercept: (K, C) float64.
        gradient: (K, C) float64, norm of the scaled gradient at the end, at most `TOLERANCE`.
        iterations: of the slowest problem.
    """

    weight: Tensor
    intercept: Tensor
    gradient: Tensor
    iterations: int

    def predict(self, features: Tensor) -> Tensor:
        """(M, D) float64 features -> (K, C, M) log-odds."""
        return self.weight @ features.T + self.intercept[..., None]


def fit_logistic(features: Tensor, labels: Tensor, penalties: Tensor) -> LogisticFit:
    """Fit every class at every penalty.

    Args:
        features: (n, D) float64, centred, best standardised.
        labels: (n, C) float64: 1, 0, or NaN where not known. Every class has a 1 and a 0.
        penalties: (K,) float64, positive.

    Returns:
        The fits, on the device of `features`.

    Raises:
        ValueError: a class has one value only, a penalty is not positive, or the features are not finite.
        RuntimeError: a problem did not converge in `MAX_ITERATIONS`.
    """
    known = ~labels.isnan()
    positive = (labels == 1).to(features.dtype)
    count = known.sum(0)
    share = positive.sum(0) / count
    if not bool(((share > 0) & (share < 1)).all()):
        raise ValueError(f"every class needs a 1 and a 0; shares of positives are {share.tolist()}")
    if not bool((penalties > 0).all()):
        raise ValueError(f"penalties must be positive, found {penalties.tolist()}")
    if not bool(features.isfinite().all()):
        raise ValueError("features are not finite")

    axes, spread = _principal_axes(features)
    rows = features @ axes  # (n, D) -> (n, R)
    n_penalties, n_classes = len(penalties), labels.shape[1]
    penalty = penalties.repeat_interleave(n_classes)  # (K,) -> (P,), P = K * C problems, classes run fastest
    problems = _Problems(
        rows=rows,
        positive=positive.repeat(1, n_penalties),  # (n, C) -> (n, P)
        weight=(known / count).repeat(1, n_penalties),
        penalty=penalty,
        scale=torch.cat(
            [
                (spread[:, None] * (share * (1 - share)).repeat(n_penalties) + penalty).sqrt(),
                (share * (1 - share)).sqrt().repeat(n_penalties)[None],
            ]
        ),
    )
    start = torch.zeros(rows.shape[1] + 1, len(penalty), dtype=features.dtype, device=features.device)
    start[-1] = (share / (1 - share)).log().repeat(n_penalties)
    solution, gradient, iterations = _minimise(problems, start)
    weight = axes @ solution[:-1]  # (D, R) @ (R, P) -> (D, P)
    return LogisticFit(
        weight=weight.T.reshape(n_penalties, n_classes, -1),
        intercept=solution[-1].reshape(n_penalties, n_classes),
        gradient=gradient.reshape(n_penalties, n_classes),
        iterations=iterations,
    )


def _principal_axes(features: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal axes (D, R) of the rows' span, R = min(n, D), and the mean square along each (R,)."""
    n, width = features.shape
    basis = torch.linalg.qr(features.T).Q if n < width else None  # the minimum lies in the span of the rows
    inside = features if basis is None else features @ basis
    spread, axes = torch.linalg.eigh(inside.T @ inside / n)
    return (axes if basis is None else basis @ axes), spread.clamp(min=0)


@dataclass
class _Problems:
    """P problems over the same rows. Parameters are (R + 1, P), the intercept last.

    Attributes:
        rows: (n, R).
        positive: (n, P) 1 or 0.
        weight: (n, P) of each row in the mean loss, 0 where the label is not known.
        penalty: (P,).
        scale: (R + 1, P) square root of the curvature at w = 0.
    """

    rows: Tensor
    positive: Tensor
    weight: Tensor
    penalty: Tensor
    scale: Tensor

    def select(self, keep: Tensor) -> "_Problems":
        return _Problems(
            self.rows, self.positive[:, keep], self.weight[:, keep], self.penalty[keep], self.scale[:, keep]
        )

    def logits(self, parameters: Tensor) -> Tensor:
        return self.rows @ parameters[:-1] + parameters[-1]  # (n, P)

    def residual(self, logits: Tensor) -> Tensor:
        return self.weight * (logits.sigmoid() - self.positive)

    def gradient(self, parameters: Tensor, logits: Tensor) -> Tensor:
        """(R + 1, P), with respect to the scaled parameters."""
        residual = self.residual(logits)
        slope = torch.cat([self.rows.T @ residual + self.penalty * parameters[:-1], residual.sum(0)[None]])
        return slope / self.scale


def _minimise(problems: _Problems, start: Tensor) -> tuple[Tensor, Tensor, int]:
    """Parameters (R + 1, P), norm of the scaled gradient (P,), iterations of the slowest problem."""
    solution, reached = start.clone(), torch.full_like(problems.penalty, torch.inf)
    column = torch.arange(start.shape[1], device=start.device)  # which problem each remaining column is
    parameters, logits = start, problems.logits(start)
    gradient = problems.gradient(parameters, logits)
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    for iteration in range(MAX_ITERATIONS + 1):
        norm = gradient.norm(dim=0)
        solution[:, column], reached[column] = parameters, norm
        left = norm > TOLERANCE
        if not bool(left.any()):
            return solution, reached, iteration
        if not bool(left.all()):  # finished problems cost nothing more
            problems, column = problems.select(left), column[left]
            parameters, logits, gradient = parameters[:, left], logits[:, left], gradient[:, left]
            steps, changes = [s[:, left] for s in steps], [c[:, left] for c in changes]
        direction = _direction(gradient, steps, changes) / problems.scale
        along = problems.logits(direction)
        length = _line_search(problems, parameters, direction, logits, along)
        parameters, logits = parameters + length * direction, logits + length * along
        if iteration % 50 == 49:
            logits = problems.logits(parameters)  # sums of many steps drift
        before, gradient = gradient, problems.gradient(parameters, logits)
        steps = [*steps[-HISTORY + 1 :], length * direction * problems.scale]
        changes = [*changes[-HISTORY + 1 :], gradient - before]
    raise RuntimeError(
        f"{int(left.sum())} of {start.shape[1]} logistic regressions did not converge in {MAX_ITERATIONS} "
        f"iterations; the largest scaled gradient is {float(norm.max()):.1e}, {TOLERANCE:.0e} was asked for"
    )


def _direction(gradient: Tensor, steps: list[Tensor], changes: list[Tensor]) -> Tensor:
    """Minus the inverse Hessian times the gradient, as the last steps see it; each problem has its own."""
    inverse = []
    for step, change in zip(steps, changes, strict=True):
        curvature = (step * change).sum(0)
        # Convexity makes it positive; close to the minimum rounding can undo that, and the pair is left out.
        inverse.append(torch.where(curvature > 0, 1 / curvature.clamp(min=1e-300), 0))
    q, shares = gradient, []
    for step, change, rho in zip(reversed(steps), reversed(changes), reversed(inverse), strict=True):
        share = rho * (step * q).sum(0)
        q = q - share * change
        shares.append(share)
    if steps:
        ratio = (steps[-1] * changes[-1]).sum(0) / changes[-1].square().sum(0).clamp(min=1e-300)
        q = q * torch.where(ratio > 0, ratio, 1)
    for step, change, rho, share in zip(steps, changes, inverse, reversed(shares), strict=True):
        q = q + step * (share - rho * (change * q).sum(0))
    return torch.where((q * gradient).sum(0) > 0, -q, -gradient)


def _line_search(
    problems: _Problems, parameters: Tensor, direction: Tensor, logits: Tensor, along: Tensor
) -> Tensor:
    """(P,) lengths at which the slope has fallen to a tenth.

    The logits along a line are linear in its length, so trying a length needs no product with the features.
    The loss along it is convex: Newton's step where it stays inside the bracket, otherwise its middle or
    twice the length.
    """
    fixed = problems.penalty * (parameters[:-1] * direction[:-1]).sum(0)
    bend = problems.penalty * direction[:-1].square().sum(0)
    length, low = torch.ones_like(fixed), torch.zeros_like(fixed)
    high = torch.full_like(fixed, torch.inf)
    first = (problems.residual(logits) * along).sum(0) + fixed
    for _ in range(60):  # a bracket halved 60 times is at the resolution of float64
        chance = (logits + length * along).sigmoid()
        slope = (problems.weight * (chance - problems.positive) * along).sum(0) + fixed + length * bend
        if bool((slope.abs() <= 0.1 * first.abs()).all()):
            break
        curvature = (problems.weight * chance * (1 - chance) * along.square()).sum(0) + bend
        low, high = torch.where(slope < 0, length, low), torch.where(slope < 0, high, length)
        newton = length - slope / curvature
        middle = torch.where(high.isinf(), 2 * length, (low + high) / 2)
        length = torch.where((newton > low) & (newton < high) & (newton <= 4 * length), newton, middle)
    return length
