"""A SavedModel from elsewhere reaches no file; every export of ours loads."""

import dataclasses

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import storage
from configs import schema
from trainer import modeling
from trainer.serving import loading, saved_model

LETTERS = [f"w{n}" for n in range(20)]
VOCABULARIES = {
    "word": ["", "[UNK]", *LETTERS, "[mask]"],
    "unicode_word": ["", "[UNK]", *LETTERS, "[mask]"],
    "wordpiece": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS],
}
BERT = {"normalization": "post", "embedding_norm": True, "token_types": True}


def write(directory, answer, *, change=lambda graph: None):
    """An export with a correct manifest whose one signature is `answer`."""
    facts = {"format": loading.FORMAT, "tokenizer": "word"}
    with storage.new_directory(directory, facts=facts) as temporary:
        folder = temporary / loading.FOLDER
        function = tf.function(
            answer, input_signature=[tf.TensorSpec([None], tf.string, "text")]
        )
        tf.saved_model.save(tf.Module(), str(folder), {"classify": function})
        path = folder / "saved_model.pb"
        saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
        change(saved.meta_graphs[0])
        path.write_bytes(saved.SerializeToString())
        facts["signatures"] = ["classify"]
    return directory


@pytest.mark.parametrize("hidden", [False, True], ids=["plain", "in a branch"])
def test_reading_and_writing_files_is_refused(tmp_path, hidden):
    secret, copy = tmp_path / "secret", tmp_path / "copy"
    secret.write_text("secret")

    def steal(text):
        content = tf.io.read_file(str(secret))
        with tf.control_dependencies([tf.io.write_file(str(copy), content)]):
            return tf.identity(text)

    def answer(text):
        if hidden:
            text = tf.cond(tf.size(text) > 0, lambda: steal(text), lambda: text)
        else:
            text = steal(text)
        return {"label": text}

    with pytest.raises(ValueError, match="ReadFile, WriteFile") as error:
        loading.load(write(tmp_path / "export", answer))
    assert "\n" not in str(error.value)
    assert not copy.exists()


def test_python_is_refused(tmp_path):
    def answer(text):
        return {"label": tf.numpy_function(lambda x: x, [text], tf.string)}

    with pytest.raises(ValueError, match="operations PyFunc"):
        loading.load(write(tmp_path / "export", answer))


def test_saving_is_left_to_the_functions_that_nobody_calls(tmp_path):
    copy = tmp_path / "copy"

    def answer(text):
        tf.raw_ops.SaveV2(
            prefix=str(copy),
            tensor_names=["text"],
            shape_and_slices=[""],
            tensors=[text],
        )
        return {"label": text}

    with pytest.raises(ValueError, match="operations SaveV2, which"):
        loading.load(write(tmp_path / "export", answer))

    def call_the_saver(graph):
        library = graph.graph_def.library.function
        (saver,) = (f for f in library if "traced_save" in f.signature.name)
        for function in library:
            for node in function.node_def:
                if function is not saver and node.op == "Identity":
                    node.attr["f"].func.name = saver.signature.name

    directory = write(
        tmp_path / "other",
        lambda text: {"label": tf.identity(text)},
        change=call_the_saver,
    )
    with pytest.raises(ValueError, match="MergeV2Checkpoints.*SaveV2"):
        loading.load(directory)
    assert not copy.exists()


def exchange(graph):
    for function in graph.graph_def.library.function:
        function.attr["api_implements"].s = b"the same"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph: graph.ClearField("object_graph_def"), "another layout"),
        (exchange, "interchangeable functions"),
    ],
)
def test_what_hides_its_calls_is_refused(tmp_path, change, message):
    directory = write(
        tmp_path / "export", lambda text: {"label": text}, change=change
    )
    with pytest.raises(ValueError, match=message):
        loading.load(directory)


@pytest.mark.parametrize(
    ("kind", "labels", "model", "finetune", "num_ngrams"),
    [
        ("word", "ab", {}, {}, 7),
        ("wordpiece", "abc", BERT, {"pooling": "attention"}, 0),
        ("wordpiece", "ab", {}, {"encoder": False}, 7),
        (
            "unicode_word",
            "abc",
            {"positions": "rotary", "activation": "relu"},
            {"pooling": "mean_max", "hidden_size": 4},
            7,
        ),
        (
            "word",
            "ab",
            {"attend_padding": True, "activation": "gelu_tanh"},
            {"pooling": "max", "packing": "document", "pieces_per_row": 1},
            0,
        ),
    ],
)
def test_every_kind_of_export_loads(
    tmp_path, kind, labels, model, finetune, num_ngrams
):
    shape = {"hidden_size": 8, "num_heads": 2, "intermediate_size": 8}
    common = {
        "kind": kind,
        "vocabulary": VOCABULARIES[kind],
        "sequence_length": 8,
        "model": dataclasses.asdict(
            schema.ModelConfig(num_layers=1, **shape, **model)
        ),
    }
    classifier = modeling.TextClassifier(
        **common,
        labels=list(labels),
        finetune=dataclasses.asdict(schema.FinetuneConfig(**finetune)),
        num_ngrams=num_ngrams,
    )
    masked_lm = modeling.TextMaskedLM(**common, max_masks=2, top_k=3)
    facts = {"format": loading.FORMAT, "tokenizer": kind}
    with storage.new_directory(tmp_path / "export", facts=facts) as temporary:
        facts["signatures"] = saved_model.save(
            temporary, classifier=classifier, masked_lm=masked_lm
        )
    assert loading.load(tmp_path / "export").signatures.keys() == {
        "classify",
        "embed",
        "fill_mask",
    }
