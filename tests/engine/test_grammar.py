from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import mlx.core as mx
import numpy as np
import pytest
from dspy import lm15
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load

from dspy_toolkit.config import Settings
from dspy_toolkit.contract import GRAMMAR_KEY
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.engine.grammar import Allowed, Grammars
from tests.conformance.engine_contract import ask, text_of
from tests.engine.test_generation import at_once, prompts
from tests.engine.tiny import write_architecture

if TYPE_CHECKING:
    from dspy_toolkit.engine.mlx_engine import MlxEngine

TRIAGE = r"""start: "[[ ## why ## ]]\n" why "urgency ## ]]\n" urgency "\n\n[[ ## completed ## ]]"
urgency: "low" | "high"
why[lazy]: /(?s:.{0,30})\n\n\[\[ ## /
"""
CHOICE = r"""start: "[[ ## urgency ## ]]\n" ("low" | "high") "\n\n[[ ## completed ## ]]" """
ORDER = {
    "type": "object",
    "properties": {
        "sum": {"type": "integer", "minimum": 3, "maximum": 2000},
        "paid": {"type": "boolean"},
        "state": {"enum": ["open", "open again", "gelöst"]},
        "lines": {
            "type": "array",
            "maxItems": 2,
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 5}},
                "required": ["name"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["sum", "paid", "state", "lines"],
    "additionalProperties": False,
}


def held(text: str, grammar: str, **config: Any) -> lm15.Request:
    return shaped(text, {GRAMMAR_KEY: grammar}, **config)


def shaped(text: str, schema: dict[str, Any], **config: Any) -> lm15.Request:
    form = {"type": "json_schema", "name": "answer", "schema": schema}
    return ask(text, response_format=form, max_tokens=config.pop("max_tokens", 200), **config)


def by_hand(folder: Path, grammar: str, texts: list[str]) -> list[str]:
    """The same walk with nothing but mlx-lm's model and the grammar."""
    model, tokenizer = load(str(folder))[:2]
    model.set_dtype(mx.float32)
    grammars = Grammars(tokenizer, frozenset(tokenizer.eos_token_ids))
    said = []
    for text in texts:
        turns = [{"role": "user", "content": text}]
        tokens = tokenizer.apply_chat_template(turns, add_generation_prompt=True)
        guide, cache = grammars.lark(grammar).start([]), make_prompt_cache(model)
        answer = guide.forced()
        unread = [*tokens, *answer]
        while not guide.ended:
            scores = np.array(model(mx.array([unread]), cache=cache)[0, -1])
            mask = Allowed([guide]).mask(scores.size)

            assert mask is not None

            scores[~mask[0]] = -np.inf
            token = int(scores.argmax())
            guide.take(token)
            unread = [token, *guide.forced()]
            answer += unread
        said.append(tokenizer.decode(answer))
    return said


def test_a_decision_takes_one_run_of_the_model_and_one_choice(engine: MlxEngine) -> None:
    engine.complete(held("warm up", CHOICE))
    before = engine.stats()
    response = engine.complete(held("The order is late.", CHOICE))
    after = engine.stats()

    assert response.text in (
        f"[[ ## urgency ## ]]\n{option}\n\n[[ ## completed ## ]]" for option in ("low", "high")
    )
    assert response.finish_reason == "stop"
    assert after.runs - before.runs == 1
    assert after.decoded - before.decoded == 1
    assert after.forced - before.forced == response.usage.output_tokens - 1


def test_an_answer_that_is_all_forced_takes_no_run(engine: MlxEngine) -> None:
    before = engine.stats()
    response = engine.complete(held("Hello", 'start: "done and done"'))

    assert (response.text, response.finish_reason) == ("done and done", "stop")
    assert engine.stats().runs == before.runs


def test_greedy_answers_are_those_of_a_walk_by_hand_alone_and_in_a_batch(
    engine: MlxEngine, model_folder: Path
) -> None:
    texts = prompts(12)
    expected = by_hand(model_folder, TRIAGE, texts)
    requests = [held(text, TRIAGE) for text in texts]

    assert [engine.complete(request).text for request in requests] == expected
    assert [response.text for response in at_once(engine, requests)] == expected


def test_rows_with_a_grammar_and_without_do_not_disturb_each_other(engine: MlxEngine) -> None:
    texts = prompts(12)
    requests = [held(t, TRIAGE) if n % 3 else ask(t) for n, t in enumerate(texts)]
    alone = [engine.complete(request).text for request in requests]

    assert [response.text for response in at_once(engine, requests)] == alone


def test_seeded_sampling_keeps_to_the_grammar_and_is_the_same_in_a_batch(engine: MlxEngine) -> None:
    requests = [held(t, TRIAGE, temperature=1.5, seed=n) for n, t in enumerate(prompts(8))]
    alone = [engine.complete(request).text or "" for request in requests]

    assert all(text.endswith("\n\n[[ ## completed ## ]]") for text in alone)
    assert [response.text for response in at_once(engine, requests)] == alone


def test_a_schema_is_always_fulfilled(engine: MlxEngine) -> None:
    requests = [shaped(t, ORDER, temperature=1.0, seed=n) for n, t in enumerate(prompts(16))]
    answers = [json.loads(response.text or "") for response in at_once(engine, requests)]

    for answer in answers:
        jsonschema.validate(answer, ORDER)


def test_any_json_object_can_be_asked_for(engine: MlxEngine) -> None:
    request = ask("Hello", response_format={"type": "json_object"}, max_tokens=20)

    assert (engine.complete(request).text or "").startswith("{")


@pytest.mark.parametrize("option", ["high", "higher", "höchst", "東京 🙂", "high\nest"])
def test_every_option_can_be_chosen_also_one_that_others_begin_with(
    engine: MlxEngine, option: str
) -> None:
    options = ["high", "higher", "höchst", "東京 🙂", "high\nest"]
    grammar = f"start: ({' | '.join(json.dumps(o, ensure_ascii=False) for o in options)}) /\\./"
    # The penalty for all others is the grammar itself: one that holds this option alone.
    only = f"start: {json.dumps(option, ensure_ascii=False)} /\\./"

    assert engine.complete(held("Hello", only)).text == f"{option}."
    assert (engine.complete(held("Hello", grammar)).text or "")[:-1] in options


def test_an_answer_that_does_not_fit_ends_for_its_length(engine: MlxEngine) -> None:
    response = engine.complete(held("Hello", CHOICE, max_tokens=3))

    assert (response.finish_reason, response.usage.output_tokens) == ("length", 3)


def test_a_stop_string_inside_forced_text_ends_the_answer(engine: MlxEngine) -> None:
    response = engine.complete(held("Hello", CHOICE, stop=("gency",)))

    assert (response.text, response.finish_reason) == ("[[ ## ur", "stop")


def test_forced_tokens_are_certain_and_scores_are_of_what_the_grammar_allows(
    engine: MlxEngine,
) -> None:
    scores = engine.complete(held("Hello", CHOICE, logprobs=3)).logprobs or ()
    drawn = [score for score in scores if score.logprob < 0.0]

    assert len(drawn) == 1
    assert sum(score.logprob == 0.0 for score in scores) == len(scores) - 1


def test_a_stream_holds_the_whole_answer(engine: MlxEngine) -> None:
    request = held("Hello", TRIAGE)

    assert text_of(list(engine.stream(request))) == engine.complete(request).text


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({GRAMMAR_KEY: "start: ("}, "Expected token"),
        ({"type": "nonsense"}, "nonsense"),
        ({"type": "object", "properties": 5}, "properties must be an object"),
    ],
)
def test_a_broken_schema_is_refused_with_its_reason(
    engine: MlxEngine, schema: dict[str, Any], says: str
) -> None:
    with pytest.raises(lm15.InvalidRequestError, match=f"response_format cannot be kept.*{says}"):
        engine.complete(shaped("Hello", schema))


def test_a_row_that_is_run_again_goes_on_in_its_grammar(engine: MlxEngine) -> None:
    expected = [engine.complete(held(text, TRIAGE)).text for text in prompts(4)]
    inbox: Any = []
    damaged = engine.prepare(ask("Hello"), inbox.append, streaming=False)
    damaged._sequence.prompt[0] = 2**70
    with ThreadPoolExecutor(4) as threads:
        others = [threads.submit(engine.complete, held(text, TRIAGE)) for text in prompts(4)]
        damaged.start()

        assert [other.result().text for other in others] == expected


def test_a_model_in_plain_batches_refuses_grammars_and_says_why(
    tmp_path: Path, settings: Settings
) -> None:
    engine = open_engine(
        str(write_architecture(tmp_path / "m", "mamba")), EngineOptions(), settings
    )

    assert not engine.supports_response_schema
    assert "response_format" not in engine.supported_params
    with pytest.raises(lm15.UnsupportedFeatureError, match="ArraysCache"):
        engine.complete(held("Hello", CHOICE))

    engine.close()
