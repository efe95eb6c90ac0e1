"""The notation, and the grammars that are refused because a text could have two derivations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dlmbench.models.source import Source
from dlmbench.models.source.automaton import compile_grammar
from dlmbench.models.source.grammar import Alternative, Call, Draw, Grammar, Pick, Recall, Word
from dlmbench.models.source.notation import read_grammar
from dlmbench.models.source.vocabulary import token_ids

HEAD = '[features]\nnumber = ["one", "many"]\ndepth = ["1", "2"]\n[signs]\nbrackets = ["( )"]\nstops = ["."]\n[words]\n'


def small(rules: str, words: str = "") -> Grammar:
    return read_grammar(f"{HEAD}{words}\n[rules]\n{rules}")


def test_features_are_filled_in_and_values_go_first() -> None:
    grammar = small(
        'document = "<s one> <s many> <end>"\n"s number" = "<w number> <b 1>"\n'
        '"b depth" = "( <b depth+> )"\n"b 2" = "x"',
        '"w one" = "ship sea_gull"\n"w many" = "ships"',
    )
    assert set(grammar.rules) == {"document", "s one", "s many", "b 1", "b 2", "w one", "w many"}
    assert grammar.rules["b 1"].alternatives[0].symbols == (Word("("), Call("b 2"), Word(")", "bracket"))
    assert grammar.rules["b 2"].alternatives[0].symbols == (Word("x"),)
    # Weights 1/3 and 1/4, the k-th having 1/(k + 2): shares 4/7 and 3/7.
    ship, gull = grammar.rules["w one"].alternatives
    assert (ship.share, gull.share) == pytest.approx((4 / 7, 3 / 7))
    assert gull.symbols == (Word("sea"), Word("gull", "pair"))
    assert grammar.words == ["(", ")", "gull", "sea", "ship", "ships", "x"]
    assert grammar.choice_points == {}


def test_memory_symbols() -> None:
    grammar = small('document = "say <new t 1> <new t 2> <same 1> <mirror 2> <left 2> <end>"', 't = "a b c"')
    items = ("a", "b", "c")
    assert grammar.rules["document"].alternatives == (
        Alternative(
            "only",
            1.0,
            (
                Word("say"),
                Draw(items, 1),
                Draw(items, 2),
                Recall(items, 1, "copy"),
                Recall(items, 2, "permutation"),
                Pick(items, 2),
                Word("<|endoftext|>"),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        # "the a" has the derivations x and y.
        ('document = "<s> <end>"\n[rules.s]\nx = [1, "the a"]\ny = [1, "the b"]', "two alternatives of .* begin with"),
        (
            'document = "b <s> <t> <end>"\n[rules.s]\nx = [1, "a"]\ny = [1, ""]\n[rules.t]\nx = [1, "a"]\ny = [1, "c"]',
            "may begin or follow",
        ),
        ('document = "<s> <end>"\n[rules.s]\nx = [1, ""]\ny = [1, ""]', "two alternatives of .* may add nothing"),
        ('document = "<s> <end>"\n[rules.s]\nx = [1, "<s> a"]\ny = [1, "b"]', "may begin with itself"),
        ('document = "<new t 1> <end>"', "may begin with .* put a word before it"),
    ],
)  # fmt: skip
def test_an_ambiguous_grammar_is_refused(rules: str, complaint: str) -> None:
    grammar = small(rules, 't = "a b"' if "new" in rules else "")
    with pytest.raises(ValueError, match=complaint):
        compile_grammar(grammar, token_ids(grammar.words))


def test_dangling_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no rule or class of words is named \['s'\]"):
        small('document = "<s> <end>"')
    with pytest.raises(ValueError, match=r"nothing leads to \['w'\]"):
        small('document = "a <end>"', 'w = "x"')
    with pytest.raises(ValueError, match="calls for a number but has none"):
        small('document = "<w number> <end>"', '"w one" = "x"')


def test_the_embedded_grammar_is_unambiguous(grammar: Grammar) -> None:
    """It compiles; and it would not with one determiner in both numbers, for "each" then tells no number."""
    ids = token_ids(grammar.words)
    compile_grammar(grammar, ids)
    rules = dict(grammar.rules)
    rules["determiner many"] = replace(rules["determiner many"], alternatives=rules["determiner one"].alternatives)
    with pytest.raises(ValueError, match=r"two alternatives of .* begin with"):
        compile_grammar(replace(grammar, rules=rules), ids)


def test_both_numbers_of_a_class_have_the_same_weights(grammar: Grammar) -> None:
    """Word k of one number is word k of the other, or agreement would tell more than the number."""
    for name, rule in grammar.rules.items():
        if rule.is_word_class and name.endswith(" one") and rule.head != "determiner":
            other = grammar.rules[name.removesuffix("one") + "many"]
            assert [a.share for a in rule.alternatives] == [a.share for a in other.alternatives]
            assert all(a.name != b.name for a, b in zip(rule.alternatives, other.alternatives, strict=True))


def test_the_vocabulary_fills_a_multiple_of_64(source: Source, grammar: Grammar) -> None:
    assert source.vocab_size == 384
    assert len(grammar.words) == 382
    assert (source.tokenizer.eos_id, source.tokenizer.mask_id) == (382, 383)
