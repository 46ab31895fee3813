"""The other form of the loop: device, precision, accumulation and clipping are handled as well.

python examples/prepared_loop.py [folder]
"""

from __future__ import annotations

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import rekindle as rk


class Shifted(Dataset):
    """Digits, each moved by up to a pixel at random: a function of (seed, epoch, sample), whatever the workers."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        down, right = torch.randint(-1, 2, (2,)).tolist()
        return torch.roll(self.images[index], (down, right), (1, 2)), self.labels[index]


def main(folder: str) -> None:
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(digits.target)
    run = rk.Run(folder, seed=0, precision="bf16", accumulate=2, save_every="1 epoch", keep_best="accuracy")
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
    batches = run.loader(Shifted(images[:1500], labels[:1500]), batch_size=32, num_workers=2)
    check = run.loader(TensorDataset(images[1500:], labels[1500:]), batch_size=297, shuffle=False)
    scheduler = rk.schedule(optimizer, "linear", total=4 * -(-len(batches) // 2), floor=0.05)
    model, optimizer, scheduler = run.prepare(model, optimizer, scheduler)
    loss_fn = nn.CrossEntropyLoss()

    for _ in run.epochs(4):
        for inputs, targets in run.batches(batches):
            with run.autocast():
                loss = loss_fn(model(inputs), targets)
            run.backward(loss)
            run.update(clip_norm=1.0)
            run.show(loss=loss.detach())
            run.step()
        with run.evaluating(model):
            right = sum(int((model(x.to(run.device)).argmax(1).cpu() == y).sum()) for x, y in check)
        run.log(accuracy=right / 297)

    print(f"best accuracy {run.best.value:.4f} in {run.best.path}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/prepared-loop")
