import pytest
import timm
import torch
import torch.nn.functional as F

from medbench_methods.modules.attention import attend, choose_attention

B, HEADS, T, D = 2, 3, 5, 4


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(B, HEADS, T, D, generator=generator, dtype=torch.float64) for _ in range(3))
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
def test_equals_torchs_attention_in_value_and_gradient(kind: str) -> None:
    inputs = example()
    there = torch.tensor([[True] * T, [True] * 2 + [False] * 3])[:, None, None, :]
    mask = {"none": None, "bool": there, "float": torch.where(there, 0.0, -1e30).double()}[kind]
    found, weights = attend(torch.nn.Identity(), *inputs, mask, scaling=0.3)
    assert weights is None
    expected = F.scaled_dot_product_attention(*inputs, attn_mask=mask, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found.sin().sum(), inputs),
        torch.autograd.grad(expected.sin().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_dropout_only_in_training() -> None:
    module = torch.nn.Identity().eval()
    q, k, v = example()
    torch.testing.assert_close(
        attend(module, q, k, v, None, scaling=0.3, dropout=0.5)[0],
        attend(module, q, k, v, None, scaling=0.3)[0],
    )
    torch.manual_seed(0)
    dropped = attend(module.train(), q, k, v, None, scaling=0.3, dropout=0.5)[0]
    assert not torch.allclose(dropped, attend(module, q, k, v, None, scaling=0.3)[0])


def test_a_vit_gives_the_same_either_way() -> None:
    torch.manual_seed(0)
    body = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        choose_attention(body.blocks, torch.device("cuda"))
        assert all(block.attn.fused_attn for block in body.blocks)
        fused = body(images)
        choose_attention(body.blocks, images.device)
        assert not any(block.attn.fused_attn for block in body.blocks)
        torch.testing.assert_close(body(images), fused, rtol=1e-4, atol=1e-5)
