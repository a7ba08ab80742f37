"""Several processes train one network."""

import os
import subprocess
import sys

import torch

from tests.unit.training.run_kit import small_recipe, write_scenes
from training.fitting.checkpoints import read_best

CHILD = """
import sys
from pathlib import Path
import torch
from training.recipe import Recipe
from training.fitting.train import train

torch.set_num_threads(1)
run = Path(sys.argv[1])
network = train(Recipe.model_validate_json((run / "recipe.json").read_text()), run)
total = sum(weight.double().sum() for weight in network.state_dict().values())
(run / f"sum{torch.distributed.get_rank()}").write_text(repr(float(total)))
"""


def test_two_processes_end_with_one_network(tmp_path):
    run = write_scenes(tmp_path)
    recipe = small_recipe({"steps": 2, "validate_every": 2, "validation_tiles": 1}, {"steps": 1, "seed": 2})
    (run / "recipe.json").write_text(recipe.model_dump_json())
    (run / "child.py").write_text(CHILD)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    told = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*command, str(run / "child.py"), str(run)], env=told, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert (run / "sum0").read_text() == (run / "sum1").read_text()
    assert set(read_best(run / "phase1")) == {"map_50", "loss"}
    assert (run / "phase2" / "weights.pt").exists()
    saved = torch.load(run / "phase1" / "last.ckpt", weights_only=False)
    assert saved["global_step"] == 2
