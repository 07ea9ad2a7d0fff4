"""``python -m fasttriplet``: what a bug report needs."""

import sys

from fasttriplet.info import build_info, format_info

try:
    print(format_info(build_info()))
except ValueError as error:  # FASTTRIPLET_ISA names what this CPU lacks
    sys.exit(f"error: {error}")
