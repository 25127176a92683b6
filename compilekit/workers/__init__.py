"""Work in a process of its own, by another interpreter maybe: requests, progress, results.

For vendors' libraries that pin other versions than compilekit runs with, or that change the
process that imports them. The plugin brings a package with a function `run(request, say)`.
`serve.py` runs it, also in an interpreter without compilekit: there the package can import
`compilekit.workers.faults`, and no other part of compilekit. Both are Python 3.10. `run_worker`
asks once; a `Worker` stays, and can be asked again. Requests and results are what JSON can hold;
files go through folders.
"""

from compilekit.workers.client import Worker, run_worker

__all__ = ["Worker", "run_worker"]
