import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import packing

START, END = 3, 5
FLAG = 2**15


def _wrap(ids):
    return np.concatenate([[START], ids, [END]]).astype(np.int32)


def _documents(*lengths):
    """Documents without a token in common; ids from 10 on."""
    ids = np.arange(10, 10 + sum(lengths), dtype=np.int32)
    return np.split(ids, np.cumsum(lengths)[:-1])


def _pack(documents, *, policy="fill", length=8, wrapped=False, dtype="<u2"):
    return packing.pack(
        documents,
        policy=policy,
        length=length,
        wrap=_wrap if wrapped else lambda ids: ids,
        num_wrapping=2 if wrapped else 0,
        dtype=np.dtype(dtype),
    )


def _unpack(rows):
    features = packing.unpack(tf.constant(rows))
    return {key: value.numpy() for key, value in features.items()}


def _segments(rows):
    """The ids of every segment of every row, in order."""
    features = _unpack(rows)
    for ids, numbers in zip(
        features["token_ids"], features["segment_ids"], strict=True
    ):
        for number in range(1, numbers.max(initial=0) + 1):
            yield ids[numbers == number]


def _random_documents(number, longest=30):
    generator = np.random.default_rng(number)
    return _documents(*generator.integers(0, longest, 40))


@pytest.mark.parametrize(
    ("vocabulary_size", "dtype"),
    [(16, "<u2"), (32_768, "<u2"), (32_769, "<u4"), (2**31 - 1, "<u4")],
)
def test_slot_dtype_holds_the_largest_id_and_the_flag(vocabulary_size, dtype):
    assert packing.slot_dtype(vocabulary_size) == np.dtype(dtype)
    document = np.array([vocabulary_size - 1, 1, vocabulary_size - 1])
    rows, _ = _pack([document], dtype=dtype)
    assert rows.dtype == dtype
    features = _unpack(rows)
    assert list(features["token_ids"][0, :3]) == list(document)
    assert list(features["segment_ids"][0]) == [1, 1, 1] + [0] * 5


def test_golden_rows():
    # Pinned: prepared rows on disk must stay readable.
    rows, _ = _pack(_documents(3, 5, 2), wrapped=True)
    assert rows.tolist() == [
        [START | FLAG, 13, 14, 15, 16, 17, END, 0],
        [START | FLAG, 10, 11, 12, END, 0, 0, 0],
        [START | FLAG, 18, 19, END, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("policy", ["fill", "document"])
@pytest.mark.parametrize("number", range(3))
def test_tokens_add_up(number, policy, wrapped):
    documents = _random_documents(number)
    rows, counts = _pack(documents, policy=policy, wrapped=wrapped, length=9)
    segments = list(_segments(rows))
    assert rows.shape == (counts.rows, 9)
    assert counts.documents == len(documents)
    assert counts.documents_without_tokens == sum(
        not len(document) for document in documents
    )
    assert counts.tokens_read == sum(map(len, documents))
    assert counts.tokens_read == counts.tokens_kept + counts.tokens_cut
    assert counts.segments == len(segments)
    assert counts.slots_used == np.count_nonzero(rows)
    wrapping = 2 * wrapped * counts.segments
    assert counts.slots_used == counts.tokens_kept + wrapping


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("number", range(3))
def test_fill_loses_and_repeats_nothing(number, wrapped):
    documents = _random_documents(number)
    rows, counts = _pack(documents, wrapped=wrapped, length=9)
    segments = list(_segments(rows))
    if wrapped:
        assert all(s[0] == START and s[-1] == END for s in segments)
        segments = [segment[1:-1] for segment in segments]
    # No id occurs twice, so that sorting by the first joins the documents.
    segments.sort(key=lambda segment: segment[0])
    np.testing.assert_array_equal(
        np.concatenate(segments), np.concatenate(documents)
    )
    assert counts.tokens_cut == 0
    # A segment never holds the text of two documents.
    starts = {document[0] for document in documents if len(document)}
    for segment in segments:
        assert not starts & set(segment[1:])


@pytest.mark.parametrize(
    ("size", "cut", "wrapped"),
    [(5, 0, True), (6, 0, True), (7, 1, True), (8, 0, False), (9, 1, False)],
)
def test_one_document_a_row_is_cut_at_its_end(size, cut, wrapped):
    documents = _documents(size, 1)
    rows, counts = _pack(documents, policy="document", wrapped=wrapped)
    assert counts.tokens_cut == cut
    first, second = _segments(rows)  # In the order of the documents.
    kept = [*documents[0][: size - cut]]
    assert list(first) == ([START, *kept, END] if wrapped else kept)
    assert documents[1][0] in second


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([], []),
        ([8], [[0]]),
        ([3, 5, 4, 1], [[1, 0], [2, 3]]),
        # The fullest row with room, not the first: 5 + 3 and not 4 + 3.
        ([4, 5, 3], [[1, 2], [0]]),
        # Equal lengths, equally full rows: in order of arrival.
        ([6, 6, 2, 2], [[0, 2], [1, 3]]),
        ([1] * 9, [list(range(8)), [8]]),
    ],
)
def test_best_fit_cases(lengths, groups):
    assert packing.best_fit(lengths, 8) == groups


@pytest.mark.parametrize("length", [8, 33])
def test_positions_start_anew_in_every_segment(length):
    rows, _ = _pack(_random_documents(2), length=length)
    features = _unpack(rows)
    for numbers, positions in zip(
        features["segment_ids"], features["position_ids"], strict=True
    ):
        for number in range(1, numbers.max() + 1):
            own = positions[numbers == number]
            assert list(own) == list(range(len(own)))
        assert not positions[numbers == 0].any()
        # Segments ascend; padding comes last.
        text = numbers[numbers > 0]
        assert list(numbers[: len(text)]) == sorted(text)


@pytest.mark.parametrize("length", [1, 8, 9])
def test_running_maximum(length):
    values = np.random.default_rng(length).integers(0, 50, [6, length])
    np.testing.assert_array_equal(
        packing.running_maximum(tf.constant(values)),
        np.maximum.accumulate(values, axis=1),
    )
