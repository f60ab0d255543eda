from hypothesis import given
from hypothesis import strategies as st

from moecompress.calibration.corpus import Corpus
from moecompress.calibration.pieces import line_end, pieces_of, seeded_order, shares


def corpus(*texts):
    return Corpus("texts", [len(text) for text in texts], texts.__getitem__)


@given(st.lists(st.text(alphabet="ab \n", max_size=60), max_size=5), st.integers(1, 30))
def test_pieces_of_a_row_joined_are_the_row(texts, size):
    for row, text in enumerate(texts):
        pieces = [piece for piece in pieces_of(corpus(*texts), size) if piece.row == row]
        assert "".join(piece.text() for piece in pieces) == text
        assert [piece.ends_row for piece in pieces] == [False] * (len(pieces) - 1) + [True] * bool(pieces)


def test_cuts_move_to_line_ends_and_then_to_spaces():
    assert line_end("ab cd\nef gh", 4, 3) == 6
    assert line_end("ab cd ef gh", 4, 3) == 6
    assert line_end("abcdefghijk", 4, 3) == 4
    assert line_end("abc\n", 4, 3) == 4
    texts = corpus("one two\nthree four\nfive six\n")
    assert [piece.text() for piece in pieces_of(texts, 12)] == ["one two\nthree ", "four\nfive ", "six\n"]


def test_rows_can_be_chosen_and_empty_rows_give_nothing():
    assert [piece.text() for piece in pieces_of(corpus("a", "", "c"), 5, [2, 1, 0])] == ["c", "a"]


def test_order_depends_on_the_seed_alone():
    assert seeded_order(8, "0/0") == [4, 2, 6, 0, 7, 5, 1, 3]
    assert seeded_order(50, "a") == seeded_order(50, "a") != seeded_order(50, "b")


def test_shares_are_whole_and_proportional():
    assert shares(10, [1, 1]) == [5, 5]
    assert shares(10, [3, 1]) == [8, 2]
    assert shares(1, [1, 1, 1]) == [1, 0, 0]
    assert sum(shares(17, [0.2, 0.5, 0.3])) == 17
