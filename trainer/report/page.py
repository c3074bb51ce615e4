"""`report.html`: a run on one page that needs nothing else.

No script, no font, no picture from elsewhere; every text is escaped.
"""

import base64
import html
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.report import data, pictures

_Event = Mapping[str, Any]
# Title of a picture -> key in metrics.jsonl -> name of its curve.
_CHARTS = {
    "loss, nats": {"loss": "training", "validation_loss": "validation"},
    "accuracy": {"accuracy": "training", "validation_accuracy": "validation"},
    "real tokens per second": {"real_tokens_per_second": "throughput"},
}
_LEAST_SHARE = 0.1  # Of the largest value; what is less is not marked.
_LEGEND = (
    'Words <mark class="for" style="--share:1">for the answer</mark> are'
    ' underlined, words <mark class="against" style="--share:1">against'
    " it</mark> with dots; the numbers are in their titles, in log-odds of the"
    " answer and the second class."
)
_STYLE = pathlib.Path(__file__).with_suffix(".css").read_text()


def render(
    *,
    title: str,
    answer: Sequence[str],
    summary: Mapping[str, str],
    stages: Mapping[str, Sequence[_Event]],
    config: Mapping[str, Any],
    picture: bytes = b"",
    tables: Mapping[str, Sequence[Sequence[str]]] | None = None,
    mistakes: Sequence[Mapping[str, Any]] = (),
    audit: Mapping[str, Any] | None = None,
) -> str:
    """The page as HTML, UTF-8 when written; what has no content is left out.

    Args:
      title: of the page.
      answer: what the run made and how good it is, see `summary.answer`.
      summary: name -> value, see `summary.lines`.
      stages: name -> lines of metrics.jsonl, fill-ins among them.
      config: the configuration, JSON-ready.
      picture: a PNG, see `pictures.evaluation_png`.
      tables: title -> rows of cells, see `summary.tables`.
      mistakes: `text`, `label`, `answer` and `probability` of the worst, and
        an `explanation` where there is one, see `explanations.of`.
      audit: what was found out about the labelled text.
    """
    title = _escaped(title)
    parts = [
        f"<h1>{title}</h1>",
        *(f'<p class="answer">{_escaped(one)}</p>' for one in answer),
        _mistakes(mistakes) if mistakes else "",
        _classifier(picture, tables or {}),
        *(_stage(name, events) for name, events in stages.items()),
        _labelled_text(audit) if audit else "",
        _section("All results", _table(summary.items())),
        _section(
            "Configuration",
            f"<details><summary>every field</summary><pre>"
            f"{_escaped(json.dumps(config, indent=2, ensure_ascii=False))}"
            "</pre></details>",
        ),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{_STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _labelled_text(audit: Mapping[str, Any]) -> str:
    lines = [
        *data.near_duplicate_lines(audit["near_duplicates"]),
        *data.audit_lines(audit, most=20),
    ]
    parts = [f"<p>{_escaped(line)}</p>" for line in lines]
    if audit["suspects"]:
        parts.append("<h3>Labels in doubt</h3>")
    return _section(
        "The labelled text",
        _table(data.class_lines(audit)),
        *parts,
        *_articles(audit["suspects"]),
    )


def _stage(name: str, events: Sequence[_Event]) -> str:
    charts = [
        _image(f"{title} over steps", picture, "svg+xml")
        for title, names in _CHARTS.items()
        if (picture := pictures.curves_svg(title, names, events))
    ]
    if not charts:
        return ""
    return _section(
        f"Stage {name}",
        '<div class="charts">',
        *charts,
        "</div>",
        *_fill_ins([e for e in events if e.get("event") == "fill_ins"]),
    )


def _fill_ins(events: Sequence[_Event]) -> list[str]:
    """Of every sentence the words for its masks, epoch by epoch."""
    rows: dict[str, list[tuple[str, str]]] = {}
    for event in events:
        for found in event["fill_ins"]:
            words = " · ".join(
                ", ".join(f"{token} {rate:.2f}" for token, rate in masked)
                for masked in found["masks"]
            )
            rows.setdefault(found["text"], []).append(
                (f"step {event['step']:,}", words)
            )
    return [
        f"<h3>{_escaped(text)}</h3>\n{_table(of_text)}"
        for text, of_text in rows.items()
    ]


def _mistakes(mistakes: Sequence[Mapping[str, Any]]) -> str:
    are_marked = any("explanation" in one for one in mistakes)
    return _section(
        "What it gets most wrong",
        f"<p>{_LEGEND}</p>" if are_marked else "",
        *_articles(mistakes),
    )


def _classifier(
    picture: bytes, tables: Mapping[str, Sequence[Sequence[str]]]
) -> str:
    parts = []
    if picture:
        what = "what is confused, reliability, precision by coverage"
        parts.append(_image(what, picture, "png"))
    for title, rows in tables.items():
        parts += [f"<h3>{_escaped(title)}</h3>", _table(rows)]
    return _section("On the test split", *parts) if parts else ""


def _articles(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"<article><b>{_escaped(mistake['label'])}</b>, answered"
        f" <b>{_escaped(mistake['answer'])}</b>"
        f" <small>with {100 * mistake['probability']:.1f} %</small><br>"
        f"{_text(mistake)}</article>"
        for mistake in documents
    ]


def _text(mistake: Mapping[str, Any]) -> str:
    """The text, its words marked by what they say where that is known."""
    explanation = mistake.get("explanation", {})
    if not explanation.get("words"):
        return _escaped(mistake["text"])
    values = {
        name: [value or 0.0 for value in found]
        for name, found in explanation["contributions"].items()
    }
    totals = [*map(sum, zip(*values.values(), strict=True))]
    most = max(map(abs, totals)) or 1.0
    parts = []
    if against := explanation["against"]:
        parts = [f"<small>rather than {_escaped(against)}: </small>"]
    for n, (word, total) in enumerate(
        zip(explanation["words"], totals, strict=True)
    ):
        text, share = _escaped(word), abs(total) / most
        if share >= _LEAST_SHARE:
            said = ", ".join(f"{k} {v[n]:+.2f}" for k, v in values.items())
            side = "for" if total > 0 else "against"
            text = (
                f'<mark class="{side}" style="--share:{share:.2f}"'
                f' title="{total:+.2f}: {said}">{_escaped(word.rstrip())}'
                f"</mark>{_escaped(word[len(word.rstrip()) :])}"
            )
        parts.append(text)
    return "".join(parts)


def _image(what: str, content: bytes, kind: str) -> str:
    """A picture inside the page; as an image, no script in it would run."""
    data = base64.b64encode(content).decode()
    return f'<img alt="{_escaped(what)}" src="data:image/{kind};base64,{data}">'


def _section(title: str, *parts: str) -> str:
    content = "\n".join(parts)
    return f"<section><h2>{_escaped(title)}</h2>\n{content}\n</section>"


def _table(rows: Iterable[Sequence[str]]) -> str:
    cells = [
        f"<tr><th>{_escaped(name)}</th>"
        + "".join(f"<td>{_escaped(value)}</td>" for value in values)
        + "</tr>"
        for name, *values in rows
    ]
    if not cells:
        return ""
    return "\n".join(['<div class="wide"><table>', *cells, "</table></div>"])


def _escaped(value: object) -> str:
    # A lone surrogate cannot be written as UTF-8.
    text = str(value).encode(errors="replace").decode()
    return html.escape(text)
