"""What trainings are compared by: the gradients of their optimiser steps."""

import torch
from transformers import TrainerCallback


class Gradients(TrainerCallback):
    """Keeps the gradient of every optimiser step as one vector."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        named = kwargs["model"].named_parameters()
        self.steps.append(torch.cat([p.grad.flatten().clone() for _, p in named if p.grad is not None]))


def relative(a, b):
    """L2 distance, relative to the second."""
    return float((a - b).norm() / b.norm())
