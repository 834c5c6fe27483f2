"""The files of the demo's repositories: a training script and three workflows that run it."""
