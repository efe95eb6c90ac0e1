"""A source of texts whose probabilities are known exactly: what generated text can be judged by.

It is a grammar over 382 English words and signs, and its texts are odd but English:

    this story is about computers. large neural networks read vast volumes of text. the old server that most robots …

Whoever draws several words of such a text at once, each by its own probability, goes wrong where one word decides
another: the number of subject and verb with a clause between them, the halves of a pair ("new york", "san francisco"),
brackets and quotes, a copy, a list in another order. The source says at which word a text becomes impossible, what that
word broke, and how likely all before it was; neither a judge nor a sample is in between.

    source = embedded_source()
    ids = source.texts(rows=8, length=64, seed=0)         # [8, 64]
    source.score(ids).log_prob.mean()                     # about -source.entropy_rate

`grammar.toml` is the grammar, `automaton.py` its tables, `reader.py` the parse, `expectations.py` the closed forms.
Neither torch nor transformers is imported here. `python -m dlmbench.models.source --show 5` prints documents.
"""

from .oracle import Scores, Source, embedded_source
from .violations import VIOLATIONS

__all__ = ["VIOLATIONS", "Scores", "Source", "embedded_source"]
