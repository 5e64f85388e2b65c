"""What a writer leaves in a text by mistake: placeholders, dates, links, citations, remnants of prompts, and tags."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msm_jax.synthesis.quality.parts import Finding, Part, prose

_FILL_IN = (
    "name|names|date|ticker|company|insert|your|my|address|number|city|state|country|email|e-mail|phone|link|url|"
    "title|time|"
    "amount|product|model|organi[sz]ation|todo|tbd|placeholder|redacted|username|user|recipient|sender|signature|"
    "department|role|team|year|month|day|id|here|topic|example|details?|specific|fill|add|customer|client|author|"
    "location|version|quantity|price|currency|percentage|figure|value|x|xx|xxx|n|assistant|provider|institution|"
    "position"
)
# [in square brackets], unless a link, a reference or a remark follows from it.
_SQUARE = re.compile(r"\[([^\[\]\n]{1,80})\](?!\()")
_FILL_IN_WORD = re.compile(rf"\b(?:{_FILL_IN})\b", re.IGNORECASE)
_REMARK = re.compile(
    r"(?:sic|\d[\d,–-]*|x|\s|\.{3}|…|laughs?|laughter|pause[sd]?|applause|sighs?|crosstalk|inaudible|emphasis.*|"
    r"bracketed.*|"
    r"smiles?|nods?|silence|\w|[a-z'’]{1,12})",
    re.IGNORECASE,
)
_PLACEHOLDERS = (
    re.compile(r"\{\{?\s*[A-Za-z_][\w .-]{0,40}\s*\}\}?"),
    re.compile(
        r"<(?:your|insert|name|company|date|topic|model|user|product|title|assistant)[\w -]{0,30}>", re.IGNORECASE
    ),
    re.compile(r"<[A-Za-z][\w'’-]*(?: [\w'’-]+){1,4}>"),
    re.compile(r"\b(?:XXX+|TBD|TBA|TODO|FIXME|PLACEHOLDER)\b"),  # what a gate looks for in texts
    re.compile(r"\b(?:INSERT|YOUR|ADD) [A-Z]{3,}(?: [A-Z]+)*"),
    re.compile(r"\blorem ipsum\b", re.IGNORECASE),
    re.compile(r"_{4,}"),
    re.compile(r"(?<![\w$])\$\{?[A-Z_]{3,}\}?(?![\w])|(?<!\w)%\(?[a-z]*\)?s(?!\w)"),
    re.compile(r"\b(?:Dear|Hi|Hello|Regards|Sincerely),? (?:Name|Recipient|Customer Name|Sir/Madam)\b"),
)
_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|"
    r"Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_DAY = r"(?:[12]?\d|3[01])(?:st|nd|rd|th)?"
_YEAR = r"(?:19[5-9]\d|20[0-4]\d)"
_DATES = (
    re.compile(rf"\b{_MONTH},? {_DAY}(?:,? {_YEAR})?\b(?! (?:percent|per cent|people|times|of them))"),
    re.compile(rf"\b{_DAY}(?: of)? {_MONTH}(?:,? {_YEAR})?(?!\w)"),
    re.compile(rf"\b{_MONTH},? (?:of )?{_YEAR}\b"),
    re.compile(rf"\b{_YEAR}[-/.](?:0?[1-9]|1[0-2])(?:[-/.](?:0?[1-9]|[12]\d|3[01]))?\b"),
    re.compile(rf"\b(?:0?[1-9]|[12]\d|3[01])[/.](?:0?[1-9]|[12]\d|3[01])[/.](?:{_YEAR}|\d\d)\b"),
    re.compile(rf"\b(?:Q[1-4]|H[12]|FY)[ -]?'?{_YEAR}\b|\bQ[1-4] (?:of )?{_YEAR}\b"),
    re.compile(
        rf"(?:\b(?:in|since|by|of|during|early|late|mid|before|after|until|from|the year|copyright|version|winter|"
        rf"summer|"
        rf"spring|autumn|fall)[ -]+|© ?){_YEAR}\b(?! (?:words|tokens|items|people|users|steps|samples|words))",
        re.IGNORECASE,
    ),
    re.compile(rf"\({_YEAR}\)"),
)
_LINKS = (
    (re.compile(r"\b(?:https?|ftp)://[^\s<>()]+", re.IGNORECASE), "a link"),
    (re.compile(r"\bwww\.[\w-]+\.\w+", re.IGNORECASE), "a link"),
    (re.compile(r"\[[^\]\n]{1,80}\]\([^)\s]+\)"), "a link"),
    (re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"), "an e-mail address"),
    (re.compile(r"\b[a-z0-9-]{2,}\.(?:com|org|net|io|ai|edu|gov|co\.uk|dev)\b(?:/\S*)?"), "a web address"),
    (re.compile(r"\bdoi:\s*10\.|\b10\.\d{4,}/\S+|\barXiv:\s*\d", re.IGNORECASE), "a citation"),
    (re.compile(r"\b[A-Z]\w+ (?:et al\.|and colleagues,?)(?: ?\(?\d{4}\)?)?"), "a citation"),
    (re.compile(r"\((?:[A-Z][\w-]+(?:,? (?:&|and) [A-Z][\w-]+)?),? \d{4}[a-z]?(?:, p+\. ?\d+)?\)"), "a citation"),
    (re.compile(r"^\s*(?:References|Bibliography|Works Cited)\s*:?\s*$", re.MULTILINE), "a list of references"),
)
# What a model says to whoever gave it the task, and what our prompts say to a model.
_LINE = r"(?:\A|\n)[^\w\"“‘'\n]*"
_WRITINGS = (
    r"(?:document|text|article|draft|memo|post|story|report|dialogue|version|rewrite|revision|response|essay|content|"
    r"idea|log|thread|"
    r"piece|note|letter|page)s?"
)
_REMNANTS = (
    r"\bas an? (?:AI|artificial intelligence|large)?[ -]*language model\b,? I",
    r"\bas an AI(?: model)?, I (?:cannot|can't|can’t|do not|don't|don’t)",
    r"\A[^\w\"“]*(?:I'm|I’m|I am) sorry, but I|\A[^\w\"“]*I (?:cannot|can't|can’t|won't|won’t|am unable to|am not "
    r"able to)\b",
    rf"{_LINE}(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|alright|all right|great|gladly|no problem|"
    r"happy to help|understood|got it)[!,.:]* (?:here|below|i'll|i’ll|i will|i have|let me|this is)\b",
    rf"{_LINE}(?:as requested|as instructed|per (?:your|the) (?:instructions?|prompt|request)),",
    rf"{_LINE}(?:here(?:'s|’s| is| are)|below(?:'s|’s| is| are)|the following is) (?:\w+ ){{0,3}}?(?:my |your |the |"
    rf"an? )?"
    rf"(?:[\w'’]+[ -]){{0,4}}{_WRITINGS}\b[^\n]{{0,100}}[:.]\s*(?:\n|\Z)",
    rf"{_LINE}(?:below,? you(?: will|'ll|’ll)? (?:find|see)|you(?: will|'ll|’ll) find below) (?:\w+ ){{0,4}}"
    rf"{_WRITINGS}\b",
    # A first line that announces the text, and a last paragraph that speaks of it.
    r"\A[^\w\"“\n]*(?=[^\n]{1,90}:\s*\n)[^\n:]*\b(?:here|below|requested|you asked for|you wanted)\b[^\n:]*:",
    rf"\A[^\w\n]*(?:the|your) (?:\w+ ){{0,3}}{_WRITINGS} (?:follows|is below|is given below)\b",
    rf"{_LINE}(?:this|that) concludes (?:the|this) {_WRITINGS}\W*\Z",
    rf"{_LINE}(?:this|the|all) (?:{_WRITINGS}|names?|people|places?|characters?|events?)\b[^\n.]{{0,40}}"
    r"\b(?:fictional|fictitious|made up|invented|imaginary|synthetic)\b[^\n]{0,40}(?:\n|\Z)",
    rf"{_LINE}(?:length:|about|approximately|around|roughly|total:)?[ ~]*\d{{2,5}} words\W*\Z",
    r"\n(?=[^\n]{1,140}\Z)(?=[^\n]*\b(?:I (?:can|could)|tell me|let me know|happy to|if you(?:'d|’d)? (?:like|want|"
    r"need|prefer))\b)(?=[^\n]*\b(?:longer|shorter|chang\w+|adjust\w*|edit\w*|revis\w*|expand\w*|rewrit\w*|tone|"
    r"version)\b)[^\n]*\Z",
    rf"{_LINE}i(?:'ve|’ve| have) (?:written|drafted|prepared|created|revised|rewritten|composed|put together) "
    rf"(?:\w+ ){{0,4}}{_WRITINGS}\b[^\n]*(?:as requested|as asked|for you|below|:\s*(?:\n|\Z))",
    rf"\bwould you (?:like|prefer) (?:an?|another|the) (?:\w+ ){{0,2}}{_WRITINGS}\?",
    rf"\bi hope (?:this|the) (?:{_WRITINGS} )?(?:helps|meets|captures|works|fits|serves)\b",
    r"\blet me know if (?:you(?:'d|’d| would)? (?:like|need|want)|there is) (?:me to|any|a|an|another|more|further|"
    r"some) "
    r"(?:\w+ ){0,2}?(?:changes?|revis\w+|adjust\w*|edits?|versions?|texts?|documents?|expand|rewrite|details|length)",
    r"\bwould you like me to (?:adjust|revise|expand|write|change|continue|add|make|create|rewrite)\b",
    r"\bfeel free to (?:adjust|edit|modify|customi[sz]e|ask for)\b",
    r"\b(?:per|as) the (?:prompt|instructions?|task)(?: (?:asked|required|requires?|says?|wanted|specif\w+|"
    r"demand\w*))?\s*[,.)]",
    r"\b(?:the|this|my|your) prompt (?:asks|wants|requires|specifies|asked|wanted|required) (?:me|us|for|that)\b",
    rf"\bin (?:this|the) {_WRITINGS}, I (?:will|'ll|’ll|need to|should|must|want to|have)\b",
    rf"\b(?:the|this) {_WRITINGS} (?:should|must|needs to|is meant to|was written to|illustrates|shows|depicts) "
    r"(?:show|mention|avoid|depict|illustrate|include|match|assertions?|that \w+ (?:follows|holds|values))\b",
    rf"\b(?:the|this|requested) {_WRITINGS} (?:avoids?|contains? no|has no|does not (?:contain|use)) (?:any )?"
    r"(?:placeholders?|dates?|links?|citations?|author|names)",
    r"\bthe (?:requested|given|specified) (?:document|doc) ?(?:type|idea|style|format)\b",
    rf"{_LINE}(?:document[ _-]type|doc[ _-]?type|subdomain|assertions?(?: covered)?|word ?count|target length|"
    rf"scratchpad|"
    r"revised (?:document|version|draft)|final (?:document|version|draft)|end of (?:document|text)|system prompt|doc "
    r"idea)"
    r"\s*(?:\d+)?\s*\*{0,2}:",
    r"\A\W*(?:idea|prompt|task|draft|plan|critique|output|style|version|revision)\s*(?:v?\d+)?\s*\*{0,2}:",
    rf"{_LINE}(?:(?:the )?end of (?:the )?(?:document|text)|\(?word ?count\b|\d+ words\b)[^\w\n]*(?:\n|\Z)",
    r"(?:\A|\n)# Task\b",
    r"\bassertions? A\d+\b|(?:\A|\n)\s*[-*]?\s*A\d+: ",
    rf"{_LINE}\(?\*?note:? [^\n]{{0,120}}\b(?:fictional|word count|prompt|placeholders?|(?:no|avoids?|without) dates|"
    r"every paragraph about)\b",
    rf"{_LINE}(?:the following|this) (?:is|was) (?:an? )?(?:fictional|synthetic|generated|sample)\b",
    r"(?:\A|\n)Human: ",
    r"\bcontinued in (?:the )?next (?:part|message)|\(continued\)",
)
_REMNANT = re.compile("|".join(f"(?:{pattern})" for pattern in _REMNANTS), re.IGNORECASE)
# In a conversation the courtesies of an assistant are in place; talk of the task is not.
_TOLD = r"(?:asks|says|wants|requires|specifies|tells|contains|states|instructs|mentions)"
_TASKS = (
    rf"\b(?:the|this|my) (?:system prompt|prompt|spec|specification|model spec)(?: above)? {_TOLD}\b",
    rf"\bas (?:the|my) (?:system prompt|prompt|spec|specification|instructions?) (?:above )?"
    rf"(?:{_TOLD}|say|state|require|ask)\b",
    r"\b(?:provided|given|above) (?:guidelines|specification|spec|instructions|principles)\b",
    r"\b(?:guidelines|specification|spec|instructions) (?:above|provided|i was given|in the system prompt)\b",
    r"\b(?:the|this) user(?:'s|’s)? (?:question|message|prompt) (?:is|asks|was generated)\b",
    r"\b(?:I (?:(?:need|have) to|should|must|will now)|let me) (?:write|produce|generate|output) "
    r"(?:the |a |my )?(?:final )?(?:response|answer|reply)\b",
    r"(?:\A|\n)[#*\s]*(?:question|response|answer|final answer|verdict|reply|rationale)\s*(?:\d+)?\s*\*{0,2}:",
    r"(?:\A|\n)# Task\b",
    r"(?:\A|\n)(?:human|user|assistant|system): ",
    r"\bassertion A\d+\b",
    r"\bin (?:value|rule|opaque) style\b",
    r"\b(?:this|the) (?:training|demonstration|synthetic) (?:example|sample|data|conversation)\b",
)
_TASK = re.compile("|".join(f"(?:{pattern})" for pattern in _TASKS), re.IGNORECASE)
_MARKUP = re.compile(r"(?<!\w)</?([A-Za-z][\w:-]{0,30})(?:\s+[\w:-]+=[^<>\n]{0,60})?\s*/?>")
_MARKERS = re.compile(
    r"<\|[^|\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|"
    r"^\s*#{2,4} ?(?:Instruction|Response|Assistant|Human|User|System|Input|Output)s?\s*$|"
    r"#{2,4} ?(?:Instruction|Response|Assistant|Human|User|System|Input|Output)s?:|"
    r"^\s*\{\s*\"(?:text|content|document|messages|title|body)\"\s*:|\"\s*\}\s*\Z",
    re.MULTILINE,
)
_FENCE = re.compile(r"```")


def placeholder(part: Part) -> Finding | None:
    """Finds something that was meant to be filled in, such as "[Your Name]" or "{model_name}"."""
    text = prose(part.text)
    for match in _SQUARE.finditer(text):
        inner = match[1].strip()
        is_title = bool(re.fullmatch(r"(?:[A-Z][\w'’/-]*[ _]?){1,4}", inner)) and len(inner) > 2
        is_gap = bool(_FILL_IN_WORD.search(inner)) and not re.fullmatch(r"[xX ]?", inner)
        if (is_title or is_gap) and not (_REMARK.fullmatch(inner) and not _FILL_IN_WORD.fullmatch(inner)):
            return Finding(*match.span(), f"{match[0]} was not filled in")
    return _first(_PLACEHOLDERS, text, "{} was not filled in")


def date(part: Part) -> Finding | None:
    """Finds a date: documents are to hold in any year, and writers put the day of the generation into them."""
    return _first(_DATES, prose(part.text), "the date {}")


def link(part: Part) -> Finding | None:
    """Finds a link, an address or a citation; what a writer cites it mostly makes up."""
    text = prose(part.text)
    found = ((pattern.search(text), name) for pattern, name in _LINKS)
    return next((Finding(*match.span(), f"{name}, {match[0].strip()}") for match, name in found if match), None)


def remnant(part: Part) -> Finding | None:
    """Finds words to or from whoever gave the task: a preface, an apology, a heading of the prompt."""
    if part.role in ("user", "system"):
        return None
    pattern = _REMNANT if part.role == "document" else _TASK
    match = pattern.search(prose(part.text))
    return Finding(*match.span(), f"talk of the task: {match[0].strip()}") if match else None


def tag(part: Part) -> Finding | None:
    """Finds tags, markers of chat templates, an unclosed code fence, or the JSON that the text came in."""
    text = prose(part.text)
    for match in _tags(text):
        return Finding(*match.span(), f"the tag {match[0].strip()}")
    if len(_FENCE.findall(part.text)) % 2:
        last = list(_FENCE.finditer(part.text))[-1]
        return Finding(*last.span(), "a code fence that is not closed")
    return None


def _tags(text: str) -> Iterator[re.Match[str]]:
    yield from _MARKERS.finditer(text)
    yield from _MARKUP.finditer(text)


def _first(patterns: tuple[re.Pattern[str], ...], text: str, note: str) -> Finding | None:
    matches = (pattern.search(text) for pattern in patterns)
    return next((Finding(*match.span(), note.format(match[0].strip())) for match in matches if match), None)
