"""``python -m fasttriplet``: what a bug report needs, and which engine runs what on which device."""

import sys

from fasttriplet.info import build_info, engine_table, format_engines, format_info

try:
    print(format_info(build_info()), format_engines(engine_table()), sep="\n\n")
except ValueError as error:  # FASTTRIPLET_ISA names what this CPU lacks
    sys.exit(f"error: {error}")
