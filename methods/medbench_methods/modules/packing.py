"""Reports of different lengths in one row of tokens, so that no time goes into padding."""

from torch import Tensor


class Packing:
    """Which tokens of a padded batch are there, and the way to them and back.

    Every layer of a transformer but attention works on single tokens and needs no padding.

    Attributes:
        mask: (B, T) bool, True where there is a token.
        places: (N,) int64, of each token in the batch, flattened to B * T.
    """

    def __init__(self, mask: Tensor) -> None:
        """Of a (B, T) bool mask. Waits for a device to tell how many tokens there are."""
        self.mask = mask
        self.places = mask.flatten().nonzero()[:, 0]

    def pack(self, padded: Tensor) -> Tensor:
        """(B, T, ...) -> (N, ...)."""
        return padded.flatten(0, 1).index_select(0, self.places)

    def unpack(self, packed: Tensor) -> Tensor:
        """(N, ...) -> (B, T, ...), zero in padding."""
        padded = packed.new_zeros(self.mask.numel(), *packed.shape[1:]).index_copy(0, self.places, packed)
        return padded.view(*self.mask.shape, *packed.shape[1:])
