"""What the speed cost: the quality of generated texts, each number with its interval and its definition.

A single number can be gamed. Validity rewards short and dull texts; likelihood and perplexity reward low temperature;
diversity rewards noise. So they stand side by side, and the distances `quality.word_kl` and `quality.rule_kl` are zero
for the source's own texts alone: anything else, colder or hotter, raises them.

    texts = Texts(ids, prompt_length=32, emitted=lengths)            # what was generated
    verdict = Verdict(log_prob, valid_until, violation, kinds)       # what the exact source says of it
    measured = evaluate(texts, verdict, source, judge_log_prob=...)  # name -> Value, and whether likelihood flatters

The best control is the source itself: `evaluate` on its own continuations of the same prompts and lengths shows what a
perfect generator would score at this sample's size.

Texts are the independent units of every interval; tokens of one text are not independent. Everything here computes from
arrays: no torch, no models, no files. `metrics.py` declares the names.
"""

from .aup import Aup, aup
from .diversity import distinct_n
from .equal_quality import Contender, EqualQuality, smallest_steps_within, speedup_at_equal_quality
from .evaluate import Quality, SourceFacts, evaluate
from .flattery import flattered
from .front import Placed, Point, pareto_front
from .likelihood import HeldOut, gen_ppl, heldout, heldout_from_errors
from .noninferior import Allowance, difference, noninferior
from .oracle import cross_entropy, cross_entropy_gap, valid_prefix, validity, violation_shares
from .texts import Texts, Verdict
from .words import entropy_of, rule_kl, unigram_entropy, word_kl

__all__ = [
    "Allowance",
    "Aup",
    "Contender",
    "EqualQuality",
    "HeldOut",
    "Placed",
    "Point",
    "Quality",
    "SourceFacts",
    "Texts",
    "Verdict",
    "aup",
    "cross_entropy",
    "cross_entropy_gap",
    "difference",
    "distinct_n",
    "entropy_of",
    "evaluate",
    "flattered",
    "gen_ppl",
    "heldout",
    "heldout_from_errors",
    "noninferior",
    "pareto_front",
    "rule_kl",
    "smallest_steps_within",
    "speedup_at_equal_quality",
    "unigram_entropy",
    "valid_prefix",
    "validity",
    "violation_shares",
    "word_kl",
]
