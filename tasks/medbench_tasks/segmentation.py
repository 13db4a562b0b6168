"""Segmentation: which sets, which of their outlines, by which decoders. Only declared here."""

from medbench.specs import TaskSpec

TASKS: tuple[TaskSpec, ...] = ()
