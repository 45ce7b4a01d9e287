"""Regions and channels between interpreters that each have their own GIL."""

import pytest

from tests.interp import OWN_GIL, require_python, run_python

SHIM = """
import sys
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
"""


@pytest.fixture(params=OWN_GIL)
def python(request):
    return require_python(request.param)


SHARE = """
from threading import Thread
from rings.channel import EventChannel
from rings.memory import Region

CODE = '''
import os
from rings.channel import EventChannel
from rings.memory import Region
region = Region.attach(%d, size=12288)
with EventChannel(os.dup(%d), os.dup(%d)) as channel:
    assert channel.wait(30)
    region.buffer[5000] += 1
    channel.notify()
region.close()
'''
region = Region.create(12288)
here, there = EventChannel.pair()
code = CODE % (region.fd, there.notify_fd, there.fileno())
def work():  # 3.12 hangs if another thread ends it once threading was imported there
    other = new()
    run(other, code)
    end(other)
thread = Thread(target=work)
thread.start()
region.buffer[5000] = 41
here.notify()
assert here.wait(30)
print(region.buffer[5000])
thread.join()
"""


def test_a_region_and_a_channel_reach_another_interpreter(python):
    assert run_python(python, SHIM + SHARE) == "42\n"


GRANT = """
CODE = '''
from rings import BusyError, layout
from rings.grants import GrantTable
from rings.memory import Region
from rings.pool import BufferPool
geometry = layout.split_geometry(slots=8, grants=8, data_size=65536)
region = Region.create(geometry.size, kind=layout.KIND_SPLIT)
pool = BufferPool(region, geometry, GrantTable(region, geometry))
grant = pool.alloc(4096)
view = grant.view()
try:
    pool.free(grant)
except BusyError as error:
    print("busy", flush=True)
view.release()
pool.free(grant)
region.close()
'''
for _ in range(3):
    other = new()
    run(other, CODE)
    end(other)
"""


def test_grants_and_their_counted_views_work_there(python):
    assert run_python(python, SHIM + GRANT) == "busy\n" * 3


COME_AND_GO = """
from threading import Thread
CODE = '''
from rings.memory import Region
for _ in range(50):
    with Region.create(8192) as region, Region.attach(region.fd) as other:
        view = region.view(4096, 16)
        memoryview(view)[0] = 7
        assert other.buffer[4096] == 7
'''
def work():
    for _ in range(5):
        other = new()
        run(other, CODE)
        end(other)
threads = [Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("done")
"""


def test_many_interpreters_come_and_go(python):
    assert run_python(python, SHIM + COME_AND_GO) == "done\n"
