"""DSPy's ChatAdapter prompts as pieces of text, without DSPy in the training loop.

`test_nano.py` compares them with what DSPy renders, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass

SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>")
EXACT = "        # note: the value you produce must exactly match (no extra characters) one of: "
MUST = " ## ]]` (must be formatted as a valid Python "
ENDING = "and then ending with the marker for `[[ ## completed ## ]]`."
REQUEST = "\n\nRespond with the corresponding output fields, starting with the field `[[ ## "
SHAPE_LINE = (
    "\nAll interactions will be structured in the following way, with the appropriate values "
    "filled in.\n\n[[ ## "
)
OBJECTIVE = (
    "\n\n[[ ## completed ## ]]\nIn adhering to this structure, your objective is: \n        "
)
ADHERE = "        # note: the value you produce must adhere to the JSON schema: "
NOTES = {
    "str": "",
    "bool": "        # note: the value you produce must be True or False",
    "int": "        # note: the value you produce must be a single int value",
    "float": "        # note: the value you produce must be a single float value",
}
MISSING = "Not supplied for this particular example. "
PARTIAL = (
    "\n<|im_start|>user\nThis is an example of the task, though some input or output fields are"
    " not supplied.\n\n[[ ## "
)
TURN = "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"
USER = "\n<|im_start|>user\n[[ ## "
MARK = " ## ]]\n"
NEXT = "\n\n[[ ## "
DONE = "\n\n[[ ## completed ## ]]\n"

# Each becomes one token; where several begin at one place the longest wins.
PHRASES = (
    "<|im_start|>system\nYour input fields are:\n1. `",
    "<|im_start|>system\n",
    "\n<|im_start|>system\n",
    "<|im_start|>user\n",
    "<|im_start|>assistant\n",
    "\n<|im_start|>user\n",
    TURN,
    USER,
    "\nYour output fields are:\n1. `",
    *(f"\n{number}. `" for number in range(2, 9)),
    "` (str):",
    "` (str): ",
    "` (int):",
    "` (int): ",
    "` (float):",
    "` (float): ",
    "` (bool):",
    "` (bool): ",
    "` (Literal['",
    "']):",
    "']): ",
    "', '",
    SHAPE_LINE,
    " ## ]]\n{",
    "}\n\n[[ ## ",
    "}" + EXACT,
    "; ",
    *("}" + NOTES[kind] for kind in ("bool", "int", "float")),
    OBJECTIVE,
    "}" + OBJECTIVE,
    "\n        ",
    "[[ ## ",
    MARK,
    NEXT,
    DONE,
    REQUEST,
    MUST,
    MUST + "Literal['",
    "']), then `[[ ## ",
    "), then `[[ ## ",
    " ## ]]`, then `[[ ## ",
    "']), " + ENDING,
    "), " + ENDING,
    " ## ]]`, " + ENDING,
    MISSING,
    PARTIAL,
)


@dataclass(frozen=True)
class Field:
    """One field of a signature; `labels` makes it a Literal, else `kind` is its type.

    `schema` is the JSON schema of a kind that is not among `NOTES`.
    """

    name: str
    kind: str = "str"
    labels: tuple[str, ...] = ()
    desc: str = ""
    schema: str = ""


@dataclass(frozen=True)
class Task:
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    instructions: str


def _described(fields: tuple[Field, ...]) -> list[str]:
    pieces: list[str] = []
    for number, field in enumerate(fields, 1):
        last = number == len(fields)
        if number > 1:
            pieces.append(f"\n{number}. `")
        space = "" if last and not field.desc else " "
        pieces.append(field.name)
        if field.labels:
            pieces.append("` (Literal['")
            for label in field.labels[:-1]:
                pieces += [label, "', '"]
            pieces += [field.labels[-1], "']):" + space]
        elif field.schema:
            # Not one token: the text after it is encoded together with the space before.
            pieces += (
                [f"` ({field.kind}):", space + field.desc] if space else [f"` ({field.kind}):"]
            )
            continue
        else:
            pieces.append(f"` ({field.kind}):" + space)
        if field.desc:
            pieces.append(field.desc)
    return pieces


def _slots(fields: tuple[Field, ...]) -> list[str]:
    pieces: list[str] = []
    for number, field in enumerate(fields):
        pieces += [field.name, " ## ]]\n{", field.name]
        last = number == len(fields) - 1
        if field.labels:
            pieces.append("}" + EXACT)
            for label in field.labels[:-1]:
                pieces += [label, "; "]
            pieces.append(field.labels[-1])
            if not last:
                pieces.append(NEXT)
        else:
            note = NOTES.get(field.kind, "")
            if field.schema:
                # The last brace of the schema is one token with what follows.
                pieces += ["}" + ADHERE + field.schema[:-1], "}" if last else "}\n\n[[ ## "]
            elif note:
                pieces.append("}" + note)
                pieces += [] if last else [NEXT]
            else:
                pieces.append("}" if last else "}\n\n[[ ## ")
    return pieces


def system(task: Task) -> list[str]:
    """The system turn, up to and with its end marker."""
    pieces = ["<|im_start|>system\nYour input fields are:\n1. `", *_described(task.inputs)]
    pieces += ["\nYour output fields are:\n1. `", *_described(task.outputs), SHAPE_LINE]
    filled = _slots(task.inputs)
    if filled[-1] == "}":
        filled[-1] = "}\n\n[[ ## "
    else:
        filled.append(NEXT)
    pieces += [*filled, *_slots(task.outputs)]
    if pieces[-1] == "}":
        pieces[-1] += OBJECTIVE
    else:
        pieces.append(OBJECTIVE)
    for number, line in enumerate(task.instructions.splitlines()):
        pieces += ["\n        "] * (number > 0) + [line]
    return [*pieces, END]


def question(
    task: Task, values: tuple[str, ...], request: bool, partial: bool = False
) -> list[str]:
    """A user turn and the header of the answer.

    `request` adds the closing instructions; `partial` says that a field is not supplied.
    """
    pieces: list[str] = []
    first = PARTIAL if partial else USER
    for number, (field, value) in enumerate(zip(task.inputs, values, strict=True)):
        pieces += [NEXT if number else first, field.name, MARK, value]
    if request:
        pieces += [REQUEST, *_wanted(task.outputs)]
    return [*pieces, TURN]


def _wanted(fields: tuple[Field, ...]) -> list[str]:
    pieces: list[str] = []
    for number, field in enumerate(fields):
        end = ENDING if number == len(fields) - 1 else "then `[[ ## "
        pieces.append(field.name)
        if field.labels:
            pieces.append(MUST + "Literal['")
            for label in field.labels[:-1]:
                pieces += [label, "', '"]
            pieces += [field.labels[-1], "']), " + end]
        elif field.kind == "str":
            pieces.append(" ## ]]`, " + end)
        else:
            pieces += [MUST, field.kind, "), " + end]
    return pieces


def answer(task: Task, values: tuple[str, ...]) -> list[tuple[str, bool]]:
    """The assistant turn; True marks the values, which are what is to be learnt."""
    pieces: list[tuple[str, bool]] = []
    for number, (field, value) in enumerate(zip(task.outputs, values, strict=True)):
        pieces += [(NEXT if number else "[[ ## ", False), (field.name, False), (MARK, False)]
        pieces.append((value, True))
    return [*pieces, (DONE, False), (END, False)]
