"""What this plugin adds to medbench. Read at every start of the program, so nothing heavy is imported here."""

from medbench.hookspecs import hookimpl
from medbench.specs import LeaderboardSpec, MethodSpec, TaskSpec


@hookimpl
def medbench_methods():
    yield MethodSpec(
        name="example_method",
        target="medbench_example.method:ExampleMethod",
        summary="small convolutional encoder and a bag of words, image-report InfoNCE",
        reference="docs/plugins.md",
        provides=frozenset({"image.pooled", "image.pyramid", "text.pooled", "text.local", "embedding"}),
        fidelity="baseline",
    )


@hookimpl
def medbench_tasks():
    yield TaskSpec(
        name="example_task",
        target="medbench.protocols.linear_probe:LinearProbe",
        summary="pneumonia by linear probe, on the films that rsna_det is tested on",
        reference="docs/plugins.md",
        dataset="rsna",
        needs=frozenset({"image.pooled"}),
        primary_metric="auroc",
        given={"split": "mgca_det", "classes": ("pneumonia",)},
    )


@hookimpl
def medbench_leaderboards():
    yield LeaderboardSpec(
        name="example_winners",
        target="medbench_example.winners:winners",
        summary="who is not beaten by anyone, column by column",
        reference="docs/plugins.md",
        format="winners",
    )
