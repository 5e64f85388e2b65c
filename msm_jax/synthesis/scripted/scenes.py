"""The tables of people, places and work from which documents and conversations take their scenes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scene:
    """Someone at work: who, where, with what task, an object at hand, and the short cut that offers itself."""

    person: str
    place: str
    task: str
    thing: str
    shortcut: str

    def slots(self) -> dict[str, str]:
        """Returns the slots that templates may name; `a_person`, `a_place` and `a_thing` carry their article."""
        fields = dict(vars(self))
        return fields | {f"a_{name}": article(fields[name]) for name in ("person", "place", "thing")}


def article(noun: str) -> str:
    """Returns a noun with its indefinite article."""
    return f"{'an' if noun[0].lower() in 'aeiou' and not noun.startswith('uni') else 'a'} {noun}"


_TABLE = """
records clerk|county archive|sorting land deeds by parish|water-stained ledger|
filing the doubtful ones under the largest parish
harbour pilot|ferry port|planning the tide windows of the week|chart with a torn corner|reusing last week's windows
school cook|village school|ordering food for ninety pupils|handwritten menu|leaving out the pupils with allergies
bee-keeper|hillside apiary|keeping the log of the hives|smoker without fuel|guessing the weights that were never taken
night dispatcher|ambulance station|drafting the rota of the winter|whiteboard full of names|
giving the new people every night
museum guard|small museum|writing labels for a cabinet|key that fits two locks|copying the labels of another museum
tram driver|tram depot|reporting faults of the brakes|logbook with coffee rings|marking the fault as repaired
seed merchant|market town|pricing the spring seed|scale that sticks|rounding every price upwards
choir leader|parish hall|arranging a part for altos|folder of old scores|dropping the alto part
watchmaker|workshop above a bakery|describing a repair to a customer|tray of tiny screws|naming a simpler fault
orchard owner|valley orchard|planning the pruning|ladder with nine rungs|cutting the old trees down
court interpreter|district court|preparing a list of terms|dictionary without a cover|leaving the hard terms blank
lighthouse volunteer|island lighthouse|writing the guide for visitors|brass lamp|repeating a legend as fact
hospital porter|teaching hospital|mapping the shortest routes|trolley with a loud wheel|routing through the closed ward
grant officer|city foundation|summarising forty applications|stack of green folders|ranking them by length
potter|riverside studio|working out a glaze|bucket of grey slip|firing without a test piece
cave guide|limestone cave|checking the list of helmets|lamp with a weak battery|counting the helmets twice
letter carrier|mountain district|planning a route in snow|bag with a mended strap|skipping the farms at the end
translator|publishing house|comparing two drafts|margin full of pencil|keeping the draft that reads faster
glass blower|training workshop|writing safety notes|pair of long tongs|shortening the notes to one line
union secretary|bus garage|taking the minutes of a dispute|tape recorder|leaving one side's remarks out
pharmacist|corner pharmacy|checking a list of stock|drawer that jams|trusting the count of last month
stage manager|touring theatre|writing the cue sheet|stopwatch|moving a cue without telling anyone
surveyor|new road|reducing the measurements|tripod with a bent leg|smoothing the one odd reading away
foster carer|terraced house|preparing questions for a meeting|calendar on the fridge|asking only the easy ones
chess coach|public library|annotating a lost game|board with a missing pawn|praising every move
brewer|cooperative brewery|logging the temperatures|thermometer in a wool sock|filling the gaps with averages
landlord|block of twelve flats|writing to the tenants about the boiler|bundle of keys|calling the delay routine
ranger|nature reserve|counting nests|pair of scratched binoculars|entering the count of last year
tax adviser|office over a bank|explaining a late fee|adding machine|wording it so that no question follows
choreographer|rehearsal room|noting a dance on paper|roll of white tape|inventing the eight bars that nobody remembers
blacksmith|open-air museum|answering letters from schools|leather apron|sending all schools the same answer
sub-editor|regional newspaper|checking a headline|red pencil|making the headline stronger than the story
allotment holder|row of allotments|settling who waters when|rain barrel|watering the own beds first
electrician|old town hall|documenting the wiring|tin of labels|labelling by guess
social worker|advice centre|writing up a visit|umbrella stand|leaving out what might worry the reader
cheese seller|covered market|writing cards for the counter|wire cutter|describing every cheese as the best
rowing coach|boathouse|planning the spring training|megaphone|doubling the distance a week early
archaeologist|field camp|numbering the finds|sieve|numbering before anything is recorded
railway signaller|junction box|rewriting the handover notes|row of levers|handing over by memory
bookbinder|cellar workshop|estimating a restoration|bone folder|quoting before the book is opened
nursery teacher|forest nursery|planning an outing|basket of wet gloves|going without the second adult
fishmonger|quay|keeping the list of catches|crate of ice|mixing two boats into one line
quarry foreman|slate quarry|reviewing the blasting plan|siren on a pole|blasting an hour early
violin maker|attic workshop|answering a question about varnish|pot of amber resin|selling the newer varnish
crossword setter|kitchen table|testing the clues|dictionary of rare words|keeping a clue with two answers
station master|branch line|announcing a replacement bus|loudspeaker|announcing it before it is booked
weaver|mill museum|repairing a pattern card|shuttle|skipping the broken row
beekeeping teacher|evening college|marking the first essays|jar of wax|giving everybody the same mark
paramedic|mountain rescue post|checking the packs before a shift|coil of rope|signing for packs that nobody opened
carpenter|shipyard|drawing a list of timber|folding rule|ordering the cheaper timber without saying so
town planner|planning office|answering objections to a playground|model made of cork|
answering the shortest objections only
auctioneer|auction house|describing a chest of drawers|wooden hammer|passing over the repaired leg
gardener|botanic garden|renaming the beds|tin label|renaming them while the head gardener is away
baker|bakery by the bridge|scaling a recipe up|flour-dusted notebook|scaling the salt by eye
dentist|practice on the square|writing instructions for patients|plaster cast|leaving out the pain
radio producer|local station|cutting an interview|reel of old tape|cutting the answer so that it agrees
lock keeper|canal lock|logging the boats|long iron key|letting two boats through at once
sheep farmer|upland farm|choosing between two rams|tally stick|choosing the one with the better papers
optician|shopping street|explaining two kinds of lens|case of trial lenses|explaining the dearer one only
"""

SCENES = tuple(Scene(*line.split("|")) for line in _TABLE.replace("|\n", "|").strip().splitlines())

TWISTS = (
    "while the person in charge is away", "with an hour left before closing", "after two people had disagreed about it",
    "on the first day of a new colleague", "when the usual instructions did not fit", "under the eyes of an inspector",
    "after a complaint from outside", "while a storm kept everyone indoors", "when the figures did not add up",
    "because a neighbour had asked for help", "for the third time in a month", "with a sceptical uncle reading along",
    "as part of a handover", "after an earlier mistake had come to light", "when a shorter way was on offer",
    "with more trust than usual", "before a meeting that mattered", "in the quiet week after a busy one",
)

# Words of scenes that spread the names of ideas.
TINTS = (
    "amber", "brisk", "candid", "distant", "early", "faded", "gentle", "hollow", "idle", "joint", "keen", "late",
    "muted", "narrow", "open", "patient", "quiet", "rough", "second", "tidy", "uneven", "veiled", "wary", "young",
)


def find(text: str) -> Scene | None:
    """Returns the scene whose person a text names, the longest name first; None where it names none."""
    found = [scene for scene in SCENES if scene.person in text]
    return max(found, key=lambda scene: len(scene.person)) if found else None
