"""The checks of a method. Each says in its first line what it looks at, and returns what it saw."""

import math
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medbench import weights
from medbench.conformance.check import Failed, NotApplicable
from medbench.conformance.device_moves import HostTensors
from medbench.conformance.docs import documented
from medbench.conformance.method_subject import (
    BATCH,
    CAPTIONS,
    CLOSE,
    MethodSubject,
    farthest,
    losses,
    module,
    total,
)
from medbench.conformance.records import checked_run
from medbench.conformance.two_processes import in_two_processes
from medbench.errors import UsageError
from medbench.method import Method, Recipe
from medbench.model import (
    ImageFeatures,
    LocallySimilar,
    PatchModel,
    Preprocessing,
    TextBatch,
    TextFeatures,
    VisionLanguageModel,
)
from medbench.protocols.unfrozen import check_trainable
from medbench.specs import TaskSpec

RECIPES = ("tiny", "paper", "micro")

STRIDES = (2, 4, 8, 16, 32)
"""Of the maps of a pyramid."""


def declaration(subject: MethodSubject) -> str:
    """The class is a Method with recipes tiny, paper and micro, each a frozen dataclass, and trains if it says so."""
    spec = subject.spec
    kind: Any = subject.catalogue.load("methods", spec.name)
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise Failed(
            f"{spec.target}, {kind!r}",
            "a subclass of medbench.method.Method",
            "Name the class as the target.",
        )
    recipes: Mapping[str, Any] = getattr(kind, "recipes", {})
    # A released encoder has the sizes that were released.
    wanted = ("paper",) if spec.released_only else RECIPES
    if lacking := [name for name in wanted if name not in recipes]:
        raise Failed(
            f"recipes {', '.join(recipes) or 'none'}", f"also {', '.join(lacking)}", "Add them to `recipes`."
        )
    for name, recipe in recipes.items():
        if not isinstance(recipe, Recipe) or not is_dataclass(recipe.config):
            raise Failed(
                f"recipe {name}, {recipe!r}", "a Recipe with a dataclass as its config", "Make it one."
            )
        made: Any = getattr(recipe.config, "__dataclass_params__", None)
        if not made.frozen:
            raise Failed(
                f"{type(recipe.config).__name__}, whose fields can be set",
                "a config that nobody changes",
                "Declare it with @dataclass(frozen=True).",
            )
        if (recipe.pretrain is not None) is not spec.pretrains:
            has = "an optimisation" if recipe.pretrain is not None else "no optimisation"
            raise Failed(
                f"recipe {name} with {has} in a method declared with pretrains={spec.pretrains}",
                "both or neither",
                "Give the recipe a PretrainConfig, or declare the method with pretrains=False.",
            )
    return f"{kind.__name__} with recipes {', '.join(sorted(recipes))}"


def shapes(subject: MethodSubject) -> str:
    """Features have the shapes of `medbench.model` and are there if `provides` says so; embeddings are unit vectors."""
    method = subject.build().eval()
    model = module_of(method)
    images = subject.images(model)
    side, seen = images.shape[-1], []
    with torch.no_grad():
        plain, features = model.encode_image(images), model.encode_image(images, True)
    _is(plain, ImageFeatures, "encode_image")
    _shape("ImageFeatures.pooled", features.pooled, (BATCH, None))
    seen.append(f"pooled {tuple(features.pooled.shape)}")
    for name, there in (("image.local", features.local), ("image.pyramid", features.pyramid)):
        if (name in subject.spec.provides) and there is None:
            raise Failed(f"no {name}", "it, since `provides` has it", f"Give it, or take {name} out.")
    if plain.pyramid is not None:
        raise Failed(
            "five maps where none were asked for",
            "ImageFeatures.pyramid to be None then",
            "Make them where `pyramid` is true alone: films are encoded by the ten thousand.",
        )
    if features.local is not None:
        _shape("ImageFeatures.local", features.local, (BATCH, None, None))
        seen.append(f"local {tuple(features.local.shape)}")
        if isinstance(model, PatchModel) and model.pyramid_from_patches:
            patches = (side // 16) ** 2
            _shape(
                "ImageFeatures.local of a model with pyramid_from_patches",
                features.local,
                (BATCH, patches, None),
            )
    if "image.pyramid" in subject.spec.provides and features.pyramid is not None:
        if len(features.pyramid) != len(STRIDES):
            raise Failed(
                f"{len(features.pyramid)} maps", "five, at strides 2, 4, 8, 16, 32", "Give all of them."
            )
        for stride, part in zip(STRIDES, features.pyramid, strict=True):
            _shape(f"the map at stride {stride}", part, (BATCH, None, side // stride, side // stride))
        seen.append("five maps")
    name, apart = farthest({"pooled": plain.pooled}, {"pooled": features.pooled})
    if apart > CLOSE:
        raise Failed(
            f"another {name} feature where the maps are asked for ({apart:.1e} of its largest number)",
            "the same",
            "Let `pyramid` add maps and change nothing else.",
        )
    if subject.has_text:
        seen.append(_text_shapes(subject, model))
    if "embedding" in subject.spec.provides:
        seen.append(_embeddings(subject, model, features))
    return ", ".join(seen)


def _text_shapes(subject: MethodSubject, model: VisionLanguageModel) -> str:
    text = subject.text(model)
    _is(text, TextBatch, "tokenize")
    tokens = text.ids.shape[-1]
    for field in fields(text):
        _shape(f"TextBatch.{field.name}", getattr(text, field.name), (len(CAPTIONS), tokens))
    with torch.no_grad():
        told = model.encode_text(text)
    _is(told, TextFeatures, "encode_text")
    words = told.local.shape[1]
    _shape("TextFeatures.pooled", told.pooled, (len(CAPTIONS), None))
    _shape("TextFeatures.local", told.local, (len(CAPTIONS), words, None))
    for name, part in (("mask", told.mask), ("sentence", told.sentence), ("attention", told.attention)):
        if part is not None:
            _shape(f"TextFeatures.{name}", part, (len(CAPTIONS), words))
    return f"text pooled {tuple(told.pooled.shape)}"


def _embeddings(subject: MethodSubject, model: VisionLanguageModel, features: ImageFeatures) -> str:
    with torch.no_grad():
        told = model.encode_text(subject.text(model))
        films, texts = model.embed_image(features), model.embed_text(told)
        width = films.shape[-1]
        _shape("embed_image", films, (BATCH, width))
        _shape("embed_text", texts, (len(CAPTIONS), width))
        for name, vectors in (("embed_image", films), ("embed_text", texts)):
            off = float((vectors.norm(dim=-1) - 1).abs().max())
            if not off < 1e-3:
                raise Failed(
                    f"{name} of lengths up to {off:.3g} off 1",
                    "unit vectors",
                    "End it with torch.nn.functional.normalize(..., dim=-1).",
                )
        if isinstance(model, LocallySimilar):
            similar = model.local_similarity(features, told)
            _shape("local_similarity", similar, (BATCH, len(CAPTIONS)))
    return f"embedding {width} wide"


def dtypes(subject: MethodSubject) -> str:
    """Features and losses are float32, token ids int64, masks bool."""
    method = subject.build().eval()
    model = module_of(method)
    images = subject.images(model)
    with torch.no_grad():
        for name, value in subject.seen(model, images).items():
            _dtype(name, value, torch.float32)
        if subject.has_text:
            text = subject.text(model)
            _dtype("TextBatch.mask", text.mask, torch.bool)
            for name in ("ids", "word", "sentence"):
                _dtype(f"TextBatch.{name}", getattr(text, name), torch.int64)
            told = model.encode_text(text)
            _dtype("TextFeatures.mask", told.mask, torch.bool)
            _dtype("TextFeatures.sentence", told.sentence, torch.int64)
            for name, value in subject.told(model, text).items():
                _dtype(name, value, torch.float32)
    if subject.spec.pretrains:
        for name, value in losses(method, subject.pairs(method)).items():
            _dtype(f"loss {name}", value, torch.float32)
    return "float32 features" + (" and losses" if subject.spec.pretrains else "")


def determinism(subject: MethodSubject) -> str:
    """One seed builds one model, whether or not another build left something to find, and it says the same twice."""
    one, other = subject.build(), subject.build(kept=False)
    name, apart = farthest(one.state_dict(), other.state_dict())
    if apart:
        raise Failed(
            f"two builds with one seed that differ in {name}",
            "the same weights",
            "Draw with torch's default generator, which is seeded, and iterate over no set.",
        )
    if dict(one.assets()) != dict(other.assets()):
        raise Failed(
            "two builds with one seed whose `assets` differ",
            "the same bytes",
            "Sort what is written into them.",
        )
    one.eval()
    name, apart = farthest(subject.all_features(one.model), subject.all_features(one.model))
    if apart:
        raise Failed(
            f"two forward passes of one model in eval mode that differ in {name}, by {apart:.1e} of its largest number",
            "the same features",
            "Draw nothing at random where `self.training` is False.",
        )
    return "two builds and two forward passes are equal"


def training_step(subject: MethodSubject) -> str:
    """Losses are finite numbers with a gradient; the same step, taken twice, has the same losses and gradients."""
    taken = []
    for number in range(2):
        method = subject.build()
        batch = subject.pairs(method)
        random.seed(number)  # an interrupted run goes on with these in another state
        np.random.seed(number)  # noqa: NPY002  # the old generator is the one a method might lean on
        terms = losses(method, batch)
        _check_losses(terms)
        total(terms).backward()  # type: ignore[no-untyped-call]
        gradients = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
        if broken := [n for n, gradient in gradients.items() if not bool(torch.isfinite(gradient).all())]:
            raise Failed(
                f"a gradient of {broken[0]} that is not finite", "finite gradients", "Look for 0/0 and log 0."
            )
        taken.append(({f"loss {n}": v.detach() for n, v in terms.items()}, gradients))
    for one, other in zip(*taken, strict=True):
        name, apart = farthest(one, other)
        if not apart:
            continue
        raise Failed(
            f"the same step taken twice, that differs in {name} by {apart:.1e} of its largest number",
            "the same losses and gradients: an interrupted run goes on by this",
            "Draw with torch's default generator alone; `random` and numpy's are not seeded before a step.",
        )
    return ", ".join(f"{n} {float(v.detach()):.3f}" for n, v in terms.items())


def _check_losses(terms: object) -> None:
    if not isinstance(terms, dict) or not terms:
        raise Failed(f"losses of type {type(terms).__name__}", "a dict of terms by name", "Return one.")
    for name, value in terms.items():
        if not isinstance(value, Tensor) or value.ndim != 0:
            is_ = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise Failed(f"the loss {name} {is_}", "a tensor without dimensions", "Take its mean.")
        number = float(value.detach())
        if not math.isfinite(number):
            raise Failed(f"the loss {name} of {number}", "a finite number", "Look for 0/0 and log 0.")
    if not any(value.requires_grad for value in terms.values()):
        raise Failed(
            "losses without a gradient", "a gradient to the weights", "Compute them with gradients on."
        )


def batch_invariance(subject: MethodSubject) -> str:
    """In eval mode what is said of a film does not depend on the others of its batch."""
    method = subject.build().eval()
    model = module_of(method)
    images = subject.images(model)
    with torch.no_grad():
        together = subject.seen(model, images)
        for name, rows in (("alone", slice(0, 1)), ("with others", slice(0, 3))):
            part, apart = farthest(
                subject.seen(model, images[rows]), {n: v[rows] for n, v in together.items()}
            )
            if apart > CLOSE:
                raise Failed(
                    f"another {part} feature of a film {name} than in a batch, {apart:.1e} of the largest off",
                    f"at most {CLOSE:.0e}, which rounding makes",
                    "Use no statistics of the batch in eval mode.",
                )
    return "a film alone is as one of a batch"


def padding(subject: MethodSubject) -> str:
    """In eval mode what is said of a text does not depend on the longer ones that it is padded for."""
    method = subject.build().eval()
    model = module_of(method)
    text = subject.text(model)
    with torch.no_grad():
        together = subject.told(model, text)
        mask = model.encode_text(text).mask
        for row, caption in enumerate(CAPTIONS):
            own = model.tokenize([caption])
            words = int(mask[row].sum())
            alone, padded = subject.told(model, own), {n: v[row : row + 1] for n, v in together.items()}
            found = int(model.encode_text(own).mask.sum())
            if found != words:
                raise Failed(
                    f"{words} words of a text of {found} once it is padded",
                    "as many",
                    "Mask the padding out.",
                )
            cut = [{**part, "text local": part["text local"][:, :words]} for part in (alone, padded)]
            name, apart = farthest(*cut)
            if apart > CLOSE:
                raise Failed(
                    f"another {name} feature of a text that is padded for a longer one, by {apart:.1e} of the largest",
                    f"at most {CLOSE:.0e}, which rounding makes",
                    "Let no attention, mean or maximum see tokens that `TextBatch.mask` leaves out.",
                )
    return f"{len(CAPTIONS)} captions alone are as together"


def frozen(subject: MethodSubject) -> str:
    """Asked without gradients in eval mode, the model keeps no graph, collects no gradient and changes no tensor."""
    method = subject.build().eval()
    model = module_of(method)
    images = subject.images(model)
    given, before = images.clone(), {name: value.clone() for name, value in method.state_dict().items()}
    with torch.no_grad():
        found = subject.seen(model, images)
        if subject.has_text:
            found |= subject.told(model, subject.text(model))
    if leaking := [name for name, value in found.items() if value.requires_grad]:
        raise Failed(
            f"a gradient of {', '.join(leaking)} under torch.no_grad()",
            "features that hold no graph",
            "Who calls the model switches gradients on and off: take torch.enable_grad() out of it.",
        )
    if graded := [name for name, p in method.named_parameters() if p.grad is not None]:
        raise Failed(
            f"a gradient left in {graded[0]}", "none", "Call no backward while features are computed."
        )
    name, apart = farthest(before, method.state_dict())
    if apart:
        raise Failed(
            f"{name}, which encoding in eval mode changed",
            "weights and buffers as before",
            "Update them in training.",
        )
    if not torch.equal(images, given):
        raise Failed("the given films, changed in place", "films as before", "Copy before you write.")
    return "no graph, no gradient, no change"


def gradients(subject: MethodSubject) -> str:
    """Asked with gradients, features have them, so the encoder can be fine-tuned; its layers name each weight once."""
    method = subject.build()
    model = module_of(method)
    check_trainable(model)
    if "image.pyramid" in subject.spec.provides:
        check_trainable(model, pyramid=True)
    return "the encoder can be fine-tuned"


def modes(subject: MethodSubject) -> str:
    """`eval()` and `train()` reach every module and undo each other, and no call of the engine changes a mode."""
    method = subject.build()
    module_of(method)
    training = _modes(method)
    if on := [name for name, mode in _modes(method.eval()).items() if mode]:
        raise Failed(
            f"{on[0] or 'the method'} in training mode after eval()",
            "every module in eval mode",
            "Call super().train(mode).",
        )
    if (again := _modes(method.train())) != training:
        name = next(name for name in training if again[name] != training[name])
        raise Failed(
            f"another mode of {name} after eval() and train()", "the one before", "Undo it in `train`."
        )
    for mode in (True, False):
        method.train(mode)
        for call, run in _calls(subject, method):
            before = _modes(method)
            run()
            if changed := [name for name, was in _modes(method).items() if was is not before[name]]:
                raise Failed(
                    f"{changed[0] or 'the method'} in {'eval' if mode else 'training'} mode after {call}",
                    f"the mode before it, {'training' if mode else 'eval'}",
                    "Leave modes to who calls, or put them back.",
                )
    return "modes are as they were after every call"


def _modes(method: nn.Module) -> dict[str, bool]:
    return {name: part.training for name, part in method.named_modules()}


def _calls(subject: MethodSubject, method: Method) -> Iterator[tuple[str, Callable[[], object]]]:
    """What the engine and the tasks call."""
    model = method.model
    images = subject.images(model)
    yield "encode_image", lambda: subject.seen(model, images)
    if subject.has_text:
        yield "encode_text", lambda: subject.told(model, subject.text(model))
    if subject.spec.pretrains:
        batch = subject.pairs(method)
        yield "losses", lambda: losses(method, batch)
        yield "report_vectors", lambda: method.report_vectors(CAPTIONS)


def device_moves(subject: MethodSubject) -> str:
    """`to(device)` moves all that the forward passes and the losses use, and what they make is made on that device."""
    method = subject.build().eval()
    model = module_of(method)
    images = subject.images(model)
    text = subject.text(model) if subject.has_text else None
    batch = subject.pairs(method) if subject.spec.pretrains else None
    left = HostTensors(method)
    with torch.no_grad(), left.given(images, text, batch):
        subject.seen(model, images)
        if text is not None:
            subject.told(model, text)
        if batch is not None:
            losses(method, batch)
    if left.behind:
        raise Failed(
            f"{left.behind[0]}, which would be on the CPU beside tensors of the model's device",
            "all of them on one device",
            "Register the tensor as a buffer or a parameter, or make it with `device=` of a tensor that is there.",
        )
    if not torch.cuda.is_available():
        return "nothing stays behind, by the arguments of every call (no CUDA device to move to)"
    here = subject.all_features(model)
    method.to("cuda")
    with torch.no_grad():
        there = subject.seen(model, images.cuda())
        if text is not None:
            there |= subject.told(model, text.to(torch.device("cuda")))
        if batch is not None:
            losses(method, batch.to(torch.device("cuda")))
    name, apart = farthest(here, {n: v.cpu() for n, v in there.items()})
    if apart > 1e-2:  # convolutions in TF32
        raise Failed(
            f"{name} on CUDA {apart:.1e} off that of the CPU", "at most 1e-2", "Look for what differs."
        )
    return f"the same on {torch.cuda.get_device_name()}"


def round_trip(subject: MethodSubject) -> str:
    """What is saved and loaded again gives the same features and losses, from weights and `assets` alone."""
    method = subject.build()
    model = module_of(method)
    batch = None
    if subject.spec.pretrains:
        batch = subject.pairs(method)
        for _ in range(2):  # batch statistics and queues leave where they start
            total(losses(method, batch)).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for parameter in method.parameters():
                    if parameter.grad is not None:
                        parameter.sub_(1e-3 * parameter.grad.sign())
                        parameter.grad = None
    method.eval()
    folder = Path(tempfile.mkdtemp(dir=subject.folder)) / "saved"
    weights.save(method, folder, {"method": subject.spec.name})
    loaded = weights.load(folder, subject.method_class, subject.spec.name).method
    if loaded.model.preprocessing != model.preprocessing:
        raise Failed(
            f"another preprocessing after loading, {loaded.model.preprocessing}",
            f"{model.preprocessing}",
            "Build it from the config alone.",
        )
    name, apart = farthest(subject.all_features(model), subject.all_features(loaded.model))
    if not apart and batch is not None:
        with torch.no_grad():
            before, after = losses(method, batch), losses(loaded, batch)
        name, apart = farthest(before, after)
        name = f"the loss {name}"
    if apart:
        raise Failed(
            f"{name} {apart:.1e} off after saving and loading",
            "the same to the last bit",
            "Keep what training changes in parameters and buffers, and what is learnt from reports in `assets`.",
        )
    return "features are the same after saving and loading"


def preprocessing(subject: MethodSubject) -> str:
    """Size, mean and std are those of films in [0, 1]: real arrays, normalised by them, are neither flat nor huge."""
    method = subject.build().eval()
    inputs: Any = module_of(method).preprocessing
    if not isinstance(inputs, Preprocessing):
        raise Failed(f"preprocessing {inputs!r}", "a medbench.model.Preprocessing", "Give one.")
    if method.film_scale < 1:
        raise Failed(f"film_scale {method.film_scale}", "at least 1", "Leave it out, or give a whole number.")
    for name, values in (("mean", list(inputs.mean)), ("std", list(inputs.std))):
        if len(values) != 3 or not all(math.isfinite(value) and 0 <= value <= 1 for value in values):
            raise Failed(
                f"{name} {tuple(values)}",
                "three numbers in [0, 1]",
                "Divide numbers of 0 to 255 by 255, as films are.",
            )
    images = subject.images(method.model)
    low, high, spread = float(images.min()), float(images.max()), float(images.std())
    if not 0.1 < spread < 10 or not -20 < low < high < 20:
        raise Failed(
            f"normalised films from {low:.3g} to {high:.3g} with a standard deviation of {spread:.3g}",
            "a standard deviation of 0.1 to 10, within -20 and 20",
            "Give mean and std of films in [0, 1].",
        )
    with torch.no_grad():
        pooled = method.model.encode_image(images).pooled
    if float((pooled - pooled[:1]).abs().max()) == 0:
        raise Failed(
            f"the same features of {BATCH} films",
            "features that tell films apart",
            "Look for what they get lost in.",
        )
    return (
        f"{images.shape[-1]} px of {inputs.resize}, {low:.2f} to {high:.2f}, standard deviation {spread:.2f}"
    )


def gather(subject: MethodSubject) -> str:
    """With `gather`, two processes with half of a batch each have the loss and gradients of one with all of it."""
    if not subject.spec.pretrains:
        raise NotApplicable("the method is not pretrained, so it has no losses")
    config = subject.recipe.config
    if not isinstance(getattr(config, "gather", None), bool):
        raise NotApplicable(
            f"{type(config).__name__} has no field `gather`: each process contrasts its own pairs"
        )
    try:
        method = subject.build(gather=True).eval()
    except UsageError as refused:
        raise NotApplicable(f"the method refuses gather: {refused}") from None
    batch = subject.pairs(method)
    drawn = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        with torch.no_grad():
            drawn.append(method.losses(batch, 0))
    if farthest(*drawn)[1]:
        raise NotApplicable(
            "the losses draw at random for every place in the batch, so two halves draw otherwise than the whole"
        )
    terms = losses(method, batch)
    total(terms).backward()  # type: ignore[no-untyped-call]
    whole = {"the loss": total(terms).detach()} | {
        name: p.grad for name, p in method.named_parameters() if p.grad is not None
    }
    halves = in_two_processes(method, batch, subject)
    worst = max(float(value.abs().max()) for name, value in whole.items() if name != "the loss")
    for name, value in whole.items():
        # small gradients are sums of large ones, so they are held against the largest of all
        scale = max(abs(float(value)), 1e-12) if name == "the loss" else worst
        half = halves.get(name)
        apart = math.inf if half is None else float((half - value).abs().max()) / scale
        what = name if name == "the loss" else f"the gradient of {name}"
        if not apart < CLOSE:
            raise Failed(
                f"{what} in two processes {apart:.1e} off that of one",
                f"their mean within {CLOSE:.0e} of one process with the joined batch",
                "Gather all rows that a loss contrasts, with their gradients (`torch.distributed.nn` or "
                "medbench_methods.losses.gather), and take the mean over own rows alone.",
            )
    return f"loss {float(whole['the loss']):.4f} and {len(whole) - 1} gradients are those of one process"


def end_to_end(subject: MethodSubject) -> str:
    """At recipe micro it is pretrained and runs on one task of every protocol that it serves; the records are valid."""
    if subject.spec.released_only:
        raise NotApplicable("its encoder comes from a released checkpoint, and none is made here")
    tasks = served(subject)
    if not tasks:
        raise Failed(
            f"provides {', '.join(sorted(subject.spec.provides)) or 'nothing'}",
            "what some task needs",
            "Declare it.",
        )
    records = checked_run(subject.request(tasks=tasks, fractions=(1.0,)), subject.catalogue)
    return f"{len(records)} valid records: {', '.join(record.identity.task for record in records)}"


def served(subject: MethodSubject) -> tuple[str, ...]:
    """One built-in task of every protocol that the method can serve, on as few datasets as can be."""
    catalogue = subject.catalogue
    fitting: dict[str, list[TaskSpec]] = {}
    for name, spec in catalogue.tasks.items():
        own = catalogue.owner("tasks", name).name == "medbench"
        if own and not spec.family and "@" not in name and spec.needs <= subject.spec.provides:
            fitting.setdefault(spec.target, []).append(spec)
    serving = Counter(dataset for specs in fitting.values() for dataset in {spec.dataset for spec in specs})
    return tuple(
        min(specs, key=lambda spec: (-serving[spec.dataset], spec.name)).name for specs in fitting.values()
    )


def docs(subject: MethodSubject) -> str:
    """Summary, reference and the docstring of the class are there; its distribution has a README or names docs."""
    spec = subject.spec
    if not spec.provides:
        raise Failed("nothing in `provides`", "what tasks may ask of the model", "List it in the MethodSpec.")
    return documented(subject.catalogue, "methods", spec, subject.method_class)


def module_of(method: Method) -> VisionLanguageModel:
    """The model of a method, which is a torch module with the calls of `VisionLanguageModel`.

    Raises:
        Failed: it is not.
    """
    model = getattr(method, "model", None)
    if not isinstance(model, VisionLanguageModel):
        needed = ("preprocessing", "encode_image", "tokenize", "encode_text", "embed_image", "embed_text")
        lacking = [name for name in needed if not hasattr(model, name)]
        raise Failed(
            f"a model without {', '.join(lacking)}",
            "all of medbench.model.VisionLanguageModel",
            "Add it; a model without text raises NotImplementedError in the text half.",
        )
    module(model)
    return model


def _is(value: object, kind: type, call: str) -> None:
    if not isinstance(value, kind):
        raise Failed(f"{call} gives {type(value).__name__}", f"medbench.model.{kind.__name__}", "Return one.")


def _shape(name: str, value: Tensor, expected: tuple[int | None, ...]) -> None:
    fits = len(value.shape) == len(expected) and all(
        want in (None, have) for have, want in zip(value.shape, expected, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in expected)
        raise Failed(
            f"{name} of shape {tuple(value.shape)}", f"({wanted})", "See medbench.model for its axes."
        )


def _dtype(name: str, value: Tensor, expected: torch.dtype) -> None:
    if value.dtype != expected:
        raise Failed(f"{name} of {value.dtype}", f"{expected}", "Convert it where it is made.")


CHECKS: tuple[Callable[[MethodSubject], str], ...] = (
    declaration,
    docs,
    shapes,
    dtypes,
    preprocessing,
    determinism,
    batch_invariance,
    padding,
    modes,
    frozen,
    gradients,
    device_moves,
    training_step,
    round_trip,
    gather,
    end_to_end,
)
"""What is checked of a method, quick ones first."""
