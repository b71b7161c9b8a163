"""pack_episodes as the layout is defined, one step after another."""

import torch


def pack_one_by_one(episodes, places, n_rows, row_length):
    """``places[i]`` is the (row, column) where episode ``i`` begins."""
    sizes = {"observation": 2, "prev_observation": 2, "action": 3, "prev_action": 3}
    batch = {key: torch.zeros(n_rows, row_length, n) for key, n in sizes.items()}
    for key in ("prev_reward", ("next", "reward")):
        batch[key] = torch.zeros(n_rows, row_length, 1)
    for key in (("next", "done"), ("next", "terminated"), "valid"):
        batch[key] = torch.zeros(n_rows, row_length, 1, dtype=torch.bool)
    batch["is_init"] = torch.ones(n_rows, row_length, 1, dtype=torch.bool)
    for episode, (row, column) in zip(episodes, places, strict=True):
        for t in range(len(episode) + 1):
            at = (row, column + t)
            batch["is_init"][at] = t == 0
            if t > 0:
                before = episode[t - 1]
                batch["prev_observation"][at] = before["observation"]
                batch["prev_action"][at] = before["action"]
                batch["prev_reward"][at] = before["next", "reward"]
            if t < len(episode):
                now = episode[t]
                batch["observation"][at] = now["observation"]
                batch["action"][at] = now["action"]
                batch["valid"][at] = True
                for key in ("reward", "terminated"):
                    batch["next", key][at] = now["next", key]
                batch["next", "done"][at] = t == len(episode) - 1
            else:
                batch["observation"][at] = episode[t - 1]["next", "observation"]
    return batch


def places_first_fit(lengths, row_length, gap):
    """Where each episode goes: longest first, into the first row with room for it."""
    used = []
    places = [None] * len(lengths)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for row in range(len(used) + 1):
            if row == len(used):
                used.append(-gap)
            column = used[row] + gap
            if column + lengths[i] + 1 <= row_length:
                places[i] = (row, column)
                used[row] = column + lengths[i] + 1
                break
    return places, len(used)
