"""All that takes part in a step is tracked: dropout, augmentation, momentum, a schedule, an average, a counter."""

import random
import time

import torch
from torch.utils.data import Dataset

import rekindle as rk

EPOCHS = 3


class Noisy(Dataset):
    """Samples that are drawn anew each time, from the global generators."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        x = torch.full((8,), index / 64) + 0.1 * torch.randn(8)
        return x * random.choice([1.0, 1.1]), index % 2


def main():
    run = rk.Run("runs/good", seed=1, save_every="100 steps", tensorboard=False)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.2), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    run.track(model=model, optimizer=optimizer, scheduler=scheduler, ema=ema)
    run.state.setdefault("seen", 0)
    batches = run.loader(Noisy(), batch_size=8)
    for _epoch in run.epochs(EPOCHS):
        for x, y in run.batches(batches):
            time.sleep(0.02)  # long enough to be killed in
            loss = torch.nn.functional.cross_entropy(model(x), y) * (1 + 0.01 * (run.state["seen"] % 5))
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            ema.update_parameters(model)
            run.state["seen"] += 1
            run.step()
        run.log(loss=loss.item(), weight=ema.module[0].weight.norm().item())
    run.close()


if __name__ == "__main__":
    main()
