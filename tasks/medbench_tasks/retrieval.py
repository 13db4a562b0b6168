"""Retrieval: which sets of films and reports. Only declared here."""

from medbench.specs import TaskSpec

TASKS: tuple[TaskSpec, ...] = ()
