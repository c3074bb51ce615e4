"""`--mode=predict`: reads lines of text and answers each with a JSON line."""

import json
import os
import select
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any

import tensorflow as tf

from configs import schema
from configs.runtime import Runtime
from input_pipeline import cleaning
from trainer import trained
from trainer.serving import explanations, loading

_CHUNK_BYTES = 2**20
_Answer = dict[str, Any]


def run(config: schema.Config, *, workdir: str, runtime: Runtime) -> None:
    """Prints one JSON object for every line of the input.

    A line with [MASK] gives {"line": n, "masks": [[{"token", "probability"},
    …], …]}, the likeliest token first. Any other line gives {"line": n,
    "label": …, "decision": …, "confidence": …, "probabilities": {label: …}},
    with "unread_tokens" if the line is longer than what the classifier reads.
    The decision is the label, or "unsure"; where a text may have several
    labels, both are lists. With `predict.explain` there is an "explanation",
    too, see `explanations.of`; the words that say most go to standard error,
    as text. A line that cannot be answered gives {"line": n,
    "error": …}.

    Raises:
      ValueError: there is no export, a file of it is missing or changed, it
        cannot explain, or the input cannot be read.
    """
    predict = config.predict
    directory = loading.directory_of(workdir, predict.export_dir)
    with _open(predict.input) as source:
        exported = loading.load(directory)
        if predict.explain and "explain" not in exported.signatures:
            raise ValueError(
                f"predict.explain=True, but {directory} cannot explain: it has"
                " no classifier, or is of an older version; run"
                " --mode=finetune or --mode=export, or leave predict.explain"
                " out."
            )
        if not predict.export_dir:
            trained.warn_if_older(workdir, exported.facts)
        # Escapes are JSON in every encoding, other characters in UTF-8 alone.
        escapes = sys.stdout.encoding.lower() not in ("utf-8", "utf8")
        number = 0
        for lines in batches(source.fileno(), size=predict.batch_size):
            for answer in answers(exported, lines, explain=predict.explain):
                number += 1
                line = {"line": number, **answer}
                print(
                    json.dumps(line, ensure_ascii=escapes),
                    flush=predict.explain,
                )
                if "explanation" in answer:
                    text = explanations.lines(answer["explanation"])
                    print(f"line {number}:", *text, sep="\n", file=sys.stderr)
            sys.stdout.flush()


def batches(source: int, *, size: int) -> Iterator[list[bytes]]:
    """Lists of at most `size` lines, without their line ends.

    A list is shorter if no more input is waiting, so that whoever types a line
    gets the answer at once.

    Args:
      source: a file descriptor.
      size: number of lines in a full list.
    """
    lines: list[bytes] = []
    rest = b""
    while True:
        while len(lines) >= size or (
            lines and not select.select([source], [], [], 0)[0]
        ):
            yield lines[:size]
            lines = lines[size:]
        chunk = os.read(source, _CHUNK_BYTES)
        if not chunk:
            break
        *new, rest = (rest + chunk).split(b"\n")
        lines += new
    if rest:
        lines.append(rest)
    for start in range(0, len(lines), size):
        yield lines[start : start + size]


def answers(
    exported: loading.Exported, lines: Sequence[bytes], *, explain: bool = False
) -> list[_Answer]:
    """An answer or an error for each line, in order.

    Args:
      exported: with the signature "explain", if that is wanted.
      lines: without their ends.
      explain: whether answers of the classifier are explained.
    """
    result: list[_Answer] = [{} for _ in lines]
    mask = exported.facts["mask"].encode()
    for name in ("classify", "fill_mask"):
        has_mask = name == "fill_mask"
        group = [
            n for n, line in enumerate(lines) if (mask in line) is has_mask
        ]
        found = ask(exported, name, [lines[n] for n in group])
        for n, answer in zip(group, found, strict=True):
            result[n] = answer
    if explain:
        good = [n for n, answer in enumerate(result) if "label" in answer]
        found = ask(exported, "explain", [lines[n] for n in good])
        for n, explanation in zip(good, found, strict=True):
            result[n]["explanation"] = explanation
    return result


def ask(
    exported: loading.Exported, name: str, lines: Sequence[bytes]
) -> list[_Answer]:
    """What a signature answers, or an error, for each line.

    Args:
      exported: the model.
      name: of the signature: classify, explain, fill_mask or embed.
      lines: texts.
    """
    result: list[_Answer] = [{"error": _complaint(line)} for line in lines]
    good = [n for n, found in enumerate(result) if not found["error"]]
    texts = [lines[n] for n in good]
    answers: list[_Answer] = []
    if good and name not in exported.signatures:
        how = "pretrained" if name == "fill_mask" else "fine-tuned"
        error = f"the export has no {name}: its run has not been {how}"
        answers = [{"error": error} for _ in good]
    elif good and name == "explain":
        answers = explanations.of(exported, texts)
    elif good:
        shape = {"classify": _classes, "fill_mask": _fill_ins}
        outputs = exported.signatures[name](tf.constant(texts, tf.string))
        arrays = {key: value.numpy() for key, value in outputs.items()}
        answers = [
            shape.get(name, _vector)(
                {key: value[n] for key, value in arrays.items()}, exported.facts
            )
            for n in range(len(texts))
        ]
    for n, answer in zip(good, answers, strict=True):
        result[n] = answer
    return result


def _classes(output: dict[str, Any], facts: dict[str, Any]) -> _Answer:
    rates = map(float, output["probabilities"])
    read = json.loads if facts.get("multilabel") else bytes.decode
    unread = int(output.get("unread", 0))  # Older exports have none.
    decided = {}
    if "decision" in output:  # Older exports have none.
        decided["decision"] = read(output["decision"])
        decided["confidence"] = float(output["confidence"])
    return {
        "label": read(output["label"]),
        **decided,
        "probabilities": dict(zip(facts["labels"], rates, strict=True)),
        **({"unread_tokens": unread} if unread else {}),
    }


def _fill_ins(output: dict[str, Any], facts: dict[str, Any]) -> _Answer:
    count = int(output["count"])
    if count > facts["max_masks"]:
        return {
            "error": f"{count} masks, but at most {facts['max_masks']} are"
            " filled in; split the line"
        }
    tokens = output["tokens"][:count]
    if not tokens[:, 0].all():
        return {
            "error": "the masks are too far apart: one row holds"
            f" {facts['sequence_length']} slots; split the line"
        }
    return {
        "masks": [
            [
                {"token": token.decode(), "probability": float(rate)}
                for token, rate in zip(*pair, strict=True)
            ]
            for pair in zip(tokens, output["probabilities"], strict=False)
        ]
    }


def _vector(output: dict[str, Any], facts: dict[str, Any]) -> _Answer:
    return {key: value.tolist() for key, value in output.items()}


def _complaint(line: bytes) -> str:
    """What is wrong with a line; "" if nothing is."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: {error.reason} at byte {error.start}"
    return "" if cleaning.clean(line, cleaning.Counts()) else "empty line"


def _open(path: str) -> IO[bytes]:
    """The file, or standard input, unbuffered."""
    try:
        return open(path or 0, "rb", buffering=0, closefd=bool(path))
    except OSError as error:
        raise ValueError(
            f"predict.input={path or 'standard input'} cannot be read:"
            f" {error.strerror}; name a text file, or leave it out to read"
            " standard input."
        ) from error
