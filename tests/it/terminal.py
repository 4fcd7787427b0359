"""Runs a command on a terminal of its own and answers its questions.

Arguments: what to answer ("init": the words that the command shows; "serve": see below; "say:WORD": WORD to a question that
ends in "[y/N] "; else a file with the words), the command. Prints what the terminal showed; ends with the command's code, or 99 when it did not end in time.

With "serve" the command is one that serves until Ctrl-C: its "libernet get" line is printed at once, and Ctrl-C comes when
standard input ends.
"""

import os
import pty
import re
import select
import signal
import sys
import time

PATIENCE_S = 60


def answers_of_init(shown):
    """One wrong answer, and the right ones after that."""
    text, state = shown.decode(), answers_of_init.__dict__
    words = {int(n): w for n, w in re.findall(r"(\d+)\. ([a-z]+)", text)}
    asked = re.search(r"Word (\d+): $", text)
    if text.endswith("is cleared. "):
        return "\n"
    if asked and not state.get("was_wrong"):
        state["was_wrong"] = True
        return "zzz\n"
    if asked:
        # Four letters are enough.
        return words[int(asked.group(1))][:4] + "\n"
    return None


def answers_of_words(words):
    """Eleven of the words and one that is none, and then all of them, on two lines."""
    wrong = words[:11] + ["qqqq"]
    lines = [wrong, [w[:4] for w in words[:7]], [w.upper() for w in words[7:]]]

    def answer(shown):
        if shown.endswith(b"> ") and lines:
            return " ".join(lines.pop(0)) + "\n"
        return None

    return answer


def answers_of_server():
    """Nothing but Ctrl-C, once standard input has ended."""
    told = []

    def answer(shown):
        line = re.search(rb"libernet get (\S+)\r", shown)
        if line and not told:
            told.append(line)
            print(line.group(1).decode(), flush=True)
        if len(told) == 1 and select.select([0], [], [], 0)[0]:
            told.append("ended")
            return "\x03"
        return None

    return answer


def main():
    kind, command = sys.argv[1], sys.argv[2:]
    if kind == "serve":
        answer = answers_of_server()
    elif kind.startswith("say:"):
        word = kind.removeprefix("say:")
        answer = lambda shown: word + "\n" if shown.endswith(b"[y/N] ") else None
    elif kind == "init":
        answer = answers_of_init
    else:
        with open(kind, encoding="utf-8") as file:
            answer = answers_of_words(file.read().split())
    child, terminal = pty.fork()
    if child == 0:
        os.execv(command[0], command)
    shown, answered, end = b"", 0, time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 0.05)[0]:
            # Nothing more comes for now: perhaps it is our turn.
            is_asked = len(shown) > answered or kind == "serve"
            reply = answer(shown) if is_asked else None
            if reply is not None:
                answered = len(shown) + len(reply)
                os.write(terminal, reply.encode())
            continue
        try:
            part = os.read(terminal, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        sys.stdout.buffer.write(shown)
        sys.exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.stdout.buffer.write(shown)
    sys.exit(status)


main()
