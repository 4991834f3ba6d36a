"""Budgets, the coin and the leakage check on made-up sets."""

import numpy as np
import pytest

from benchmark.datasets import Card, Dataset, Split
from benchmark.splits import (
    budget_rows,
    entry_budgets,
    flip_coin,
    leakage,
    mirrored_pairs,
    patients_of,
    shared_images,
)

BUDGETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


def noise(n: int, seed: int = 0, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def made_up(n: int = 300, per_patient: int = 3) -> tuple[np.ndarray, list[str]]:
    labels = np.random.default_rng(0).choice(3, n // per_patient, p=[0.6, 0.3, 0.1]).repeat(per_patient)
    return labels.astype(np.int64), [f"p{i // per_patient}" for i in range(n)]


@pytest.mark.parametrize("seed", range(5))
def test_budgets_are_nested_stratified_and_by_patient(seed: int) -> None:
    labels, patients = made_up()
    entry = entry_budgets(labels, patients, seed)
    before: list[int] = []
    for budget in BUDGETS:
        rows = budget_rows(entry, budget)
        assert rows[: len(before)].tolist() == before, "a smaller budget is a prefix of a larger one"
        inside = {patients[i] for i in rows}
        assert not inside & {patients[i] for i in range(len(labels)) if i not in set(rows.tolist())}
        assert set(labels[rows]) == {0, 1, 2}
        for label in range(3):
            wanted = budget * (labels == label).sum()
            assert abs((labels[rows] == label).sum() - wanted) <= max(3, 3 - wanted)
        before = rows.tolist()
    assert len(before) == len(labels)


def test_seeds_draw_different_budgets_and_one_seed_the_same() -> None:
    labels, patients = made_up()
    assert np.array_equal(entry_budgets(labels, patients, 1), entry_budgets(labels, patients, 1))
    assert not np.array_equal(entry_budgets(labels, patients, 1), entry_budgets(labels, patients, 2))


def test_multilabel_budget_keeps_every_label() -> None:
    labels = (np.random.default_rng(0).random((200, 4)) < [0.5, 0.3, 0.1, 0.02]).astype(np.uint8)
    rows = budget_rows(entry_budgets(labels, [f"p{i}" for i in range(200)], 0), 0.02)
    assert labels[rows].sum(0).all() or labels[:, 3].sum() == 0


def test_coin_holds_out_whole_patients_and_half_of_the_pool() -> None:
    _, patients = made_up(3000)
    members, heldout = flip_coin(patients, 0.3, "set")
    assert not {patients[i] for i in members} & {patients[i] for i in heldout}
    assert len(members) + len(heldout) == 900
    assert 350 < len(heldout) < 550
    assert np.array_equal(heldout, flip_coin(patients, 0.3, "set")[1]), "one coin for every replicate"
    assert not len(flip_coin(patients, 0.0, "set")[1])


def test_equal_pictures_are_one_patient_and_join_their_groups() -> None:
    images = noise(6)
    images[4] = images[0]
    groups = ["a", "a", "b", "b", "c", "c"]
    found = patients_of(Split(images, np.zeros(6, np.int64), groups))
    assert found[0] == found[1] == found[4] == found[5] != found[2] == found[3]


def dataset(train: np.ndarray, test: np.ndarray, groups: tuple[list[str] | None, list[str] | None]) -> Dataset:
    def split(images: np.ndarray, patients: list[str] | None) -> Split:
        return Split(images, np.arange(len(images)) % 2, patients)

    splits = {
        "train": split(train, groups[0]),
        "validation": split(noise(4, 9), None),
        "test": split(test, groups[1]),
    }
    return Dataset(Card("set", ("a", "b"), "CT"), splits, "made up", "0")


def test_clean_set_has_no_findings() -> None:
    assert leakage(dataset(noise(20), noise(10, 1), (None, None))) == []


def test_duplicate_between_train_and_test_stops() -> None:
    train, test = noise(20), noise(10, 1)
    test[3] = train[2]
    found = {finding.kind: finding for finding in leakage(dataset(train, test, (None, None)))}
    assert found["exact duplicate"].stops and found["exact duplicate"].count == 1
    assert found["label conflict"].count == 1, "rows 2 and 3 have different labels"


def test_shared_patient_stops() -> None:
    found = leakage(dataset(noise(2), noise(2, 1), (["p", "q"], ["q", "r"])))
    assert [(finding.kind, finding.stops) for finding in found] == [("shared patient", True)]


def test_near_duplicates_and_constant_images_are_told_but_do_not_stop() -> None:
    train, test = noise(20, side=16), noise(10, 1, side=16)
    test[0] = np.clip(train[0].astype(int) + 2, 0, 255)
    test[1] = 7
    found = leakage(dataset(train, test, (None, None)))
    assert {finding.kind: finding.count for finding in found} == {"constant image": 1, "near duplicate": 1}
    assert not any(finding.stops for finding in found)


def test_pictures_that_two_sets_share_are_told() -> None:
    rng = np.random.default_rng(0)
    one, two, three = (rng.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8) for _ in range(3))
    two[:4] = one[10:14]
    brighter = np.clip(one[20:22].astype(int) + 10, 0, 255).astype(np.uint8)
    found = shared_images({"a": [one[:15], one[15:]], "b": [two], "c": [np.concatenate([three, brighter])]})
    assert [(finding.count, finding.stops) for finding in found] == [(4, False), (2, False)]
    assert "in a and in b" in found[0].text and "pictures of a correlate" in found[1].text


def test_mirror_images_are_one_patient_and_told_between_train_and_test() -> None:
    train, test = noise(20, side=32), noise(10, 1, side=32)
    noisy = train[:2, :, ::-1].astype(int) + np.random.default_rng(0).integers(-2, 3, train[:2].shape)
    train[18:] = np.clip(noisy, 0, 255)
    test[0] = train[5][:, ::-1]
    symmetric = np.concatenate([train[7][:, :16], train[7][:, :16][:, ::-1]], 1)
    train[7] = symmetric
    assert sorted(map(tuple, mirrored_pairs(train, train).tolist())) == [(0, 18), (1, 19), (18, 0), (19, 1)]
    found = patients_of(Split(train, np.zeros(20, np.int64), None))
    assert found[0] == found[18] and found[1] == found[19] and len(set(found)) == 18
    kinds = {finding.kind: finding for finding in leakage(dataset(train, test, (None, None)))}
    assert set(kinds) == {"mirrored duplicate"} and kinds["mirrored duplicate"].count == 1
    assert not kinds["mirrored duplicate"].stops
