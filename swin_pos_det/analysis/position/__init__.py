"""Pictures and numbers of position: biases, attention maps, attention distance."""
