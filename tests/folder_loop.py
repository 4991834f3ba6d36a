"""What a user would write instead: one classifier on a folder of image files, in the manner of timm's train.py.

python tests/folder_loop.py FOLDER --size 32 --steps 50 --seed 0 [--strong]

FOLDER holds train, validation and test, each as CLASS/*.png.
"""

import argparse
import json
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from classifiers.metrics import score


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strong", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(options.seed)

    plain = [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.25] * 3)]
    changes = [
        transforms.RandomCrop(options.size, padding=2, padding_mode="reflect"),
        transforms.RandomHorizontalFlip(),
    ]
    if options.strong:
        changes += [transforms.RandomAffine(20, scale=(0.8, 1.25)), transforms.ColorJitter(0.4, 0.4)]
        plain += [transforms.RandomErasing()]
    train = ImageFolder(str(options.folder / "train"), transforms.Compose([*changes, *plain]))
    sampler = RandomSampler(train, replacement=True, num_samples=64 * options.steps)
    loader = DataLoader(train, 64, sampler=sampler, num_workers=2)
    model = timm.create_model("resnet18", num_classes=len(train.classes))
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, options.steps)

    model.train()
    for step, (images, labels) in enumerate(loader, 1):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step in {round(options.steps * i / 3) for i in (1, 2, 3)}:
            evaluate(model, options.folder / "validation")
            model.train()
    print(json.dumps({"auroc": evaluate(model, options.folder / "test")}))


@torch.no_grad()
def evaluate(model: torch.nn.Module, folder: Path) -> float:
    model.eval()
    change = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.25] * 3)])
    loader = DataLoader(ImageFolder(str(folder), change), 256, num_workers=2)
    found = [(model(images).double().softmax(1), labels) for images, labels in loader]
    probabilities, labels = (torch.cat(part).numpy() for part in zip(*found, strict=True))
    return score(labels, probabilities, "multiclass")["auroc"]


if __name__ == "__main__":
    main()
