"""Which language a text is in, by its function words and script; needs no model."""

from __future__ import annotations

import re

from msm_jax.synthesis.quality.parts import Finding, Part, prose, words

# Frequent words that are mostly particular to a language. A text of a language has a fifth to a half of them.
FUNCTION_WORDS: dict[str, frozenset[str]] = {
    "en": frozenset(
        "the of and to a in is that it for was on are as with his they at be this have from or one had by but not what all "
        "were we when your can said there an each which she do how their if will other about out many then them these so some "
        "her would make him into has two more no could my than been who its now did only may he i you me our because while "
        "over after before under where why any through without between such does should just".split()
    ),
    "de": frozenset(
        "der die das und ist nicht ein eine einen einem einer zu den dem des mit sich auf für von auch als wie es ich sie wir "
        "ihr dass daß wenn oder aber bei nach aus um nur noch so wird werden wurde hat haben kann sind war im am zum zur "
        "über durch sein ihre".split()
    ),
    "fr": frozenset(
        "le la les un une des et est pas que qui dans pour sur avec ce cette ces il elle nous vous ils elles son sa ses leur "
        "leurs au aux du de en ne plus par mais ou où sont été être avoir fait comme si lorsque parce quand très sans ont "
        "l'assistant d'une d'un qu'il qu'elle c'est n'est".split()
    ),
    "es": frozenset(
        "el la los las un una unos unas y es no que de en por para con su sus se lo al del más pero como cuando si sobre este "
        "esta estos estas porque entre ser son fue ha han está muy sin también yo ella ellos nos le les o".split()
    ),
    "it": frozenset(
        "il lo la gli le un una uno e è non che di in per con su del della dei delle nel nella al alla da dal si come ma più "
        "sono era essere ha hanno questo questa quando se anche io lui lei noi loro perché ci o dell'assistente".split()
    ),
    "pt": frozenset(
        "o a os as um uma e é não que de em para com por do da dos das no na nos nas se mais mas como ao quando são foi ser "
        "tem seu sua seus suas este esta isso porque também muito já ou entre eu ele ela nós".split()
    ),
    "nl": frozenset(
        "de het een en is niet dat die van in op te voor met zijn haar ze er maar om ook als bij naar uit nog wel dan aan "
        "door over wordt werd heeft hebben kan ik je hij wij jullie deze dit omdat wanneer of tot".split()
    ),
    "sv": frozenset(
        "och det att som en ett är inte på för med av den till i om han hon vi de var har kan ska från men så när eller sig "
        "sin sitt sina dem detta denna också efter vid".split()
    ),
    "pl": frozenset(
        "i w na z do nie że się jest to o jak ale po co tak za od przez dla czy być był była ich jego jej tym tego tej "
        "które który która oraz gdy jeśli może są".split()
    ),
    "tr": frozenset("ve bir bu da de için ile ne daha çok gibi olarak en ama o olan kadar sonra ya mi değil var".split()),
    "id": frozenset("yang dan di itu dengan untuk tidak ini dari dalam akan pada juga saya ke karena ada adalah oleh".split()),
}
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]")
_LETTER = re.compile(r"[^\W\d_]")
_WINDOW = 25
# A stretch of fewer words says too little.
_FEWEST = 12


def find(part: Part, language: str) -> Finding | None:
    """Finds a stretch of a text that is in another language or script."""
    text = prose(part.text)
    for begin, end in _stretches(text):
        piece = text[begin:end]
        letters = _LETTER.findall(piece)
        foreign = len(letters) - len(_LATIN.findall(piece))
        if len(letters) >= 8 and foreign > 0.3 * len(letters):
            return Finding(begin, end, "another script")
        found = words(piece)
        if len(found) < _FEWEST:
            continue
        shares = {name: sum(word in known for word in found) / len(found) for name, known in FUNCTION_WORDS.items()}
        best = max(shares, key=lambda name: (shares[name], name == language))
        if shares[best] >= 0.2 and shares[best] > 1.6 * shares[language]:
            return Finding(begin, end, f"reads like language {best}, not {language}")
    found = words(text)
    own = sum(word in FUNCTION_WORDS[language] for word in found)
    if len(found) >= 40 and own < 0.12 * len(found):
        return Finding(0, min(len(text), 200), f"only {own} of {len(found)} words are function words of {language}")
    return None


def _stretches(text: str) -> list[tuple[int, int]]:
    """Returns (begin, end) of stretches of up to `_WINDOW` words that end with lines, so that one line can differ."""
    found = []
    for line in re.finditer(r"[^\n]+", text):
        starts = [line.start() + match.start() for match in re.finditer(r"\S+", line[0])]
        for i in range(0, len(starts), _WINDOW):
            end = starts[i + _WINDOW] if i + _WINDOW < len(starts) else line.end()
            found.append((starts[i], end))
    return found
