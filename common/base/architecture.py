"""The shapes of the embedded base: configurations only, weights come from training."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.trainers import BpeTrainer

LATENT_CHANNELS = 4
PIXELS = 64
LATENT_SIZE = 16
MAX_TOKENS = 32

VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": LATENT_CHANNELS,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [16, 32, 64],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": PIXELS,
    "mid_block_add_attention": False,
    # Each channel's mean and deviation are folded into the (post_)quant convolutions, so no factor is left over.
    "scaling_factor": 1.0,
}

UNET: dict[str, Any] = {
    "sample_size": LATENT_SIZE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    # Attention at 16x16 costs more time than it brought; 8x8 and 4x4 carry the subject.
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [32, 64, 96],
    "layers_per_block": 2,
    "norm_num_groups": 16,
    "cross_attention_dim": 64,
    "attention_head_dim": 4,  # diffusers' name for the number of heads, kept by Stable Diffusion 1.x configurations
}

TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_TOKENS,
    "hidden_act": "quick_gelu",
}

SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    # White lines on black paper need a last step without any signal (arXiv 2305.08891): with the usual
    # schedule the sheet's mean leaks through and samples stay mid-grey.
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def vocabulary(captions: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return a byte-level BPE vocabulary and its merges: every byte, and each word of ``captions`` as one token.

    Args:
        captions: Lower-case ASCII captions whose words are worth a token of their own.

    Returns:
        ``(vocabulary, merges)`` as `CLIPTokenizer` takes them. Any other text falls back to fragments and bytes.
    """
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = WhitespaceSplit()
    # A vocabulary larger than could be filled: learning stops when every word has become one token.
    trainer = BpeTrainer(vocab_size=100_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(sorted(captions), trainer)
    learned = json.loads(learner.to_str())["model"]
    letters = _byte_letters()
    merges = [(left, right) for left, right in learned["merges"]]
    tokens = [*letters, *(c + "</w>" for c in letters), *(left + right for left, right in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {t: i for i, t in enumerate(dict.fromkeys(tokens))}, merges


def _byte_letters() -> list[str]:
    """Return the 256 printable stand-ins for bytes that byte-level BPE uses (Radford et al. 2019)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(shifted))]
