"""All families, in the order of the table."""

from tests.gauntlet.decoder_models import DECODERS
from tests.gauntlet.family import Family
from tests.gauntlet.handwritten import HANDWRITTEN
from tests.gauntlet.other_models import IMAGES, SIGNALS
from tests.gauntlet.text_models import ENCODERS, SEQ2SEQ

FAMILIES: list[Family] = [*ENCODERS, *SEQ2SEQ, *DECODERS, *IMAGES, *SIGNALS, *HANDWRITTEN]
BY_NAME = {family.name: family for family in FAMILIES}
GROUPS = list(dict.fromkeys(family.group for family in FAMILIES))
