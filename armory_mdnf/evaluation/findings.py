"""Tables of `docs/findings.md`: word error rates with intervals, paired differences, noise sensitivity of vocoders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from armory_mdnf.errors import ResultsError
from armory_mdnf.evaluation.noise_sensitivity import Sensitivity, sensitivity_table
from armory_mdnf.evaluation.rates import difference, interval
from armory_mdnf.evaluation.records import RunRecord
from armory_mdnf.evaluation.tables import PAPER, markdown, paper_rate, rate, size
from armory_mdnf.metrics.intervals import Interval

Pair = tuple[str, str, str]
SAME, WEAKER = "the same, by the published gradient", "is the published gradient weaker?"


def _with_its_noise(name: str, defended: str, undefended: str, threat: str) -> tuple[Pair, ...]:
    """A vocoder, and MDNF's noise before it, under one threat."""
    alone, flooded, none = (f"{system}_{threat}" for system in (defended, f"{defended}_mdnf", undefended))
    return (
        (f"does {name} help?", alone, none),
        (f"does {name}-MDNF help?", flooded, none),
        (f"does the noise add to {name}?", flooded, alone),
    )


def _fine_tuning_apart(name: str, defended: str, undefended: str, threat: str = "pgd_l2_ours") -> tuple[Pair, ...]:
    """A vocoder against the recogniser that was fine-tuned for it alone, and that against what it was tuned from."""
    alone, flooded, tuned = (f"{system}_{threat}" for system in (defended, f"{defended}_mdnf", f"none_{defended}"))
    return (
        (f"or is it the fine-tuning for {name}?", tuned, f"{undefended}_{threat}"),
        (f"does {name} help, the fine-tuning apart?", alone, tuned),
        (f"does {name}-MDNF help, the fine-tuning apart?", flooded, tuned),
    )


def _by_both_gradients(name: str, defended: str, undefended: str, norm: str = "l2") -> tuple[Pair, ...]:
    """The same under one norm's bound, the noise attacked by the exact gradient and by the published one."""
    helps, flooded_helps, adds = _with_its_noise(name, defended, undefended, f"pgd_{norm}_ours")
    published = f"{defended}_mdnf_pgd_{norm}_published"
    return (
        helps,
        flooded_helps,
        (SAME, published, flooded_helps[2]),
        adds,
        (SAME, published, adds[2]),
        (WEAKER, published, adds[1]),
    )


LIBRISPEECH = (
    ("does RS help?", "whisper_rs_pgd_l2_ours", "whisper_pgd_l2_ours"),
    ("does RS help?", "whisper_rs_pgd_linf_ours", "whisper_pgd_linf_ours"),
    ("is a recogniser that hears better harder to attack?", "whisper_v2_pgd_l2_ours", "whisper_pgd_l2_ours"),
    ("does RS help?", "whisper_v2_rs_pgd_l2_ours", "whisper_v2_pgd_l2_ours"),
    *_with_its_noise("MG", "whisper_v2_mg", "whisper_v2", "pgd_l2_ours"),
    *_fine_tuning_apart("MG", "whisper_v2_mg", "whisper_v2"),
    *(pair for norm in ("l2", "linf") for pair in _by_both_gradients("MG", "whisper_mg", "whisper", norm)),
    *_fine_tuning_apart("MG", "whisper_mg", "whisper"),
    *_fine_tuning_apart("MG", "whisper_mg", "whisper", "pgd_linf_ours"),
    *_fine_tuning_apart("HG", "whisper_hg", "whisper"),
    ("does WG help, the fine-tuning for MG apart?", "whisper_wg_pgd_l2_ours", "none_whisper_mg_pgd_l2_ours"),
    ("does WG-MDNF help, the fine-tuning for MG apart?", "whisper_wg_mdnf_pgd_l2_ours", "none_whisper_mg_pgd_l2_ours"),
    *(
        (question, f"whisper_mg_mdnf_flat_pgd_{norm}_{gradient}", f"whisper_mg_pgd_{norm}_ours")
        for norm in ("l2", "linf")
        for question, gradient in (("does flat noise add to MG?", "ours"), (SAME, "published"))
    ),
    ("the curve or flat noise?", "whisper_mg_mdnf_pgd_l2_ours", "whisper_mg_mdnf_flat_pgd_l2_ours"),
    ("the curve or flat noise?", "whisper_mg_mdnf_pgd_linf_ours", "whisper_mg_mdnf_flat_pgd_linf_ours"),
    ("a curve of one's own, or the published one?", "whisper_mg_mdnf_anew_pgd_l2_ours", "whisper_mg_mdnf_pgd_l2_ours"),
    ("does that noise add to MG?", "whisper_mg_mdnf_anew_pgd_l2_ours", "whisper_mg_pgd_l2_ours"),
    *(
        (WEAKER, f"whisper_mg_mdnf_flat_pgd_{norm}_published", f"whisper_mg_mdnf_flat_pgd_{norm}_ours")
        for norm in ("l2", "linf")
    ),
    ("is EOT 5 stronger?", "whisper_mg_mdnf_eot_l2", "whisper_mg_mdnf_pgd_l2_ours"),
    ("does the noise add to MG, against EOT 5?", "whisper_mg_mdnf_eot_l2", "whisper_mg_pgd_l2_ours"),
    ("is EOT 20 stronger?", "whisper_mg_mdnf_eot20_l2", "whisper_mg_mdnf_pgd_l2_ours"),
    *_by_both_gradients("HG", "whisper_hg", "whisper"),
    ("RS or HG-MDNF?", "whisper_rs_pgd_l2_ours", "whisper_hg_mdnf_pgd_l2_ours"),
    ("is EOT 5 stronger?", "whisper_hg_mdnf_eot_l2", "whisper_hg_mdnf_pgd_l2_ours"),
    ("does the noise add to HG, against EOT 5?", "whisper_hg_mdnf_eot_l2", "whisper_hg_pgd_l2_ours"),
    *_by_both_gradients("HG", "tiny_en_hg", "tiny_en"),
    ("does MG-MDNF help?", "tiny_en_mg_mdnf_pgd_l2_ours", "tiny_en_pgd_l2_ours"),
    ("does RS help?", "tiny_en_rs_pgd_l2_ours", "tiny_en_pgd_l2_ours"),
    *_by_both_gradients("WG", "whisper_wg", "whisper"),
    (WEAKER, "whisper_wg_pgd_l2_published", "whisper_wg_pgd_l2_ours"),
    ("does WG help, by the published gradient?", "whisper_wg_pgd_l2_published", "whisper_pgd_l2_ours"),
    ("does the noise add to it, by the same?", "whisper_wg_mdnf_pgd_l2_published", "whisper_wg_pgd_l2_published"),
    *(
        pair
        for threat in ("pgd_linf", "pgd_l2_1.0", "pgd_l2_0.5", "pgd_linf_0.005")
        for pair in _with_its_noise("WG", "whisper_wg", "whisper", f"{threat}_ours")
    ),
    *(("is EOT 5 stronger?", f"whisper_{name}_eot_l2", f"whisper_{name}_pgd_l2_ours") for name in ("wg", "rs")),
    ("does RS help, against EOT 5?", "whisper_rs_eot_l2", "whisper_pgd_l2_ours"),
    *(
        (f"are {n} iterations stronger?", f"whisper_mg_mdnf_pgd_l2_{n}_steps_ours", "whisper_mg_mdnf_pgd_l2_ours")
        for n in (250, 500)
    ),
    ("is it the attack, or any noise?", "whisper_noise_l2", "whisper_pgd_l2_ours"),
    ("is it the attack, or any noise?", "whisper_mg_noise_l2", "whisper_mg_pgd_l2_ours"),
    ("is it the attack, or any noise?", "whisper_mg_mdnf_noise_l2", "whisper_mg_mdnf_pgd_l2_ours"),
    *(
        pair
        for threat in ("pgd_l2_1.0_ours", "pgd_l2_0.5_ours", "pgd_linf_0.005_ours", "snr20", "snr30", "snr40", "cw")
        for pair in (
            ("does RS help?", f"whisper_rs_{threat}", f"whisper_{threat}"),
            *_with_its_noise("MG", "whisper_mg", "whisper", threat),
        )
    ),
)
_BY_BOTH_GRADIENTS = (("MG", "mg"), ("MG", "mg_gan"), ("HG", "hg"))
BUNDLED = (
    *(
        pair
        for name, system in _BY_BOTH_GRADIENTS
        for pair in (
            *_by_both_gradients(name, system, "none"),
            ("is it the attack, or any noise?", f"{system}_noise_l2", f"{system}_pgd_l2_ours"),
            ("is it the attack, or any noise?", f"{system}_mdnf_noise_l2", f"{system}_mdnf_pgd_l2_ours"),
        )
    ),
    ("a curve and a level of its own, or the published?", "hg_mdnf_anew_pgd_l2_ours", "hg_mdnf_pgd_l2_ours"),
    ("does that noise add to HG?", "hg_mdnf_anew_pgd_l2_ours", "hg_pgd_l2_ours"),
    ("does HG with it help, the fine-tuning apart?", "hg_mdnf_anew_pgd_l2_ours", "none_hg_pgd_l2_ours"),
    ("is EOT 5 stronger?", "hg_mdnf_anew_eot_l2", "hg_mdnf_anew_pgd_l2_ours"),
    ("does that noise add to HG, against EOT 5?", "hg_mdnf_anew_eot_l2", "hg_pgd_l2_ours"),
    ("does HG with it help against EOT 5, the fine-tuning apart?", "hg_mdnf_anew_eot_l2", "none_hg_pgd_l2_ours"),
    ("is it the attack, or any noise?", "none_noise_l2", "none_pgd_l2_ours"),
    ("does RS help?", "rs_pgd_l2_ours", "none_pgd_l2_ours"),
    ("RS or HG-MDNF?", "rs_pgd_l2_ours", "hg_mdnf_pgd_l2_ours"),
    ("is EOT 5 stronger?", "rs_eot_l2", "rs_pgd_l2_ours"),
    ("does RS help, against EOT 5?", "rs_eot_l2", "none_pgd_l2_ours"),
    *(pair for norm in ("l2", "linf") for pair in _with_its_noise("WG", "wg", "none", f"pgd_{norm}_ours")),
    *(
        pair
        for name, system in (*_BY_BOTH_GRADIENTS, ("WG", "wg"))
        for pair in _fine_tuning_apart(name, system, "none")
    ),
    *_fine_tuning_apart("WG", "wg", "none", "pgd_linf_ours"),
)
TITLES = {"test_clean": "LibriSpeech test-clean", "human": "Bundled menu prompts"}
PAIRS = {"test_clean": LIBRISPEECH, "human": BUNDLED}
"""By split: question, and the two runs whose word error rates under attack are subtracted, utterance by utterance."""


def findings(
    runs: Sequence[RunRecord], sensitivities: Iterable[Sensitivity], devices: Mapping[str, Any] | None = None
) -> str:
    """All the tables as Markdown. ``devices``: what :func:`armory_mdnf.evaluation.devices.compared` gave, if anything.

    Raises :class:`ResultsError` if a run of :data:`PAIRS` is missing, or two runs share no utterance.
    """
    parts = []
    for split, pairs in PAIRS.items():
        here = {run.name: run for run in runs if run.split == split}
        asked = {name for _, *both in pairs for name in both}
        shown = here.values() if split == "test_clean" else [run for name, run in here.items() if name in asked]
        where = "on the utterances that both runs have"
        parts += [
            (f"{TITLES[split]}: word error rates, pooled, with {INTERVALS}", _rates(shown)),
            (f"{TITLES[split]}: differences of the word error rate under attack, {where}", _differences(here, pairs)),
        ]
    if devices is not None:
        title = "Another device: differences of the word error rate under attack, on the utterances that both runs have"
        parts.append((title, _on_devices(devices)))
    parts.append(("Noise sensitivity of the vocoders as they learn", sensitivity_table(sensitivities)))
    return "\n\n".join(f"**{title}**\n\n{table}" for title, table in parts)


FIRST_IS = "the first is"
DIFFERENCES = ("question", "difference", "utterances", "points of WER", FIRST_IS, "without insertions", FIRST_IS)
INTERVALS = "95 % intervals (bootstrap over utterances, or Student's where that is wider)"
_OF_MDNF = (("-MDNF, exact gradient", "mdnf_pgd_l2_ours"), ("-MDNF, published gradient", "mdnf_pgd_l2_published"))
HEADLINE = (
    (
        "test-clean, whisper_ctc",
        "test_clean",
        (
            ("none", "whisper_pgd_l2_ours"),
            ("none, white noise instead", "whisper_noise_l2"),
            ("RS", "whisper_rs_pgd_l2_ours"),
            ("none, fine-tuned for MG", "none_whisper_mg_pgd_l2_ours"),
            ("MG", "whisper_mg_pgd_l2_ours"),
            *((f"MG{words}", f"whisper_mg_{name}") for words, name in _OF_MDNF),
            ("HG", "whisper_hg_pgd_l2_ours"),
            *((f"HG{words}", f"whisper_hg_{name}") for words, name in _OF_MDNF),
        ),
    ),
    (
        "test-clean, Whisper tiny.en",
        "test_clean",
        (
            ("none", "tiny_en_pgd_l2_ours"),
            ("HG", "tiny_en_hg_pgd_l2_ours"),
            *((f"HG{words}", f"tiny_en_hg_{name}") for words, name in _OF_MDNF),
        ),
    ),
    (
        "menu prompts, DeepSpeech2",
        "human",
        (
            ("none", "none_pgd_l2_ours"),
            ("RS", "rs_pgd_l2_ours"),
            ("none, fine-tuned for HG", "none_hg_pgd_l2_ours"),
            ("HG", "hg_pgd_l2_ours"),
            *((f"HG{words}", f"hg_{name}") for words, name in _OF_MDNF),
        ),
    ),
)
"""The README's table: what is said and who hears it, the split, and per row what it is called and the run's name."""


@dataclass(frozen=True)
class HeadlineRow:
    """What is heard by whom, a defence, its error rates without an attack and under it, and of how many utterances."""

    heard: str
    title: str
    rates: tuple[Interval, Interval]
    utterances: int


def headline_rows(runs: Iterable[RunRecord]) -> list[HeadlineRow]:
    """What the README shows. Raises :class:`ResultsError` for a run that is missing or has no attack."""
    known = {(run.split, run.name): run for run in runs}
    rows = []
    for heard, split, named in HEADLINE:
        for title, name in named:
            run = known.get((split, name))
            if run is None:
                raise ResultsError(f"no record of {name} on {split}, which the README's table shows")
            benign, attacked = (interval(run, c) for c in ("benign", "adversarial"))
            if benign is None or attacked is None:
                raise ResultsError(f"{name}: expected transcripts with an attack and without, as the README shows them")
            rows.append(HeadlineRow(heard, title, (benign, attacked), len(run.outcomes)))
    return rows


def headline(rows: Iterable[HeadlineRow]) -> str:
    """The README's table."""
    cells = [[row.heard, row.title, *(rate.percent() for rate in row.rates), str(row.utterances)] for row in rows]
    return markdown(cells, ("speech, recogniser", "defence", "benign WER %", "WER under attack %", "utterances"))


def _rates(runs: Iterable[RunRecord]) -> str:
    rows = []
    for run in runs:
        rates = [rate(run, comparison) for comparison in ("benign", "adversarial")]
        rows.append([run.name, run.recognizer, str(len(run.outcomes)), *rates, paper_rate(run), size(run)])
    header = ("configuration", "recogniser", "utterances", "benign WER %", "WER under attack %", PAPER, "SNR dB")
    return markdown(rows, header)


def _differences(by_name: Mapping[str, RunRecord], pairs: Iterable[Pair]) -> str:
    rows = []
    for question, first, second in pairs:
        for name in (first, second):
            if name not in by_name:
                raise ResultsError(f"no record of {name}, which the findings compare")
        both = [paired(by_name[first], by_name[second], insertions) for insertions in (True, False)]
        cells = [cell for found in both for cell in (found.percent(), verdict(found))]
        rows.append([question, f"{first} - {second}", str(both[0].utterances), *cells])
    decided, kept = (sum(row[column] != "open" for row in rows) for column in (4, 6))
    chance = f"were there nothing to find,\nchance would decide about {len(rows) / 20:.0f}"
    of = (
        f"{len(rows)} differences, each at 95 % by itself, {decided} of them higher or lower, {kept} without insertions"
    )
    return f"{markdown(rows, DIFFERENCES)}\n\n{of}: {chance}."


def _on_devices(content: Mapping[str, Any]) -> str:
    name, (one, other) = content["configuration"], content["devices"]
    named = [("does the device alone move it?", f"{name} on {one} - {name} on {other}", content)]
    named += [
        ("and on one device?", f"{found['configuration']} - {name}, both on {other}", found)
        for found in content["beside"]
    ]
    rows = []
    for question, title, found in named:
        both = [Interval(**found[key]) for key in ("difference", "without_insertions")]
        cells = [cell for interval in both for cell in (interval.percent(), verdict(interval))]
        rows.append([question, title, str(both[0].utterances), *cells])
    return markdown(rows, DIFFERENCES)


def paired(first: RunRecord, second: RunRecord, insertions: bool = True) -> Interval:
    """WER under attack of the first less that of the second, on the utterances that both have.

    Without ``insertions``, of the words that are wrong or missing. Raises :class:`ResultsError` if there is none.
    """
    found = difference(first, second, "adversarial", insertions)
    if found is None:
        raise ResultsError(f"{first.name} and {second.name} have no attacked utterance in common")
    return found


def verdict(found: Interval) -> str:
    """Which way the difference goes, or that its interval leaves that open."""
    low, high = found.deciding or (0.0, 0.0)
    if low <= 0 <= high:
        return "open"
    return "higher" if low > 0 else "lower"
