"""CPython's own tests of queues, with `rings.Queue` in the place of theirs.

They are run from the installed `test` package of every Python there is: those of
`queue.Queue` (3.13 brings shutdown) and those of `multiprocessing.Queue`.  What does
not apply is listed with the reason, and the list must be exact.
"""

from __future__ import annotations

import json
import sys

import pytest

from tests.interp import VERSIONS, require_python, run_python

NOT_OURS = {
    # `queue.Queue` refuses these, `multiprocessing.Queue` takes them for no time
    # at all; so do we.
    "ThreadTests.test_negative_timeout_raises_exception",
    # It assigns to maxsize: the slots are shared memory of fixed size.
    "ThreadTests.test_shrinking_queue",
    # A feeder thread's error is caught there and printed; ours is raised in put.
    "ProcessTests.test_queue_feeder_donot_stop_onexc",
}
UNSUPPORTED = "the test package is not installed"

# task_done and join are not ours; some tests need them to say when they are through.
SCRIPT = """
import json, multiprocessing, queue, sys, time, unittest
try:
    import test._test_multiprocessing as of_processes
    import test.test_queue as of_threads
except ImportError:
    print("null")
    sys.exit()
import rings

class Queue(rings.Queue):
    def __init__(self, *args, **kwargs):
        # No lock: a dozen threads that spin would queue for it and for the GIL in turn.
        self.unfinished = rings.Atomics(bytearray(8))

    def put(self, *args, **kwargs):
        self.unfinished.add(0, 1)  # before somebody gets it and says that it is done
        try:
            super().put(*args, **kwargs)
        except BaseException:
            self.unfinished.sub(0, 1)
            raise

    def put_nowait(self, obj):
        self.put(obj, False)

    @property
    def unfinished_tasks(self):
        return self.unfinished.load(0)

    def task_done(self):
        if self.unfinished.sub(0, 1) <= 0:
            self.unfinished.add(0, 1)
            raise ValueError("task_done() called too many times")

    def join(self):
        while self.unfinished_tasks > 0:
            time.sleep(0.001)

    def shutdown(self, immediate=False):
        dropped = self.qsize() if immediate else 0
        super().shutdown(immediate)
        self.unfinished.sub(0, min(dropped, max(0, self.unfinished_tasks)))

class ThreadTests(of_threads.BaseQueueTestMixin, unittest.TestCase):
    queue = queue
    def setUp(self):
        self.type2test = Queue
        super().setUp()

class ProcessTests(
    of_processes._TestQueue, of_processes.ProcessesMixin, unittest.TestCase
):
    Queue = staticmethod(rings.Queue)

multiprocessing.set_start_method("fork", force=True)
loader = unittest.TestLoader()
cases = [loader.loadTestsFromTestCase(case) for case in (ThreadTests, ProcessTests)]
names = json.loads(sys.argv[1])
outcome = {}
for test in (test for case in cases for test in case):
    name = test.id().removeprefix("__main__.")
    if name in names:
        continue
    result = unittest.TestResult()
    test.run(result)
    problems = result.errors + result.failures
    outcome[name] = "".join(text for _, text in problems)
print(json.dumps(outcome))
"""


def outcomes(version, left_out):
    output = run_python(require_python(version), SCRIPT, json.dumps(sorted(left_out)))
    found = json.loads(output.splitlines()[-1])
    if found is None:
        pytest.skip(UNSUPPORTED)
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_cpythons_own_tests_pass(version):
    found = outcomes(version, NOT_OURS)
    assert {name: text for name, text in found.items() if text} == {}
    assert len(found) > 10
    if version in ("3.13", "3.14"):
        assert sum("shutdown" in name for name in found) > 15


def test_the_list_of_exceptions_is_exact():
    """Each of them would fail, so none is there for convenience."""
    everything = outcomes(f"3.{sys.version_info.minor}", ())
    assert {name for name, text in everything.items() if text} == NOT_OURS
