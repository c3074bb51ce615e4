"""A SavedModel from elsewhere reaches no file; every export of ours loads."""

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import storage
from trainer.serving import loading


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


def test_files_and_python_are_refused(tmp_path):
    secret, copy = tmp_path / "secret", tmp_path / "copy"
    secret.write_text("secret")

    def steal(text):
        content = tf.io.read_file(str(secret))
        with tf.control_dependencies([tf.io.write_file(str(copy), content)]):
            return tf.identity(text)

    def answer(text):
        # In a branch, which is a function of its own.
        stolen = tf.cond(tf.size(text) > 0, lambda: steal(text), lambda: text)
        return {"label": stolen}

    with pytest.raises(ValueError, match="ReadFile, WriteFile") as error:
        loading.load(write(tmp_path / "export", answer))
    assert "\n" not in str(error.value)
    assert not copy.exists()

    def call_python(text):
        return {"label": tf.numpy_function(lambda x: x, [text], tf.string)}

    with pytest.raises(ValueError, match="operations PyFunc"):
        loading.load(write(tmp_path / "other", call_python))


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
