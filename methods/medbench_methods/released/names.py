"""How libraries and authors name the tensors of the same nets, turned into timm's names.

Each function takes tensors by name, without prefix, and gives them by timm's name. What it does not know keeps its
name, so that it shows up in the report. timm's ResNets are named like torchvision's.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = dict[str, Tensor]

Rules = Sequence[tuple[str, str]]
"""Regular expressions that a whole name must match, and what it becomes; the first that matches counts."""


def renamed(state: Mapping[str, Tensor], rules: Rules) -> State:
    """Tensors under the names that the rules give."""
    return {_apply(rules, name): tensor for name, tensor in state.items()}


def _apply(rules: Rules, name: str) -> str:
    for pattern, becomes in rules:
        found = re.fullmatch(pattern, name)
        if found:
            return found.expand(becomes)
    return name


def fused(state: State, parts: tuple[str, str, str], into: str) -> State:
    """Queries, keys and values that are separate tensors joined to one, as timm has them, in this order.

    Args:
        state: tensors by name; of each attention all three parts, alike in shape and type, or no joined name is made.
        parts: how names of the three end, before `.weight` and `.bias`.
        into: what stands in their place.
    """
    joined = dict(state)
    for leaf in ("weight", "bias"):
        ends = [f"{part}.{leaf}" for part in parts]
        for head in [name.removesuffix(ends[0]) for name in state if name.endswith(ends[0])]:
            names = [head + end for end in ends]
            found = [state[name] for name in names if name in state]
            alike = len({(part.shape, part.dtype) for part in found}) == 1
            if len(found) == 3 and alike and found[0].ndim and found[0].element_size() > 1:
                joined[f"{head}{into}.{leaf}"] = torch.cat([joined.pop(name) for name in names])
    return joined


def resnet_children(state: State) -> State:
    """A torchvision ResNet as `nn.Sequential` of its children: 0 conv1, 1 bn1, 4 to 7 layer1 to layer4."""
    return renamed(
        state, [(r"0\.(.*)", r"conv1.\1"), (r"1\.(.*)", r"bn1.\1"), *_stages()]
    )  # 2 is ReLU, 3 max pooling: neither has tensors


def _stages() -> list[tuple[str, str]]:
    return [(rf"{number}\.(.*)", rf"layer{number - 3}.\1") for number in (4, 5, 6, 7)]


def openai_clip(state: State) -> State:
    """The image tower of OpenAI's CLIP: resblocks, ln_pre, ln_post, queries, keys and values joined as `in_proj`."""
    block = r"transformer\.resblocks\.(\d+)\."
    return renamed(
        state,
        [
            (r"class_embedding", "cls_token"),
            (r"positional_embedding", "pos_embed"),
            (r"conv1\.weight", "patch_embed.proj.weight"),
            (r"ln_pre\.(.*)", r"norm_pre.\1"),
            (r"ln_post\.(.*)", r"norm.\1"),
            (block + r"ln_(\d)\.(.*)", r"blocks.\1.norm\2.\3"),
            (block + r"attn\.in_proj_(weight|bias)", r"blocks.\1.attn.qkv.\2"),
            (block + r"attn\.out_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
            (block + r"mlp\.c_fc\.(.*)", r"blocks.\1.mlp.fc1.\2"),
            (block + r"mlp\.c_proj\.(.*)", r"blocks.\1.mlp.fc2.\2"),
        ],
    )


def refers(state: State) -> State:
    """The ViT of REFERS' code (jeonsworld's ViT-pytorch): queries, keys and values apart."""
    block = r"encoder\.layer\.(\d+)\."
    names = renamed(
        state,
        [
            (r"embeddings\.cls_token", "cls_token"),
            (r"embeddings\.position_embeddings", "pos_embed"),
            (r"embeddings\.patch_embeddings\.(.*)", r"patch_embed.proj.\1"),
            (r"encoder\.encoder_norm\.(.*)", r"norm.\1"),
            (block + r"attention_norm\.(.*)", r"blocks.\1.norm1.\2"),
            (block + r"ffn_norm\.(.*)", r"blocks.\1.norm2.\2"),
            (block + r"attn\.out\.(.*)", r"blocks.\1.attn.proj.\2"),
            (block + r"attn\.(query|key|value)\.(.*)", r"blocks.\1.attn.\2.\3"),
            (block + r"ffn\.(fc[12])\.(.*)", r"blocks.\1.mlp.\2.\3"),
        ],
    )
    return fused(names, ("query", "key", "value"), "qkv")


def jax_vit(state: State) -> State:
    """A ViT as Google's JAX code writes it to npz: kernels are (in, out), heads have an axis of their own."""
    names: State = {}
    width = state["cls"].shape[-1] if "cls" in state and state["cls"].ndim else 0
    for name, tensor in state.items():
        leaf = name.rsplit("/", 1)[-1]
        if name == "embedding/kernel":
            if tensor.ndim == 4:
                tensor = tensor.permute(3, 2, 0, 1)  # (16, 16, 3, D) -> (D, 3, 16, 16)
        elif "/MultiHeadDotProductAttention_1/" in name and leaf == "kernel" and tensor.numel() == width**2:
            # (D, heads, d) of queries, keys and values, (heads, d, D) of the way out -> (D, D), rows are outputs
            tensor = tensor.reshape(width, width).T
        elif "/MultiHeadDotProductAttention_1/" in name and leaf == "bias":
            tensor = tensor.reshape(-1)
        elif leaf == "kernel" and tensor.ndim == 2:
            tensor = tensor.T
        names[re.sub(r"(kernel|scale)$", "weight", name)] = tensor
    block = r"Transformer/encoderblock_(\d+)/"
    names = renamed(
        names,
        [
            (r"cls", "cls_token"),
            (r"embedding/(.*)", r"patch_embed.proj.\1"),
            (r"Transformer/posembed_input/pos_embedding", "pos_embed"),
            (r"Transformer/encoder_norm/(.*)", r"norm.\1"),
            (block + r"LayerNorm_0/(.*)", r"blocks.\1.norm1.\2"),
            (block + r"LayerNorm_2/(.*)", r"blocks.\1.norm2.\2"),
            (block + r"MultiHeadDotProductAttention_1/out/(.*)", r"blocks.\1.attn.proj.\2"),
            (
                block + r"MultiHeadDotProductAttention_1/(query|key|value)/(.*)",
                r"blocks.\1.attn.\2.\3",
            ),
            (block + r"MlpBlock_3/Dense_0/(.*)", r"blocks.\1.mlp.fc1.\2"),
            (block + r"MlpBlock_3/Dense_1/(.*)", r"blocks.\1.mlp.fc2.\2"),
        ],
    )
    return {name: t.contiguous() for name, t in fused(names, ("query", "key", "value"), "qkv").items()}


def hugging_face_vit(state: State) -> State:
    """`ViTModel` of transformers: the names of its files, and those that it has in memory since version 5."""
    block = r"(?:encoder\.layer|layers)\.(\d+)\."
    names = renamed(
        state,
        [
            (r"embeddings\.cls_token", "cls_token"),
            (r"embeddings\.position_embeddings", "pos_embed"),
            (r"embeddings\.patch_embeddings\.projection\.(.*)", r"patch_embed.proj.\1"),
            (r"layernorm\.(.*)", r"norm.\1"),
            (block + r"layernorm_before\.(.*)", r"blocks.\1.norm1.\2"),
            (block + r"layernorm_after\.(.*)", r"blocks.\1.norm2.\2"),
            (block + r"attention\.attention\.(query|key|value)\.(.*)", r"blocks.\1.attn.\2.\3"),
            (block + r"attention\.q_proj\.(.*)", r"blocks.\1.attn.query.\2"),
            (block + r"attention\.k_proj\.(.*)", r"blocks.\1.attn.key.\2"),
            (block + r"attention\.v_proj\.(.*)", r"blocks.\1.attn.value.\2"),
            (block + r"attention\.(?:output\.dense|o_proj)\.(.*)", r"blocks.\1.attn.proj.\2"),
            (block + r"(?:intermediate\.dense|mlp\.fc1)\.(.*)", r"blocks.\1.mlp.fc1.\2"),
            (block + r"(?:output\.dense|mlp\.fc2)\.(.*)", r"blocks.\1.mlp.fc2.\2"),
        ],
    )
    return fused(names, ("query", "key", "value"), "qkv")


def hugging_face_clip(state: State) -> State:
    """The image tower of `CLIPModel` of transformers, behind `vision_model.`; it misspells the first norm."""
    block = r"encoder\.layers\.(\d+)\."
    names = renamed(
        state,
        [
            (r"embeddings\.class_embedding", "cls_token"),
            (r"embeddings\.position_embedding\.weight", "pos_embed"),
            (r"embeddings\.patch_embedding\.weight", "patch_embed.proj.weight"),
            (r"pre_layrnorm\.(.*)", r"norm_pre.\1"),
            (r"post_layernorm\.(.*)", r"norm.\1"),
            (block + r"layer_norm(\d)\.(.*)", r"blocks.\1.norm\2.\3"),
            (block + r"self_attn\.([qkv])_proj\.(.*)", r"blocks.\1.attn.\2.\3"),
            (block + r"self_attn\.out_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
            (block + r"mlp\.(fc[12])\.(.*)", r"blocks.\1.mlp.\2.\3"),
        ],
    )
    return fused(names, ("attn.q", "attn.k", "attn.v"), "attn.qkv")


def hugging_face_swin(state: State) -> State:
    """`SwinModel` of transformers: the names of its files, and those that it has in memory since version 5.

    It merges patches at the end of a stage, timm at the beginning of the next one; both in the same order.
    """
    names: State = {}
    block = r"encoder\.layers\.(\d{1,3})\.blocks\.(\d+)\."
    into = r"layers.\1.blocks.\2."
    rules = [
        (r"embeddings\.patch_embeddings\.projection\.(.*)", r"patch_embed.proj.\1"),
        (r"embeddings\.norm\.(.*)", r"patch_embed.norm.\1"),
        (r"layernorm\.(.*)", r"norm.\1"),
        (block + r"layernorm_before\.(.*)", into + r"norm1.\3"),
        (block + r"layernorm_after\.(.*)", into + r"norm2.\3"),
        (block + r"attention\..*relative_position_bias_table", into + "attn.relative_position_bias_table"),
        (block + r"attention\.self\.(query|key|value)\.(.*)", into + r"attn.\3.\4"),
        (block + r"attention\.q_proj\.(.*)", into + r"attn.query.\3"),
        (block + r"attention\.k_proj\.(.*)", into + r"attn.key.\3"),
        (block + r"attention\.v_proj\.(.*)", into + r"attn.value.\3"),
        (block + r"attention\.(?:output\.dense|o_proj)\.(.*)", into + r"attn.proj.\3"),
        (block + r"(?:intermediate\.dense|mlp\.fc1)\.(.*)", into + r"mlp.fc1.\3"),
        (block + r"(?:output\.dense|mlp\.fc2)\.(.*)", into + r"mlp.fc2.\3"),
    ]
    for name, tensor in renamed(state, rules).items():
        merging = re.fullmatch(r"encoder\.layers\.(\d{1,3})\.downsample\.(.*)", name)
        names[f"layers.{int(merging[1]) + 1}.downsample.{merging[2]}" if merging else name] = tensor
    return fused(names, ("query", "key", "value"), "qkv")


def hugging_face_resnet(state: State) -> State:
    """`ResNetModel` of transformers."""
    block = r"encoder\.stages\.(\d+)\.layers\.(\d+)\."
    names: State = {}
    for name, tensor in state.items():
        inner = re.fullmatch(block + r"(layer\.(\d)|shortcut)\.(convolution|normalization)\.(\w+)", name)
        if found := re.fullmatch(r"embedder\.embedder\.(convolution|normalization)\.(\w+)", name):
            name = f"{'conv1' if found[1] == 'convolution' else 'bn1'}.{found[2]}"
        elif inner:
            stage, number, _, layer, kind, leaf = inner.groups()
            if layer is None:
                part = f"downsample.{0 if kind == 'convolution' else 1}"
            else:
                part = f"{'conv' if kind == 'convolution' else 'bn'}{int(layer) + 1}"
            name = f"layer{int(stage[:3]) + 1}.{number}.{part}.{leaf}"
        names[name] = tensor
    return names


def torchvision_vit(state: State) -> State:
    """`vit_b_16` of torchvision; its first versions called the two layers of the MLP linear_1 and linear_2."""
    block = r"encoder\.layers\.encoder_layer_(\d+)\."
    return renamed(
        state,
        [
            (r"class_token", "cls_token"),
            (r"encoder\.pos_embedding", "pos_embed"),
            (r"conv_proj\.(.*)", r"patch_embed.proj.\1"),
            (r"encoder\.ln\.(.*)", r"norm.\1"),
            (block + r"ln_(\d)\.(.*)", r"blocks.\1.norm\2.\3"),
            (block + r"self_attention\.in_proj_(weight|bias)", r"blocks.\1.attn.qkv.\2"),
            (block + r"self_attention\.out_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
            (block + r"mlp\.(?:0|linear_1)\.(.*)", r"blocks.\1.mlp.fc1.\2"),
            (block + r"mlp\.(?:3|linear_2)\.(.*)", r"blocks.\1.mlp.fc2.\2"),
        ],
    )


_PATCHES = 256**2 + 1
"""Most positions that are resampled: films of 4096 px."""


def position_embedding(name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """A ViT's position embedding for films of another size, resampled as timm does it (bicubic); else None."""
    if name != "pos_embed" or tensor.ndim not in (2, 3) or tensor.shape[-1] != shape[-1]:
        return None
    if tensor.shape[:-2].numel() != 1 or not 1 < tensor.shape[-2] <= _PATCHES:
        return None
    from timm.layers.pos_embed import resample_abs_pos_embed  # takes seconds

    grids = [int((n - 1) ** 0.5) for n in (tensor.shape[-2], shape[-2])]
    if any(side**2 + 1 != n for side, n in zip(grids, (tensor.shape[-2], shape[-2]), strict=True)):
        return None
    resampled: Tensor = resample_abs_pos_embed(
        tensor.reshape(1, -1, tensor.shape[-1]).float(), [grids[1], grids[1]], [grids[0], grids[0]]
    )
    return resampled


def grey_stem(name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """A first convolution of one channel, for films whose grey is repeated to three equal channels; else None.

    A third of the weight in each channel adds up to the same output.
    """
    if name != "conv1.weight" or tensor.shape[1:2] != (1,) or shape[1] != 3 or tensor.shape[2:] != shape[2:]:
        return None
    if tensor.shape[0] != shape[0]:
        return None
    return tensor.expand(shape) / 3  # (O, 1, 7, 7) -> (O, 3, 7, 7)
