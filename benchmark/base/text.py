"""Text that others wrote: what it may be, and how it is written where it could be taken for something else."""

import re
from unicodedata import category

LONGEST = 1000  # characters of a string in a file of ours
# what most is hidden in, for a regular expression of any language: controls, spaces but the usual one, marks of direction
# and width, fillers, variants; Python knows more that is not printable
UNSEEN = (
    r"[\u0000-\u001f\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f"
    r"\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb]"
)
VARIANTS = r"[\U0001d159\U000e0100-\U000e01ef]"  # the same, of beyond 16 bits
PILED = 4  # marks on one letter reach into other lines
ADDRESS = r"\.(?=[^\W_])(?!json\b)(?!(?<=\d\.)\d)|(?<![^\W_])/|/(?![^\W_])|:(?! |\Z)"  # what a word with it may be
MARKUP = re.compile(rf"[^\w ,;=+()?%^'\"/.:-]|(?<![^\W_])_|_(?![^\W_])|{ADDRESS}")
OPENING = re.compile(r"\A(\d*)([-+=.)])(?=[-+=.) ]|\Z)")  # what begins a line of a list, or a line that is drawn
LATEX = str.maketrans(  # a brace counts for BibTeX even behind a backslash, so it must be a word
    {
        "\\": r"\textbackslash{}",
        "{": r"\textbraceleft{}",
        "}": r"\textbraceright{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        **{letter: f"\\{letter}" for letter in "%&$#_"},
    }
)
BLANKS = str.maketrans("\n\t", "  ")


# ---- what it may be --------------------------------------------------------------------------------------------------
def is_line(text: str, most: int = LONGEST) -> bool:
    """Whether a text is one printable line: at most so many characters, each seen as what it is and in its place."""
    return len(text) <= most and text.isprintable() and (text.isascii() or not (_hidden(text) or _piled(text)))


def _hidden(text: str) -> bool:
    return bool(re.search(f"{UNSEEN}|{VARIANTS}", text))


def _piled(text: str) -> bool:
    """Whether marks stand on nothing, or too many on one letter."""
    kinds = "".join(category(letter)[0] for letter in text)
    return kinds.startswith("M") or "M" * PILED in kinds


def line(text: object, most: int = LONGEST) -> str:
    """Any text as one printable line: runs of white space are a space, what is not seen is a ?, what is too long is cut."""
    words = " ".join(str(text).split())
    shown = printable(words[: most + 1])
    return shown if len(words) <= most else f"{shown[: most - 1]}…"


def printable(text: str) -> str:
    """Any text with lines and tabs as they are, and nothing else that acts on a terminal: what is not seen is a ?."""
    if text.isascii() and text.translate(BLANKS).isprintable():
        return text
    seen = "".join(letter if letter in "\n\t" or (letter.isprintable() and not _hidden(letter)) else "?" for letter in text)
    return "".join(letter for letter in seen if category(letter)[0] != "M") if _piled(seen) else seen


def quoted(value: object, most: int = 80) -> str:
    """What came, for a message: as Python writes it in ASCII, cut."""
    return ascii(value)[:most]


def without_folders(text: str) -> str:
    """A text whose paths are cut to their last part: they tell of the machine."""
    return re.sub(r"(/[^\s/'\":,]+)+/", "", text)


# ---- where it is written ---------------------------------------------------------------------------------------------
def markdown(text: object, most: int = LONGEST) -> str:
    """A line in which Markdown and HTML find no markup, and GitHub no address or mention."""
    plain = MARKUP.sub(lambda found: f"&#{ord(found[0])};", line(text, most).replace("@", "(at)"))
    return OPENING.sub(lambda found: f"{found[1]}&#{ord(found[2])};", plain)


def fenced(text: str, most: int = 20_000) -> str:
    """Lines in a fence of Markdown that nothing in them can close, cut to the first characters."""
    shown = printable(text[:most])
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence}text\n{shown.strip()}\n{fence}"


def latex(text: str) -> str:
    """Words in one line as LaTeX prints them, with braces in balance."""
    return printable(" ".join(text.split())).translate(LATEX)
