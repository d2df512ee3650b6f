"""The base of a run, with LoRA on it as the run has it: for whoever draws or measures with a run's adapters."""

from __future__ import annotations

from common.errors import BaseModelError
from common.models import Base, attach_lora, load_base
from security.run_order import RunOrder


def base_of_run(order: RunOrder) -> Base:
    """Return the base that a run trains on, LoRA attached.

    Raises:
        BaseModelError: It cannot be loaded here, or what is loaded is not the run's.
    """
    base = load_base(order.settings.base)
    if base.digest != order.base_digest:
        raise BaseModelError(
            "this is not the base that the run trains on", got=base.digest[:16], expected=order.base_digest[:16]
        )
    attach_lora(base.unet, order.settings.lora)
    return base
