"""The sample run: every stage on a corpus that the project makes itself.

Shows:    that the installation works, from raw text to a trained encoder.
Command:  make run        (or: python -m trainer.main)
Data:     `sample`, generated and labelled reviews; no network.
Machine:  a laptop CPU.
Time:     to be measured.
Expect:   to be measured.
"""

import ml_collections

from configs import schema


def get_config() -> ml_collections.ConfigDict:
    """The defaults on the generated corpus, in float32 on every device."""
    config = schema.defaults()
    config.data.source = "sample"
    # Not "auto", so that every machine computes the same numbers.
    config.train.precision = "float32"
    return config
