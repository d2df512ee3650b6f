"""One gradient a row of the batch: of every trained layer, in the backward pass that a plain step takes too.

A layer's gradient of one row follows from what went into the layer and what came back to its output. Both are caught
where they pass, and Opacus' samplers (Yousefpour et al. 2021, arXiv 2109.12298) make the rows of them. Opacus' own
wrapper lets autograd make the sum over all rows beside them, which nobody needs here; so a layer's weights are not
trained while its output is computed, and are again right after.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from common.errors import TrainingError


@contextmanager
def per_drawing_gradients(unet: nn.Module) -> Iterator[None]:
    """Have a backward pass leave in each trained parameter's ``grad_sample`` one gradient a row, ``[rows, *shape]``.

    The loss must be a sum over rows, and the first dimension of what goes into a layer must be theirs. A parameter's
    ``grad`` stays None: nothing is summed.

    Raises:
        TrainingError: A trained layer is of a kind whose rows Opacus cannot tell apart.
    """
    layers = [module for module in unet.modules() if _own(module)]
    for layer in layers:
        if type(layer) not in GradSampleModule.GRAD_SAMPLERS:
            raise TrainingError(
                "a layer of this kind cannot be trained privately", got=type(layer).__name__,
                expected="linear layers and convolutions", advice="Leave it out of the run's targets.",
            )  # fmt: skip
    trained = [parameter for layer in layers for parameter in _own(layer)]
    hooks = [layer.register_forward_pre_hook(_hold) for layer in layers]
    hooks += [layer.register_forward_hook(partial(_watch, own=_own(layer))) for layer in layers]
    unet.train()
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in trained:
            parameter.requires_grad_(True)
            forget([parameter])
        unet.eval()


def rows_of(parameter: nn.Parameter) -> Tensor:
    """Return what the last backward pass left of a parameter, ``[rows, *shape]``."""
    rows: Tensor = vars(parameter)["grad_sample"]
    return rows


def forget(parameters: list[nn.Parameter]) -> None:
    """Forget what a backward pass left."""
    for parameter in parameters:
        parameter.grad = None
        vars(parameter).pop("grad_sample", None)


def _own(module: nn.Module) -> list[nn.Parameter]:
    """Return what the module itself, not one inside it, has that is trained."""
    return [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]


def _hold(layer: nn.Module, _inputs: tuple[Tensor, ...]) -> None:
    for parameter in layer.parameters(recurse=False):
        parameter.requires_grad_(False)


def _watch(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, *, own: list[nn.Parameter]) -> None:
    for parameter in own:
        parameter.requires_grad_(True)
    if not torch.is_grad_enabled():
        return
    if not output.requires_grad:  # nothing that is trained comes before it
        output.requires_grad_(True)
    output.register_hook(partial(_sample, layer, inputs[0].detach(), inputs[0]._version))


def _sample(layer: nn.Module, activations: Tensor, version: int, backprops: Tensor) -> None:
    if activations._version != version:  # autograd would have said so, had the weights been trained
        raise TrainingError("what went into a layer was changed before the backward pass", got=type(layer).__name__)
    for parameter, rows in GradSampleModule.GRAD_SAMPLERS[type(layer)](layer, [activations], backprops).items():
        before = vars(parameter).get("grad_sample")  # a layer may be passed more than once
        vars(parameter)["grad_sample"] = rows if before is None else before + rows
