"""Pneumonia by linear probe, on the split of the detection task. The protocol is medbench's own."""

from medbench.protocols.linear_probe import LinearProbe


class ExampleTask(LinearProbe):
    """A split of the dataset, and the labels of it that are asked for."""

    split = "mgca_det"
    classes = ("pneumonia",)
