"""The other losses in a pipeline of TorchRL's own parts, as on docs/recombining.md."""

import pytest
import torch
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.objectives import SoftUpdate

from resel_torchrl.envs import make_env, task_info
from resel_torchrl.modules import make_agent, make_policy
from resel_torchrl.objectives import make_loss
from resel_torchrl.optim import parameter_groups
from resel_torchrl.replay import EpisodeSampler, pack_episodes

SIZES = {"embedding_size": 4, "hidden_size": 6, "context_size": 5, "head_sizes": [8]}


@pytest.mark.parametrize(
    ("algorithm", "task"),
    [("discrete_resel", "CartPole-V-v0"), ("td3_resel", "Pendulum-V-v0")],
)
def test_collector_buffer_and_soft_update_of_torchrl_train_it(algorithm, task):
    torch.manual_seed(0)
    info = task_info(task)
    agent = make_agent(
        info.observation_size,
        info.action_size,
        algorithm=algorithm,
        core="gru",
        n_critics=3,
        **SIZES,
    )
    loss = make_loss(agent)
    updater = SoftUpdate(loss, tau=0.1)
    groups = parameter_groups(
        loss, lr_context_encoder=1e-3, lr_actor=1e-2, lr_critic=1e-2
    )
    optimizer = torch.optim.AdamW(groups)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(1000), sampler=EpisodeSampler(seed=0), batch_size=30
    )
    collector = Collector(
        make_env(task, seed=0),
        make_policy(agent.actor_encoder, agent.actor),
        frames_per_batch=250,
        total_frames=250,
        auto_register_policy_transforms=True,
    )
    for data in collector:
        buffer.extend(data.select("observation", "action", "is_init", "next"))
    collector.shutdown()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    for _ in range(2):
        batch = pack_episodes(buffer.sample(), row_length=info.horizon + 1)
        for term, key in (
            (loss.critic_loss, "loss_qvalue"),
            (loss.policy_loss, "loss_actor"),
        ):
            term(batch)[key].backward()
            optimizer.step()
            optimizer.zero_grad()
        updater.step()
    after = loss.state_dict()
    trained = {name for name, _ in loss.named_parameters()}
    unmoved = {name for name in trained if torch.equal(before[name], after[name])}
    assert trained and not unmoved
    targets = {name for name in before if name.startswith("target_") and "_map" in name}
    assert targets and all(not torch.equal(before[n], after[n]) for n in targets)
