"""Classifiers of images, sounds, videos and time series of the `transformers` library."""

from tests.gauntlet.family import CLASSES, Family
from tests.gauntlet.hub import SIZES, SPREAD, builder, image_family
from tests.gauntlet.inputs import audio, images, tensors

PATCHES = {**SIZES, "image_size": 32, "patch_size": 8, "hidden_dropout_prob": 0.1}
del PATCHES["max_position_embeddings"]

SMALL, LARGE = images(32), images(64)


def _layers(path: str) -> tuple[str, ...]:
    return f"{path}.0", f"{path}.1"


IMAGES = [
    image_family("ViT", "ViT", _layers("vit.layers"), SMALL, **PATCHES),
    image_family("DeiT", "DeiT", _layers("deit.layers"), SMALL, **PATCHES),
    image_family("BEiT", "Beit", _layers("beit.layers"), SMALL, **PATCHES),
    image_family("DINOv2", "Dinov2", _layers("dinov2.encoder.layer"), SMALL, **PATCHES),
    image_family(
        "Swin", "Swin", ("swin.encoder.layers.0", "swin.encoder.layers.1"), SMALL,
        layer="swin.encoder.layers.1.blocks.0.mlp.fc1", image_size=32, patch_size=2,
        embed_dim=16, depths=[1, 1, 1], num_heads=[2, 2, 4], window_size=4, initializer_range=SPREAD,
        hidden_dropout_prob=0.1,
    ),
    image_family(
        "Swin v2", "Swinv2", ("swinv2.encoder.layers.0", "swinv2.encoder.layers.1"), SMALL,
        layer="swinv2.encoder.layers.1.blocks.0.intermediate.dense", image_size=32, patch_size=2,
        embed_dim=16, depths=[1, 1, 1], num_heads=[2, 2, 4], window_size=4, initializer_range=SPREAD,
        hidden_dropout_prob=0.1,
    ),
    image_family(
        "ConvNeXt", "ConvNext", ("convnext.encoder.stages.0", "convnext.encoder.stages.1"), SMALL,
        dropout={"at": "convnext.encoder.stages.2", "rate": 0.2},
        hidden_sizes=[8, 16, 32], depths=[1, 1, 1], num_stages=3, patch_size=2, initializer_range=SPREAD,
        layer_scale_init_value=0.5,
    ),
    image_family(
        "ConvNeXt v2", "ConvNextV2", ("convnextv2.encoder.stages.0", "convnextv2.encoder.stages.1"), SMALL,
        dropout={"at": "convnextv2.encoder.stages.2", "rate": 0.2},
        hidden_sizes=[8, 16, 32], depths=[1, 1, 1], num_stages=3, patch_size=2, initializer_range=0.5,
    ),
    image_family(
        "ResNet", "ResNet", ("resnet.encoder.stages.0", "resnet.encoder.stages.1"), SMALL,
        dropout={"at": "resnet.pooler", "rate": 0.2},
        embedding_size=8, hidden_sizes=[8, 16, 32], depths=[1, 1, 1], layer_type="basic",
    ),
    image_family(
        "RegNet", "RegNet", ("regnet.encoder.stages.0", "regnet.encoder.stages.1"), SMALL,
        dropout={"at": "regnet.pooler", "rate": 0.2},
        embedding_size=8, hidden_sizes=[8, 16, 32], depths=[1, 1, 1], groups_width=8, layer_type="y",
    ),
    image_family(
        "MobileNet v2", "MobileNetV2", ("mobilenet_v2.layer.3", "mobilenet_v2.layer.8"), LARGE, image_size=64,
        depth_multiplier=0.35, initializer_range=SPREAD, classifier_dropout_prob=0.2, tf_padding=False,
    ),
    image_family(
        "MobileViT", "MobileViT", ("mobilevit.encoder.layer.1", "mobilevit.encoder.layer.2"), LARGE, image_size=64,
        hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 24, 32, 48, 64], num_attention_heads=4,
        initializer_range=0.5,
    ),
    image_family(
        "EfficientNet", "EfficientNet", ("efficientnet.encoder.blocks.1", "efficientnet.encoder.blocks.2"), SMALL,
        image_size=32, width_coefficient=0.5, depth_coefficient=0.1, in_channels=[32, 16, 24],
        out_channels=[16, 24, 40], kernel_sizes=[3, 3, 5], strides=[1, 2, 2], num_block_repeats=[1, 1, 1],
        expand_ratios=[1, 6, 6], depthwise_padding=[], hidden_dim=640, initializer_range=SPREAD,
        squeeze_expansion_ratio=0.25,
    ),
    image_family(
        "PVT v2", "PvtV2", ("pvt_v2.encoder.layers.0", "pvt_v2.encoder.layers.1"), SMALL, image_size=32,
        hidden_sizes=[8, 16, 32], num_encoder_blocks=3, depths=[1, 1, 1], sr_ratios=[4, 2, 1], patch_sizes=[7, 3, 3],
        strides=[4, 2, 2], num_attention_heads=[1, 2, 4], mlp_ratios=[2, 2, 2], initializer_range=SPREAD,
        hidden_dropout_prob=0.1,
    ),
    image_family(
        "SegFormer", "Segformer", ("segformer.stages.0", "segformer.stages.1"), SMALL,
        hidden_sizes=[8, 16, 32], num_encoder_blocks=3, depths=[1, 1, 1], sr_ratios=[4, 2, 1], patch_sizes=[7, 3, 3],
        strides=[4, 2, 2], num_attention_heads=[1, 2, 4], mlp_ratios=[2, 2, 2], initializer_range=SPREAD,
        hidden_dropout_prob=0.1,
    ),
    image_family(
        "PoolFormer", "PoolFormer", ("poolformer.encoder.block.0.0", "poolformer.encoder.block.1.0"), SMALL,
        dropout={"at": "poolformer.encoder.block.2.0.output", "rate": 0.2},
        hidden_sizes=[8, 16, 32], num_encoder_blocks=3, depths=[1, 1, 1], patch_sizes=[7, 3, 3], strides=[4, 2, 2],
        padding=[2, 1, 1], initializer_range=SPREAD, layer_scale_init_value=0.5,
    ),
]  # fmt: skip

_SPEECH = {
    **SIZES, "num_labels": CLASSES, "conv_dim": (8, 16), "conv_kernel": (10, 4), "conv_stride": (5, 4),
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16, "mask_time_prob": 0.0, "hidden_dropout": 0.1,
}  # fmt: skip


def _speech(name: str, prefix: str, path: str, **settings: object) -> Family:
    build = builder(f"{prefix}ForSequenceClassification", f"{prefix}Config", {**_SPEECH, **settings})
    at = _layers(f"{path}.encoder.layers")
    return Family(name, "sound, video and series", build, audio, at, layer=f"{at[1]}.feed_forward.intermediate_dense")


_AST = {
    **PATCHES, "num_labels": CLASSES, "max_length": 32, "num_mel_bins": 16, "frequency_stride": 8, "time_stride": 8,
}  # fmt: skip
_VIDEO = {**PATCHES, "num_labels": CLASSES, "num_frames": 4, "tubelet_size": 2, "image_size": 16}
_SERIES = {
    "num_input_channels": 2, "context_length": 32, "patch_length": 8, "patch_stride": 8, "num_hidden_layers": 3,
    "d_model": 32, "num_attention_heads": 4, "ffn_dim": 64, "num_targets": CLASSES, "ff_dropout": 0.1,
    "use_cls_token": False, "init_std": SPREAD,
}  # fmt: skip

SIGNALS = [
    _speech("wav2vec 2.0", "Wav2Vec2", "wav2vec2"),
    _speech(
        "wav2vec 2.0, stable layer norm", "Wav2Vec2", "wav2vec2", do_stable_layer_norm=True, feat_extract_norm="layer",
    ),
    _speech("HuBERT", "Hubert", "hubert"),
    _speech("WavLM", "WavLM", "wavlm"),
    Family(
        "Audio spectrogram transformer", "sound, video and series",
        builder("ASTForAudioClassification", "ASTConfig", _AST), tensors(32, 16, key="input_values"),
        _layers("audio_spectrogram_transformer.layers"),
    ),
    Family(
        "VideoMAE", "sound, video and series", builder("VideoMAEForVideoClassification", "VideoMAEConfig", _VIDEO),
        tensors(4, 3, 16, 16, key="pixel_values"), _layers("videomae.encoder.layer"),
    ),
    Family(
        "PatchTST", "sound, video and series", builder("PatchTSTForClassification", "PatchTSTConfig", _SERIES),
        tensors(32, 2, key="past_values"), _layers("model.encoder.layers"),
    ),
    Family(
        "PatchTSMixer", "sound, video and series",
        builder(
            "PatchTSMixerForTimeSeriesClassification", "PatchTSMixerConfig",
            {**_SERIES, "num_layers": 3, "head_aggregation": None, "dropout": 0.1, "head_dropout": 0.1},
        ),
        tensors(32, 2, key="past_values"), _layers("model.encoder.mlp_mixer_encoder.mixers"),
    ),
]  # fmt: skip
