"""What exists only to be fast on a CPU: kernels behind ordinary modules.

A finished detector is turned fast, and back, by `accelerate` and `restore`; nothing else knows of
this folder but `tcm_d2.inference.speed`, which the library and its tools go through.
"""

from tcm_d2.cpu.acceleration import accelerate, restore
from tcm_d2.cpu.process_memory import keep_freed_memory

__all__ = ["accelerate", "keep_freed_memory", "restore"]
