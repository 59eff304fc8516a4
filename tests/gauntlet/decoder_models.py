"""Text classifiers of the `transformers` library that read from left to right and predict at the last token."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tests.gauntlet.family import CLASSES, Family
from tests.gauntlet.hub import SIZES, SPREAD, TOKENS, builder, text_family
from tests.gauntlet.inputs import text

ROTARY: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "attention_dropout": 0.1}


def _decoder(
    name: str, prefix: str, at: str = "model.layers", sizes: Mapping[str, Any] = ROTARY, **settings: Any
) -> Family:
    return text_family(name, prefix, (f"{at}.0", f"{at}.1"), "text, left to right", sizes, **settings)


class MambaClassifier(nn.Module):
    """Mamba with a classifier at the last token that is no padding."""

    def __init__(self) -> None:
        super().__init__()
        settings = {**TOKENS, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 4, "initializer_range": SPREAD}
        self.backbone = builder("MambaModel", "MambaConfig", settings)()
        self.dropout = nn.Dropout(0.1)
        self.score = nn.Linear(32, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.backbone(input_ids, attention_mask=attention_mask).last_hidden_state
        positions = torch.arange(input_ids.shape[1]) * attention_mask
        last = hidden[torch.arange(input_ids.shape[0]), positions.argmax(dim=1)]
        return self.score(self.dropout(last))


DECODERS = [
    _decoder(
        "GPT-2", "GPT2", "transformer.h", {}, n_embd=32, n_layer=3, n_head=4, n_positions=64, initializer_range=SPREAD,
    ),
    _decoder(
        "GPT-Neo", "GPTNeo", "transformer.h", {}, hidden_size=32, num_layers=3, num_heads=4, intermediate_size=64,
        max_position_embeddings=64, attention_types=[[["global", "local", "global"], 1]], window_size=8,
        initializer_range=SPREAD, resid_dropout=0.1,
    ),
    _decoder("GPT-NeoX", "GPTNeoX", "gpt_neox.layers", SIZES, hidden_dropout=0.1),
    _decoder("Llama", "Llama"),
    _decoder("Qwen2", "Qwen2"),
    _decoder("Qwen3", "Qwen3"),
    _decoder("Mistral", "Mistral", sliding_window=8),
    _decoder("Gemma", "Gemma"),
    _decoder("Gemma 2", "Gemma2", sliding_window=8),
    _decoder("Phi", "Phi"),
    _decoder("Phi-3", "Phi3", sizes={key: value for key, value in ROTARY.items() if key != "head_dim"}),
    _decoder(
        "OPT", "OPT", "model.decoder.layers", {}, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        ffn_dim=64, max_position_embeddings=64, word_embed_proj_dim=32, init_std=0.5,
    ),
    _decoder(
        "BLOOM", "Bloom", "transformer.h", {}, hidden_size=32, n_layer=3, n_head=4, initializer_range=SPREAD,
        hidden_dropout=0.1,
    ),
    _decoder(
        "Falcon", "Falcon", "transformer.h", {}, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        initializer_range=SPREAD, hidden_dropout=0.1, new_decoder_architecture=False,
    ),
    _decoder("Mixtral (mixture of experts)", "Mixtral", num_local_experts=4, num_experts_per_tok=2),
    _decoder(
        "Qwen2-MoE (mixture of experts)", "Qwen2Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
    ),
    Family(
        "Mamba", "text, left to right", MambaClassifier, text, ("backbone.layers.0", "backbone.layers.1"),
        layer="backbone.layers.1.mixer.in_proj",
    ),
]  # fmt: skip
