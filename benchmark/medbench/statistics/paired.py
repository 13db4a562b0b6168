"""The difference of two methods on the same test samples, and how sure it is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """a - b, in the metric's own unit.

    Attributes:
        value: difference of the means over seeds, None where there is none.
        low, high: bounds of the 95 % interval.
        p: two-sided, not adjusted for the number of comparisons.
        se_test: standard error from the test patients.
        se_training: standard error from the seeds, None where a side has one seed.
        freedom: degrees of freedom of the t distribution behind interval and p.
        test: "DeLong", "paired bootstrap", or "" where nothing could be computed.
        seeds: how many each side has.
        reason: why there is no difference, or what must be said of it.
    """

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    se_test: float | None
    se_training: float | None
    freedom: float
    test: str
    seeds: tuple[int, int]
    reason: str
