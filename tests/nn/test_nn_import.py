"""What importing the room costs."""

import subprocess
import sys


def test_importing_the_room_loads_no_heavy_library():
    heavy = "{'tensorflow', 'keras', 'tf_keras', 'matplotlib', 'sklearn', 'scipy', 'pandas'}"
    program = f"import sys, bncourse.nn; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_all_public_names_exist():
    import bncourse.nn as room

    assert sorted(room.__all__) == sorted(set(room.__all__))
    assert all(hasattr(room, name) for name in room.__all__)
