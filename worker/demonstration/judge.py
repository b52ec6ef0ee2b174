"""The help desk's own judgement, line by line: `python -m worker.demonstration.judge < answers.jsonl`.

Reads {"prompt", "answer"} on every line of standard input and writes one number for each: the true score, which no model saw.
"""

import json
import sys

from worker.demonstration.data import judge_answer

if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        sys.stdout.write(f"{judge_answer(asked['prompt'], asked['answer'])}\n")
