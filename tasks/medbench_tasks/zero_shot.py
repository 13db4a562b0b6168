"""Zero-shot classification: which sets, by which prompts. Only declared here."""

from medbench.specs import TaskSpec

TASKS: tuple[TaskSpec, ...] = ()
