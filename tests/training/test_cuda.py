"""Learning on a GPU, acting on the CPU."""

import copy

import pytest
import torch

from recipes.benchmark.synthetic import synthetic_learner
from resel_torchrl.collect import PolicyCopy
from resel_torchrl.config import compose, make_training, open_run
from resel_torchrl.training import load_policy
from tests.training.runs import assert_alike


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ["resel", "td3_resel"])
def test_a_run_on_a_gpu_stops_resumes_and_loads_on_a_cpu(tmp_path, algorithm):
    overrides = [
        "task=pendulum_p",
        "device=cuda",
        f"algorithm={algorithm}",
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


@pytest.mark.gpu
@pytest.mark.parametrize("core", ["mamba", "gru"])
@pytest.mark.parametrize("algorithm", ["resel", "td3_resel"])
def test_parallel_passes_make_the_same_updates(core, algorithm):
    """Without graphs: memory goes back and forth between streams at every update."""
    options = ["task=pendulum_p", "device=cuda", f"core={core}"]
    options += [f"algorithm={algorithm}", "agent.hidden_size=16"]
    states = []
    for parallel in ("false", "true"):
        torch.manual_seed(0)
        more = [*options, f"train.parallel_passes={parallel}"]
        learner, _ = synthetic_learner(compose(more))
        assert learner.loss.parallel_passes == (parallel == "true")
        for number in range(60):
            learner.batches.batch_size = (800, 400)[number // 2 % 2]
            learner.update()
        learner.check()
        states.append(learner.loss.state_dict())
    assert_alike(states[1], states[0])


@pytest.mark.gpu
@pytest.mark.parametrize("core", ["mamba", "gru"])
@pytest.mark.parametrize("recorded", ["false", "true"])
def test_the_host_waits_for_no_update_and_no_batch(core, recorded):
    """None that PyTorch tells of; the control is the usual way of a batch."""
    options = ["task=pendulum_p", "device=cuda", f"core={core}"]
    options += ["agent.hidden_size=16", f"train.cudagraph={recorded}"]
    learner, _ = synthetic_learner(compose(options))
    for _ in range(12):  # compiles, measures, records
        learner.update()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            learner.update()
        with pytest.raises(RuntimeError, match="synchroniz"):
            torch.ones(1000).to("cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    learner.check()


@pytest.mark.gpu
def test_weights_come_to_the_cpu_as_they_are_at_the_call():
    source = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.BatchNorm1d(300))
    source.cuda()
    copied = copy.deepcopy(source).cpu()
    acting = PolicyCopy([source], [copied], every=1)
    for number in range(1, 20):
        with torch.no_grad():
            torch.cuda._sleep(10_000_000)  # else all is there before anyone waits
            source[0].weight.fill_(float(number))
            acting.updated()
            source[0].weight.fill_(-1.0)
        assert (copied[0].weight == number).all()
