"""`--set`: only fields that exist, only values of their type."""

from dataclasses import dataclass

import pytest

from medbench.errors import UsageError
from medbench.method import PretrainConfig, Recipe
from medbench.overrides import apply_overrides


@dataclass(frozen=True)
class Config:
    temperature: float = 0.07
    pairing: str = "soft"
    queries: int = 14
    limit: float | None = None
    learn: bool = False


RECIPE = Recipe(Config(), PretrainConfig(epochs=2, batch_size=4, lr=0.1))


def test_values_take_the_type_of_their_field() -> None:
    typed = {
        "method.temperature": "1e-1",
        "method.pairing": "hungarian",
        "method.limit": "3",
        "method.learn": "true",
        "pretrain.lr": "1e-4",
        "pretrain.betas": "(0.5, 0.9)",
        "pretrain.patience": "none",
    }
    recipe = apply_overrides(RECIPE, typed, "place")
    assert recipe.config == Config(temperature=0.1, pairing="hungarian", limit=3.0, learn=True)
    assert recipe.pretrain is not None
    assert (recipe.pretrain.lr, recipe.pretrain.betas, recipe.pretrain.patience) == (1e-4, (0.5, 0.9), None)
    assert recipe.pretrain.epochs == 2
    assert RECIPE.config == Config()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("method.temprature", "1", "Did you mean 'temperature'"),
        ("method.queries", "many", r"method\.queries=many: .*int"),
        ("task.lr", "1", "The protocol belongs to the task"),
        ("pretrain.lr", "0", "expected a number above 0"),
        ("pretrain.epochs", "0", "expected at least 1"),
        ("pretrain.warmup", "5", "a share of the steps"),
        ("method.queries", "{[]: 1}", "int"),
        ("lr", "1", "expected method.FIELD or pretrain.FIELD"),
    ],
)
def test_mistakes_are_answered(key: str, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        apply_overrides(RECIPE, {key: value}, "place")


def test_an_untrained_method_has_no_pretrain_fields() -> None:
    with pytest.raises(UsageError, match="random is not pretrained"):
        apply_overrides(Recipe(Config()), {"pretrain.lr": "1"}, "random")


@dataclass(frozen=True)
class Crop:
    size: int = 224
    resize: int = 256

    def __post_init__(self) -> None:
        if self.size > self.resize:
            raise UsageError("larger than the film")


def test_fields_that_depend_on_each_other_are_set_together() -> None:
    typed = {"method.size": "300", "method.resize": "320"}
    assert apply_overrides(Recipe(Crop()), typed, "random").config == Crop(300, 320)
    with pytest.raises(UsageError, match="larger than the film"):
        apply_overrides(Recipe(Crop()), {"method.size": "300"}, "random")
