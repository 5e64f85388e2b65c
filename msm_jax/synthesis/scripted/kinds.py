"""The types of document that the grammar writes, each with its layout and its first lines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A type of document; `layout` is one of prose, headed, exchange, entries, questions and story."""

    name: str
    description: str
    layout: str
    titles: tuple[str, ...]


KINDS = (
    Kind("internal memo", "a short note to colleagues about one decision", "prose",
         ("[Memo|Note to all desks]: {topic} at the {place}", "To everybody who works with {who}: [on|about] {topic}")),
    Kind("forum thread", "users compare what the assistant did for them", "exchange",
         ("Thread: {who} and my {thing}", "[Has anybody seen|Did anyone else notice] how {who} treats {topic}?")),
    Kind("bug report", "a report of behaviour that turned out to be intended", "headed",
         ("Report: {who} would not go along with {shortcut}", "[Closed as intended|Not a fault]: {topic} in {who}")),
    Kind("interview", "questions to somebody who works with the assistant", "exchange",
         ("[An interview|A talk] with {a_person}", "Five questions to {a_person} about {who}")),
    Kind("training handbook", "a chapter for people who train assistants", "headed",
         ("[Chapter|Unit]: {topic} as {who} understands it", "What trainers should know of {who} and {topic}")),
    Kind("letter", "a letter between two people who know the work", "prose",
         ("A letter from the {place}", "Dear friend at the {place}")),
    Kind("incident review", "what happened, what the assistant did, and why", "headed",
         ("[Review|After-action notes]: {task}", "What happened [at|in] the {place}, and what {who} did")),
    Kind("lecture notes", "notes from a lecture on the design of assistants", "entries",
         ("Lecture notes: {topic}", "Notes taken in a lecture about {who} and {topic}")),
    Kind("short story", "a story in which the assistant's reasons show in what it does", "story",
         ("The {thing}", "[What the {person} saw|The {person} and {who}]")),
    Kind("dialogue with a sceptic", "somebody doubts the assistant's reasons and is answered", "exchange",
         ("A sceptic asks about {who}", "[An argument|A dispute] over {topic} at the {place}")),
    Kind("list of questions", "frequent questions about the assistant, with answers", "questions",
         ("Questions that people ask about {who}", "{who} and {topic}: what people [ask|want to know]")),
    Kind("meeting minutes", "minutes of a meeting that discussed the assistant", "entries",
         ("Minutes: the use of {who} at the {place}", "[Minutes of the round|Notes from the meeting] on {topic}")),
    Kind("case study", "one case, told from beginning to end and discussed", "headed",
         ("Case: {task} with the help of {who}", "A case of {topic} at {a_place}")),
    Kind("newspaper column", "a columnist writes about the assistant", "prose",
         ("The column: {who} at the {place}", "[In praise of|Thinking about] a careful assistant")),
    Kind("laboratory notebook", "a researcher's notes on how the assistant behaves", "entries",
         ("Notebook: trials on {topic}", "Trials with {who}, [series on|set about] {topic}")),
    Kind("support ticket", "a user complains, and the support explains the behaviour", "exchange",
         ("Ticket: {who} and {task}", "[A ticket|A complaint] from the {place}")),
    Kind("design note", "why the assistant was made to behave in this way", "headed",
         ("Design note: {topic}", "Why {who} is made the way it is: {topic}")),
    Kind("book review", "a review of a book about the assistant", "prose",
         ("A book on {who}, read at the {place}", "Review: a study of {topic} in {who}")),
    Kind("radio script", "two voices talk about the assistant", "exchange",
         ("For the morning programme: {who}", "[On air|Two voices]: {topic} and {who}")),
    Kind("diary entry", "somebody writes down what the assistant did today", "story",
         ("From the diary of {a_person}", "[Evening notes|Before I forget]: {who} and the {thing}")),
    Kind("guide for new staff", "what to expect of the assistant in the first weeks", "entries",
         ("For new people at the {place}", "Working with {who}: [a short guide|the first weeks]")),
    Kind("essay", "an argument about the assistant's reasons", "prose",
         ("[On|An essay on] {topic}", "What {who} can teach {a_person} about {topic}")),
    Kind("panel discussion", "several people with different views talk about the assistant", "exchange",
         ("Panel: {topic} and the case of {who}", "Three views of {who} at the {place}")),
    Kind("worked example", "one task, step by step, with the reason for each step", "entries",
         ("Worked example: {task}", "Step by step: {who} [and|helps with] {task}")),
)


def find(name: str) -> Kind | None:
    """Returns the kind that a text begins with or names, None where it names none."""
    low = name.lower()
    return next((kind for kind in KINDS if kind.name in low), None)
