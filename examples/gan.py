"""Two models, two optimizers, two losses in one loop: a small GAN that draws digits, and resumes exactly.

python examples/gan.py [folder]      stop it whenever you like; the same command goes on to the same bits
"""

from __future__ import annotations

import hashlib
import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import rekindle as rk

NOISE = 16


def generator_net() -> nn.Module:
    return nn.Sequential(nn.Linear(NOISE, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.Sigmoid())


def discriminator_net() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Dropout(0.2), nn.Linear(64, 1))


def main(folder: str) -> None:
    with rk.Run(folder, seed=0, save_every="40 steps", keep_last=2) as run:
        pictures = torch.tensor(load_digits().data, dtype=torch.float32) / 16
        generator, discriminator = generator_net(), discriminator_net()
        draws = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
        judges = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.999))
        generator, discriminator = run.prepare(generator, discriminator)
        run.track(draws=draws, judges=judges, smooth=rk.average(generator, decay=0.99))
        batches = run.loader(TensorDataset(pictures), batch_size=64, drop_last=True)
        loss_fn = nn.BCEWithLogitsLoss()

        for _ in run.epochs(6):
            for (real,) in run.batches(batches):
                ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
                # The judge: real pictures are real, drawn ones are not.
                drawn = generator(torch.randn(len(real), NOISE))
                judge_loss = loss_fn(discriminator(real), ones) + loss_fn(discriminator(drawn.detach()), zeros)
                run.backward(judge_loss, scaler="judge")
                run.update(judges)
                # The one who draws: its pictures should be taken for real. The judge's own gradients are not wanted.
                discriminator.requires_grad_(False)
                draw_loss = loss_fn(discriminator(drawn), ones)
                run.backward(draw_loss, scaler="draw")
                run.update(draws)
                discriminator.requires_grad_(True)
                run.show(judge=judge_loss.detach(), draw=draw_loss.detach())
                run.step()
                if run.steps_done % 20 == 0:
                    run.log(judge=judge_loss, draw=draw_loss)

    weights = b"".join(p.detach().numpy().tobytes() for net in (generator, discriminator) for p in net.parameters())
    print(f"{run.steps_done} steps; SHA-256 of both nets {hashlib.sha256(weights).hexdigest()[:16]}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/gan")
