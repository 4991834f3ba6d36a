"""Make the byte-pair vocabulary of the small recipe (Sennrich 2016) from a list of medical words, in CLIP's layout.

python -m generators.vocabulary

Every byte is in the vocabulary, so any prompt can be written; words of the list mostly become one token.
"""

import json
from pathlib import Path

from generators.latent_diffusion import VOCABULARY

START, END = "<|startoftext|>", "<|endoftext|>"


def learn_vocabulary(lines: list[str], size: int = 1500) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Lines of text -> (token ids, merges); ids as CLIP orders them: bytes, bytes at word ends, merges, start, end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    model = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(vocab_size=size, end_of_word_suffix="</w>", show_progress=False)
    model.train_from_iterator((line.lower() for line in lines for _ in range(2)), trainer)
    merges = [tuple(merge) for merge in json.loads(model.to_str())["model"]["merges"]]

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = letters + [f"{letter}</w>" for letter in letters] + ["".join(merge) for merge in merges] + [START, END]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def write_vocabulary(folder: Path, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
    """Write vocab.json, merges.txt and the two small files that make the folder a CLIPTokenizer's."""
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": 32}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False, indent=0) + "\n")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in merges)]) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    corpus = (VOCABULARY / "corpus.txt").read_text().splitlines()
    write_vocabulary(VOCABULARY, *learn_vocabulary(corpus))
