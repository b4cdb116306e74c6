"""Whisper as transformers has it: encoder and decoder, teacher-forced loss, greedy transcripts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from armory_mdnf.asr.contract import SpeechRecognizer, Target
from armory_mdnf.asr.huggingface.folders import check_safetensors
from armory_mdnf.asr.huggingface.quiet import quiet
from armory_mdnf.asr.whisper.features import HOP, SAMPLE_RATE_HZ, WhisperLogMel
from armory_mdnf.errors import BundleError, TranscriptError, quoted
from armory_mdnf.spoken import ABBREVIATIONS, plain, read_numbers, read_signs


class Whisper(SpeechRecognizer):
    """A ``WhisperForConditionalGeneration``, its log mel inside the graph, each utterance filled up to 30 s.

    The loss is the cross entropy of the transcript's tokens and the end, teacher-forced after the prompt (start,
    language and task where the model is multilingual, no time stamps). A transcript in upper case is taken for spoken
    words and encoded in lower case, as Whisper never shouts; transcripts come back as words: upper case letters and
    apostrophes.
    """

    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, model: Any, tokenizer: Any, prompt: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.prompt = list(prompt)
        self.features = WhisperLogMel(model.config.num_mel_bins)
        self.min_samples = self.features.min_samples
        self.max_samples = model.config.max_source_positions * 2 * HOP

    def encode(self, transcript: str) -> Target:
        if not isinstance(transcript, str):
            raise TranscriptError(f"expected a transcript as a string, got {type(transcript).__name__}")
        text = transcript.lower() if transcript.isupper() else transcript
        tokens = self.tokenizer.encode(f" {text}" if text else "", add_special_tokens=False).ids
        room = self.model.config.max_target_positions - len(self.prompt) - 1
        if len(tokens) > room:
            raise TranscriptError(
                f"transcript {quoted(transcript)} has {len(tokens)} tokens, expected at most {room}: shorten it"
            )
        return [int(token) for token in tokens]

    def is_heard(self, transcript: str, target: Target) -> bool:
        return transcript == words(self.tokenizer.decode(list(target), skip_special_tokens=True))

    def log_mel(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Shape: (N, T), (N,) -> (N, n_mels, frames of 30 s)."""
        self.check_lengths(lengths)
        assert self.max_samples is not None
        filled = nn.functional.pad(x, (0, self.max_samples - x.shape[1]))
        return self.features(filled, torch.full_like(lengths, self.max_samples))[0][:, 0]

    def losses(self, x: Tensor, lengths: Tensor, targets: Sequence[Target]) -> Tensor:
        end = self.model.config.eos_token_id
        prompt = torch.tensor(self.prompt, device=x.device)
        sequences = [torch.cat([prompt, torch.tensor([*t, end], dtype=torch.long, device=x.device)]) for t in targets]
        tokens = nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=end)
        logits = self.model(self.log_mel(x, lengths), decoder_input_ids=tokens[:, :-1], use_cache=False).logits
        entropy = nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        place = torch.arange(1, tokens.shape[1], device=x.device)
        sizes = torch.tensor([len(s) for s in sequences], device=x.device)[:, None]
        return entropy.masked_fill((place < len(self.prompt)) | (place >= sizes), 0).sum(1)

    def transcripts(self, x: Tensor, lengths: Tensor) -> list[str]:
        config = self.model.generation_config
        options: dict[str, Any] = {"do_sample": False, "num_beams": 1, "return_timestamps": False}
        if getattr(config, "is_multilingual", False):
            options |= {"language": "en", "task": "transcribe"}
        features = self.log_mel(x, lengths)
        with quiet():
            found = self.model.generate(features, **options)
        return [words(self.tokenizer.decode(row.tolist(), skip_special_tokens=True)) for row in found]


def words(text: str) -> str:
    """Written English as spoken words: upper case letters and apostrophes; titles, numbers and signs spelt out."""
    spoken = read_numbers(read_signs(plain(text))).upper()
    bare = re.sub(r"[^A-Z' ]|'{2,}", " ", spoken)
    unquoted = (re.sub(r"^'(.*)'$", r"\1", word) for word in bare.split())
    return " ".join(ABBREVIATIONS.get(word, word) for word in unquoted if word.strip("'"))


def load_whisper(folder: Path) -> Whisper:
    """Read a Whisper from a folder. Raises :class:`BundleError` naming the file that is missing or wrong."""
    from tokenizers import Tokenizer
    from transformers import WhisperForConditionalGeneration

    check_safetensors(folder)
    if not (folder / "tokenizer.json").is_file():
        raise BundleError(f"{folder}: expected tokenizer.json, found none")
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exception
        raise BundleError(f"{folder / 'tokenizer.json'} is not a tokenizer: {error!s:.200}") from error
    model: Any
    try:
        with quiet():
            model, report = cast(Any, WhisperForConditionalGeneration).from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise BundleError(f"{folder} does not hold a Whisper that transformers can read: {error!s:.300}") from error
    if missing := sorted(set(report["missing_keys"]) - {"proj_out.weight"}):
        raise BundleError(f"{folder}: weight {missing[0]!r} is missing (and {len(missing) - 1} more)")
    names = ["<|startoftranscript|>", "<|notimestamps|>"]
    if getattr(model.generation_config, "is_multilingual", False):
        names[1:1] = ["<|en|>", "<|transcribe|>"]
    prompt = [tokenizer.token_to_id(name) for name in names]
    if None in prompt:
        raise BundleError(f"{folder / 'tokenizer.json'}: expected the tokens {', '.join(names)}")
    return Whisper(model, tokenizer, [int(token) for token in prompt if token is not None])
