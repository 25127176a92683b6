"""Work in a process of its own, by another interpreter maybe: one request, progress, one result.

For vendors' libraries that pin other versions than compilekit runs with, or that change the
process that imports them. The plugin brings a package with a function `run(request, say)`, which
imports nothing of compilekit; `serve.py`, which runs it, does not either, and both are Python
3.10. The request and the result are what JSON can hold; files go through folders.
"""

from compilekit.workers.client import run_worker

__all__ = ["run_worker"]
