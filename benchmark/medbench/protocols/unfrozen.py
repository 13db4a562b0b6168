"""Fine-tuning of encoders: a copy that learns, and the rate of each of its layers.

Which parameters learn is not declared but found out: those that the features of one black film have a gradient to.
Text towers, projections and heads of a backbone that no feature passes through stay as they are. A model says in what
order its parameters lie (`medbench.model.LayeredModel`), so that rates can fall towards its input; a model that does
not is one layer.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medbench.errors import PluginError
from medbench.model import LayeredModel, VisionLanguageModel


@dataclass(frozen=True)
class EncoderGrid:
    """How fast an encoder learns beside a head: every pair is tried, and validation chooses."""

    lr_factors: tuple[float, ...]
    """Rate of its last layer, in parts of the head's."""
    layer_decays: tuple[float, ...]
    """Rate of a layer, in parts of that of the layer above it; 1 for the same rate everywhere."""

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """Every pair of (rate factor, layer decay), in the order in which they are tried."""
        return tuple((factor, decay) for factor in self.lr_factors for decay in self.layer_decays)


def trainable_copy(model: VisionLanguageModel, *, pyramid: bool = False) -> VisionLanguageModel:
    """A deep copy in eval mode, of which only parameters that `encode_image` uses require a gradient.

    They learn whether or not pretraining kept them fixed. `model` is not touched, nor are torch's random numbers.

    Args:
        model: a torch module, on any device, in any mode.
        pyramid: count what the five maps use, not what the pooled feature uses; the encoders of medbench use the same
            parameters for both.

    Raises:
        PluginError: the model is no torch module, or its features have no gradient.
    """
    name = type(model).__name__
    if not isinstance(model, nn.Module):
        raise PluginError(
            f"the model {name} is no torch.nn.Module, so its encoder can not be fine-tuned. Derive it from nn.Module, "
            "or run tasks that leave the encoder frozen."
        )
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
    ):  # parameters made in inference mode learn as copies
        copy: Any = deepcopy(model).eval().requires_grad_(True)
        size = copy.preprocessing.size
        device = next((parameter.device for parameter in copy.parameters()), torch.device("cpu"))
        features = copy.encode_image(torch.zeros(1, 3, size, size, device=device), pyramid)
        seen: Sequence[Tensor] = features.pyramid if pyramid else (features.pooled,)
        parameters = list(copy.parameters())
        with_gradient = [feature for feature in seen if feature.requires_grad]
        if not with_gradient or not parameters:
            raise PluginError(
                f"{name}.encode_image gives features without a gradient, so its encoder can not be fine-tuned. Expected"
                " features of its parameters, computed without torch.no_grad() and torch.inference_mode(): who calls it"
                " switches gradients off."
            )
        found = torch.autograd.grad([f.sum() for f in with_gradient], parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, found, strict=True):
        parameter.requires_grad_(gradient is not None)
    fine_tuned: VisionLanguageModel = copy
    return fine_tuned


def check_trainable(model: VisionLanguageModel, *, pyramid: bool = False) -> None:
    """Refuse a model that can not be fine-tuned, before anything takes long; arguments as of `trainable_copy`.

    Raises:
        PluginError: the model is no torch module, its features have no gradient, or it names its layers wrongly.
    """
    _layers(trainable_copy(model, pyramid=pyramid))


def parameter_groups(
    model: VisionLanguageModel, lr: float, layer_decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser, from the input of the encoder to its output.

    Args:
        model: from `trainable_copy`.
        lr: rate of the last layer.
        layer_decay: rate of a layer in parts of that of the layer above it: a layer learns at
            `lr * layer_decay ** (layers above it)`, as BERT-like fine-tuning does (Clark et al., arXiv 2003.10555; for
            ViTs Bao et al., arXiv 2106.08254).
        weight_decay: of matrices and kernels alone. Biases, norms, position embeddings and tokens have none.

    Returns:
        One group a layer, two where some of its parameters are decayed and some not. Each parameter that learns is in
        exactly one.

    Raises:
        PluginError: the model names a parameter twice, or leaves out one that learns.
    """
    layers = _layers(model)
    spared = _without_decay(model)
    groups = []
    for above, layer in zip(reversed(range(len(layers))), layers, strict=True):
        rate = lr * layer_decay**above
        for decay, params in (
            (weight_decay, [p for p in layer if id(p) not in spared]),
            (0.0, [p for p in layer if id(p) in spared]),
        ):
            if params:
                groups.append({"params": params, "lr": rate, "weight_decay": decay})
    return groups


def layer_count(model: VisionLanguageModel) -> int:
    """How many layers of a `trainable_copy` learn; 1 where the model does not name them.

    Raises:
        PluginError: the model names a parameter twice, or leaves out one that learns.
    """
    return len(_layers(model))


def describe_layers(model: VisionLanguageModel) -> str:
    """In words, for a record: how many layers the rates of a `trainable_copy` fall over."""
    if isinstance(model, LayeredModel):
        return f"{layer_count(model)} layers, from input to output"
    return "one layer: the model does not name its layers (image_layers), so layer_decay changes nothing"


def trained_part(model: VisionLanguageModel) -> nn.ModuleList:
    """The modules of a `trainable_copy` that learn, as one module: what a checkpoint has to hold, and no more."""
    assert isinstance(model, nn.Module)
    return nn.ModuleList(_learning(model))


def _learning(module: nn.Module) -> Iterator[nn.Module]:
    if all(parameter.requires_grad for parameter in module.parameters()):
        if module.state_dict():  # with buffers, too: the statistics of a BatchNorm without weights change
            yield module
        return
    own = [p for p in module.parameters(recurse=False) if p.requires_grad]
    if own:
        yield nn.ParameterList(own)
    for child in module.children():
        yield from _learning(child)


def _layers(model: VisionLanguageModel) -> list[list[nn.Parameter]]:
    """Parameters that learn, by layer, from input to output; layers without any are left out."""
    assert isinstance(model, nn.Module)
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    if not isinstance(model, LayeredModel):
        return [[p for p in model.parameters() if p.requires_grad]]
    layers = [[p for p in layer if id(p) in names] for layer in model.image_layers()]
    counted = [id(p) for layer in layers for p in layer]
    missing = [name for key, name in names.items() if key not in set(counted)]
    twice = [name for key, name in names.items() if counted.count(key) > 1]
    if missing or twice:
        what, wrong = ("leaves out", missing) if missing else ("names twice", twice)
        raise PluginError(
            f"{type(model).__name__}.image_layers {what} {len(wrong)} of {len(names)} parameters that encode_image uses"
            f" (the first is {wrong[0]}). Name each once, or leave the method out: the encoder is then one layer."
        )
    return [layer for layer in layers if layer]


def _without_decay(model: VisionLanguageModel) -> set[int]:
    """Ids of parameters that are no matrices or kernels.

    Biases and norms, also tables of biases (Swin), and what is added to or put before tokens, which has one row for all
    films.
    """
    assert isinstance(model, nn.Module)
    return {
        id(p)
        for name, p in model.named_parameters()
        if p.ndim < 2 or p.shape[0] == 1 or "bias" in name.rpartition(".")[2]
    }
