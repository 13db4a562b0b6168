"""Classification tasks: a split and its labels. The protocol is `medbench.protocols.linear_probe`."""

from medbench.protocols.linear_probe import LinearProbe


class RsnaLinearProbe(LinearProbe):
    """`rsna_lp`: pneumonia on the RSNA challenge, 70/15/15 by patient, as in MGCA's released code."""

    split = "mgca_cls"
    classes = ("pneumonia",)
