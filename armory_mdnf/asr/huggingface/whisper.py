"""Whisper as transformers has it: encoder and decoder, teacher-forced loss, greedy transcripts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from armory_mdnf.asr.contract import SpeechRecognizer, Target
from armory_mdnf.asr.huggingface.folders import check_safetensors, read_object
from armory_mdnf.asr.huggingface.quiet import quiet
from armory_mdnf.asr.whisper.features import HOP, SAMPLE_RATE_HZ, WhisperLogMel
from armory_mdnf.errors import BundleError, TranscriptError, quoted
from armory_mdnf.options import FLAG
from armory_mdnf.spoken import ABBREVIATIONS, plain, read_numbers, read_signs

MARK = re.compile(r"<\|[^|]*\|>")  # what a token that stands for no words is called
REMEDY = ": take the file of that name from the Whisper that this one was trained from"


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
        return transcript == self._written(list(target))

    def _written(self, tokens: list[int]) -> str:
        """The words of tokens. Of marks, those of time are no special tokens, nor are others in every folder."""
        return words(MARK.sub("", self.tokenizer.decode(tokens, skip_special_tokens=True)))

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
        options = {"use_cache": False, "return_dict": True}
        logits = self.model(self.log_mel(x, lengths), decoder_input_ids=tokens[:, :-1], **options).logits
        entropy = nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        place = torch.arange(1, tokens.shape[1], device=x.device)
        sizes = torch.tensor([len(s) for s in sequences], device=x.device)[:, None]
        return entropy.masked_fill((place < len(self.prompt)) | (place >= sizes), 0).sum(1)

    def transcripts(self, x: Tensor, lengths: Tensor) -> list[str]:
        config = self.model.generation_config
        most = self.model.config.max_target_positions - len(self.prompt)  # as of a target, whatever the folder says
        options = {"do_sample": False, "num_beams": 1, "return_timestamps": False, "max_new_tokens": most}
        # All of the text and only the text, whatever the folder asks for.
        options |= {"max_time": math.inf, "return_dict_in_generate": False}
        if getattr(config, "is_multilingual", False):
            options |= {"language": "en", "task": "transcribe"}
        features = self.log_mel(x, lengths)
        with quiet():
            found = self.model.generate(features, **options)
        return [self._written(row.tolist()) for row in found]


def words(text: str) -> str:
    """Written English as spoken words: upper case letters and apostrophes; titles, numbers and signs spelt out."""
    spoken = read_numbers(read_signs(plain(text))).upper()
    bare = re.sub(r"[^A-Z' ]|'{2,}", " ", spoken)
    unquoted = (re.sub(r"^'(.*)'$", r"\1", word) for word in bare.split())
    return " ".join(ABBREVIATIONS.get(word, word) for word in unquoted if word.strip("'"))


def load_whisper(folder: Path) -> Whisper:
    """Read a Whisper from a folder. Raises :class:`BundleError` naming the file that is missing or wrong."""
    from transformers import WhisperForConditionalGeneration

    check_safetensors(folder)
    tokenizer = _tokenizer(folder)
    generation = folder / "generation_config.json"
    if not generation.is_file():  # transformers would make one up that decodes otherwise
        raise BundleError(f"{folder}: expected {generation.name}, found none{REMEDY}")
    read_object(generation)
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
    return Whisper(model, tokenizer, _prompt(model, tokenizer, generation))


def _tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, as transformers 5 saves it, or 4: a Rust one of the library ``tokenizers``."""
    import transformers
    from tokenizers import Tokenizer

    whole, parts = folder / "tokenizer.json", [folder / name for name in ("vocab.json", "merges.txt")]
    if not whole.is_file() and not all(path.is_file() for path in parts):
        raise BundleError(f"{folder}: expected tokenizer.json, or vocab.json and merges.txt, found neither")
    try:
        if whole.is_file():
            return Tokenizer.from_file(str(whole))
        kind = cast(Any, transformers).WhisperTokenizerFast  # version 5's has two names, of which types know one
        with quiet():
            return kind.from_pretrained(str(folder), local_files_only=True).backend_tokenizer
    except Exception as error:  # the library raises bare Exception
        found = whole if whole.is_file() else parts[0]
        raise BundleError(f"{found} is not a tokenizer: {error!s:.200}") from error


def _prompt(model: Any, tokenizer: Any, path: Path) -> list[int]:
    """The tokens before a transcript: the tokenizer's, which transformers has to decode after too.

    Else an attack would follow the model in another state than the one that transcribes. ``path``: of what was read as
    the model's generation configuration. Raises :class:`BundleError` naming a key of it that says otherwise.
    """
    settings = model.generation_config.to_dict()  # not the file, of which transformers may leave out what it says
    multilingual = settings.get("is_multilingual")
    if not FLAG.holds(multilingual):
        raise BundleError(f"{path}: is_multilingual: expected {FLAG.words}, found {quoted(multilingual)}{REMEDY}")
    places = [("<|startoftranscript|>", "decoder_start_token_id", "")]
    if multilingual:
        places += [("<|en|>", "lang_to_id", "<|en|>"), ("<|transcribe|>", "task_to_id", "transcribe")]
    places += [("<|notimestamps|>", "no_timestamps_token_id", "")]
    prompt = []
    for token, key, inner in places:
        if (expected := tokenizer.token_to_id(token)) is None:
            raise BundleError(f"{path.parent}: expected a tokenizer with the token {token}, found none")
        found = settings.get(key)
        found = found.get(inner) if inner and isinstance(found, dict) else found
        if found != expected:
            where = f"{key}.{inner}" if inner else key
            raise BundleError(f"{path}: {where}: expected {expected}, which is {token}, found {quoted(found)}{REMEDY}")
        prompt.append(int(expected))
    end, found = model.config.eos_token_id, settings.get("eos_token_id")
    if found not in (end, [end]):  # transcripts would end where no target does
        raise BundleError(f"{path}: eos_token_id: expected {end}, as in config.json, found {quoted(found)}{REMEDY}")
    if not multilingual:  # where no language is asked for, transformers takes these into account
        forced = settings.get("forced_decoder_ids") or getattr(model.config, "forced_decoder_ids", None)
        others = {key: settings.get(key) for key in ("language", "task", "lang_to_id")}
        others["forced_decoder_ids"] = None if forced == [[1, prompt[-1]]] else forced
        if wrong := [(key, value) for key, value in others.items() if value]:
            key, value = wrong[0]
            raise BundleError(f"{path}: {key}: expected none where is_multilingual is false, found {quoted(value)}")
    return prompt
