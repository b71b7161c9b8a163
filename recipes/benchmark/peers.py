"""The same work done by TorchRL's own parts, to compare with."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torch.utils.benchmark import set_torch_threads
from torchrl.data import Bounded
from torchrl.modules import (
    GRUModule,
    NormalParamExtractor,
    ProbabilisticActor,
    TanhNormal,
    ValueOperator,
)
from torchrl.objectives import SACLoss, SoftUpdate

from recipes.benchmark.measurement import Measurement, at_least_one, seconds_of
from recipes.benchmark.synthetic import synthetic_learner
from resel_torchrl._random import untouched_generators
from resel_torchrl.config import Config
from resel_torchrl.training import matmul_precision


class _QValue(nn.Module):
    def __init__(self, width: int, action_size: int) -> None:
        super().__init__()
        self.layers = _layers(width + action_size, width, 1)

    def forward(self, context: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([context, action], -1))


def time_torchrl_update(config: Config, *, repetitions: int = 3) -> list[Measurement]:
    """Time updates of TorchRL's `SACLoss` with its `GRUModule`, as they come.

    Batch, width, number of critics and device are those of the configuration; actor and
    critic each have a GRU over the observation and heads of two hidden layers. An
    update is one call of the loss, which evaluates all terms, one step of AdamW and one
    of the targets, on a batch that is at hand. It is no equal of this library's loss:
    every critic has an encoder of its own, and hidden states pass between the episodes
    of a batch.

    Raises:
        ValueError: If there is no repetition or the task has discrete actions.
    """
    at_least_one(repetitions=repetitions)
    precision = matmul_precision(config.train.matmul_precision)
    with untouched_generators(), set_torch_threads(config.threads), precision:
        learner, horizon = synthetic_learner(config)
        batch = _flat_batch(learner.batches.replay_buffer.sample()).to(config.device)
        sizes = batch["observation"].shape[-1], batch["action"].shape[-1]
        loss = _loss(*sizes, config.agent.hidden_size, config.agent.n_critics)
        loss.to(config.device)
        optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-4)
        targets = SoftUpdate(loss, tau=config.train.tau)

        def update() -> TensorDict:
            terms = loss(batch.copy())
            sum(x for key, x in terms.items() if key.startswith("loss_")).backward()
            optimizer.step()
            optimizer.zero_grad()
            targets.step()
            return terms

        seconds = seconds_of(update, repetitions, config.device)
    row = Measurement.of(
        [1 / s for s in seconds],
        benchmark="update",
        case=f"{config.task}, gru, batch of {len(batch) // horizon} full episodes of "
        f"{horizon}",
        quantity="updates by TorchRL's SACLoss and GRUModule",
        unit="updates/s",
        threads=config.threads,
    )
    return [row]


def _flat_batch(sample: TensorDict) -> TensorDict:
    """What ``SACLoss`` reads: the sample, and start flags in the next branch too."""
    batch = sample.select("observation", "action", "is_init", "next").clone()
    return batch.set(("next", "is_init"), torch.zeros_like(batch["is_init"]))


def _layers(into: int, width: int, out: int) -> nn.Sequential:
    sizes = [(into, width), (width, width)]
    hidden = [layer for pair in sizes for layer in (nn.Linear(*pair), nn.ELU())]
    return nn.Sequential(*hidden, nn.Linear(width, out))


def _gru(observation_size: int, width: int, name: str) -> GRUModule:
    return GRUModule(
        observation_size,
        width,
        in_keys=["observation", f"{name}_state", "is_init"],
        out_keys=[f"{name}_context", ("next", f"{name}_state")],
    )


def _loss(
    observation_size: int, action_size: int, width: int, n_critics: int
) -> SACLoss:
    head = nn.Sequential(_layers(width, width, 2 * action_size), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictSequential(
            _gru(observation_size, width, "actor"),
            TensorDictModule(head, ["actor_context"], ["loc", "scale"]),
        ),
        in_keys=["loc", "scale"],
        spec=Bounded(-1.0, 1.0, (action_size,)),
        distribution_class=TanhNormal,
    )
    critic = TensorDictSequential(
        _gru(observation_size, width, "critic"),
        ValueOperator(_QValue(width, action_size), ["critic_context", "action"]),
    )
    return SACLoss(actor, critic, num_qvalue_nets=n_critics, deactivate_vmap=True)
