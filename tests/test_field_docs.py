"""What the source says of the fields of a config."""

from dataclasses import dataclass

from medbench.field_docs import field_docs
from medbench.method import PretrainConfig


@dataclass
class Base:
    """A config.

    Attributes:
        one, two: two numbers.
        three: goes on
            below: with a colon.

    Raises:
        ValueError: never.
    """

    one: int = 1
    two: int = 2
    three: int = 3
    four: int = 4
    """Of the
    base."""
    five: int = 5


@dataclass
class Derived(Base):
    """Another one."""

    four: int = 44
    """Of the derived one."""


def test_texts_come_from_strings_and_from_the_docstring_of_the_nearest_class() -> None:
    assert field_docs(Derived) == {
        "one": "two numbers.",
        "two": "two numbers.",
        "three": "goes on below: with a colon.",
        "four": "Of the derived one.",
        "five": "",
    }


def test_every_number_of_the_optimisation_is_explained() -> None:
    assert all(field_docs(PretrainConfig).values())
