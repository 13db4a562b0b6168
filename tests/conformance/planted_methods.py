"""The method of the example plugin, once for every check with a bug that this check has to find."""

import random
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.nn import all_gather

from medbench.hookspecs import hookimpl
from medbench.method import Recipe
from medbench.model import Preprocessing
from medbench.specs import MethodSpec
from medbench_example.method import ExampleConfig, ExampleMethod, Model

SOUND = MethodSpec(
    name="sound_method",
    target="planted_methods:Sound",
    summary="no bug",
    reference="tests",
    provides=frozenset({"image.pooled", "image.pyramid", "text.pooled", "text.local", "embedding"}),
    fidelity="baseline",
)

BUGS = {}
"""Class by name of the method: the check that has to find it, and after `__` which of several bugs it is."""


class Sound(ExampleMethod):
    """No bug."""


def planted(method):
    BUGS[f"bug_method_{method.__name__}"] = method
    return method


def with_model(model):
    """A method with another model."""

    class Planted(ExampleMethod):
        """A method with a bug in its model."""

        def __init__(self, config):
            super().__init__(config)
            self.model = model(config)

    Planted.__name__ = Planted.__qualname__ = model.__name__
    return planted(Planted)


@planted
class docs(ExampleMethod):
    pass


@planted
class declaration(ExampleMethod):
    """A recipe is missing."""

    recipes = {name: ExampleMethod.recipes[name] for name in ("tiny", "micro")}  # noqa: RUF012


@with_model
class shapes(Model):
    """Embeddings that are not of length 1."""

    def embed_text(self, features):
        return self.text_head(features.pooled)


@with_model
class shapes__pyramid(Model):
    """Maps from stride 4 on."""

    def encode_image(self, images, pyramid=False):
        found = super().encode_image(images, pyramid)
        return replace(found, pyramid=found.pyramid and (*found.pyramid[1:], found.pyramid[-1]))


@with_model
class dtypes(Model):
    """Features in another precision."""

    def encode_image(self, images, pyramid=False):
        found = super().encode_image(images, pyramid)
        return replace(found, pooled=found.pooled.double())

    def embed_image(self, features):
        return super().embed_image(replace(features, pooled=features.pooled.float()))


@with_model
class preprocessing(Model):
    """Mean and deviation of films from 0 to 255."""

    def __init__(self, config):
        super().__init__(config)
        side = config.side
        self.preprocessing = Preprocessing(side, side, mean=(123.7,) * 3, std=(58.4,) * 3)


@with_model
class preprocessing__scale(Model):
    """Films that are blown up: within the bounds of a mean and a deviation, and still not normalised."""

    def __init__(self, config):
        super().__init__(config)
        side = config.side
        self.preprocessing = Preprocessing(side, side, std=(0.01,) * 3)


@with_model
class determinism(Model):
    """Dropout that does not look at the mode."""

    def encode_image(self, images, pyramid=False):
        found = super().encode_image(images, pyramid)
        return replace(found, pooled=F.dropout(found.pooled, 0.1, training=True))


@planted
class determinism__build(ExampleMethod):
    """Weights that depend on what ran before."""

    def __init__(self, config):
        super().__init__(config)
        with torch.no_grad():
            self.model.image_head.bias.fill_(random.SystemRandom().random())


@with_model
class batch_invariance(Model):
    """Features less their mean over the batch."""

    def encode_image(self, images, pyramid=False):
        found = super().encode_image(images, pyramid)
        return replace(found, pooled=found.pooled - found.pooled.mean(0))


@with_model
class padding(Model):
    """A mean that padding takes part in."""

    def encode_text(self, text):
        told = super().encode_text(text)
        return replace(told, pooled=told.local.mean(1))


@with_model
class modes(Model):
    """Features of an encoder that puts itself into eval mode, where it then stays."""

    def encode_image(self, images, pyramid=False):
        self.eval()
        return super().encode_image(images, pyramid)


@with_model
class modes__train(Model):
    """A part that never goes into eval mode."""

    def train(self, mode=True):
        super().train(mode)
        self.stages.train()
        return self


@with_model
class frozen(Model):
    """Gradients that nobody asked for."""

    def encode_image(self, images, pyramid=False):
        with torch.enable_grad():
            return super().encode_image(images, pyramid)


@with_model
class frozen__changes(Model):
    """A running mean that also evaluation moves."""

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("mean", torch.zeros(()))

    def encode_image(self, images, pyramid=False):
        self.mean.lerp_(images.mean(), 0.1)
        return super().encode_image(images, pyramid)


@with_model
class gradients(Model):
    """Features that can not be fine-tuned."""

    def encode_image(self, images, pyramid=False):
        with torch.no_grad():
            return super().encode_image(images, pyramid)


@with_model
class device_moves(Model):
    """A tensor that is no buffer."""

    def __init__(self, config):
        super().__init__(config)
        self.weights = torch.ones(config.width * 16)

    def encode_image(self, images, pyramid=False):
        found = super().encode_image(images, pyramid)
        return replace(found, pooled=found.pooled * self.weights)


@planted
class device_moves__made(ExampleMethod):
    """A tensor that is made on the CPU for every batch."""

    def losses(self, batch, epoch):
        image = self.model.embed_image(self.model.encode_image(batch.images))
        text = self.model.embed_text(self.model.encode_text(batch.text))
        return {"contrast": F.cross_entropy(image @ text.T / 0.1, torch.arange(len(image)))}


@planted
class training_step(ExampleMethod):
    """Random numbers that are not torch's."""

    def losses(self, batch, epoch):
        return {"contrast": super().losses(batch, epoch)["contrast"] * (1 + random.random())}


@planted
class training_step__nan(ExampleMethod):
    """A loss that is no number."""

    def losses(self, batch, epoch):
        return {**super().losses(batch, epoch), "extra": torch.tensor(float("nan"))}


@planted
class round_trip(ExampleMethod):
    """What was learnt from the reports is in no tensor and in no asset."""

    @classmethod
    def from_corpus(cls, config, reports, setup):
        method = super().from_corpus(config, reports, setup)
        method.model.scale = sum(len(report) for report in reports) / len(reports)
        encode = method.model.encode_image

        def scaled(images, pyramid=False):
            found = encode(images, pyramid)
            return replace(found, pooled=found.pooled * method.model.scale)

        method.model.encode_image = scaled
        return method


@planted
class round_trip__queue(ExampleMethod):
    """What training changes is in no tensor."""

    steps = 0

    def losses(self, batch, epoch):
        self.steps += self.training
        return {"contrast": super().losses(batch, epoch)["contrast"] * (1 + self.steps)}


@planted
class end_to_end(ExampleMethod):
    """A loss that takes batches of some sizes alone; the last one of validation is smaller."""

    def losses(self, batch, epoch):
        pairs = len(batch.images) // 8 * 8
        halves = batch.images.view(pairs // 8, 8, *batch.images.shape[1:])
        return {name: value + 0 * halves.mean() for name, value in super().losses(batch, epoch).items()}


@dataclass(frozen=True)
class GatherConfig(ExampleConfig):
    gather: bool = False


class Gathers(ExampleMethod):
    """A contrast with the pairs of all processes."""

    recipes = {  # noqa: RUF012
        name: Recipe(GatherConfig(side=64, width=8), recipe.pretrain)
        for name, recipe in ExampleMethod.recipes.items()
    }
    everybody = True

    def losses(self, batch, epoch):
        image = self.model.embed_image(self.model.encode_image(batch.images))
        text = self.model.embed_text(self.model.encode_text(batch.text))
        images, texts, first = image, text, 0
        if self.config.gather and dist.is_initialized() and self.everybody:
            images, texts = (torch.cat(all_gather(rows)) for rows in (image, text))
            first = len(image) * dist.get_rank()
        target = torch.arange(len(image), device=image.device) + first
        one, other = image @ texts.T / 0.1, text @ images.T / 0.1
        return {"contrast": F.cross_entropy(one, target) + F.cross_entropy(other, target)}


@planted
class gather(Gathers):
    """It says that it gathers, and each process contrasts its own pairs."""

    everybody = False


@cache
def specs():
    gathers = replace(SOUND, name="gathers", target="planted_methods:Gathers")
    bugs = [replace(SOUND, name=name, target=f"planted_methods:{name}") for name in BUGS]
    return (SOUND, gathers, *bugs)


globals().update(BUGS)


@hookimpl
def medbench_methods():
    return specs()
