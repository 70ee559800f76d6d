"""What the command lines share: errors, checks of settings and checkpoints, argument types, the runner."""
