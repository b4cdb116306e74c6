"""CTC models of transformers: Wav2Vec2, HuBERT, WavLM, Data2VecAudio, UniSpeech, SEW."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from armory_mdnf.asr.contract import CTCRecognizer
from armory_mdnf.asr.huggingface.folders import check_safetensors, feature_extractor
from armory_mdnf.asr.huggingface.quiet import quiet
from armory_mdnf.asr.huggingface.vocabulary import TokenVocabulary
from armory_mdnf.audio import ragged
from armory_mdnf.errors import BundleError, quoted
from armory_mdnf.options import FLAG, whole

MODEL_TYPES = (
    "data2vec-audio",
    "hubert",
    "sew",
    "sew-d",
    "unispeech",
    "unispeech-sat",
    "wav2vec2",
    "wav2vec2-conformer",
    "wavlm",
)
# Those whose layers, after a feature extractor with layer norms, see nothing beyond an utterance's own frames, ...
EXACT_TYPES = ("hubert", "unispeech", "unispeech-sat", "wav2vec2", "wavlm")
# ... but for an adapter's convolutions, and for positions of which a batch norm makes something of padding's zeros.
INEXACT_PARTS = ("add_adapter", "conv_pos_batch_norm")
VARIANCE_FLOOR = 1e-7  # transformers' zero_mean_unit_var_norm


class HuggingFaceCTC(CTCRecognizer):
    """A ``...ForCTC`` of transformers, its feature extraction and its tokens, in one differentiable step.

    An utterance is normalised over its own samples where the model's configuration says so. Batches are exact where
    the architecture allows it: group norm over time in the first convolution does not, nor do an adapter, a batch norm
    or the convolutions of Data2VecAudio among the positions, or SEW's pooling; such models are given utterances one by
    one.
    """

    draws_idly = True  # transformers draws whether to leave out a layer, and asks only then whether it trains

    def __init__(
        self, model: Any, alphabet: TokenVocabulary, normalise: bool = True, sample_rate_hz: int = 16000
    ) -> None:
        super().__init__()
        self.model = model
        self.alphabet = alphabet
        self.normalise = normalise
        self.sample_rate_hz = sample_rate_hz
        config = model.config
        self.exact_batches = (
            config.model_type in EXACT_TYPES
            and config.feat_extract_norm == "layer"
            and not any(getattr(config, part, False) for part in INEXACT_PARTS)
        )
        self.min_samples = self._min_samples()

    def _min_samples(self) -> int:
        """Fewest samples that give a frame: the reach of the feature extractor's convolutions."""
        config = self.model.config
        samples = getattr(config, "squeeze_factor", 1)  # SEW's encoder makes one frame of several
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    def out_frames(self, lengths: Tensor) -> Tensor:
        return self.model._get_feat_extract_output_lengths(lengths)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        self.check_lengths(lengths)
        if self.normalise:
            x = self._normalised(x, lengths)
        mask = None
        if not ragged.is_uniform(lengths, x.shape[1]):
            mask = ragged.mask(lengths, x.shape[1]).long()
        logits = self.model(x, attention_mask=mask, return_dict=True).logits
        return logits, self.out_frames(lengths).clamp(max=logits.shape[1])

    @staticmethod
    def _normalised(x: Tensor, lengths: Tensor) -> Tensor:
        """Zero mean and unit variance over each utterance's own samples."""
        count = lengths[:, None].to(x)
        centred = ragged.zero_beyond(x - x.sum(1, keepdim=True) / count, lengths)
        variance = centred.square().sum(1, keepdim=True) / count
        return centred / (variance + VARIANCE_FLOOR).sqrt()


def load_ctc(folder: Path) -> HuggingFaceCTC:
    """Read a CTC model from a folder. Raises :class:`BundleError` naming the file that is missing or wrong."""
    from transformers import AutoModelForCTC, AutoTokenizer

    check_safetensors(folder)
    extractor, settings = feature_extractor(folder)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
            model, report = AutoModelForCTC.from_pretrained(
                str(folder), use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
            )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise BundleError(f"{folder} does not hold a CTC model that transformers can read: {error!s:.300}") from error
    if missing := [key for key in report["missing_keys"] if "masked_spec_embed" not in key]:
        raise BundleError(f"{folder}: weight {sorted(missing)[0]!r} is missing (and {len(missing) - 1} more)")
    if not hasattr(tokenizer, "word_delimiter_token") or hasattr(tokenizer, "do_phonemize"):
        raise BundleError(f"{folder}: expected a Wav2Vec2CTCTokenizer, found {type(tokenizer).__name__}")
    delimiter = tokenizer.word_delimiter_token
    special = {str(token) for token in tokenizer.all_special_tokens} - {delimiter}
    alphabet = TokenVocabulary(dict(tokenizer.get_vocab()), model.config.pad_token_id, delimiter, frozenset(special))
    if len(alphabet) > model.config.vocab_size:
        raise BundleError(f"{folder}: {len(alphabet)} tokens, but the model has {model.config.vocab_size} classes")
    values = {"sampling_rate": 16000, "do_normalize": True} | settings
    for key, kind in (("sampling_rate", whole(1)), ("do_normalize", FLAG)):
        if not kind.holds(values[key]):
            raise BundleError(f"{extractor}: {key}: expected {kind.words}, found {quoted(values[key])}")
    return HuggingFaceCTC(model, alphabet, values["do_normalize"], values["sampling_rate"])
