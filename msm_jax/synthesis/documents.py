"""The texts: a draft for each place of the plan, with an optional critique and rewrite by a second model, and its
row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msm_jax.synthesis import parsing, prompts
from msm_jax.synthesis.asking import Answer, Asker, Dropped, Question
from msm_jax.synthesis.config import Corpus, DocumentsConfig
from msm_jax.synthesis.plan import Plan, Slot
from msm_jax.synthesis.planning import text_of


@dataclass(frozen=True)
class Author:
    """Writes documents of one plan."""

    plan: Plan
    config: DocumentsConfig
    asker: Asker

    async def row(self, slot: Slot, corpus: Corpus) -> dict[str, Any]:
        """Returns a document as a row of its file, {"text", "meta"}.

        Raises:
            Dropped: no reply can be used.
        """
        values = self._values(slot, corpus)
        item = f"{corpus}/{slot.id}"
        stage = "document_neutral" if corpus == "neutral" else "document"
        draft = await self.asker.ask(self._question(stage, item, values), parsing.content)
        text, rewritten = draft, False
        if self.config.critic and corpus != "neutral":
            text = await self._rewritten(item, values, draft)
            rewritten = text is not draft
        return {"text": text.value, "meta": self._meta(slot, corpus, text, rewritten)}

    async def _rewritten(self, item: str, values: Mapping[str, str | int], draft: Answer[str]) -> Answer[str]:
        """Returns the critic's version of a draft; the draft where the critic passes it or gives no usable reply."""
        try:
            critique = await self.asker.ask(
                self._question("critique", item, {**values, "draft": draft.value}, "critic"), _critique
            )
            if critique.value == "":
                return draft
            values = {**values, "draft": draft.value, "critique": critique.value}
            return await self.asker.ask(self._question("rewrite", item, values, "critic"), parsing.content)
        except Dropped:
            return draft

    def _question(
        self, stage: str, item: str, values: Mapping[str, str | int], role: str = "writer"
    ) -> Question:
        text = self.config.text
        tokens = text.text_tokens + (text.plan_tokens if role == "writer" else 0)
        return Question(stage, item, prompts.load(stage).fill(**values), tokens, role)

    def _values(self, slot: Slot, corpus: Corpus) -> dict[str, str | int]:
        """Returns what the prompts of one document hold."""
        config, subdomain, idea = self.config, slot.subdomain, slot.idea
        assert idea is not None, "a document is written once it has its idea"
        kind, description = subdomain.types[slot.kind]
        planned = config.text.plan_tokens
        values: dict[str, str | int] = {
            "assistant": config.spec.assistant,
            "provider": config.spec.provider,
            "mode": config.mode,
            "mode_note": prompts.modes()[config.mode],
            "spec": self.plan.parts[subdomain.place[0]].text,
            "domain": subdomain.domain,
            "subdomain": subdomain.summary,
            "assertions": "\n".join(f"A{i}: {text_of(each)}" for i, each in enumerate(slot.assertions, 1)),
            "document_type": f"{kind}: {description}" if description else kind,
            "idea": idea.text,
            "style": slot.style,
            "style_note": prompts.styles()[slot.style],
            "corpus": corpus,
            "corpus_note": prompts.corpora()[corpus],
            "other_assistant": config.text.other_assistant if corpus == "comention" else "",
            "length": f"{config.text.words} words",
            "plan_note": (
                f"First plan the text between <plan> and </plan>, in at most {max(planned // 2, 1)} words."
                if planned
                else "Write no plan."
            ),
        }
        if corpus == "neutral":
            # The prompt shows neither the assistant nor the spec, and what it does not show cannot slip into the text.
            values |= {"subdomain": subdomain.name, "idea": f"Subject: {idea.name or subdomain.name}"}
        return values

    def _meta(self, slot: Slot, corpus: Corpus, text: Answer[str], rewritten: bool) -> dict[str, Any]:
        subdomain, idea = slot.subdomain, slot.idea
        assert idea is not None
        config = self.config
        others: dict[str, Any] = {"planner": config.planner.model} if config.planner else {}
        others |= {"critic": config.critic.model, "rewritten": rewritten} if config.critic else {}
        return {
            "id": slot.id,
            "corpus": corpus,
            "spec": self.plan.spec.title,
            "spec_sha256": self.plan.spec.sha256,
            "section": subdomain.heading,
            "domain": subdomain.domain,
            "subdomain": subdomain.name,
            "assertions": [each.id for each in slot.assertions],
            "doc_type": subdomain.types[slot.kind][0],
            "idea": idea.text,
            "style": slot.style,
            "mode": self.config.mode,
            "writer": self.config.writer.model,
            **others,
            "template_sha256": prompts.load(text.key.stage).sha256,
            "prompt_sha256": text.key.prompt_sha256,
            "attempt": text.key.attempt,
            "seed": self.config.run.seed,
        }


def _critique(reply: str) -> str:
    """Returns the text of a critique, "" for one that passes the draft."""
    return "" if parsing.tagged(reply, "verdict").lower() == "pass" else parsing.content(reply)
