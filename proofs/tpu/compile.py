"""Compiles lowered steps for every TPU generation, without a TPU.

    python -m proofs.tpu.compile runs/tpu/*.mlir

`libtpu`, the one that TensorFlow 2.19.1 drives, compiles for all chips of one
host, through JAX's compile-only client; nothing runs. Prints a table: a row for
every step and generation. What does not fit is refused by the compiler itself.
"""

import dataclasses
import json
import pathlib
import re
import sys
import time
from typing import Any

import numpy as np
from jax._src.interpreters import mlir
from jax._src.lib import xla_client
from jax.experimental import topologies
from jaxlib.mlir import ir

GIB = 2**30
UTILISATION = 0.4  # Share of the peak in a good run; assumed, not measured.


@dataclasses.dataclass(frozen=True)
class Host:
    """The chips of one host; peak and memory as Google publishes them."""

    topology: str
    replicas: int
    peak: float  # bfloat16 FLOP/s of a chip.
    memory: int  # GiB of a chip.


HOSTS = {
    "v4-8": Host("v4:2x2x1", 4, 275e12, 32),
    "v5litepod-8": Host("v5e:2x4", 8, 197e12, 16),
    "v5p-8": Host("v5p:2x2x1", 4, 459e12, 95),
    "v6e-8": Host("v6e:2x4", 8, 918e12, 32),
}
HEAD = (
    "| step | TPU | rows a chip | accumulation | fits | chip GiB | state |"
    " temporary | compiler's GFLOP | model's GFLOP | ms at 40 % | compiled in |"
)


def read(path: pathlib.Path, num_variables: int) -> ir.Module:
    """The module; its variables are updated in place, as in training."""
    module = ir.Module.parse(path.read_text())
    (main,) = (
        op
        for op in module.body.operations
        if getattr(op, "sym_name", None) and op.sym_name.value == "main"
    )
    i32 = ir.IntegerType.get_signless(32)
    aliases = [
        {"tf.aliasing_output": ir.IntegerAttr.get(i32, number)}
        for number in range(num_variables)
    ]
    others = [{}] * (len(main.arguments) - num_variables)
    main.arg_attrs = ir.ArrayAttr.get(
        [ir.DictAttr.get(each) for each in aliases + others]
    )
    return module


def build(module: ir.Module, host: Host) -> Any:
    """The executable for all chips of a host."""
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name=host.topology
    )
    options = xla_client.CompileOptions()
    options.num_replicas = host.replicas
    options.device_assignment = xla_client.DeviceAssignment.create(
        np.arange(host.replicas)[:, np.newaxis]
    )
    client = topology.devices[0].client
    return client.compile(mlir.module_to_bytecode(module), options)


def row(facts: dict[str, Any], name: str, module: ir.Module) -> str:
    """A line of the table."""
    host, start = HOSTS[name], time.monotonic()
    state = temporary = flops = "–"
    try:
        executable = build(module, host)
    except xla_client.XlaRuntimeError as error:
        # "Used 17.93G of 15.75G hbm": the rest of the message is a dump.
        used = re.search(r"Used ([\d.]+)G of ([\d.]+)G hbm", str(error))
        if not used:
            raise
        fits = f"no: {used[1]} of {used[2]} GiB"
    else:
        memory = executable.get_compiled_memory_stats()
        own = memory.argument_size_in_bytes
        more = memory.temp_size_in_bytes + memory.output_size_in_bytes
        more -= memory.alias_size_in_bytes
        state, temporary = f"{own / GIB:.2f}", f"{more / GIB:.2f}"
        flops = f"{executable.cost_analysis()['flops'] / 1e9:,.0f}"
        fits = "yes"
    milliseconds = facts["model_flops"] / (UTILISATION * host.peak) * 1e3
    cells = [
        facts["name"],
        name,
        facts["rows"],
        facts["accumulation_steps"],
        fits,
        host.memory,
        state,
        temporary,
        flops,
        f"{facts['model_flops'] / 1e9:,.0f}",
        f"{milliseconds:.2f}",
        f"{time.monotonic() - start:.0f} s",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def main(paths: list[str]) -> None:
    """See the module."""
    print(HEAD)
    print(re.sub(r"[^|]+", "---", HEAD))
    for path in map(pathlib.Path, paths):
        facts = json.loads(path.with_suffix(".json").read_text())
        with mlir.make_ir_context():
            for name, host in HOSTS.items():
                if host.replicas == facts["replicas"]:
                    module = read(path, facts["variables"])
                    print(row(facts, name, module), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
