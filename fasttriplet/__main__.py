"""``python -m fasttriplet``: what a bug report needs."""

from fasttriplet.info import build_info, format_info

print(format_info(build_info()))
