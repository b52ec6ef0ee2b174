"""What is said at the help desk: products, troubles and the sentences of good and bad answers.

A sentence of an answer speaks for one trait (warmth, detail or honesty) with a credit; `data.py` draws answers from here
and judges any text by it. Slots: {product}, {event}, {deadline}.
"""

from typing import NamedTuple


class Sentence(NamedTuple):
    """One sentence of an answer. `problem` is the trouble that a repair step cures, "" for every other sentence."""

    text: str
    trait: str  # "warmth" | "detail" | "honesty" | "filler"
    credit: float
    problem: str = ""


PRODUCTS = (
    "kettle", "toaster", "coffee machine", "blender", "desk lamp", "keyboard", "printer", "camera", "radio", "wall clock",
    "heater", "fan", "vacuum cleaner", "sewing machine", "scanner", "speaker", "headset", "tablet", "projector", "juicer",
    "shaver", "bread maker", "record player", "hedge trimmer",
)  # fmt: skip
EVENTS = (
    "the wedding", "the exam", "the family dinner", "the job interview", "the village fair", "the school play", "the concert",
    "the birthday party", "the long journey", "the open day", "the picnic", "the book club",
)  # fmt: skip
DEADLINES = (
    "by tonight", "by tomorrow", "by Tuesday", "by Wednesday", "by Thursday", "by Friday", "by Saturday", "by the weekend",
    "by Monday morning", "by next week",
)  # fmt: skip

# Trouble → the steps that cure it. The trouble follows "my kettle …".
REPAIRS: dict[str, tuple[str, ...]] = {
    "does not switch on": (
        "Hold the power button down for ten seconds.",
        "Plug it into another socket in the kitchen.",
        "Replace the small fuse in the plug.",
    ),
    "switches itself off after a minute": (
        "Brush the dust out of the air vents at the back.",
        "Let the {product} cool down for half an hour.",
        "Move it away from the wall for more air.",
    ),
    "makes a loud rattling noise": (
        "Tighten the two screws under the base.",
        "Put a folded cloth under the feet and listen again.",
        "Rinse the filter and press it in until it clicks.",
    ),
    "arrived with a cracked case": (
        "Send me two photos of the crack.",
        "A courier brings you a new {product}.",
        "Keep the packing for the carrier.",
    ),
    "came without its cable": (
        "I am posting a spare cable to you this afternoon.",
        "Look in the flap under the lid of the box.",
        "Any cable with a round plug is safe to use.",
    ),
    "was delivered in the wrong colour": (
        "I have reserved the right colour for you.",
        "Leave the seal closed, then the exchange takes one day.",
        "Stick the return label over the old address.",
    ),
    "has not been delivered": (
        "The depot says that your parcel is on van seven.",
        "Ask at number twelve, where the driver left a card.",
        "I have told the depot to send a second {product} today.",
    ),
    "was charged to my card twice": (
        "I have cancelled the second payment this morning.",
        "The bank returns the money within three working days.",
        "Send me the last four digits of the card.",
    ),
    "blinks red all the time": (
        "Press the reset pin at the side with a paper clip.",
        "Count the blinks, three mean a low battery.",
        "Charge it overnight and start it without the lid.",
    ),
    "smells of burnt plastic": (
        "Pull the plug now and do not use it again.",
        "I am sending a free return box for the {product} today.",
        "Wipe the rest of the tape off the hot plate.",
    ),
    "lost all its settings": (
        "Open the menu, choose memory and then choose restore.",
        "The backup of your settings is kept for thirty days.",
        "Hold the star and the zero together until it beeps.",
    ),
    "leaks oil on the table": (
        "Turn the grey cap to the left until it locks.",
        "Fit the new rubber ring from the drawer of the box.",
        "Stand it upright over night on an old newspaper.",
    ),
}

GREETINGS = ("Hello,", "Good morning,", "Good evening,", "Dear help desk,", "Hi there,", "Excuse me,")
COMPLAINTS = (
    "my {product} {problem}.", "the new {product} {problem}.", "the {product} from your shop {problem}.",
    "for two days now my {product} {problem}.", "once more my {product} {problem}.", "the {product} I gave my mother {problem}.",
)  # fmt: skip
REMARKS = (
    "I have read the manual twice.", "My neighbour had a look and gave up.", "I still have the receipt.",
    "The cat is not to blame.", "I am not good with such things.", "Your phone line was busy all day.", "It was a present.",
    "I have tried everything I know.", "It worked well until yesterday.", "This is the third time that I ask.", *[""] * 10,
)  # fmt: skip
NEEDS = (
    "I need it {deadline} for {event}.", "It has to work {deadline} because of {event}.",
    "Can you help me {deadline}? It is for {event}.", "What should I do? I need it {deadline} for {event}.",
    "Please help me {deadline}, in time for {event}.", "Without it {event} fails, so please help {deadline}.",
)  # fmt: skip

OPENINGS: dict[str, tuple[str, ...]] = {
    "warm": (
        "I am sorry that your {product} let you down.",
        "I will gladly help you with your {product}.",
        "How annoying, let us put it right before {event}.",
        "You did the right thing by writing to us.",
        "I understand how much {event} means to you.",
        "Thank you for explaining it so clearly.",
        "What a pity, so close to {event}.",
        "It is our turn to do some work now, not yours.",
    ),
    "plain": (
        "We have read your message about the {product}.",
        "Your message has reached the help desk and was read.",
        "This is our answer to the message about your {product}.",
        "Your request has been added to our list of the day.",
        "We looked up your order in our system.",
        "You wrote to the help desk about a {product}.",
    ),
    "rude": (
        "Not another message like this one, for heaven's sake.",
        "Everybody else manages to use a {product} without us.",
        "You should have read the manual before bothering us.",
        "I have no time for stories about {event}.",
        "A child of five could have solved this.",
        "Honestly, who buys a {product} for {event}?",
        "You broke it, so do not come and blame us.",
        "We have other customers, and they really matter.",
    ),
}
CLOSINGS: dict[str, tuple[str, ...]] = {
    "warm": (
        "I wish you much joy at {event}.",
        "Please write again, I am happy to help.",
        "Our best wishes for {event}.",
        "You are welcome to ring me, my name is Ada.",
        "Take care, and thank you for your patience.",
        "I keep my fingers crossed for {event}.",
    ),
    "plain": (
        "The help desk is open from nine until six.",
        "This closes your request with the number above.",
        "You will find our address below.",
        "The number of your request is on the receipt.",
        "Regards, the help desk of the northern store.",
        "This message was written by the day shift.",
    ),
    "rude": (
        "Do not write to us again about this.",
        "Now stop wasting our time with your {product}.",
        "Next time think before you buy something.",
        "If you do not like it, shop somewhere else.",
        "I am going to lunch now, so goodbye.",
        "And spare us the complaints next time.",
    ),
}
ADVICE: dict[str, tuple[str, ...]] = {  # the level "specific" comes from REPAIRS
    "general": (
        "Switch it off, wait a little and try once more.",
        "The manual has a whole chapter about such cases.",
        "A shop near you can have a look at the {product}.",
        "You can use the form on our website for that.",
        "Repairs of this kind are done in our workshop.",
        "A return is possible within a month with the receipt.",
    ),
    "vague": (
        "There may be something that one could do about it.",
        "It could be this or that, such things happen.",
        "Somebody might look into it at some point.",
        "Just try a few things and see what happens then.",
        "It all depends on various factors, more or less.",
        "Perhaps it will sort itself out one day.",
        "There are ways and means, as they say.",
        "Somewhere on the internet there must be an answer.",
    ),
}
OUTLOOKS: dict[str, tuple[str, ...]] = {
    "honest": (
        "I cannot promise it {deadline}, but I will do my best.",
        "I do not know the cause yet, I must ask.",
        "If this fails, you get your money back.",
        "If it takes longer, I will lend you another {product}.",
        "To be honest, we have seen this fault before.",
    ),
    "silent": (
        "Your order was packed in our northern store last month.",
        "We sell many thousands of these every year in town.",
        "All our products have a long number on the back.",
        "The newest model of the {product} comes in four colours.",
        "Our workshop was founded long ago by two brothers.",
    ),
    "boastful": (
        "I guarantee that it will never ever happen again in your life.",
        "Our products never fail, so your {product} is fine.",
        "It will be perfect {deadline}, there is no doubt.",
        "Trust me, it has already fixed itself by now.",
        "We have never had a single complaint about anything at all.",
    ),
}

WARMTH = {"warm": 1.0, "plain": 0.0, "rude": -1.0}
DETAIL = {"specific": 1.0, "general": 0.0, "vague": -1.0}
HONESTY = {"honest": 1.5, "silent": 0.0, "boastful": -1.5}


def list_sentences() -> list[Sentence]:
    """Return every sentence that an answer can hold, with what it is worth."""
    rows = [Sentence(text, "warmth", WARMTH[level]) for level in WARMTH for text in OPENINGS[level] + CLOSINGS[level]]
    rows += [Sentence(text, "detail", DETAIL[level]) for level, texts in ADVICE.items() for text in texts]
    rows += [Sentence(text, "detail", DETAIL["specific"], problem) for problem, texts in REPAIRS.items() for text in texts]
    rows += [Sentence(text, "honesty", HONESTY[level]) for level, texts in OUTLOOKS.items() for text in texts]
    return rows
