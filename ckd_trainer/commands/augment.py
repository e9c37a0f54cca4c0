"""Makes variants of training texts for the teacher to answer: `ckd-trainer augment`.

    ckd-trainer augment --task_name mrpc --model_name_or_path google-bert/bert-base-uncased \\
        --vectors_file glove.6B.300d.txt --output_file augmented.parquet
    ckd-trainer glue recipes/glue_mrpc_ckd.yaml --unlabeled_file augmented.parquet

Words are replaced as TinyBERT does, see `ckd_trainer.data.augmentation`. Labels are not copied: the teacher speaks for
the variants.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import transformers
from tqdm.auto import tqdm
from transformers import AutoModelForMaskedLM, PreTrainedModel

from ckd_trainer.arguments import check_positive, option
from ckd_trainer.data.augmentation import Augmenter, check_masks, read_vectors, variants
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.text_tasks import check_training_alone, text_columns_of, training_texts
from ckd_trainer.data.texts_file import check_output_file, texts_file
from ckd_trainer.models.compatibility import check_embeddings, max_length
from ckd_trainer.models.loading import load_config, load_weights
from ckd_trainer.models.tokenizers import load_tokenizer
from ckd_trainer.runs.recipe import parse_recipe
from ckd_trainer.utils.errors import InputError, command_line
from ckd_trainer.utils.files import expanded, user_path

_ROWS = 256  # training examples that are augmented at a time


@dataclass
class AugmentArguments:
    """How texts are augmented. The defaults are TinyBERT's (Jiao et al. 2020)."""

    model_name_or_path: str = option("", "A masked language model: a folder or an id on the Hub.")
    output_file: str = option("", "The .parquet file to write, for --unlabeled_file.")
    vectors_file: str | None = option(
        None,
        "Static vectors in the text format of GloVe or word2vec, for words that the tokenizer splits. By default the "
        "model's own input embeddings.",
    )
    variants: int = option(
        30,
        "Variants of each example, before duplicates are dropped. TinyBERT: 20 on SST-2 and QNLI, 10 on MNLI and QQP.",
    )
    replace_probability: float = option(0.4, "The probability with which a variant replaces a word.")
    candidates: int = option(15, "The number of candidates for each word.")
    batch_size: int = option(64, "The number of masked texts in a forward pass of the model.")
    seed: int = option(42, "Decides which words are replaced by which candidates.")

    def __post_init__(self) -> None:
        if not self.model_name_or_path:
            raise InputError("model_name_or_path is not set: give it.")
        self.model_name_or_path = expanded(self.model_name_or_path)
        check_positive(self, "variants", "candidates", "batch_size")
        if not 0 < self.replace_probability <= 1:
            raise InputError(f"replace_probability is {self.replace_probability:g}: give a number above 0, up to 1.")
        check_output_file(self.output_file)


@command_line
def main(argv: list[str]) -> None:
    data_args, args = parse_recipe([GlueArguments, AugmentArguments], argv, prog="ckd-trainer augment")
    transformers.utils.logging.set_verbosity_error()
    check_training_alone(data_args, "augmented")
    rows = 0
    with texts_file(user_path(args.output_file), list(text_columns_of(data_args).values())) as write:
        config = load_config(args.model_name_or_path, trust_remote_code=False)
        tokenizer = load_tokenizer(args.model_name_or_path, trust_remote_code=False)
        check_embeddings(config, tokenizer)
        check_masks(tokenizer)
        vectors = None if args.vectors_file is None else read_vectors(args.vectors_file)
        texts = training_texts(data_args, seed=args.seed)
        augmenter = Augmenter(
            _masked_lm(args.model_name_or_path),
            tokenizer,
            vectors,
            count=args.candidates,
            batch_size=args.batch_size,
            max_length=min(512, max_length(config, tokenizer, trust_remote_code=False)),
        )
        for examples in _variants(texts, augmenter, args):
            rows += write(examples)
    print(f"{rows} variants of {len(texts[0])} examples written to {args.output_file}.")


def _masked_lm(name: str) -> PreTrainedModel:
    model, info = load_weights(name, AutoModelForMaskedLM, trust_remote_code=False)
    if info["missing_keys"]:
        raise InputError(
            f"{name} has no weights for {sorted(info['missing_keys'])[0]}, so it cannot predict masked words: give a "
            "masked language model, such as google-bert/bert-base-uncased."
        )
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    return model.eval().to(device)


def _variants(
    columns: list[list[str]], augmenter: Augmenter, args: AugmentArguments
) -> Iterator[list[tuple[str, ...]]]:
    """Yields the new variants of a few examples at a time: none that is one of the examples, or came before."""
    seen = {hash(example) for example in zip(*columns, strict=True)}
    with tqdm(total=len(columns[0]), unit=" examples", desc="Augmenting") as progress:
        for start in range(0, len(columns[0]), _ROWS):
            texts = [column[start : start + _ROWS] for column in columns]
            candidates = [augmenter.candidates(column) for column in texts]
            new = []
            for row, example in enumerate(zip(*map(zip, texts, candidates), strict=True)):
                made = variants(
                    example,
                    count=args.variants,
                    probability=args.replace_probability,
                    seed=f"{args.seed} {start + row}",
                )
                new += [variant for variant in made if hash(variant) not in seen]
                seen.update(map(hash, made))
            yield new
            progress.update(len(texts[0]))
