"""``python -m mixllm``."""

from mixllm.cli import main

main()
