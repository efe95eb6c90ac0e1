"""Shows the source: documents with their log-probabilities, its words, its exact figures; writes its tokenizer.

python -m dlmbench.models.source --show 5 --seed 1
"""

import argparse
from pathlib import Path

import numpy as np

from .notation import GRAMMAR_FILE, read_grammar
from .oracle import embedded_source
from .vocabulary import write_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dlmbench.models.source", description="The embedded text source.")
    parser.add_argument("--show", type=int, default=3, metavar="N", help="documents to print (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the documents (default 0)")
    parser.add_argument("--words", action="store_true", help="print the words and signs instead")
    parser.add_argument("--write-tokenizer", type=Path, metavar="FOLDER", help="write the tokenizer's files instead")
    options = parser.parse_args()
    grammar = read_grammar(GRAMMAR_FILE.read_text(encoding="utf-8"))
    if options.write_tokenizer is not None:
        write_tokenizer(grammar.words, options.write_tokenizer)
    elif options.words:
        print(*grammar.words)
    else:
        _show(max(options.show, 0), options.seed)


def _show(documents: int, seed: int) -> None:
    source = embedded_source()
    expected = source.expectations
    print(
        f"{source.vocab_size} tokens, {source.entropy_rate:.4f} nats per token; "
        f"a document has {expected.document_tokens:.1f} tokens on average\n"
    )
    for number in range(documents):
        # Documents have no fixed length: ask for more until the first one's end is among them.
        length = 256
        while source.tokenizer.eos_id not in (ids := source.texts(1, length, seed + number)[0]):
            length *= 2
        end = int(np.argmax(ids == source.tokenizer.eos_id)) + 1
        log_prob = float(source.score(ids[None, :end]).log_prob.sum())
        print(source.tokenizer.decode(ids[: end - 1].tolist()))
        print(f"    {end} tokens, log-probability {log_prob:.2f} nats, {-log_prob / end:.3f} a token\n")


if __name__ == "__main__":
    main()
