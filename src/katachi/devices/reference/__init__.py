"""The reference device: the truth that every other device is tested against.

`REFERENCE[primitive](*arrays, **attributes)` is the definition of a primitive in NumPy, one obvious way each. Floats
are computed in float64 inside where rounding on the way would be a matter of taste, and rounded once.
"""

from katachi.devices.reference.attention import ATTENTION
from katachi.devices.reference.control import CONTROL
from katachi.devices.reference.elementwise import ELEMENTWISE
from katachi.devices.reference.linear import LINEAR
from katachi.devices.reference.movement import MOVEMENT
from katachi.devices.reference.random import RANDOM

REFERENCE = {**ELEMENTWISE, **MOVEMENT, **LINEAR, **RANDOM, **ATTENTION, **CONTROL}
