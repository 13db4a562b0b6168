"""Released checkpoints: the encoder they are imported into, and how each one names its tensors.

`layouts/NAME.py` says where the image encoder of a released NAME is in its file. `NAME.py` here, where there is one,
turns the whole released model into the method's own.
"""
