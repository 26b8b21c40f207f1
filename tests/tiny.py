"""Tiny data: questions that a tiny model can learn, and encoders with random weights of any family."""

import hashlib
import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import CONFIG_MAPPING, AutoModel

CLASSES = {"ABBR": "short", "DESC": "why", "HUM": "who", "LOC": "where", "NUM": "many"}
FILLERS = ["is", "the", "a", "of", "in", "dog", "cat", "tree", "house", "river", "king", "book", "?"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *CLASSES.values(), *FILLERS]
SPECIAL_TOKENS = {
    "pad_token_id": "PAD",
    "bos_token_id": "CLS",
    "eos_token_id": "SEP",
    "cls_token_id": "CLS",
    "sep_token_id": "SEP",
}
TINY = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 40,
}  # fmt: skip
ENCODER_FILES = ("config.json", "model.safetensors", "tokenizer.json")
FAMILIES = [
    "bert", "distilbert", "roberta", "xlm-roberta", "camembert", "mpnet", "electra", "deberta-v2", "modernbert",
    "nomic_bert", "ernie", "mobilebert", "albert",
]  # fmt: skip
PAD_AFTER_UNKNOWN = ("roberta", "xlm-roberta", "camembert", "mpnet")  # their positions begin after the id of padding
# What makes a family what it is, beside its sizes.
FEATURES = {
    "distilbert": {"hidden_dim": 32},
    "electra": {"embedding_size": 8},
    "albert": {"embedding_size": 8},
    "deberta-v2": {
        "relative_attention": True, "position_buckets": 4, "pos_att_type": ["p2c", "c2p"], "share_att_key": True,
        "norm_rel_ebd": "layer_norm", "position_biased_input": False, "conv_kernel_size": 3, "conv_act": "gelu",
    },
    "modernbert": {"local_attention": 4, "global_attn_every_n_layers": 2},
    "mobilebert": {"embedding_size": 8, "intra_bottleneck_size": 8, "num_feedforward_networks": 2},
}  # fmt: skip


def label_lines(count: int, seed: int = 1) -> list[str]:
    """Questions whose class is the word they hold, anywhere."""
    rng = random.Random(seed)
    lines = []
    for number in range(count):
        name = list(CLASSES)[number % len(CLASSES)]
        words = rng.choices(FILLERS, k=rng.randint(2, 9))
        words.insert(rng.randrange(len(words)), CLASSES[name])
        lines.append(f"{name}:fine{number % 2} {' '.join(words)}")
    return lines


def write_encoder(
    folder: Path, seed: int = 0, vocabulary: list[str] | None = None, family: str = "bert", full_size: bool = False
) -> None:
    """A random encoder as encoders are published: 3 layers of 16, or of its family's own size."""
    torch.manual_seed(seed)
    vocabulary = list(vocabulary or VOCABULARY)
    if family in PAD_AFTER_UNKNOWN:
        vocabulary[:2] = "[UNK]", "[PAD]"
    special = {name: vocabulary.index(f"[{token}]") for name, token in SPECIAL_TOKENS.items()}
    sizes = {} if full_size else {**TINY, **FEATURES.get(family, {})}
    model = AutoModel.from_config(CONFIG_MAPPING[family](vocab_size=len(vocabulary), **sizes, **special))
    model.save_pretrained(folder)
    ids = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.save(str(folder / "tokenizer.json"))
    write_record(folder)


def write_record(folder: Path) -> None:
    """What the fetch stage says beside an encoder's files, that loading a model asks."""
    record = {"files": {name: pin(folder / name) for name in ENCODER_FILES}}
    (folder / "source.json").write_text(json.dumps(record))


def pin(path: Path) -> dict:
    """A file's entry in sources.yaml."""
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
