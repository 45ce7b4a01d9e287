"""`rings size`: advice as a table, as JSON, or a refusal in one line."""

import json
import subprocess
import sys

import pytest

from rings import advise, cli, size

ASKED = ["--rate", "50k", "--service", "200us", "--servers", "16", "--cores", "4"]
PAUSED = [*ASKED, "--pause", "2ms", "--p99", "2ms"]


def run(capsys, *words):
    code = cli.main(["size", *words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_it_prints_the_advice_its_neighbours_and_the_reason(capsys):
    code, out, err = run(capsys, *PAUSED)
    use, _, titles, *rows, _, why = out.splitlines()
    assert (code, err) == (0, "")
    assert use == "use 128 slots (order 2), batches of 2, wait 'spin:60'"
    assert titles.split()[:3] == ["slots", "per", "second"]
    smaller, advised, bigger = (row.split() for row in rows)
    assert advised[:3] == ["->", "128", "50,000"]
    assert (smaller[0], bigger[0]) == ("64", "256")
    assert why.startswith("50,000/s x ")
    assert "a pause of 2 ms adds 100: 128 slots; with 256 a full ring" in why


def test_json_is_the_same_as_the_function(capsys):
    code, out, _ = run(capsys, *PAUSED, "--json")
    told = json.loads(out)
    advice = advise(50e3, 200e-6, servers=16, pause_s=2e-3, p99_s=2e-3, cores=4)
    assert code == 0
    assert told["slots"] == advice.slots
    assert told["why"] == advice.why
    assert told["predicted"] == advice.predicted._asdict()


def test_what_takes_for_ever_is_null_in_json(capsys):
    asked = ["--rate", "10k", "--service", "5ms", "--servers", "60"]
    _, out, _ = run(capsys, *asked, "--json")
    assert json.loads(out)["smaller"]["p99_s"] is None
    _, out, _ = run(capsys, *asked)
    assert "for ever" in out


def test_without_a_rate_the_ring_is_always_asked(capsys):
    _, out, _ = run(capsys, "--service", "5ms", "--servers", "100")
    assert out.startswith("use 128 slots (order 2)")
    assert "97 slots carry 95 % of 20,000/s" in out


def test_every_argument_of_the_function_is_an_option(capsys):
    code, out, _ = run(
        capsys, "--rate", "700k", "--service", "1ms", "--servers", "2k", "--pause",
        "1ms", "--p99", "20ms", "--producers", "3", "--variability", "fixed",
        "--policy", "drop_new", "--loss", "0.01", "--wait", "busy", "--wake", "40us",
        "--request", "1us", "--cores", "3",
    )  # fmt: skip
    advice = advise(
        700e3, 1e-3, servers=2000, pause_s=1e-3, p99_s=20e-3, producers=3,
        variability="fixed", policy="drop_new", loss=0.01, wait="busy", wake_s=40e-6,
        request_s=1e-6, cores=3,
    )  # fmt: skip
    assert code == 0
    assert out == size.to_text(advice) + "\n"


def test_what_no_ring_can_do_is_a_sentence_and_exit_code_1(capsys):
    code, out, err = run(
        capsys, "--rate", "50k", "--service", "200us", "--servers", "8", "--pause",
        "2ms", "--p99", "1ms",
    )  # fmt: skip
    assert (code, out) == (1, "")
    assert err.startswith("rings: 8 servers of 200 us serve 40,000/s at most")
    assert "set servers to 11 or more" in err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--service", "5 parsecs"], "'5 parsecs' is not a time: write 200us"),
        (["--service", "5ms", "--rate", "many"], "'many' is not a number: write 800"),
        (["--service", "5ms", "--servers", "1.5"], "'1.5' is not a whole number"),
        (["--rate", "800"], "--service"),
    ],
)
def test_what_cannot_be_read_is_usage(capsys, words, complaint):
    with pytest.raises(SystemExit) as caught:
        cli.main(["size", *words])
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_python_m_rings_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "rings", "size", "--service", "5ms", "--servers", "100"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "use 128 slots" in done.stdout
