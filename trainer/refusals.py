"""What to say where the system refuses something: no space, no rights."""

import errno
import os

# No space left, quota used up.
_FULL = (errno.ENOSPC, errno.EDQUOT)


def explain(error: Exception) -> str:
    """The place, what is the matter, and what to do; "" = it is a bug."""
    place = getattr(error, "filename", None)
    # TensorFlow and safetensors have their own types for a full disk.
    if any(os.strerror(number) in str(error) for number in _FULL):
        place = place or "the workdir or data.prepared_dir"
        return f"{place}: no space left on the device; free some and run again."
    if "Error executing an HTTP request" in str(error):
        # TensorFlow's client of gs://.
        return f"{error}; check the bucket and that this machine may use it."
    if isinstance(error, OSError) and place is not None:
        return (
            f"{place}: {error.strerror}; check that the path is right and that"
            " you may use it."
        )
    return ""
