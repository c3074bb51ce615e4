"""The documents of a data set of TensorFlow Datasets, through its own API.

Listing units imports no TensorFlow; reading them does.
"""

import contextlib
import difflib
import functools
import http.client
import itertools
import logging
import os
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from configs import schema
from input_pipeline import cleaning, documents, label_sets, processes

UNIT_EXAMPLES = 2_000  # About.
# To reach its own examples, a unit reads over those before it in the file:
# with this many units a file, a file is read 16 times.
_MAX_UNITS_A_FILE = 32
_BATCH_EXAMPLES = 256  # One at a time costs four times as much.
_NETWORK_SECONDS = 3.0

# What TFDS raises for a data set that it cannot load or prepare.
_FAILURES = (AssertionError, ImportError, OSError, RuntimeError, ValueError)
# What `data.label_kind` asks for.
_KINDS = {
    "auto": "single value and no sequence of labels",
    "one": "single value",
    "many": "sequence of labels",
}

_logger = logging.getLogger(__name__)


def list_units(data: schema.DataConfig) -> list[documents.Unit]:
    """Fixed slices of every split; downloads the data set if need be."""
    builder = _builder(data)
    _check_fields(data, builder)
    splits = builder.info.splits
    ranges = {
        role: list(_ranges(role, spec, builder))
        for role, spec in _specs(data, builder).items()
    }
    _check_apart(ranges)
    return [
        documents.Unit(role, (slice_,))
        for role, pieces in ranges.items()
        for piece in pieces
        for slice_ in _slices(piece, splits[piece.path].shard_lengths)
    ]


def fingerprint(data: schema.DataConfig) -> dict[str, Any]:
    """Name with version, the splits asked for, and all that are stored."""
    builder = _builder(data)
    return {
        "name": builder.info.full_name,
        "specs": _specs(data, builder),
        "splits": {
            name: {
                "num_bytes": int(split.num_bytes),
                "shard_lengths": [*map(int, split.shard_lengths)],
            }
            for name, split in sorted(builder.info.splits.items())
        },
    }


def read(
    data: schema.DataConfig, unit: documents.Unit, counts: cleaning.Counts
) -> Iterator[documents.Document]:
    """The examples of a unit as they are stored; "unlabeled" has no label.

    A sequence of labels becomes a set, see `label_sets`.
    """
    builder = _builder(data)
    features = builder.info.features
    fields = [data.text_field, data.label_field, data.group_field]
    if data.label_field not in features or unit.split == "unlabeled":
        fields[1] = ""
    for piece in unit.pieces:
        for text, *values in _examples(builder, piece, fields):
            label, group = (
                _label(field, features[field], value) if field else ""
                for field, value in zip(fields[1:], values, strict=True)
            )
            yield from documents.cut([text], counts, label, group)


def _examples(
    builder: Any, piece: documents.Piece, fields: list[str]
) -> Iterator[tuple[Any, ...]]:
    """The values of the fields; of a field named "", always None."""
    tfds = _import_tfds()
    tf = processes.import_module("tensorflow")
    read = dict.fromkeys(filter(None, fields), True)
    examples = builder.as_dataset(
        split=f"{piece.path}[{piece.start}:{piece.stop}]",
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding(read),
        read_config=tfds.ReadConfig(
            try_autocache=False, interleave_cycle_length=1
        ),
    )
    try:
        for batch in tfds.as_numpy(examples.ragged_batch(_BATCH_EXAMPLES)):
            for name, values in batch.items():
                if isinstance(values, tf.RaggedTensor):
                    batch[name] = values.to_list()
            yield from zip(
                *(batch.get(name, itertools.repeat(None)) for name in fields),
                strict=False,
            )
    except tf.errors.OpError as error:
        raise ValueError(
            f"{builder.data_dir} is damaged: {error.message[:200]}. Delete it"
            " and prepare the data set again."
        ) from error


def _label(field: str, feature: Any, value: Any) -> str:
    if isinstance(value, list):
        names = (_label(field, feature.feature, item) for item in value)
        return label_sets.joined(filter(None, names))
    if isinstance(value, bytes):
        return documents.name(field, value)
    if hasattr(feature, "int2str"):
        return feature.int2str(int(value)) if value >= 0 else ""
    return str(value)


def _specs(data: schema.DataConfig, builder: Any) -> dict[str, str]:
    """Role to split, such as {"train": "train[:90%]", "test": "test"}."""
    specs = {"train": data.train_split, "unlabeled": data.unlabeled_split}
    is_default = data.test_split == schema.DataConfig.test_split
    if data.test_split in builder.info.splits or not is_default:
        specs["test"] = data.test_split
    return {k: v for k, v in specs.items() if v or k == "train"}


def _ranges(role: str, spec: str, builder: Any) -> Iterator[documents.Piece]:
    """The parts of a split such as "train[:90%]+test", in examples."""
    splits = dict(builder.info.splits)
    instruction = _import_tfds().core.ReadInstruction
    try:
        parts = instruction.from_spec(spec).to_absolute(splits)
    except ValueError as error:
        raise ValueError(
            f"data.{role}_split={spec!r} does not fit data.name="
            f"{builder.info.full_name}: {_one_line(error)} It has "
            + ", ".join(f"{k} ({v.num_examples})" for k, v in splits.items())
            + "; write a name or a slice, such as 'train[:90%]'."
        ) from error
    for part in parts:
        num_examples = splits[part.splitname].num_examples
        stop = num_examples if part.to is None else part.to
        yield documents.Piece(part.splitname, part.from_ or 0, stop)


def _check_apart(ranges: dict[str, list[documents.Piece]]) -> None:
    """Refuses a test on examples that train or pretrain."""
    for role in ("train", "unlabeled"):
        for a, b in itertools.product(
            ranges.get(role, []), ranges.get("test", [])
        ):
            if a.path == b.path and max(a.start, b.start) < min(a.stop, b.stop):
                raise ValueError(
                    f"data.{role}_split and data.test_split share examples of"
                    f" {a.path!r}; a test on the text of the training proves"
                    " nothing. Let them name different ones."
                )


def _slices(
    piece: documents.Piece, lengths: list[int]
) -> Iterator[documents.Piece]:
    """Even parts of a piece, of files with so many examples."""
    longest = max(UNIT_EXAMPLES, -(-max(lengths) // _MAX_UNITS_A_FILE))
    num_examples = piece.stop - piece.start
    num_slices = -(-num_examples // longest)
    for i in range(num_slices):
        start = piece.start + num_examples * i // num_slices
        stop = piece.start + num_examples * (i + 1) // num_slices
        yield documents.Piece(piece.path, start, stop)


def _check_fields(data: schema.DataConfig, builder: Any) -> None:
    features = builder.info.features or {}
    names = sorted(features)  # As stored they have no fixed order.
    texts = [
        name
        for name in names
        if features[name].shape == ()
        and str(features[name].np_dtype) == "object"
    ]
    if data.text_field not in texts:
        raise ValueError(
            f"data.text_field={data.text_field!r} is no text of data.name="
            f"{builder.info.full_name}; its fields are {', '.join(names)},"
            f" texts among them {', '.join(texts) or 'none'}."
        )
    if data.group_field not in ("", *names):
        raise ValueError(
            f"data.group_field={data.group_field!r} is no field of data.name="
            f"{builder.info.full_name}; its fields are {', '.join(names)}."
        )
    for kind in ("label", "group"):
        field = getattr(data, f"{kind}_field")
        if field not in features:
            continue
        wanted = data.label_kind if kind == "label" else "one"
        found = _kind(features[field])
        if not found or wanted not in ("auto", found):
            raise ValueError(
                f"data.{kind}_field={field!r} of data.name="
                f"{builder.info.full_name} is no {_KINDS[wanted]}; choose"
                " another, or '' for none."
            )


def _kind(feature: Any) -> str:
    """How many values an example has: "one", "many", or "" for a tensor."""
    if feature.shape == ():
        return "one"
    item = getattr(feature, "feature", None)  # Of a sequence.
    return "many" if item is not None and item.shape == () else ""


def _builder(data: schema.DataConfig) -> Any:
    return _prepared_builder(data.name, os.environ.get("TFDS_DATA_DIR", ""))


@functools.lru_cache(maxsize=1)
def _prepared_builder(name: str, data_dir: str) -> Any:
    """The builder of a data set that is ready to be read."""
    if name.startswith("huggingface:"):
        _require_network(name, "https://huggingface.co")
    tfds = _import_tfds()
    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(name, known) or ["no name"]
        raise ValueError(
            f"data.name={name} is no known data set; {', '.join(close)} comes"
            " close. https://www.tensorflow.org/datasets/catalog lists all"
            f" {len(known)}; your own must lie in TFDS_DATA_DIR={data_dir}."
        ) from error
    except _FAILURES as error:
        raise ValueError(f"data.name={name}: {_one_line(error)}") from error
    if not builder.is_prepared():
        _download(name, builder)
    return builder


def _download(name: str, builder: Any) -> None:
    urls = [urllib.parse.urlsplit(url) for url in builder.url_infos or {}]
    hosts = [f"{u.scheme}://{u.netloc}" for u in urls if u.scheme[:4] == "http"]
    _require_network(name, (hosts or ["https://storage.googleapis.com"])[0])
    tfds = _import_tfds()
    _logger.info("Downloading %s to %s.", name, builder.data_dir)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare()
    except (*_FAILURES, tfds.download.DownloadError) as error:
        raise ValueError(
            f"data.name={name} cannot be prepared: {_one_line(error)}"
        ) from error


def _require_network(name: str, url: str) -> None:
    """TFDS itself retries for minutes where there is no network."""
    answers: list[bool] = []
    # A thread, because no time limit reaches the look-up of a name.
    thread = threading.Thread(
        target=lambda: answers.append(_answers(url)), daemon=True
    )
    thread.start()
    thread.join(_NETWORK_SECONDS)
    if not any(answers):
        data_dir = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
        raise ValueError(
            f"data.name={name} is not in TFDS_DATA_DIR={data_dir}, and {url}"
            " does not answer. Connect to a network; or prepare the data set"
            f" on a machine that has one (`tfds build {name}`), copy its folder"
            " here, and set TFDS_DATA_DIR to the folder above it."
        )


def _answers(url: str) -> bool:
    """Whether a server answers, through the proxy if one is set."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_NETWORK_SECONDS):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500  # Above: mostly a proxy without a way out.
    except (OSError, http.client.HTTPException):
        return False


def _import_tfds() -> Any:
    """TensorFlow Datasets, told to keep quiet."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow_datasets as tfds

    logging.getLogger("absl").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    return tfds


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]
