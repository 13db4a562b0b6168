"""The page of a record: everything that is in it, and the command that makes it again."""

from collections.abc import Iterable
from html import escape
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from medbench.records import GroupValue, MetricValue, Record, ReliabilityBlock, SubgroupsBlock, fraction_name
from medbench_leaderboards.missing import command
from medbench_leaderboards.site.fields import folded
from medbench_leaderboards.site.names import method_page
from medbench_leaderboards.site.overview import warning
from medbench_leaderboards.site.shown import fidelity, first_upper

_SHOWN_APART = {"metrics", "subgroups", "reliability", "error", "schema_", "cell_id", "status", "reason"}
_CONFIGS = {"method_config": "Method", "pretrain_config": "Pretraining", "task_config": "Protocol"}


def record(record: Record, path: str, base: str | None, task_link: str, trains: bool) -> dict[str, Any]:
    """What the template is filled with.

    Args:
        record: any, also one that enters no table.
        path: of its file, relative to the results folder.
        base: the results folder as seen from the site's, or None where it is not known.
        task_link: page of its task, "" where it enters no table.
        trains: whether the task has label fractions.
    """
    identity = record.identity
    dumped = record.model_dump(exclude=_SHOWN_APART)
    about = dumped.pop("identity")
    configs = {heading: about.pop(key) for key, heading in _CONFIGS.items()}
    blocks = {first_upper(key): value for key, value in dumped.items() if isinstance(value, dict)}
    plain = {key: value for key, value in dumped.items() if not isinstance(value, dict)}
    blocks = {"Identity": about, **configs, **blocks, "Other fields": plain}
    classes = sorted({name for metric in record.metrics for name in metric.per_class})
    return {
        "record": record,
        "identity": identity,
        "path": path,
        "file": "" if base is None or not path else quote(f"{base}/{path}", errors="replace"),
        "labels": fraction_name(identity.fraction),
        "seed": "any" if identity.seed is None else str(identity.seed),
        "badge_of_method": fidelity(identity.fidelity),
        "method_link": method_page(identity.method),
        "task_link": task_link,
        "warning": warning(identity.source),
        "command": command(identity, identity, trains, [] if identity.seed is None else [identity.seed]),
        "metrics": Markup("\n".join(_metric(metric, record.primary_metric) for metric in record.metrics)),
        "classes": classes,
        "per_class": [
            (metric.name, _numbers((_number(metric.per_class.get(name)), "") for name in classes))
            for metric in record.metrics
            if metric.per_class
        ],
        "subgroups": [_subgroups(block) for block in record.subgroups],
        "reliability": [(block, _bins(block)) for block in record.reliability],
        "blocks": [folded(heading, f"block-{n}", value) for n, (heading, value) in enumerate(blocks.items())],
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _value(metric: MetricValue | GroupValue) -> tuple[str, str]:
    bounds = "" if metric.low is None or metric.high is None else f"[{metric.low:.4f}, {metric.high:.4f}]"
    return _number(metric.value), bounds


def _metric(metric: MetricValue, primary: str) -> str:
    """A row of the table of metrics."""
    value, bounds = _value(metric)
    look = "number best" if metric.name == primary else "number"
    better = "higher" if metric.higher_is_better else "lower"
    return (
        f'<tr><th scope="row">{escape(metric.name)}</th><td class="{look}">{value}</td>'
        f'<td class="number">{bounds}</td><td class="number">{metric.n:,}</td><td>{better}</td>'
        f'<td class="number">{metric.version}</td><td class="wide">{escape(metric.interval)}</td>'
        f"<td{' class=wide' if metric.reason else ''}>{escape(metric.reason)}</td></tr>"
    )


def _subgroups(block: SubgroupsBlock) -> dict[str, Any]:
    """Metrics by groups; `spreads` by metric."""
    metrics = list(dict.fromkeys(metric.name for group in block.groups for metric in group.metrics))
    values = {(group.name, metric.name): _value(metric) for group in block.groups for metric in group.metrics}
    spreads = {spread.metric: spread for spread in block.spreads}
    return {
        "column": block.column,
        "groups": block.groups,
        "lines": [
            (
                name,
                _numbers(values.get((group.name, name), ("–", "")) for group in block.groups),
                _number(spreads[name].gap) if name in spreads else "–",
                (spreads[name].worst_group or "–") if name in spreads else "–",
            )
            for name in metrics
        ],
        "notes": [
            (group.name, metric.name, metric.note)
            for group in block.groups
            for metric in group.metrics
            if metric.note
        ],
    }


def _numbers(cells: Iterable[tuple[str, str]]) -> Markup:
    """Table cells of numbers with their intervals, which need no escaping."""
    return Markup(
        "".join(
            [
                f'<td class="number">{value}<small>{bounds}</small></td>'
                if bounds
                else f'<td class="number">{value}</td>'
                for value, bounds in cells
            ]
        )
    )


def _bins(block: ReliabilityBlock) -> Markup:
    """Rows of edges, samples, mean probability, share of positives, interval."""
    edges = zip(block.edges, block.edges[1:], strict=False)
    rows = zip(edges, block.counts, block.confidence, block.positives, block.low, block.high, strict=False)
    lines = []
    for (left, right), count, confidence, share, low, high in rows:
        bounds = "" if low is None or high is None else f"[{low:.4f}, {high:.4f}]"
        cells = (f"{count:,}", _number(confidence), _number(share), bounds)
        lines.append(
            f'<tr><th scope="row">{left:.3f} to {right:.3f}</th>'
            + "".join([f'<td class="number">{cell}</td>' for cell in cells])
            + "</tr>"
        )
    return Markup("\n".join(lines))
