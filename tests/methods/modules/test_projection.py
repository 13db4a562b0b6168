import pytest
import torch
from torch import nn

from medbench_methods.modules.projection import MaskedBatchNorm, ProjectionHead


@pytest.mark.parametrize("affine", [True, False])
def test_masked_statistics_are_those_of_the_words_alone(affine: bool) -> None:
    torch.manual_seed(0)
    masked, plain = MaskedBatchNorm(5, affine=affine), nn.BatchNorm1d(5, affine=affine)
    if affine:
        with torch.no_grad():
            masked.weight.uniform_(0.5, 2)
            masked.bias.uniform_(-1, 1)
        plain.load_state_dict(masked.state_dict())
    features = torch.randn(3, 7, 5, requires_grad=True)
    mask = torch.arange(7)[None] < torch.tensor([7, 4, 1])[:, None]
    out, wanted = masked(features, mask)[mask], plain(features[mask])
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(masked.state_dict(), plain.state_dict())
    weights = torch.randn_like(out)
    (gradient,) = torch.autograd.grad((out * weights).sum(), features)
    (wanted_gradient,) = torch.autograd.grad((wanted * weights).sum(), features)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-4, atol=1e-5)
    masked.eval(), plain.eval()
    torch.testing.assert_close(masked(features, mask)[mask], plain(features[mask]))


def test_without_mask_it_is_batch_norm_over_all_tokens() -> None:
    torch.manual_seed(0)
    masked, plain = MaskedBatchNorm(5), nn.BatchNorm1d(5)
    features = torch.randn(3, 7, 5)
    torch.testing.assert_close(masked(features), plain(features.flatten(0, 1)).view(3, 7, 5))


def test_a_batch_without_words_stays_finite() -> None:
    norm = MaskedBatchNorm(4)
    out = norm(torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool))
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(value).all() for value in norm.state_dict().values())


def test_head_is_the_one_of_mgca() -> None:
    torch.manual_seed(0)
    head = ProjectionHead(6, 8, 4)
    reference = nn.Sequential(
        nn.Conv1d(6, 8, 1), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 4, 1), nn.BatchNorm1d(4, affine=False)
    )
    with torch.no_grad():
        for linear, convolution in ((head.expand, reference[0]), (head.reduce, reference[3])):
            convolution.weight.copy_(linear.weight[:, :, None])
            convolution.bias.copy_(linear.bias)
    tokens = torch.randn(3, 5, 6)
    wanted = reference(tokens.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(head(tokens), wanted, rtol=1e-4, atol=1e-5)
    assert head(torch.randn(3, 6)).shape == (3, 4)
    assert not any(name.startswith("reduce_norm") for name, _ in head.named_parameters())
