"""Small models of Hugging Face with random weights, as transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import speechlike

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 4, 4),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_feat_extract_layers": 3,
    "vocab_size": 32,
    "pad_token_id": 0,
}
LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "wav2vec2": ("Wav2Vec2Config", "Wav2Vec2ForCTC", {"feat_extract_norm": "group"}),
    "wav2vec2_layer": ("Wav2Vec2Config", "Wav2Vec2ForCTC", LAYER),
    "wav2vec2_adapter": ("Wav2Vec2Config", "Wav2Vec2ForCTC", LAYER | {"add_adapter": True, "num_adapter_layers": 2}),
    "hubert": ("HubertConfig", "HubertForCTC", LAYER),
    "hubert_batch_norm": ("HubertConfig", "HubertForCTC", LAYER | {"conv_pos_batch_norm": True}),
    "wavlm": ("WavLMConfig", "WavLMForCTC", LAYER),
    "wavlm_adapter": ("WavLMConfig", "WavLMForCTC", LAYER | {"add_adapter": True, "num_adapter_layers": 1}),
    "unispeech": ("UniSpeechConfig", "UniSpeechForCTC", {"feat_extract_norm": "layer"}),
    "data2vec": ("Data2VecAudioConfig", "Data2VecAudioForCTC", {"conv_pos_kernel_size": 5}),
    "sew": ("SEWConfig", "SEWForCTC", {"feat_extract_norm": "layer", "squeeze_factor": 2}),
}
LETTERS = list("ETAONIHSRDLUMWCFGYPBVK'XJQZ")
AUDIO = [speechlike(n, n) for n in (4000, 6400, 5237)]


def save_ctc(folder: Path, family: str) -> Path:
    """A model of a family with random weights, its tokenizer and feature extractor, saved by transformers."""
    config_name, model_name, options = FAMILIES[family]
    torch.manual_seed(3)
    config = getattr(transformers, config_name)(**{**SMALL, **options})
    model = getattr(transformers, model_name)(config).eval()
    with torch.no_grad():  # as they are made, they write one class only
        model.lm_head.weight.normal_(std=1.0)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):  # one that changes the zeros beyond an utterance's end
                module.running_mean.normal_()
    model.save_pretrained(folder)
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(
        return_attention_mask=options.get("feat_extract_norm") == "layer", do_normalize=True
    ).save_pretrained(folder)
    return folder


def save_whisper(folder: Path, multilingual: bool, **changes: Any) -> Path:
    """A Whisper of two layers with random weights, and a tokenizer of bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    byte_tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(byte_tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ("endoftext", "startoftranscript", "en", "transcribe", "translate", "notimestamps")
    special = [f"<|{name}|>" for name in names]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    ids = {token: tokenizer.token_to_id(token) for token in special}
    torch.manual_seed(5)
    config = transformers.WhisperConfig(
        **{"num_mel_bins": 80} | changes,
        vocab_size=len(byte_tokens) + len(special), d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48,
        max_target_positions=24, bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"], decoder_start_token_id=ids["<|startoftranscript|>"],
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config).eval()
    generation = {
        "_from_model_config": False,  # or else what transformers' own configuration lacks is not read again
        "is_multilingual": multilingual,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "max_length": 24,
    }
    if multilingual:
        generation["lang_to_id"] = {"<|en|>": ids["<|en|>"]}
        generation["task_to_id"] = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    for key, value in generation.items():  # its own update leaves out what it does not know
        setattr(model.generation_config, key, value)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    transformers.WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder
