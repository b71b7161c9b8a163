"""Learning on a GPU, acting on the CPU."""

import pytest
import torch

from resel_torchrl.config import compose, make_training, open_run
from resel_torchrl.training import load_policy


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ["resel", "td3_resel"])
def test_a_run_on_a_gpu_stops_resumes_and_loads_on_a_cpu(tmp_path, algorithm):
    overrides = [
        "task=pendulum_v",
        "device=cuda",
        f"agent.algorithm={algorithm}",
        "steps=415",
        "train.random_steps=400",
        "eval.interval=0",
        "log.console=false",
        f"run_dir={tmp_path / 'run'}",
    ]
    run, config = open_run(compose(overrides))
    make_training(config, run).run()
    run, config = open_run(compose([f"resume={run.path}"]), ["steps=430"])
    training = make_training(config, run)
    assert training.learner.updates == 15
    training.run()
    assert training.learner.updates == 30
    parameters = training.learner.loss.parameters()
    assert {p.device.type for p in parameters} == {"cuda"}
    policy = load_policy(run.path)
    assert abs(policy(torch.zeros(1).numpy(), first=True)).max() <= 1
