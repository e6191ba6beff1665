"""The tests of this room share the oracles beside this file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
