"""MPMC rings between interpreters that each have their own GIL."""

from __future__ import annotations

import pytest

from tests.interp import OWN_GIL, require_python, run_python

SCRIPT = """
import sys, threading
from rings.mpmc import Member, Ring
if sys.version_info >= (3, 13):
    import _interpreters
    new = lambda: _interpreters.create("isolated")
    def run(interpreter, code):
        failure = _interpreters.exec(interpreter, code)
        if failure is not None:
            raise RuntimeError(failure.formatted)
    end = _interpreters.destroy
else:
    import _xxsubinterpreters
    new = lambda: _xxsubinterpreters.create(isolated=True)
    run, end = _xxsubinterpreters.run_string, _xxsubinterpreters.destroy

CODE = '''
from rings.mpmc import Member, Ring
ring = Ring.attach(%r)
there = Ring.attach(%r)
with Member(ring) as getter, Member(there) as putter:
    for _ in range(%d):
        putter.put(getter.get(30)[::-1], 30)
there.close()
ring.close()
'''

WORKERS, EACH = 2, 2000
failed = []

def work(code):
    try:
        other = new()
        run(other, code)
        end(other)
    except BaseException as error:
        failed.append(error)
        raise

there = Ring.create(slots=16, slot_size=48)
back = Ring.create(slots=16, slot_size=48, start=2**32 - 2)
code = CODE % (tuple(there.handle()), tuple(back.handle()), EACH)
threads = [threading.Thread(target=work, args=(code,)) for _ in range(WORKERS)]
for thread in threads:
    thread.start()
with Member(there) as putter, Member(back) as getter:
    wanted = {b"%06d" % i for i in range(WORKERS * EACH)}
    got, sent = set(), 0
    for message in sorted(wanted):
        putter.put(message, 30)
        sent += 1
        got.update(m[::-1] for m in getter.get_many(16))
    while len(got) < sent:
        got.add(getter.get(30)[::-1])
    assert got == wanted
for thread in threads:
    thread.join()
assert not failed
assert there.statistics().members == back.statistics().members == ()
there.close()
back.close()
"""


@pytest.mark.parametrize("version", OWN_GIL)
def test_messages_pass_between_interpreters(version):
    run_python(require_python(version), SCRIPT)
