"""Sets TensorFlow up for all tests: silent, on the CPU, as four devices."""

import os
import sys

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # As `trainer.main` does.
# Tiny graphs take longer to compile than to run: a quarter less in all.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true",
)

import pytest

pytest_plugins = ["tests.bucket"]

# In tests/trainer: these share trained models; every other file stands alone.
_TOGETHER = {"commands", "stages", "test_run.py"}


def _set_up() -> None:
    """Splits the CPU, which the first operation of any test would fix."""
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 4,
    )
    # Tiny graphs take longer to optimise than to run, too.
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )


# With several processes, the first one runs no test.
if "PYTEST_XDIST_WORKER" in os.environ or not any(
    word.startswith(("-n", "--numprocesses")) for word in sys.argv
):
    _set_up()


@pytest.hookimpl(tryfirst=True)  # Before xdist looks for groups.
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """What shares fixtures runs in one process, with `--dist=loadgroup`."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        together = _TOGETHER & {*item.path.parts}
        group = "stages" if together else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
