"""An audit of the private training that is installed here, on a base of one's own."""

from __future__ import annotations

import torch

from client.dataset import TrainingSet
from client.privacy_audit import Audit, Subject, audit_training, flip_coins, right_angles
from client.private_training import Mechanism
from common.models import Base, attach_lora, load_base
from common.settings import LoraSettings, PrivacySettings, RunSettings, TrainingSettings
from security.noise import SecureNoise
from security.privacy_plan import planned_steps
from server.start import fresh_state


def audited(base: str, privacy: PrivacySettings, canaries: int, seed: int) -> Audit:
    """Audit one round of private training; see :mod:`client.privacy_audit`.

    Args:
        base: As in a run's settings.
        privacy: What is claimed.
        canaries: How many; at most the numbers that are trained.
        seed: Decides the canaries and their coins.

    Raises:
        BaseModelError: The base cannot be loaded.
        PrivacyError: There are too many canaries, or no noise suffices for so small an epsilon.
    """
    subject = subject_of(load_base(base), LoraSettings(rank=2), privacy)
    planted = flip_coins(right_angles(canaries, subject.size, seed), seed)
    return audit_training(subject, planted, SecureNoise(), privacy.epsilon, privacy.delta)


def subject_of(base: Base, lora: LoraSettings, privacy: PrivacySettings) -> Subject:
    """Return private training of one random drawing, as a run of one round would have it."""
    adapter = fresh_state(attach_lora(base.unet, lora), RunSettings(lora=lora)).adapter
    shape = int(base.unet.config.in_channels), *2 * (int(base.unet.config.sample_size),)
    latents = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    data = TrainingSet(latents, base.encode_text(["an ink drawing of a boat", ""]), torch.zeros(1, dtype=torch.long))
    steps = planned_steps(privacy, 1, privacy.epsilon, privacy.delta)
    mechanism = Mechanism(steps.multiplier, privacy.clip, steps.rate, multiplicity=1, at_once=1)
    return Subject(base, adapter, data, lora, TrainingSettings(steps=steps.count), mechanism)
