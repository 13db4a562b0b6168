"""One file a method whose checkpoints were released: `RELEASE`, with the layouts that they come in."""
