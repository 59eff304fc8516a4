"""Text classifiers of the `transformers` library that read a text as a whole."""

from tests.gauntlet.hub import SPREAD, text_family
from tests.gauntlet.inputs import LAST


def _layers(path: str) -> tuple[str, ...]:
    return f"{path}.0", f"{path}.1"


ENCODERS = [
    text_family("BERT", "Bert", _layers("bert.encoder.layer")),
    text_family("RoBERTa", "Roberta", _layers("roberta.encoder.layer")),
    text_family("XLM-RoBERTa", "XLMRoberta", _layers("roberta.encoder.layer")),
    text_family(
        "DistilBERT", "DistilBert", _layers("distilbert.transformer.layer"), sizes={},
        dim=32, n_layers=3, n_heads=4, hidden_dim=64, max_position_embeddings=64, initializer_range=SPREAD,
    ),
    text_family("ALBERT", "Albert", ("albert.encoder.albert_layer_groups.0.albert_layers.0",), embedding_size=16),
    text_family("ELECTRA", "Electra", _layers("electra.encoder.layer"), embedding_size=16),
    text_family(
        "DeBERTa", "Deberta", _layers("deberta.encoder.layer"), relative_attention=True, pos_att_type=["c2p", "p2c"],
        position_biased_input=False,
    ),
    text_family(
        "DeBERTa-v2", "DebertaV2", _layers("deberta.encoder.layer"), relative_attention=True, position_buckets=8,
        pos_att_type=["p2c", "c2p"], position_biased_input=False, norm_rel_ebd="layer_norm", share_att_key=True,
    ),
    text_family("MPNet", "MPNet", _layers("mpnet.encoder.layer")),
    text_family(
        "ConvBERT", "ConvBert", _layers("convbert.encoder.layer"), embedding_size=32, head_ratio=2,
        initializer_range=1.5,
    ),
    text_family(
        "ModernBERT", "ModernBert", _layers("model.layers"), cls_token_id=0, sep_token_id=2, local_attention=8,
        initializer_range=0.5, embedding_dropout=0.1, attention_dropout=0.1, mlp_dropout=0.1,
    ),
    text_family(
        "Funnel", "Funnel", ("funnel.encoder.blocks.0.0", "funnel.encoder.blocks.1.0"), sizes={},
        block_sizes=[1, 1, 1], d_model=32, n_head=4, d_head=8, d_inner=64, initializer_std=SPREAD,
    ),
    text_family(
        "Longformer", "Longformer", _layers("longformer.encoder.layer"), attention_window=8,
        layer="longformer.encoder.layer.1.intermediate.dense",
    ),
    text_family("BigBird", "BigBird", _layers("bert.encoder.layer"), attention_type="original_full", sep_token_id=LAST),
    text_family("FNet", "FNet", _layers("fnet.encoder.layer"), use_tpu_fourier_optimizations=False),
    text_family("SqueezeBERT", "SqueezeBert", _layers("transformer.encoder.layers"), embedding_size=32),
    text_family(
        "MobileBERT", "MobileBert", _layers("mobilebert.encoder.layer"), embedding_size=16, intra_bottleneck_size=16,
        num_feedforward_networks=2, initializer_range=0.5,
    ),
    text_family(
        "Nyströmformer", "Nystromformer", _layers("nystromformer.encoder.layer"), num_landmarks=64,
        segment_means_seq_len=64,
    ),
    text_family("RoFormer", "RoFormer", _layers("roformer.encoder.layer"), embedding_size=32),
    text_family(
        "RemBERT", "RemBert", _layers("rembert.encoder.layer"), input_embedding_size=16, output_embedding_size=16,
    ),
    text_family("ESM", "Esm", _layers("esm.encoder.layer"), mask_token_id=3, position_embedding_type="rotary"),
]  # fmt: skip

SEQ2SEQ = [
    text_family(
        "T5", "T5", ("transformer.encoder.block.0", "transformer.encoder.block.1"), sizes={}, d_model=32, d_kv=8,
        d_ff=64, num_layers=3, num_heads=4, decoder_start_token_id=1, initializer_factor=1.0, classifier_dropout=0.1,
    ),
    text_family(
        "BART", "Bart", ("model.encoder.layers.0", "model.encoder.layers.1"), sizes={}, d_model=32, encoder_layers=3,
        decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64,
        max_position_embeddings=64, init_std=SPREAD, decoder_start_token_id=2, forced_eos_token_id=2, dropout=0.1,
    ),
]  # fmt: skip
