"""What one NVIDIA GPU can settle, part by part; prove.py runs them."""

import gc
import itertools
import json
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

from proofs.gpu.proof import Proof, wait

# Peak of an H100 or H200 with dense bfloat16, from NVIDIA's data sheets.
PEAK = 989e12
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}
# Float32 products are exact only without TensorFloat-32.
EXACT = {"NVIDIA_TF32_OVERRIDE": "0"}


def machine(proof: Proof) -> None:
    """Devices, versions, matrix products, XLA, and the doctor."""
    import keras
    import tensorflow as tf

    from trainer.commands.benchmarks import machine as products
    from trainer.commands.benchmarks import timing

    card = "none"
    if shutil.which("nvidia-smi"):
        query = "--query-gpu=name,driver_version,memory.total"
        command = ["nvidia-smi", query, "--format=csv,noheader"]
        card = subprocess.check_output(command, text=True).strip()
    gpus = tf.config.list_physical_devices("GPU")
    proof.record("card, driver, memory", card, "", True)
    versions = (tf.__version__, keras.__version__, platform.python_version())
    proof.record("TensorFlow, Keras, Python", " ".join(versions), "", True)
    proof.record("GPUs seen", len(gpus), "1 or more", proof.dry or gpus)
    seconds = timing.in_turns(products.matmuls(), num_rounds=5)
    size = products.matmul_size()
    for name, values in seconds.items():
        rate = 2 * size**3 / min(values) / 1e12
        proof.record(f"{name}, TFLOP/s", round(rate, 1), "", True)
    x = tf.random.stateless_normal([64, 64], seed=[1, 2])
    compiled = tf.function(lambda x: tf.nn.gelu(x) + 1, jit_compile=True)
    apart = float(tf.reduce_max(tf.abs(compiled(x) - tf.nn.gelu(x) - 1)))
    proof.record(
        "a function under XLA, difference", apart, "≤ 1e-5", apart <= 1e-5
    )
    wait(proof.start("--mode=doctor", f"--workdir={proof.out}/doctor"))
    proof.record("the doctor", "all well", "", True)


def losses(proof: Proof) -> None:
    """The sample run on the GPU against the same on the CPU."""
    steps = 10 if proof.dry else 200
    flags = (f"--config.train.num_steps={steps}",)
    flags += (f"--config.train.steps_per_epoch={steps // 2}",)
    float32 = (*flags, "--config.train.precision=float32")
    on_cpu = proof.start_sample("cpu", *float32, **ON_CPU)
    wait(proof.start_sample("gpu", *float32, "--config.train.jit=on", **EXACT))
    bfloat16 = (*flags, "--config.train.precision=bfloat16")
    wait(proof.start_sample("bfloat16", *bfloat16, "--config.train.jit=on"))
    wait(on_cpu)
    proof.compare(
        f"{steps} steps, float32, XLA, against the CPU", "gpu", "cpu", 1e-4
    )
    proof.compare(
        f"{steps} steps, bfloat16, XLA, against float32",
        "bfloat16",
        "cpu",
        2e-2,
    )


def steps(proof: Proof) -> None:
    """The step of `imdb_notebook.py` against the dense reference."""
    from trainer.commands.benchmarks import steps as timed

    sizes = (4,) if proof.dry else (32, 1_024)
    for rows, jit, precision in itertools.product(
        sizes, ("on", "off"), ("bfloat16", "float32")
    ):
        what = f"{rows} rows, XLA {jit}, {precision}"
        changes = {
            "train.global_batch_size": str(rows),
            "train.jit": jit,
            "train.precision": precision,
        }
        run = open_run(proof, "imdb_notebook", changes)
        report = measure(proof, what, run)
        if jit == "off" or not report:
            continue
        seconds = seconds_of(timed.create_reference(run.config, run.runtime))
        if seconds:
            ratio = seconds / report["seconds"]
            good = proof.dry or ratio >= 3
            proof.record(
                f"{what}: times as fast as dense", round(ratio, 1), "≥ 3", good
            )
        else:
            proof.record(f"{what}: dense reference", "does not fit", "", True)


def bert(proof: Proof) -> None:
    """`bert_base.py`: the largest batch that fits; its share of the peak."""
    for length in (512, 128, 256, 1_024):
        for rows in (4,) if proof.dry else (256, 128, 64, 32, 16):
            changes = {
                "data.sequence_length": str(length),
                "train.global_batch_size": str(rows),
                "train.precision": "bfloat16",
                "train.jit": "on",
                # Word pieces of made-up words would be no words.
                "tokenizer.kind": "unicode_word",
            }
            if proof.dry:
                changes |= {
                    "model.num_layers": "1",
                    "model.hidden_size": "32",
                    "model.num_heads": "2",
                    "model.intermediate_size": "32",
                }
            run = open_run(proof, "bert_base", changes)
            what = f"L {length}, {rows} rows"
            if not (report := measure(proof, what, run)):
                continue
            share = report["flops"] / report["seconds"] / PEAK
            good = proof.dry or length != 512 or share >= 0.38
            proof.record(
                f"{what}: share of 989 TFLOP/s",
                f"{share:.1%}",
                "≥ 38 % at L 512",
                good,
            )
            if length == 512:
                run = open_run(
                    proof,
                    "bert_base",
                    {**changes, "train.rematerialize": "True"},
                )
                measure(proof, f"{what}, rematerialised", run)
            break


def layouts(proof: Proof) -> None:
    """Two virtual GPUs, accumulation and rematerialisation against one GPU."""
    number = 10 if proof.dry else 50
    flags = (f"--config.train.num_steps={number}", "--config.train.jit=on")
    flags += ("--config.train.precision=float32",)
    two = ("--strategy=mirrored", "--num_virtual_devices=2")
    variants = {
        "one": (),
        "two virtual devices": two,
        "4 micro-batches": ("--config.train.accumulation_steps=4",),
        "rematerialised": ("--config.train.rematerialize=True",),
    }
    # The rows are prepared once, before several ask for them.
    wait(proof.start_sample("prepare", "--mode=prepare"))
    wait(
        *[
            proof.start_sample(name, *flags, *more, **EXACT)
            for name, more in variants.items()
        ],
        proof.start_sample(
            "bfloat16", *flags, *two, "--config.train.precision=bfloat16"
        ),
    )
    for name in [*variants][1:]:
        proof.compare(f"{name} against one device, float32", name, "one", 1e-5)
    proof.compare(
        "two virtual devices, bfloat16, against one in float32",
        "bfloat16",
        "one",
        2e-2,
    )


def resume(proof: Proof) -> None:
    """Killed, and taken from the GPU to the CPU and back."""
    number = 40 if proof.dry else 100
    flags = (
        f"--config.train.num_steps={number}",
        f"--config.train.steps_per_epoch={number}",
        "--config.train.precision=float32",
        "--config.checkpoint.every_steps=5",
    )
    # The rows are prepared once, before several ask for them.
    wait(proof.start_sample("prepare", "--mode=prepare"))
    undisturbed = proof.start_sample("undisturbed", *flags, **EXACT)
    begun = {
        "killed": proof.start_sample("killed", *flags, **EXACT),
        "moved": proof.start_sample("moved", *flags, **ON_CPU),
    }
    for name, process in begun.items():
        saved = "checkpoints/pretrain/step-*/manifest.json"
        while not [*proof.workdir(name).glob(saved)] and process.poll() is None:
            time.sleep(0.02)
        process.kill()
        process.wait()
    wait(
        undisturbed,
        proof.start_sample("killed", *flags, **ON_CPU),
        proof.start_sample("moved", *flags, **EXACT),
    )
    proof.compare(
        "killed on the GPU, finished on the CPU", "killed", "undisturbed", 1e-4
    )
    proof.compare(
        "begun on the CPU, finished on the GPU", "moved", "undisturbed", 1e-4
    )


def feed(proof: Proof) -> None:
    """Whether the input keeps up, and a profile."""
    flags = (
        "--mode=benchmark",
        "--config.benchmark.what=input",
        "--config.benchmark.num_rounds=3",
    )
    workdir = proof.out / "feed"
    wait(
        proof.start(
            *flags_of(proof, "imdb_notebook"), *flags, f"--workdir={workdir}"
        )
    )
    found = json.loads((workdir / "benchmark-input.json").read_text())
    rate = found["tokens_per_second_median"]
    rows = proof.found()
    taken = max(
        (
            r["figure"]
            for r in rows
            if "tokens/s" in r["what"] and r["part"] == "steps"
        ),
        default=0,
    )
    proof.record(
        "input, slots/s",
        rate,
        f"> {taken:,} of a step",
        proof.dry or rate > taken,
    )
    wait(
        proof.start_sample(
            "profile",
            "--config.train.num_steps=20",
            "--config.train.profile_steps=10:15",
        )
    )
    traces = [*proof.workdir("profile").rglob("*.xplane.pb")]
    proof.record(
        "profile of 5 steps, files", len(traces), "1", len(traces) == 1
    )


# Seconds that a part may take.
PARTS: dict[str, tuple[int, Callable[[Proof], None]]] = {
    "machine": (60, machine),
    "losses": (80, losses),
    "steps": (120, steps),
    "bert": (120, bert),
    "layouts": (60, layouts),
    "resume": (60, resume),
    "feed": (40, feed),
}


def flags_of(proof: Proof, config: str) -> tuple[str, ...]:
    """Flags of a recipe on the made-up text."""
    vocabulary = 500 if proof.dry else 30_522
    return (
        f"--config={config}",
        "--config.data.source=text",
        f"--config.data.path={proof.text()}",
        f"--config.tokenizer.vocabulary_size={vocabulary}",
        "--config.data.unlabeled_split=",
    )


def open_run(proof: Proof, recipe: str, changes: dict[str, str]) -> Any:
    """A run of a recipe on the made-up text, on one device."""
    from configs import overrides, runtime
    from trainer.run import Run

    words = [flag.removeprefix("--") for flag in flags_of(proof, recipe)[1:]]
    fixed = dict(word.split("=", 1) for word in words)
    fixed["config.data.prepared_dir"] = f"{proof.out}/prepared"
    fixed |= {f"config.{name}": value for name, value in changes.items()}
    config = overrides.load_config(str(overrides.find(recipe)), changes=fixed)
    return Run(config, workdir="", runtime=runtime.Runtime("one_device"))


def measure(proof: Proof, what: str, run: Any) -> dict[str, float]:
    """Records time, tokens and memory of a step; empty if it does not fit."""
    import tensorflow as tf

    from trainer.commands.benchmarks import step
    from trainer.commands.benchmarks import steps as timed

    gc.collect()
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        tf.config.experimental.reset_memory_stats("GPU:0")
    per_call = run.config.train.steps_per_call
    seconds = seconds_of(timed.of_task(timed.create_task(run), kept=True))
    if not seconds:
        proof.record(what, "does not fit", "", True)
        return {}
    seconds /= per_call
    tokens, _, flops = step.work(run)
    proof.record(f"{what}: ms a step", round(1000 * seconds, 3), "", True)
    proof.record(f"{what}: real tokens/s", round(tokens / seconds), "", True)
    if gpus:
        used = tf.config.experimental.get_memory_info("GPU:0")["peak"]
        proof.record(f"{what}: peak memory, GB", round(used / 1e9, 2), "", True)
    return {"seconds": seconds, "flops": flops}


def seconds_of(call: Any) -> float:
    """The median of five calls after a first one; 0 if it does not fit."""
    import tensorflow as tf

    from trainer.commands.benchmarks import timing

    try:
        return statistics.median(timing.in_turns({"": call}, num_rounds=5)[""])
    except tf.errors.ResourceExhaustedError:
        return 0.0
