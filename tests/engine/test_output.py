from __future__ import annotations

from dspy_toolkit.engine.output import Markers, OutputReader, Piece, Score, text_of


class Words:
    """A detokenizer whose tokens are places in a list of words."""

    def __init__(self, words: list[str], rest: str = "") -> None:
        self._words = words
        self._rest = rest
        self.last_segment = ""

    def add_token(self, token: int) -> None:
        self.last_segment = self._words[token]

    def finalize(self) -> None:
        self.last_segment = self._rest


def read(words: list[str], markers: Markers, rest: str = "", scored: bool = False) -> list[Piece]:
    reader = OutputReader(Words(words, rest), markers)
    pieces: list[Piece] = []
    for number in range(len(words)):
        pieces += reader.add(number, Score(number, -1.0) if scored else None)
    return pieces + reader.finish()


def test_text_before_a_stop_inside_the_same_token_is_kept() -> None:
    pieces = read(["Paris", ".\n[", "[ ##"], Markers(stops=("[[",)))

    assert text_of(pieces) == "Paris.\n"


def test_nothing_after_a_stop_is_handed_out() -> None:
    pieces = read(["a", "STOP", "b"], Markers(stops=("STOP",)), rest="c")

    assert text_of(pieces) == "a"


def test_text_held_back_for_a_stop_that_does_not_come_is_handed_out_at_the_end() -> None:
    pieces = read(["a", "[", "["], Markers(stops=("[[[",)), rest="!")

    assert text_of(pieces) == "a[[!"


def test_a_stop_may_lie_in_what_the_detokenizer_held_back() -> None:
    pieces = read(["a"], Markers(stops=("|",)), rest="b|c")

    assert text_of(pieces) == "ab"


def test_thinking_is_set_apart_and_stops_do_not_count_in_it() -> None:
    markers = Markers(stops=("]]",), think=("<think>", "</think>"))
    pieces = read(["<th", "ink>a]]b</thi", "nk>c", "]]d"], markers)

    assert text_of(pieces, "thinking") == "a]]b"
    assert text_of(pieces) == "c"


def test_an_answer_may_begin_inside_the_thinking() -> None:
    reader = OutputReader(
        Words(["hm</think>", "yes"]), Markers(think=("<think>", "</think>")), begins="thinking"
    )
    pieces = [*reader.add(0), *reader.add(1), *reader.finish()]

    assert [(piece.kind, piece.text) for piece in pieces] == [("thinking", "hm"), ("text", "yes")]


def test_each_call_is_one_piece_however_its_tokens_came() -> None:
    markers = Markers(tool=("<call>", "</call>"))
    pieces = read(["x<call>a", "b</call><ca", "ll>c</call>y"], markers)

    assert [(piece.kind, piece.text) for piece in pieces] == [
        ("text", "x"),
        ("tool", "ab"),
        ("tool", "c"),
        ("text", "y"),
    ]


def test_a_call_without_an_end_marker_runs_to_the_end() -> None:
    pieces = read(["[CALL]", "f{}", "!"], Markers(tool=("[CALL]", "")))

    assert [(piece.kind, piece.text) for piece in pieces] == [("tool", "f{}!")]


def test_scores_belong_to_tokens_that_lie_wholly_in_the_text() -> None:
    pieces = read(["ab", "c.STOP", "d"], Markers(stops=("STOP",)), scored=True)

    assert [score.token for piece in pieces for score in piece.scores] == [0]
    assert [piece.complete for piece in pieces] == [True, False]


def test_a_stop_may_cut_several_tokens() -> None:
    pieces = read(["aS", "T", "OP", "d"], Markers(stops=("STOP",)), scored=True)

    assert text_of(pieces) == "a"
    assert [piece.complete for piece in pieces] == [True, False]


def test_a_stop_between_tokens_leaves_the_scores_complete() -> None:
    pieces = read(["ab", "c", "STOP", "d"], Markers(stops=("STOP",)), scored=True)

    assert [score.token for piece in pieces for score in piece.scores] == [0, 1]
    assert all(piece.complete for piece in pieces)


def test_a_token_held_back_keeps_its_score_until_its_text_goes_out() -> None:
    pieces = read(["a", "[", "b"], Markers(stops=("[[",)), scored=True)

    assert [(piece.text, [s.token for s in piece.scores]) for piece in pieces] == [
        ("a", [0]),
        ("[b", [1, 2]),
    ]
