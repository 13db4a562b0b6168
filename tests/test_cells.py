"""The table a run ends with: it says what the data are, and never more than the records do."""

from medbench.cells import cells_table, format_metric
from medbench.records import MetricValue


def metric(value: float | None, low: float | None = None, high: float | None = None) -> MetricValue:
    return MetricValue(name="auroc", value=value, low=low, high=high, interval="bootstrap", n=10)


def test_metrics_are_percent_with_their_interval() -> None:
    assert format_metric(metric(0.6127, 0.5, 0.75)) == "61.3 [50.0, 75.0]"
    assert format_metric(metric(0.6127)) == "61.3"
    assert format_metric(metric(None)) == "not defined"
    assert format_metric(None) == "not defined"


def test_nothing_to_show_is_an_empty_table() -> None:
    assert cells_table([]) == ""
