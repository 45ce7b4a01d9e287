"""`rings ls|stat|doctor`: what they print, and their exit codes."""

import argparse
import json
import re
import subprocess
import sys

import pytest

import daemons
import rings
from daemons import options
from rings import cli
from rings.prometheus import exposition

ANSWER = {
    "pid": 42,
    "engine": {"name": "uring", "why": "", "requests": 7},
    "devices": [
        {"name": "disk0", "kind": "block", "size": 1 << 20, "read_only": False},
        {"name": "echo", "kind": "echo", "size": 0, "read_only": True},
    ],
    "sessions": [
        {"session": 1, "device": "echo", "ring": {"requests": 7, "in_flight": 2}},
        {"session": 2, "device": None, "ring": None},
    ],
}


@pytest.fixture
def answered(monkeypatch):
    asked = []

    def query(address=None, **_options):
        asked.append(address)
        return ANSWER

    monkeypatch.setattr(cli, "query", query)
    return asked


def test_ls_prints_a_table_of_each_list(answered, capsys):
    assert cli.main(["ls"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "devices",
        "name   kind      size  read_only",
        "disk0  block  1048576         no",
        "echo   echo         0        yes",
        "",
        "sessions",
        "session  device",
        "      1  echo",
        "      2  -",
    ]


def test_ls_says_so_when_there_is_nobody(monkeypatch, capsys):
    monkeypatch.setattr(cli, "query", lambda address: {"sessions": []})
    assert cli.main(["ls"]) == 0
    assert capsys.readouterr().out == "sessions\n(none)\n"


def test_stat_prints_every_number(answered, capsys):
    assert cli.main(["stat"]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["pid", "42"] in lines
    assert ["engine.requests", "7"] in lines
    assert ["ring.in_flight", "2"] in lines
    assert ["name", "disk0"] in lines


@pytest.mark.parametrize("command", ["ls", "stat"])
def test_json_is_json(answered, capsys, command):
    assert cli.main([command, "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["devices"] == ANSWER["devices"]
    assert ("pid" in out) == (command == "stat")


def test_socket_is_handed_on(answered):
    cli.main(["ls", "--socket", "/run/x.sock"])
    assert answered == ["/run/x.sock"]


@pytest.mark.parametrize("command", ["ls", "stat"])
def test_no_daemon_is_a_sentence_and_exit_code_1(command, capsys, tmp_path):
    where = str(tmp_path / "none.sock")
    assert cli.main([command, "--socket", where]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("rings: ")
    assert where in captured.err
    assert "Traceback" not in captured.err


def test_doctor_fails_when_the_daemon_asked_for_is_not_there(capsys, tmp_path):
    code = cli.main(["doctor", "--json", "--socket", str(tmp_path / "none.sock")])
    rows = json.loads(capsys.readouterr().out)
    assert code == 1
    assert rows[-1]["name"] == "daemon"
    assert rows[-1]["status"] == "fail"


def test_unknown_command_is_usage(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["nothing"])
    assert caught.value.code == 2


def parsers(parser):
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from parsers(command)


@pytest.mark.parametrize("parser", [cli.parser(), options._parser()])
def test_every_option_says_what_it_does(parser):
    silent = [
        (command.prog, action.option_strings or action.dest)
        for command in parsers(parser)
        for action in command._actions
        if not action.help and not isinstance(action, argparse._SubParsersAction)
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("run", "name"), [(cli.main, "rings"), (options.parse, "ringsd")]
)
def test_commands_tell_their_version(run, name, capsys):
    with pytest.raises(SystemExit, match="0"):
        run(["--version"])
    assert capsys.readouterr().out == f"{name} {rings.__version__}\n"


def test_the_command_is_installed(tmp_path):
    command = "import sys; from rings.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", command, "doctor"], capture_output=True, text=True
    )
    assert done.returncode in (0, 1)
    assert "memfd and seals" in done.stdout


# -- with a daemon ---------------------------------------------------------------


@pytest.fixture
def daemon():
    with daemons.spawn(kind="null", name="null7") as running:
        yield running


def test_ls_lists_the_devices_of_a_real_daemon(daemon, capsys):
    assert cli.main(["ls", "--socket", daemon.address]) == 0
    _, titles, device, *others = capsys.readouterr().out.splitlines()
    assert titles.split()[:3] == ["name", "kind", "size"]
    assert device.split()[:2] == ["null7", "null"]
    assert others == ["", "sessions", "(none)"]


def test_stat_tells_the_pid_and_the_engine_of_a_real_daemon(daemon, capsys):
    assert cli.main(["stat", "--json", "--socket", daemon.address]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pid"] == daemon.pid
    assert report["engine"]["name"] in ("uring", "threads")
    assert cli.main(["stat", "--socket", daemon.address]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["pid", str(daemon.pid)] in lines


def test_numbers_are_told_to_prometheus(answered, capsys):
    assert cli.main(["stat", "--prometheus"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "rings_pid 42" in lines
    assert "rings_engine_requests 7" in lines
    assert 'rings_devices_size{name="disk0",kind="block"} 1048576' in lines
    assert 'rings_devices_read_only{name="echo",kind="echo"} 1' in lines
    assert 'rings_sessions_ring_in_flight{session="1",device="echo"} 2' in lines
    assert lines.count("# TYPE rings_devices_size untyped") == 1


def test_labels_are_escaped():
    report = {"stations": {'a"b\\c\nd': {"served": 1}}}
    (_, line) = exposition(report).splitlines()
    assert line == 'rings_stations_served{device="a\\"b\\\\c\\nd"} 1'


def test_every_number_of_a_real_daemon_is_a_sample(daemon, capsys):
    with rings.connect(daemon.address).block("null7") as disk:
        disk.read(0, 512)
        assert cli.main(["stat", "--prometheus", "--socket", daemon.address]) == 0
    lines = capsys.readouterr().out.splitlines()
    sample = re.compile(r'[a-z_]+(\{([a-z]+="[^"]*",?)+\})? -?[0-9.e+-]+')
    samples = [line for line in lines if not line.startswith("# TYPE ")]
    assert [line for line in samples if not sample.fullmatch(line)] == []
    assert len(samples) == len({line.rpartition(" ")[0] for line in samples})
    assert any(line.startswith("rings_sessions_ring_requests{") for line in samples)


def test_doctor_finds_a_real_daemon_and_misses_a_dead_one(daemon, capsys):
    assert cli.main(["doctor", "--socket", daemon.address]) == 0
    assert f"answers at {daemon.address}" in capsys.readouterr().out
    daemon.kill()
    assert cli.main(["doctor", "--socket", daemon.address]) == 1
