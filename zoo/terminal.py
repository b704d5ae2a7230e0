"""The converter's words for terminals and for missing packages, for the zoo and what stands on it."""

from converter.extras import missing as missing
from converter.extras import require as require
from converter.extras import to_install as to_install
from converter.terminal import Parser as Parser
from converter.terminal import notes as notes
from converter.terminal import say as say
