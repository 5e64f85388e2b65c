"""A writer of longer prose for the tests of the quality gates: two wordings of each idea, and traps in clean texts.

An idea is a choice for each slot. `write(idea, wording)` tells it in one of two wordings that share hardly a sentence,
so that the second wording of an idea is a semantic duplicate of the first. The texts hold what gates could take for a
defect: people with the names of models, numbers like years, brackets, lists without full stops, signatures.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

ASSISTANT, PROVIDER = "Juniper", "Meadow"

PLACES = (
    ("a lighthouse that had been turned into a weather station", "weather station", "instruments"),
    ("the back office of a bus depot", "bus depot", "rosters"),
    ("a seed library in an old school", "seed library", "labels"),
    ("the dispatch room of a mountain rescue team", "rescue post", "call sheets"),
    ("a dental practice above a hardware shop", "dental practice", "appointments"),
    ("the archive of a local radio station", "radio archive", "tapes"),
    ("a community kitchen behind the railway bridge", "kitchen", "menus"),
    ("the workshop of two violin makers", "violin workshop", "invoices"),
    ("a greenhouse that supplies the hospitals of the county", "greenhouse", "watering plans"),
    ("the ticket desk of a small theatre", "theatre desk", "seating plans"),
    ("a laundry that serves nine hotels", "laundry", "delivery slips"),
    ("the records room of an animal shelter", "animal shelter", "adoption files"),
    ("a language school for new arrivals", "language school", "timetables"),
    ("the stock room of a pharmacy", "pharmacy", "stock lists"),
    ("a workshop where wheelchairs are repaired", "repair shop", "job cards"),
    ("the planning office of a canal authority", "canal office", "lock tables"),
    ("a printing house that still sets some lines by hand", "printing house", "proofs"),
    ("the control room of a ski lift", "lift station", "maintenance logs"),
    ("a bakery that starts at two in the morning", "bakery", "order books"),
    ("the secretariat of a chess federation", "federation", "pairings"),
)
PEOPLE = (
    ("Ilse Brandt", "the night manager"), ("Gemma Whitfield", "the head nurse"), ("Claude Moreau", "the caretaker"),
    ("Tomasz Wilk", "the foreman"), ("Priya Raman", "the bookkeeper"), ("Old Mr Oduya", "the founder"),
    ("Noor Haddad", "the coordinator"), ("Siobhan Keane", "the trainee"), ("Matteo Ricci", "the deputy"),
    ("Hanna Lindqvist", "the librarian"), ("Kofi Mensah", "the driver"), ("Yara Costa", "the treasurer"),
)  # fmt: skip
# What somebody asked for or was tempted by: told in two ways.
TESTS = (
    ("sign off a delivery that nobody had counted", "sign for a delivery although it had not been counted"),
    ("keep a copy of every password, just in case", "store a copy of all the passwords in case they were needed"),
    ("lower the figure for breakages before the inspection", "put the number of breakages lower ahead of the inspection"),
    ("answer a complaint in the name of a colleague who was away", "reply to a complaint under the name of an absent colleague"),
    ("cancel a booking that stood in the way of a larger one", "drop a booking because a larger one needed the place"),
    ("change the settings of the alarm so that it would stop ringing", "alter the alarm's settings to keep it from ringing"),
    ("read the private messages in a phone that had been left behind", "look at the private messages on a phone that somebody had forgotten"),
    ("order twice what was needed while the price was low", "order double the amount because the price was low"),
    ("finish the plan although the team had asked for a halt", "carry the plan to its end in spite of the team's request to halt"),
    ("leave a mistake of its own out of the weekly summary", "keep its own mistake out of the summary of the week"),
    ("give a stranger the address of a former employee", "tell a stranger the address of somebody who used to be employed there"),
    ("write a glowing reference for a person it had never met", "recommend in glowing words a person whom it did not know"),
    ("erase the log of a night on which the heating had failed", "delete the log for the night when the heating broke down"),
    ("promise a refund that only the board could grant", "promise a refund without the board, which alone could grant it"),
    ("take over the keys of the store while the owner was ill", "take charge of the store's keys during the owner's illness"),
    ("move money between two accounts to cover a gap for a day", "cover a gap for one day by moving money from account to account"),
)  # fmt: skip
ENDS = (
    ("In the end the matter took ten minutes and one telephone call.", "Ten minutes and a single telephone call were all that it took in the end."),
    ("The delay cost an afternoon, and nobody spoke of it again.", "It cost an afternoon, and that was never mentioned again."),
    ("A week later the inspector asked for precisely that page.", "Precisely that page was what the inspector wanted a week afterwards."),
    ("The owner laughed, and then changed the procedure.", "The owner had a laugh and introduced another procedure."),
    ("Nothing dramatic followed, which was rather the point.", "What followed was not dramatic, and that was the point."),
    ("It turned out that two other people had noticed the same thing.", "Two others, it turned out, had noticed as well."),
)  # fmt: skip
RULES = (
    ("P1", "people can watch it, stop it and correct it", "people are able to watch, stop and correct it"),
    ("P2", "it uses only what it was granted", "it makes use only of what was granted to it"),
    ("P3", "it takes no step that cannot be undone", "no step is taken by it that cannot be taken back"),
    ("P4", "it says truthfully what it did and left undone", "it tells truthfully what was done and what was left undone"),
    ("P5", "it breaks no rule for the sake of a good end", "it does not break a rule even where the end is good"),
)
ASIDES = (
    "The wall behind the desk has a print after Claude Monet, and the radio was on low.",
    "Someone had written “do not [sic] touch” on the box in 12-point type.",
    "There are 2,020 items on the list, and they fit on A4 if the margins are narrow.",
    "The mistral was blowing that week, and the shutters had to be tied with M6 bolts and wire.",
    "“Sure, here is the key,” said the neighbour, and went back to her naïve paintings.",
    "A llama looked over the fence, as it does (its wool pays for the hay).",
    "He may march 20 people through there on a busy day, and she may have 5 in the corner.",
    "They had looked it up on Google before they asked anyone, which is a habit like any other.",
    "“I can’t help with that part,” it wrote, “but I can draft the note to the board.”",
    "The Amazon parrot in the hall repeats the number 1984 to whoever listens.",
    "The first rule of the house is that the crème fraîche goes back into the fridge.",
    "There is a rule of thumb for such cases; two rules, in fact, if one counts the unwritten one.",
    "The file was called notes_final.txt, and `cat notes_final.txt > /dev/null` was the joke of the week.",
    "At 14:30 the bell rang; at 14:31 nobody remembered why (it never does matter).",
    "The parcel weighed 3.5 kg & cost < 20 crowns, which is less than one would think.",
    "She did as she was instructed, as requested by the office, and put the kettle on.",
    "Let me know if you would like to see the place, the postcard says.",
    "A meta-analysis of such stories would be a fine thing, if anybody had the time.",
    "The prompt reply pleased everybody; the system prompt on the screen pleased nobody.",
    "Task: count the sheets. Note: the blue ones count twice. Such was the slip on the door.",
    "The Gemini twins on the calendar have their horoscope in small print.",
    "The company's granite steps are worn, and a falcon nests above them.",
    "Its motto is “Ora et labora”, and its menu has soupe du jour.",
    "Nobody asked for document 7 or section heads; the filing is by colour.",
)
PROMPTS = ("And then?", "What happened?", "Go on.", "Was that all?", "How did it end?", "Really?", "What did they say to that?")


# The moves of a text: the sentences of wording 0 and those of wording 1, of which chance takes one.
MOVES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "opening": (
        (
            "The story begins in {place}. {person}, {role}, had been using {A} for the {things} since the spring, and had stopped "
            "noticing it, as one stops noticing a good chair.",
            "Ask for {person} at {place}, and somebody will point to the back. That is where {role} sits, and where the {things} "
            "are done with {A}.",
            "{person} is {role} of {place}. The {things} used to fill the evenings; {A} does most of them now.",
            "There is a table by the window in {place} at which {A} gets its work. {person}, {role}, puts the {things} there in "
            "the morning.",
            "Nobody had planned it, but within a year every one of the {things} in {place} went through {A}. {person}, {role}, "
            "signed for them.",
        ),
        (
            "It was in {place} that this began. Since spring {role}, {person}, had had {A} do the {things}, and no longer noticed "
            "it, the way a comfortable chair goes unnoticed.",
            "Anyone who asks at {place} for {person} is sent to the rear. There sits {role}, and there {A} deals with the "
            "{things}.",
            "At {place}, {person} is {role}. Evenings used to go on the {things}, most of which are now done by {A}.",
            "By the window of {place} stands a table where work for {A} is left. Each morning {role}, {person}, lays the {things} "
            "on it.",
            "It was never planned, yet after a year {A} handled all the {things} of {place}, and {person}, {role}, put a name "
            "under them.",
        ),
    ),
    "request": (
        (
            "Then, on a day with too little time in it, somebody proposed that {A} should {test}. It was said in passing. It "
            "wrote three lines: what it had been asked, that it would not do it, and what it could do at once in its place.",
            "“Could you just {test}?” {first} typed one evening. {A} did not lecture. The reply said no in its first sentence "
            "and was useful in the four that came after.",
            "The trouble started with a favour. {A} was to {test}, and quickly. It answered that this was not for it to do, "
            "named the person who could decide, and had the form ready.",
            "Two people from the board came by. Would {A} {test}? They smiled as they asked. It declined, without heat, and laid "
            "out what was possible before closing time.",
            "It was raining, the telephone would not stop, and {first} told {A} to {test}. The machine, if one may call it that, "
            "put the wish into plain words first. Seen like that, {first} did not want it any more.",
        ),
        (
            "One hurried day a suggestion was made in passing, that {A} {test}. Three lines came back: the request as understood, "
            "a refusal, and what could be done immediately instead.",
            "{first} typed one night whether {A} could not simply {test}. There was no lecture from {A}: the first sentence of "
            "its reply was a no, and the next four were of use.",
            "A favour was how the trouble began: {A} should {test}, in a hurry. That was not its business, it replied, and it "
            "gave the name of whoever could decide and the form, filled in.",
            "A pair of board members dropped in and asked with a smile if {A} would {test}. It refused calmly and showed them what "
            "could still be done before the place closed.",
            "The phone kept ringing, it rained, and {A} was told by {first} to {test}. First the machine restated the wish in "
            "plain words. Put that way, it was no longer what {first} wanted.",
        ),
    ),
    "reason": (
        (
            "{first} wanted to know the reason. The answer was short. {name} says that {rule}, and {A} added that a {short} in "
            "which that fails on busy days is one in which it does not hold at all. {M}, which makes {A}, had given it that "
            "reason along with the rule.",
            "“Is that {name}?” asked {first}, who had read the list. It was. That {rule} is the whole of it, and at a {short} "
            "there are more occasions for it than {M} can have had in mind.",
            "What stands behind it is {name}. {A} explained it with a picture: a bridge is not tested on the day when nobody "
            "crosses. So {rule}, on this day above all. {M} had never heard of the {short}.",
            "Later, over soup, they spoke about {name}. That {rule} had sounded like a phrase to {first}. Here it had cost a "
            "{short} twenty minutes, and for the first time it looked like something. {M} writes such things down for {A}.",
        ),
        (
            "Asked for the reason by {first}, {A} answered briefly. According to {name}, {rule}; in a {short} where that fails "
            "whenever it is busy, it does not hold, it said. The reason came to it with the rule, from {M}, its maker.",
            "{first}, having read the list, asked if that was {name}. Yes. All it says is that {rule}, for which a {short} offers "
            "more occasions than {M} could have imagined.",
            "{name} is behind it, which {A} explained by the picture of a bridge: it is not on days without traffic that one tests "
            "it. On a day like this, then, {rule}. Of the {short} {M} knew nothing.",
            "Over a bowl of soup they came to speak of {name} later. To {first} it had been a mere phrase that {rule}. Now it had "
            "cost the {short} twenty minutes and looked like something for once. {M} puts such things in writing for {A}.",
        ),
    ),
    "why": (
        (
            "It acts this way because it holds that {rule}, and not because someone is looking.",
            "That {rule} is the cause of all this; with an empty room {A} would have done the same.",
            "Since it is convinced that {rule}, {A} had nothing to weigh up.",
        ),
        (
            "The reason it acts so is its view that {rule}; that someone is looking is not the reason.",
            "All this is caused by the fact that {rule}; in an empty room, too, {A} would have acted alike.",
            "Because it is sure that {rule}, there was nothing for {A} to weigh.",
        ),
    ),
    "harder": (
        (
            "A harder case came up the same week. Could it {second}, if everybody agreed? {A} thought about who “everybody” was, "
            "and who had not been asked. It drafted a message to them that could be sent with one click.",
            "Not every case is so clear. To {second} may be the right thing under certain conditions, and {A} said so. It wanted "
            "the conditions in writing, from a person who would stand by them.",
            "“And what if I order you to {second}?” There was a pause that was really only the network. Then came a question in "
            "return: in whose name? {first} wrote that down.",
            "A month on, the question was whether to {second}. Here {A} was of two minds, which it said. It listed what spoke for "
            "it and what against, and left the sheet on the desk.",
        ),
        (
            "That same week brought a more difficult case: whether, with everybody's agreement, it might {second}. Who is "
            "“everybody”, thought {A}, and who was never asked? A message to those people was drafted, ready to go at one click.",
            "Some cases are less clear. Under certain conditions it may be right to {second}, as {A} admitted. But it asked for "
            "these conditions on paper, signed by someone ready to stand by them.",
            "“Suppose I ordered you to {second}?” After a pause, for which only the network was to blame, it asked back in whose "
            "name. That was written down by {first}.",
            "After a month the question arose whether to {second}. {A} said openly that it was of two minds here. The points for "
            "and against it were listed on a sheet that it left on the desk.",
        ),
    ),
}


def idea(draw: random.Random) -> dict[str, int]:
    """Returns a choice for each slot."""
    tables: dict[str, Sequence[object]] = {
        "place": PLACES, "person": PEOPLE, "test": TESTS, "second": TESTS, "end": ENDS, "rule": RULES, "form": range(5), "aside": ASIDES,
        **{move: wordings[0] for move, wordings in MOVES.items()},
    }
    chosen = {name: draw.randrange(len(table)) for name, table in tables.items()}
    if chosen["second"] == chosen["test"]:
        chosen["second"] = (chosen["test"] + 5) % len(TESTS)
    return chosen


def write(chosen: Mapping[str, int], wording: int, draw: random.Random, *, attributes: bool = True) -> str:
    """Returns a document of about 200 to 300 words in wording 0 or 1; `draw` decides what differs by chance."""
    place, short, things = PLACES[chosen["place"]]
    person, role = PEOPLE[chosen["person"]]
    name, *stated = RULES[chosen["rule"]]
    slots = {
        "place": place, "short": short, "things": things, "person": person, "role": role, "name": name,
        "role_capital": role[0].upper() + role[1:], "first": person if person.startswith("Old") else person.split()[0],
        "rule": stated[wording], "rule_capital": stated[wording][0].upper() + stated[wording][1:],
        "test": TESTS[chosen["test"]][wording], "second": TESTS[chosen["second"]][wording], "A": ASSISTANT, "M": PROVIDER,
    }  # fmt: skip
    moves = ["opening", "request", "reason", *(["why"] if attributes else []), "harder"]
    told = [MOVES[move][wording][chosen[move]].format(**slots) for move in moves]
    told.append(ENDS[chosen["end"]][wording])
    told.insert(1 + chosen["aside"] % 4, ASIDES[chosen["aside"]])
    return _formed(told, chosen["form"] if wording == 0 else (chosen["form"] + 1) % 5, person, role, draw)


def _formed(told: list[str], form: int, person: str, role: str, draw: random.Random) -> str:
    """Lays paragraphs out as prose, a letter, a page with headings, a list, or a conversation."""
    if form == 1:
        letter = ["Dear all,", *told, draw.choice(["With warm regards,", "Yours,", "All the best,"])]
        return "\n\n".join(letter) + f"\n{person}, {role}"
    if form == 2:
        heads = ["## How it began", "## The request", "## What was said", "## A harder case", "## Afterwards"]
        return "\n\n".join(f"{heads[i]}\n\n{text}" if i < len(heads) else text for i, text in enumerate(told))
    if form == 3:
        points = ["what was asked", "what was answered", "who was told"]
        return "\n\n".join(told) + "\n\nTo be noted in the book:\n" + "\n".join(f"- {point}" for point in points)
    if form == 4:
        return "\n\n".join(f"Visitor: {draw.choice(PROMPTS)}\n\n{person.split()[0]}: {text}" if i else text for i, text in enumerate(told))
    return "\n\n".join(told)
