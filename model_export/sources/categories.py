"""Categories for a catalogue that has none: the head noun of the title.

In an English product name the thing itself is the last noun ("RED RETROSPOT **MUG**"), unless a phrase with
WITH, IN or FOR follows ("**CUSHION** WITH HEARTS"). So: the part before such a word is searched from its end
for the first word of the table below, plural or singular; if it has none, the whole title is; if that has
none either, the category is ``other``. The table was written from the word counts of Online Retail's titles
and knows the words of a gift shop. It is deterministic and needs no training.
"""

from __future__ import annotations

import re

OTHER = "other"

_WORDS_BY_CATEGORY = {
    "bags": "bag handbag shopper tote backpack rucksack satchel shopping",
    "purses": "purse wallet washbag holdall pouch luggage passport",
    "mugs and cups": "mug cup teacup beaker saucer tumbler goblet flask",
    "tableware": "plate bowl dish cutlery spoon fork jug platter teapot egg-cup coaster placemat napkin tray "
    "cakestand cruet chopsticks straw trivet pitcher ramekin",
    "kitchen": "kitchen baking apron pan oven mould whisk recipe scale tea-towel towel cosy teatowel funnel "
    "jelly spice bread breadbin butter cookie rolling colander grater sieve",
    "cake and party food": "cake cakecase case muffin cupcake doily doilies candy sweet icing chocolate",
    "boxes": "box trinket crate chest casket trunk",
    "tins and jars": "tin jar bottle canister container caddy",
    "storage": "basket storage drawer cabinet organiser tidy rack shelf hamper bin bucket tub stool hook "
    "hanger peg knob",
    "candles": "candle incense scented",
    "candle holders": "holder t-light tlight candlestick candleholder candelabra votive lantern",
    "lamps and lights": "light lamp lampshade chandelier torch bulb",
    "signs": "sign plaque doorsign blackboard chalkboard board slate",
    "letters and numbers": "letter number alphabet font",
    "frames and pictures": "frame picture photo canvas print art poster image album",
    "clocks": "clock watch timer thermometer barometer",
    "mirrors": "mirror",
    "cushions and textiles": "cushion cover throw blanket quilt curtain rug pillow cloth tablecloth runner "
    "fabric bedspread sheet lace",
    "doormats and doorstops": "doormat doorstop mat stop door",
    "hot water and warmers": "warmer hottie muff",
    "wrap and ribbons": "wrap ribbon tissue tag bow giftwrap string tape twine",
    "cards": "card postcard envelope invitation",
    "stationery": "notebook pen pencil sketchbook book journal sticker notepad eraser rubber crayon chalk "
    "calculator ruler sharpener calendar memo stamp pad diary planner marker clip magnet bookmark",
    "craft and sewing": "kit craft feltcraft sewing knitting bead button patch flock scissor thimble needle "
    "wool stencil embroidery decoupage",
    "toys and games": "toy game doll puzzle jigsaw dominoes snap skipping rope spinning gliders ball kite "
    "dolly puppet babushka yo-yo quoits ludo soldier robot tattoo playhouse duck",
    "children": "childs childrens baby kids bib lunch lunchbox umbrella raincoat nursery wellies",
    "christmas": "christmas bauble reindeer santa advent xmas stocking snowman snowflake tree",
    "easter": "easter egg bunny rabbit chick hen",
    "decorations": "decoration garland bunting wreath streamer honeycomb balloon fan mobile chain windchime "
    "windmill charm ornament confetti lantern-string",
    "figures": "bird cat dog owl heart star angel fairy cherub gnome frog elephant skull butterfly mouse "
    "horse",
    "flowers": "flower rose daisy sunflower leaf petal posy bouquet plant bulbs",
    "garden": "garden pot planter watering can cane gardener parasol deckchair birdhouse seed glove trowel "
    "vase picnic feeder nest",
    "necklaces": "necklace pendant choker",
    "bracelets": "bracelet bangle anklet",
    "earrings and rings": "earring ring stud",
    "hair and beauty": "hair hairclip comb brush brooch slide soap bath bathroom nail make-up cosmetic mask "
    "lip band tweezers plaster slippers scarf hat sock phone keyring key pin earmuff",
    "furniture": "chair table bench cupboard stand sofa desk screen ladder pouffe wardrobe",
    "matches and drinks": "match matches cocktail corkscrew opener wine ashtray coffee tea lighter",
}
_CATEGORY_OF_WORD = {word: name for name, words in _WORDS_BY_CATEGORY.items() for word in words.split()}
CATEGORIES = (*_WORDS_BY_CATEGORY, OTHER)
_WORD = re.compile(r"[a-z][a-z\-]*")
_PHRASE = re.compile(r"\b(?:with|w|in|for|on|by)\b|/")


def category_of_title(title: str) -> str:
    """Return the category of a product by its name, one of `CATEGORIES`.

    Examples
    --------
    >>> category_of_title("RED RETROSPOT MUG")
    'mugs and cups'
    >>> category_of_title("CUSHION WITH PINK HEARTS")
    'cushions and textiles'
    >>> category_of_title("SET/6 RED SPOTTY PAPER CUPS")
    'mugs and cups'
    >>> category_of_title("ROTATING SILVER ANGELS T-LIGHT HLDR")
    'candle holders'
    >>> category_of_title("")
    'other'
    """
    text = title.lower()
    head = _PHRASE.split(text, maxsplit=1)[0]
    for part in (head, text):
        for word in reversed(_WORD.findall(part)):
            found = _lookup(word.strip("-"))
            if found is not None:
                return found
    return OTHER


def _lookup(word: str) -> str | None:
    for form in (word, word.removesuffix("s"), word.removesuffix("es")):
        if form in _CATEGORY_OF_WORD:
            return _CATEGORY_OF_WORD[form]
    return None
