"""Whether two methods differ: noise of the test set, noise of training, ranks."""
