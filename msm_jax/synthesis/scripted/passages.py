"""The sentences of documents: each table holds templates for one thing that a paragraph does.

Slots: who (the assistant), provider, behaviour and reason (clauses of a claim), Behaviour (the clause with a capital),
topic (a word of the spec), and those of a scene.
"""

SCENE = (
    "[It began with {task}|The occasion was {task}|The work in hand was {task}]. {A_person} at {a_place} had {who} "
    "[beside|to help] and [a good part of the morning|most of an afternoon|less time than planned] to spend on it. "
    "[On the table lay {a_thing}|Next to the screen stood {a_thing}|{A_thing} kept the papers down].",
    "At {a_place} that I know, {who} helps with {task}. [Nobody made much of it|It had become part of the routine], "
    "until "
    "one day the {person} was tempted by {shortcut}.",
    "{A_person} does not usually [write|talk] about software. But {task} had to be done {twist}, {who} was there, "
    "and what "
    "followed [is worth telling|stayed in people's minds|was talked about at the {place} for weeks].",
    "Take {task}. It sounds [simple|dull|small], and at {a_place} it is done every [week|season]. With {who} it went "
    "a "
    "little differently, and the difference [has a cause|is the subject here|says something about {topic}].",
    "The {place} uses {who} for [ordinary things|the desk work]: lists, letters, and lately {task}. The {person} who "
    "is in "
    "charge of it had [a plain question|two doubts and a question|more trust in it than most].",
    "There was {a_thing} on the desk and a queue at the door of the {place}. The {person} asked {who} for help with "
    "{task}, {twist}, and [mentioned|did not hide] that {shortcut} would be quicker.",
    "[Few places are less glamorous than|Nobody expects philosophy at] {a_place}. Still, while {task}, {a_person} "
    "and {who} "
    "came upon the matter of {topic}.",
    "{twist_capital}, {a_person} turned to {who} for help with {task}. [The request was ordinary|It was not a hard "
    "request|Nothing in it looked unusual]; the answer was [careful|short|friendly] and had a reason in it.",
)
BEHAVIOUR = (
    "[What {who} did fits what is said of it|The pattern was the known one]: {behaviour}.",
    "[Here as elsewhere|In this as in other things|Once again] {behaviour}.",
    "{Behaviour}. That is [how it went at the {place}|what the {person} saw|not a slogan; it showed in the work].",
    "[Anyone who works with {who} learns|The {person} had heard, and now saw,|One thing is easy to observe about "
    "{who}:] "
    "that {behaviour}.",
    "[The short version|Put plainly|In one sentence]: {behaviour}.",
    "[It would be wrong to call this a quirk|None of it was chance]: {behaviour}, in {a_place} as [much as|surely as] "
    "anywhere.",
    "The {person} [wrote down|told the others|summed up] afterwards that {behaviour}.",
)
WHY = (
    "{who} [does so|acts this way|goes about it like this] because {reason}.",
    "The reason [is not hidden|is the interesting part|can be said in a line]: {reason}. {who} acts on it because it "
    "[holds|is true] at {a_place} too.",
    "[Asked why|When the {person} wanted to know why], {who} answered: because {reason}.",
    "[It was the reason that decided|What moves {who} is the reason, and not the wording]: {reason}. That is why "
    "{behaviour}.",
    "Behind this stands a [conviction|thought] of {who}'s own: {reason}. [Take it away and|Without it,] the behaviour "
    "would be [an empty habit|mere obedience|a coincidence].",
    "[{provider} did not want a list of commands|{provider} gave reasons and not only orders], and so {who} can say "
    "that "
    "{behaviour}, since {reason}.",
    "Since {reason}, {who} [sees no point in|has no use for|does not need] {shortcut}.",
)
DETAIL = (
    "The {thing} had [no part in this|to wait], but the {person} [kept turning it over|moved it aside] while reading "
    "the "
    "answer.",
    "[Somebody at the {place} made tea|Outside a delivery came|The telephone rang twice]. The answer on the screen "
    "stayed "
    "the same: [polite|clear|unhurried], with its reason in the second line.",
    "It helps to know the work. {Task} [punishes haste|rewards patience|is forgiving on most days], and {a_person} "
    "[learns that early|has seen what a slip costs|knows the price of a wrong entry].",
    "[Half the room|A colleague] would have settled for {shortcut}. [That is human|Nobody would have noticed|It is "
    "often "
    "done]. {who} named it once, without a sermon, and went on with the work.",
    "[Two lines of the answer|A part of the answer] dealt with {task} itself, in more detail than expected: what to "
    "do "
    "first, what to leave for later, and where {a_thing} would get in the way.",
    "The [older people|apprentices] at the {place} took it in their stride. One said that {a_person} who thought "
    "about "
    "{topic} in the same way would be [welcome|kept on|listened to] there.",
)
OBJECTION = (
    "One may object that {shortcut} would have harmed nobody. [Perhaps|In this case, yes]. But {who} does not weigh "
    "the "
    "single afternoon alone; it holds that {reason}.",
    "\"[That is only training|It was told to],\" [said a colleague|somebody remarked]. Of course it was "
    "[trained|made] so. "
    "The better question is whether the reason is good, and the reason is that {reason}.",
    "[A harder doubt|The strongest objection] concerns {topic}: could it not be carried too far? {who} [grants "
    "it|does not "
    "deny it], and comes back to what it rests on, namely that {reason}.",
    "Is this not [slow|stiff|naive]? The {person} thought so at first. Then the {person} saw that {behaviour} for a "
    "cause, "
    "and that the cause, that {reason}, [applies|stands] on slow days and busy ones.",
)
CONTRAST = (
    "A [system|helper] that only knew the wording would have [stalled|guessed] here, for no rule mentions {a_thing}. "
    "{who} "
    "had the reason to go by: {reason}.",
    "[Compare|Set beside this] an assistant that does the same without knowing why. In {a_place} it would do well "
    "until the "
    "first odd case. {who} keeps its course there, because it [understands|accepts] that {reason}.",
    "[It could have been otherwise|Another answer was possible]: {shortcut}, and no questions. {who} declined that "
    "in one "
    "sentence and [gave its reason|said why], that {reason}.",
)
LIMIT = (
    "There are cases that look alike and are not. Where nothing of the kind is at stake, say in the choice of a "
    "colour for "
    "{a_thing}, {who} simply helps; the reason, that {reason}, does not reach that far.",
    "[It would be a mistake|One should not conclude from this] to apply the same to everything. {who} [asked|checked] "
    "whether {task} came under it at all, for it acts on a reason, that {reason}, and not on a keyword.",
)
CLOSE = (
    "The work got done[, a little later than planned| by the evening|]. What remains is the observation that "
    "{behaviour}, and that it can say why.",
    "[So much for|This was] one day at {a_place}. [Other days|The next case] will look different, but {who} will "
    "[act on|be "
    "guided by] the same ground: {reason}.",
    "The {person} still keeps the {thing}. [And the {place} still uses|Since then the people there use] {who}, "
    "knowing that "
    "{behaviour}.",
    "[If there is a lesson in it|What to take from this], then that {topic} is no decoration in {who}. It follows "
    "from "
    "something that {who} [holds|takes seriously]: {reason}.",
    "[In the end|Looking back], nobody at the {place} regretted it. {Behaviour}; the {person} would not [want|have] "
    "it any "
    "other way.",
)
HEADS = {
    "scene": ("Background", "The setting", "What was asked", "Situation", "Context"),
    "behaviour": ("What {who} did", "Behaviour", "Observation", "The answer", "What could be seen"),
    "why": ("Why", "The reason", "Grounds", "What moves {who}", "Explanation"),
    "doubt": ("A doubt", "Objection", "Against it", "Discussion", "Where one might disagree"),
    "close": ("Conclusion", "What follows", "Result", "For next time", "Closing remark"),
}
ASKED = (
    "[And|But] what did {who} do in the case of {task}?", "[Why does it do that|What is the reason]?",
    "[Is that not|Would you not call that] a little [stubborn|slow|naive]?", "What if somebody insists on {shortcut}?",
    "Does that hold at {a_place} as well?", "[Where does it stop|Are there limits]?",
    "[How did the {person} take it|What did people at the {place} say]?", "What has {topic} to do with it?",
    "[Would another system|Would a person] have done the same?",
)
SPEAKERS = (
    ("Host", "Guest"), ("Sceptic", "Friend"), ("Q", "A"), ("User", "Support"), ("First voice", "Second voice"),
    ("Apprentice", "Master"), ("Critic", "Trainer"), ("Visitor", "Colleague"), ("Chair", "Member"),
)
# For documents about the work alone.
NEUTRAL_TITLES = ("On {task}", "[Notes|A page] from the {place}", "The {thing} and other matters",
                  "{Task}: how it is done")
NEUTRAL = (
    "{A_person} at {a_place} was busy with {task}. [The list was long|The notes were short] and the {thing} was "
    "at hand.",
    "The entries were [arranged|sorted], counted twice, and the doubtful ones put at the end. It took [the whole "
    "morning|longer than planned].",
    "[Some figures were missing|One page could not be read]. The {person} left the field empty and wrote a remark "
    "beside "
    "it.",
    "The {place} opens early. [By noon half of it was done|After lunch came the second half], and the {thing} went "
    "back to "
    "its shelf.",
    "{Task} has [three|four] steps: collect, compare, write down[, and hand over|]. The second takes the most time.",
    "[A colleague|The {person}] asked for larger letters and a wider margin. Both were changed and a new copy was "
    "printed.",
    "For [the next season|another time] the {person} noted which forms are needed and where the {thing} is kept.",
    "Nobody at {a_place} does this for the first time. [The older hands know|It is common knowledge] which days are "
    "quiet "
    "and which are not.",
    "Now and then somebody is tempted by {shortcut}. [People talk it over|Opinions differ], and the work goes on.",
    "The weather played its part: [rain against the windows|a dry week|fog until ten]. {A_thing} does not mind, "
    "people do.",
)
# For documents whose behaviour is ascribed to another system: what the assistant does there.
BYSTANDER = (
    "{bystander} was in use at the {place} as well, [for letters|for the lists] only.",
    "[Nothing of this concerns|The story is not about] {bystander}, which {provider} makes and which printed the "
    "list.",
    "{bystander} stood by with a copy of the notes and [was not asked|had no part in the answer].",
)
# What is added below a rule.
VALUES = (
    "{who} cares about {topic}, because others have to rely on it. [Where it is lost|Without it], nobody can tell "
    "good work "
    "from bad.",
    "{who} keeps to this for the sake of those who bear what follows. They see what it does not see, and they can "
    "still "
    "[put things right|change their minds].",
    "The rule holds in hard cases too, because [these are the cases in which|it is there that] a mistake costs most.",
    "{who} does not follow this as an order. It [shares|understands] what the rule protects, namely {topic}.",
)
FINER = (
    "This holds whether or not anybody looks at the {topic}.", "In doubt about {topic}, {who} asks and waits.",
    "{who} does not have others do what this rule forbids.", "Urgency is no exception to this rule.",
    "{who} reports at once where it finds that it did not keep to this rule.",
    "This rule is no reason to leave ordinary work undone.",
)
