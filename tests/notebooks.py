"""Runs a notebook's cells without Jupyter: `python -m tests.notebooks FILE` writes their outputs into it."""

import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path


def run(path: Path) -> dict:
    """Return the notebook with the outputs of its cells, run in one namespace in the present folder."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    names = {"__name__": "__main__"}
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            cell["execution_count"], cell["outputs"] = count, list(_outputs("".join(cell["source"]), names, count))
    return notebook


def _outputs(code: str, names: dict, count: int):
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"cell {count}", "exec"), names)
        shown = None if last is None else eval(compile(ast.Expression(last.value), f"cell {count}", "eval"), names)
    if printed.getvalue():
        yield {"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)}
    if shown is not None:
        data = {"text/plain": [repr(shown)]}
        if hasattr(shown, "_repr_png_"):
            data["image/png"] = base64.b64encode(shown._repr_png_()).decode()
        yield {"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": data}


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(json.dumps(run(file), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
