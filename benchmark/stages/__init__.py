"""One short file a stage: config -> arrays -> call a leaf -> files. Raise a version when a stage's meaning changes."""

VERSIONS: dict[str, int] = {
    "split": 1,
    "autoencoder": 1,
    "train": 1,
    "synthesize": 1,
    "features": 1,
    "classify": 1,
    "fidelity": 1,
    "audit": 2,
}
