"""The page: one file of HTML that needs no network, no server and nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from armory_mdnf.report.audits import Audit
from armory_mdnf.report.content import build
from armory_mdnf.report.pictures import CEILING_DB, FLOOR_DB
from armory_mdnf.report.runs import Placed, data_name
from armory_mdnf.report.sounds import Heard

# A shape for each line of a chart, around its point: no line is told by its colour alone.
SHAPES = (
    "M-4-4h8v8h-8z",
    "M0-5l5 9h-10z",
    "M0-6l5 6-5 6-5-6z",
    "M-5-4h10l-5 9z",
    "M-5-2h3v-3h4v3h3v4h-3v3h-4v-3h-3z",
    "M-2-5h4v10h-4z",
)


def render(
    placed: Sequence[Placed],
    heard: Mapping[str, Mapping[int, Heard]] | None = None,
    title: str = "",
    audits: Sequence[Audit] = (),
) -> str:
    """HTML of some runs, and of audits of theirs.

    Whatever comes from them is escaped; style and script are allowed by their checksums alone."""
    style, script, template = (_file(name) for name in ("page.css", "page.js", "page.html"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False, keep_trailing_newline=True)
    page = build(placed, heard or {}, title, audits)
    return environment.from_string(template).render(
        page=page,
        sounds=any(said.heard for said in page.said),
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        marker=_marker,
        data_name=data_name,
        floor=f"{FLOOR_DB:g}",
        ceiling=f"{CEILING_DB:g}",
    )


def _marker(number: int, x: float, y: float) -> Markup:
    shape = SHAPES[number % len(SHAPES)]
    return Markup('<path class="mark" transform="translate({:.1f} {:.1f})" d="{}"/>').format(x, y, shape)


def _file(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
