"""Compiling for a TPU that is not there; needs the environment of prove.sh."""

import importlib

import pytest

REASON = "run by proofs/tpu/prove.sh"
pytest.importorskip("libtpu", reason=REASON)
mlir = pytest.importorskip("jax._src.interpreters.mlir", reason=REASON)
# Imports JAX, as nothing may before this line.
compile_lib = importlib.import_module("proofs.tpu.compile")

# w + x @ x, and x @ x summed over the replicas.
MODULE = """
func.func @main(%w: tensor<NxNxf32>, %x: tensor<NxNxf32>)
    -> (tensor<NxNxf32>, tensor<NxNxf32>) {
  %y = stablehlo.dot_general %x, %x, contracting_dims = [1] x [0]
    : (tensor<NxNxf32>, tensor<NxNxf32>) -> tensor<NxNxf32>
  %sum = stablehlo.add %w, %y : tensor<NxNxf32>
  %all = "stablehlo.all_reduce"(%y) ({
    ^bb0(%a: tensor<f32>, %b: tensor<f32>):
      %c = stablehlo.add %a, %b : tensor<f32>
      stablehlo.return %c : tensor<f32>
  }) {replica_groups = dense<[[0, 1, 2, 3]]> : tensor<1x4xi64>}
    : (tensor<NxNxf32>) -> tensor<NxNxf32>
  return %sum, %all : tensor<NxNxf32>, tensor<NxNxf32>
}
"""


def _cells(size, tmp_path):
    path = tmp_path / "step.mlir"
    path.write_text(MODULE.replace("N", str(size)))
    facts = {
        "name": "step",
        "rows": 2,
        "accumulation_steps": 1,
        "model_flops": 275 * 10**9,
    }
    with mlir.make_ir_context():
        line = compile_lib.row(facts, "v4-8", compile_lib.read(path, 1))
    names = [name.strip() for name in compile_lib.HEAD.split("|")]
    cells = [cell.strip() for cell in line.split("|")]
    return dict(zip(names, cells, strict=True))


def test_what_fits(tmp_path):
    cells = _cells(8192, tmp_path)
    assert cells["fits"] == "yes"
    assert cells["state"] == "0.50"
    # The first output lies where the first argument was.
    assert 0.25 <= float(cells["temporary"]) < 0.75
    assert cells["ms at 40 %"] == "2.50"
    assert float(cells["compiler's GFLOP"].replace(",", "")) >= 1_099


def test_what_does_not_fit(tmp_path):
    cells = _cells(60_000, tmp_path)
    assert cells["fits"].startswith("no: ")
    assert cells["state"] == "–"
