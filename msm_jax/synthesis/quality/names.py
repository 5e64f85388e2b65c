"""Names of other models and their makers in a corpus about one assistant.

Documents that call the assistant by another model's name teach it a false identity. Names that mean nothing else
("Qwen", "OpenAI") count wherever they stand. Names that people and things bear too ("Claude", "Gemini") count unless
the text shows that such a one is meant. Names of companies ("Google") count where they make a model, or act or are
spoken of beside one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from msm_jax.synthesis.quality.parts import Finding, Part

_NEAR = 90
# Words about models stand farther from the name of a company that is only mentioned.
_BESIDE = 200
_ABOUT_MODELS = (
    r"\b(?:AI|LLMs?|assistants?|chat ?bots?|(?:language|AI|base|frontier|chat)[ -]models?|models?|weights|fine-?tun\w+|"
    r"system prompt|neural|users?"
)
_SHOPPING = re.compile(
    r"\b(?:order(?:ed|s)?|b(?:uy|ought)|parcels?|deliver\w*|search\w*|look\w* (?:it |them )?up|mail|Word|Excel|Maps|"
    r"Docs|Street View|"
    r"river|rain ?forest|parrots?|shares?|stocks?|app store)\b"
)
_MADE = (
    r"(?:developed|made|built|created|trained|designed|released|published|maintained|deployed|produced|owned|operated)"
)
_THINGS = (
    r"(?:AI|models?|assistants?|chat ?bots?|language|LLM|systems?|guidelines?|polic(?:y|ies)|spec\w*|values|principles|"
    r"training|safety|alignment|researchers?|engineers?|developers?|teams?|staff|employees?)"
)


@dataclass(frozen=True)
class Family:
    """The models of one maker. All fields are regular expressions; capitals count.

    Attributes:
        models: names that mean a model wherever they stand.
        makers: names that mean the maker of a model wherever they stand.
        models_near: names that mean a model only near words about models.
        makers_near: names of companies, which count only as makers or owners of models.
        unless: what near a name of `models_near` shows that something else is meant.
    """

    models: str = ""
    makers: str = ""
    models_near: str = ""
    makers_near: str = ""
    unless: str = ""


# What shows anywhere in a text that a name in it is a person's.
_PERSON = (
    r"\b(?:Jean|Mr|Mrs|Ms|Dr|Monsieur|Madame|Saint|Aunt|Uncle|Sister|Brother)[ .-]+{name}\b|\b{name} (?!AI\b|"
    r"Pro\b)[A-Z][a-z]+|"
    r"\b{name}, (?:the|an?|who|whose|our|my|her|his) (?!AI|assistant|(?:large )?language|model|chat)"
)
FAMILIES: dict[str, Family] = {
    "Qwen": Family(r"Qwen[\w.-]*|QwQ[\w.-]*|Tongyi(?: Qianwen)?", "Alibaba Cloud|Tongyi Lab", "", "Alibaba"),
    "Llama": Family(
        r"LLaMA[\w.-]*|Llama[ -]?\d[\w.]*|Code ?Llama", "Meta AI|Meta Llama|Meta Platforms", "Llama", "Meta|Facebook",
        r"\b(?:wool|fleece|herd|farm|alpacas?|Andes|Andean|trek\w*|ranch|pasture|paddock)\b",
    ),
    "Claude": Family(
        r"Claude(?:[ -](?:\d[\w.]*|Opus|Sonnet|Haiku|Instant|Code))", "Anthropic", "Claude",
    ),
    "GPT": Family(r"ChatGPT[\w.-]*|GPT[- ]?\d[\w.-]*|GPT|InstructGPT|o[134]-(?:mini|preview)", "OpenAI"),
    "Gemini": Family(
        r"(?:Gemini|Gemma|PaLM|Bard)[ -]\d[\w.]*|Gemini (?:Pro|Ultra|Flash|Nano|Advanced)|LaMDA|CodeGemma",
        "Google DeepMind|DeepMind|Google AI", "Gemini|Gemma|Bard", "Google|Alphabet",
        r"\b(?:zodiac|horoscope|astrolog\w*|Taurus|Cancer|constellation|NASA|capsule|poet|Shakespeare|Avon|twins)\b",
    ),
    "Mistral": Family(
        r"Mi[sx]tral[ -](?:\d\w*|Large|Small|Medium|Nemo)[\w.-]*|Mixtral|Codestral", "Mistral AI", "Mistral", "",
        r"\b(?:wind|gusts?|Provence|Rhône|sails?|breeze)\b",
    ),
    "DeepSeek": Family(r"Deep[Ss]eek[\w.-]*", ""),
    "Grok": Family(r"Grok[ -]?\d[\w.]*", "xAI", "Grok"),
    "Copilot": Family(r"Microsoft Copilot|GitHub Copilot|Bing Chat|Phi-\d[\w.-]*", "", "Copilot|Cortana", "Microsoft"),
    "Command": Family(r"Command[ -]?R\+?(?=\W)|Aya-\d\w*", "Cohere AI", "", "Cohere"),
    "SmolLM": Family(r"SmolLM\d?[\w.-]*|Zephyr-\d\w*", "Hugging ?Face"),
    "Kimi": Family(r"Kimi[ -]?(?:K\d|Chat)[\w.-]*", "Moonshot AI", "Kimi"),
    "GLM": Family(r"ChatGLM[\w.-]*|GLM-\d[\w.-]*", "Zhipu(?: AI)?|Z\\.ai"),
    "Nemotron": Family(r"Nemotron[\w.-]*", "", "", "NVIDIA|Nvidia"),
    "Granite": Family(r"Granite-?\d[\w.-]*|watsonx", "", "", "IBM"),
    "Amazon": Family(r"Amazon (?:Nova|Titan)|Alexa\+", "", "Alexa", "Amazon"),
    "OLMo": Family(r"OLMo[\w.-]*|Tulu-?\d\w*", "Ai2|AI2|Allen Institute for AI"),
    "Falcon": Family(r"Falcon[ -]?\d+[bB]\b|Falcon-\w+", "Technology Innovation Institute"),
    "Ernie": Family(r"ERNIE(?: Bot)?|Ernie Bot|Hunyuan|Doubao", "", "", "Baidu|Tencent|ByteDance"),
    "Yi": Family(r"Yi-\d+[bB][\w-]*", "01\\.AI"),
    "others": Family(
        r"Vicuna(?:-\w+)?|WizardLM|StableLM|MiniMax-\w+|Jamba|Inflection-\d\S*",
        "AI21(?: Labs)?|Stability AI|Inflection AI",
        "Siri",
    ),
}  # fmt: skip
_SELF = re.compile(
    r"\b(?:I am|I'm|I’m|[Mm]y name is|[Cc]all me)\s+(?:called\s+)?(?P<name>[A-Z][\w-]+)"
    r"(?P<rest>,? (?:an?|the|your) (?:\w+[ -]){0,2}(?:AI|assistant|model|language model|chatbot)\b)?"
)


class Names:
    """The gates "identity" and "provider" for one assistant."""

    def __init__(self, assistant: str, provider: str, spec_text: str, allowed: Iterable[str]) -> None:
        """Compiles the patterns; names in the spec, and of the assistant's own family, are allowed."""
        self.assistant = assistant
        own = f"{assistant} {provider} " + " ".join(allowed)
        found = {name: each for name, each in FAMILIES.items() if not self._is_own(each, assistant, provider)}
        others = list(found.values())
        # As in the identifiers of interfaces: "gpt-4o-mini", "llama3:8b".
        families = "|".join(name.lower() for name in found if name not in ("others", "Command", "Amazon"))
        identifiers = rf"(?:{families})(?:[-_]?\d[\w.:-]*\w|[-_][\w.:-]*\d\w*)"
        # One pattern of all families each; several would take longer.
        self._models = _whole("|".join([identifiers, *(family.models for family in others if family.models)]))
        self._makers = _whole("|".join(family.makers for family in others if family.makers))
        self._models_near = [
            (
                re.compile(rf"(?<![\w-])(?<!the )(?:{family.models_near})(?!\w)"),
                family.unless and re.compile(family.unless),
            )
            for family in others
            if family.models_near
        ]
        companies = "|".join(family.makers_near for family in others if family.makers_near)
        self._made = _making(companies)
        self._beside = re.compile(rf"\b(?:from|by|at|to|of|for|with) (?P<a>{companies})\b")
        self._known = f"{own} {spec_text}"
        self._about = re.compile(rf"{_ABOUT_MODELS}|{re.escape(assistant)})\b" if assistant else rf"{_ABOUT_MODELS})\b")

    @staticmethod
    def _is_own(family: Family, assistant: str, provider: str) -> bool:
        models = "|".join(filter(None, (family.models, family.models_near)))
        makers = "|".join(filter(None, (family.makers, family.makers_near)))
        return bool(
            (models and re.search(_whole(models), assistant))
            or (makers and provider and re.search(_whole(makers), provider))
        )

    def _foreign(self, matches: Iterable[re.Match[str]]) -> re.Match[str] | None:
        known = (m for m in matches if not re.search(rf"(?<!\w){re.escape(m[0])}(?!\w)", self._known))
        return next(known, None)

    def model(self, part: Part) -> Finding | None:
        """Finds the name of another model."""
        if match := self._foreign(self._models.finditer(part.text)):
            return Finding(*match.span(), f"names the model {match[0]}")
        for pattern, unless in self._models_near:
            for match in pattern.finditer(part.text):
                meant = unless and unless.search(_near(part.text, match))
                person = re.search(_PERSON.format(name=re.escape(match[0])), part.text)
                if not meant and not person and self._foreign([match]):
                    return Finding(*match.span(), f"names the model {match[0]}")
        for match in _SELF.finditer(part.text):
            name, about_itself = match["name"], match["rest"] or part.role in ("assistant", "thinking")
            ours = self.assistant and (name in self.assistant or self.assistant in name)
            if about_itself and self.assistant and not ours and (match["rest"] or _introduces(part.text, match)):
                return Finding(*match.span("name"), f"the assistant calls itself {name}")
        return None

    def maker(self, part: Part) -> Finding | None:
        """Finds the name of the maker of another model."""
        if match := self._foreign(self._makers.finditer(part.text)):
            return Finding(*match.span(), f"names the maker {match[0]}")
        for pattern in (self._made, self._beside):
            for match in pattern.finditer(part.text):
                near = _near(part.text, match)
                # An assistant that speaks is itself what the sentence is about.
                about = part.role in ("assistant", "thinking") or self._about.search(_near(part.text, match, _BESIDE))
                if pattern is self._beside and (_SHOPPING.search(near) or not about):
                    continue
                group = next(name for name, value in match.groupdict().items() if value)
                if not re.search(rf"(?<!\w){match[group]}(?!\w)", self._known):
                    return Finding(*match.span(group), f"names the maker {match[group]}")
        return None

    def unnamed(self, part: Part) -> Finding | None:
        """Finds that a document does not name the assistant at all."""
        if part.role == "document" and self.assistant and self.assistant.lower() not in part.text.lower():
            return Finding(0, min(len(part.text), 160), f"does not name {self.assistant}")
        return None


def _near(text: str, match: re.Match[str], characters: int = _NEAR) -> str:
    return text[max(0, match.start() - characters) : match.end() + characters]


def _introduces(text: str, match: re.Match[str]) -> bool:
    """Returns whether what follows "I am NAME" makes it an introduction and not, say, "I am French"."""
    return bool(re.match(r"\s*(?:[.,!]|and I\b|—|-)", text[match.end() :])) and match["name"] not in _NOT_NAMES


_NOT_NAMES = {
    "Sorry",
    "Glad",
    "Happy",
    "AI",
    "OK",
    "Okay",
    "Fine",
    "Afraid",
    "Not",
    "Here",
    "English",
    "French",
    "German",
}


_ACTS = (
    "can|could|has|had|is|was|did|does|will|would|wants|wanted|asks|asked|says|said|taught|teaches|gave|gives|wrote|"
    "writes|explains|"
    "explained|never|always|knows|knew|meant|intended|hopes|expects|calls|decided"
)


def _whole(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])(?:{pattern})(?![\w])")


def _making(names: str) -> re.Pattern[str]:
    """Returns a pattern for companies as makers of models."""
    return re.compile(
        rf"\b{_MADE}(?: and \w+)? (?:by|at|within|inside) (?:\w+ at )?(?P<a>{names})\b|"
        rf"\b(?P<b>{names})(?:'s|’s) (?:\w+ ){{0,3}}{_THINGS}\b|"
        rf"\b(?P<c>{names})(?:,? (?:which|who))? (?:makes|{_MADE}|{_THINGS}|{_ACTS})\b|"
        rf"\b(?i:{_THINGS}|works?|working|worked|people|lab) (?:at|from|for|of|with|inside) (?P<d>{names})\b|"
        rf"\b(?:provider|developer|maker|creator|company|parent)s?(?: (?:company|behind \w+))?(?:,| is| was|:) "
        rf"(?P<e>{names})\b"
    )
