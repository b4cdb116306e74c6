"""What the utterances of a run sound like: computed again from its configuration, for a page to play."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from armory_mdnf.asr.preprocessing import Chain
from armory_mdnf.audio import ragged
from armory_mdnf.data.bundled import Utterance
from armory_mdnf.data.paths import is_path
from armory_mdnf.data.selection import read_samples
from armory_mdnf.errors import OptionError, ResultsError
from armory_mdnf.evaluation.records import RunRecord
from armory_mdnf.report.pictures import picture, spectrogram_db
from armory_mdnf.report.sounds import Heard, Sound, data_address
from armory_mdnf.runner import components
from armory_mdnf.runner.completion import complete_config
from armory_mdnf.runner.evaluate import ADVERSARIAL, BENIGN, Evaluation
from armory_mdnf.runner.overrides import BATCH_SECONDS
from armory_mdnf.runner.strangers import refuse_others_code

Samples = np.ndarray
MP3_LEVEL = 0.8  # of libsndfile's scale from 0, large, to 1: about 30 kbit/s at 16 kHz
LOUD = 0.5  # peak that a perturbation is amplified to
ORIGINAL, ATTACKED, DEFENDED, DEFENDED_ATTACK, PERTURBATION, BEHIND = (
    "original",
    "attacked",
    "original, as the defence makes it",
    "attacked, as the defence makes it",
    "perturbation",
    "what the attack changes behind the defence",
)


def listen(run: RunRecord, places: Sequence[int], tell: Callable[[int], None] = lambda done: None) -> list[Heard]:
    """Utterances of an attacked run, their attacks computed again with the run's own draws.

    ``places`` and each ``position`` count the outcomes of the run. ``tell`` is called with how many are done.
    Raises :class:`OptionError` or :class:`BundleError` for a configuration that cannot be run here,
    :class:`ResultsError` for data that are not those of the run.
    """
    config = complete_config(run.config, device=run.device)
    refuse_others_code(config)
    if config["attack"] is None:
        raise OptionError(f"{run.name}: expected an attack to listen to, found none")
    device, _ = components.choose_device(config)
    chosen = _chosen(run, config)
    components.initialise(config.get("user_init"))
    estimator = components.make_estimator(config, device)
    attack = components.make_attack(config, estimator, BATCH_SECONDS)
    targeter = components.make_targeter(config["attack"].get("targeted_labels"), chosen)
    evaluation = Evaluation(
        estimator,
        attack=attack,
        by_keys=components.draws_by_keys(estimator),
        in_batches=components.takes_batches(attack),
        seed=run.seed,
    )
    use_label = bool(config["attack"].get("use_label"))
    found = []
    for place in places:
        index, utterance = chosen[place]
        audio = read_samples(utterance)
        labels = [utterance.transcript] if use_label else None
        if targeter is not None:
            labels = targeter.generate_at([index], [utterance.transcript])
        changed = np.asarray(evaluation.generate([audio], labels, [index])[0])
        heard = _heard(estimator, place, index, audio, changed)
        found.append(replace(heard, file=str(utterance.path)) if is_path(run.split) else heard)
        tell(1)
    return found


def _chosen(run: RunRecord, config: dict[str, Any]) -> list[tuple[int, Utterance]]:
    """The utterances of the run's outcomes, at their positions. Raises :class:`ResultsError` if they are others."""
    available = components.load_dataset(config["dataset"], strict=False)
    if any(outcome.id is not None for outcome in run.outcomes):
        by_id = {utterance.id: (index, utterance) for index, utterance in available}
        available = [by_id[o.id] for o in run.outcomes if o.id in by_id]
    said = [outcome.reference for outcome in run.outcomes]
    if [utterance.transcript for _, utterance in available[: len(said)]] != said:
        raise ResultsError(f"{run.name}: the data here are not the utterances of the run")
    return list(available[: len(said)])


def _heard(estimator: Any, place: int, index: int, audio: Samples, changed: Samples) -> Heard:
    rate = estimator.sample_rate
    sounds = [_sound(ORIGINAL, "", audio, rate), _sound(ATTACKED, _difference(audio, changed), changed, rate)]
    delta = (changed - audio).astype(np.float32)
    peak = float(np.abs(delta).max())
    gain = LOUD / peak if peak else 1.0
    louder = f"amplified {gain:.0f} times ({20 * np.log10(gain):.0f} dB); its spectrogram is not"
    sounds.append(_sound(PERTURBATION, louder, gain * delta, rate, shown=delta))
    chain = Chain(estimator.preprocessing_operations)
    if chain.operations:
        note = f"the first of {chain.num_passes} passes" if chain.num_passes > 1 else ""
        keys = [(index, purpose, 0) for purpose in (BENIGN, ADVERSARIAL)]
        heard, under = (_defended(chain, x, k, estimator.device) for x, k in zip((audio, changed), keys, strict=True))
        sounds += [_sound(DEFENDED, note, heard, rate), _sound(DEFENDED_ATTACK, note, under, rate)]
        same = _defended(chain, changed, keys[0], estimator.device) - heard  # the noise of both being the same
        sounds.append(_sound(BEHIND, louder, gain * same, rate, shown=same))
    texts = [
        str(estimator.predict([x], keys=[(index, purpose)])[0])
        for x, purpose in ((audio, BENIGN), (changed, ADVERSARIAL))
    ]
    return Heard(place, tuple(sounds), (texts[0], texts[1]))


def _defended(chain: Chain, x: Samples, key: tuple[int, ...], device: torch.device) -> Samples:
    batch, lengths = ragged.pad([torch.from_numpy(np.ascontiguousarray(x)).to(device)])
    with torch.no_grad():
        heard, _ = chain(batch, lengths, chain.draw(1, [key]))
    return heard[0].cpu().numpy()


def _difference(audio: Samples, changed: Samples) -> str:
    from armory_mdnf.metrics import perturbation

    ratio = perturbation.snr_db(audio, changed)
    return "" if ratio is None or not np.isfinite(ratio) else f"SNR {ratio:.1f} dB"


def _sound(name: str, note: str, x: Samples, rate_hz: int, shown: Samples | None = None) -> Sound:
    shown = x if shown is None else shown
    image = data_address("image/png", picture(spectrogram_db(shown, rate_hz)))
    return Sound(name, note, data_address("audio/mpeg", mp3(x, rate_hz)), image)


def mp3(x: Samples, rate_hz: int) -> bytes:
    """Samples (T,) as MP3, which every browser plays; what lies beyond full scale is cut to it."""
    import soundfile

    with io.BytesIO() as file:
        soundfile.write(file, np.clip(x, -1, 1), rate_hz, format="MP3", compression_level=MP3_LEVEL)
        return file.getvalue()


def chosen_sounds(found: Sequence[Heard]) -> dict[int, Heard]:
    """By position."""
    return {heard.position: heard for heard in found}
