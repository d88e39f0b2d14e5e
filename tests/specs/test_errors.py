"""Every code that a spec can get, with the exact text: one mistake each, and five at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from specs.diagnostics import CODES, Diagnostic, SpecError, nearest
from specs.spec import load_spec
from tests.specs.conftest import MODEL, PASSES, TASKS, Read

Refused = Callable[..., str]
GOOD = MODEL + PASSES

# what is wrong -> (spec, exact text)
CASES: dict[str, tuple[str | bytes, str]] = {
    "missing": (
        GOOD.replace(PASSES, TASKS.replace("loss:", "missing: none, loss:") + PASSES),
        "face.yaml:4:30  error[S105]: tasks[0].missing must be nan or an integer, got 'none'",
    ),
    "syntax": (
        "version: 1\nmodel: [1, 2\n",
        "face.yaml:3:1  error[S101]: not valid YAML: expected ',' or ']', but got '<stream end>'\n"
        "  hint: parsing a flow sequence that begins on line 2",
    ),
    "tab": (
        "version: 1\nmodel:\n\tfactory: a:b\n",
        "face.yaml:3:1  error[S101]: not valid YAML: found character '\\t' that cannot start any token\n"
        "  hint: indent with spaces, not with tabs",
    ),
    "colon": (
        "version: 1\nmodel: a: b\n",
        "face.yaml:2:9  error[S101]: not valid YAML: mapping values are not allowed here\n"
        "  hint: check the indentation, and put text that holds a colon and a space in quotes",
    ),
    "control character": (
        "version: 1\nseed: \x07\n",
        "face.yaml:2:7  error[S101]: the character #x0007 is not allowed",
    ),
    "escape beyond unicode": (
        'version: 1\nseed: "\\UFFFFFFFF"\n',
        "face.yaml:2:10  error[S101]: not valid YAML: the number in an escape or a directive is too large",
    ),
    "unquoted glob": (
        GOOD.replace("]]}", "]], protect: [*.head]}"),
        "face.yaml:2:67  error[S101]: not valid YAML: expected alphabetic or numeric character, but found '.'\n"
        "  hint: put text that begins with one of * & % @ ` in quotes",
    ),
    "no anchor": (
        GOOD + "seed: *seed\n",
        "face.yaml:4:7  error[S101]: the alias *seed has no anchor before it\n  hint: quote text that begins with *",
    ),
    "alias of itself": (
        GOOD + "data: &data {factory: a:b, args: *data}\n",
        "face.yaml:4:34  error[S101]: the alias *data stands inside what it refers to\n"
        "  hint: quote text that begins with *",
    ),
    "tag": (
        GOOD + "seed: !!python/object:os.system 1\n",
        "face.yaml:4:7  error[S101]: tags such as '!!python/object:os.system' are not supported",
    ),
    "key is a mapping": (
        GOOD + "data: {factory: a:b, args: {{a: 1}: 2}}\n",
        "face.yaml:4:29  error[S101]: a key must be a string or a whole number, got a mapping\n"
        "  hint: put it in quotes",
    ),
    "two documents": (
        "version: 1\n---\nversion: 1\n",
        "face.yaml:2:1  error[S101]: one document is expected, got a second one after ---",
    ),
    "surrogate": (
        GOOD + 'losses: "\\ud800"\n',
        "face.yaml:4:9  error[S101]: the text holds a character that is not allowed",
    ),
    "not utf-8": (
        b"version: 1\nseed: \xff\n",
        "face.yaml:2:7  error[S101]: the file is not UTF-8 text\n  hint: save it with the encoding UTF-8",
    ),
    "empty": (
        "# nothing\n",
        "face.yaml  error[S105]: the file is empty\n  hint: a spec begins with version: 1",
    ),
    "not a mapping": (
        "- version: 1\n",
        "face.yaml:1:1  error[S105]: a spec must be a mapping of keys to values, got a list",
    ),
    "duplicate key": (
        GOOD + "seed: 1\nseed: 2\n",
        "face.yaml:5:1  error[S102]: the key seed occurs twice\n  hint: the first one is on line 4",
    ),
    "unknown key": (
        GOOD + "buget: {macs: 40%}\n",
        "face.yaml:4:1  error[S103]: buget is not a known key\n  hint: did you mean budgets?",
    ),
    "unknown nested key": (
        GOOD.replace("inputs", "weigths: a.pt, inputs"),
        "face.yaml:2:30  error[S103]: model.weigths is not a known key\n  hint: did you mean weights?",
    ),
    "budget above all": (
        GOOD + "budgets:\n  macs: 140%\n",
        "face.yaml:5:9  error[S104]: budgets.macs must be below 100%, got 140%\n"
        "  hint: budgets are upper bounds on what is kept; write 60% to keep 60%",
    ),
    "budget of nothing": (
        GOOD + "budgets: {params: 0%}\n",
        "face.yaml:4:19  error[S104]: budgets.params must be above 0%, got 0%",
    ),
    "budget as a fraction": (
        GOOD + "budgets: {params: 0.4}\n",
        "face.yaml:4:19  error[S104]: budgets.params must be at least 1, got 0.4\n  hint: write 40% to keep 40%",
    ),
    "negative": (
        GOOD + "seed: -1\n",
        "face.yaml:4:7  error[S104]: seed must be at least 0, got -1",
    ),
    "infinite": (
        GOOD.replace("0.5", ".inf"),
        "face.yaml:3:27  error[S104]: passes[0].uniform.ratio must be finite, got inf",
    ),
    "no passes": (
        MODEL + "passes: []\n",
        "face.yaml:3:9  error[S104]: passes must not be empty",
    ),
    "ratio above max_ratio": (
        GOOD.replace("0.5", "0.5, max_ratio: 0.3"),
        "face.yaml:3:27  error[S104]: passes[0].uniform.ratio must be at most max_ratio, which is 0.3, got 0.5",
    ),
    "total too small": (
        MODEL + TASKS + "passes: [pagcp: {total: 1.02}]\n",
        "face.yaml:5:25  error[S104]: passes[0].pagcp.total must be above 1 + tolerance, which is 1.06, got 1.02\n"
        "  hint: total is what all groups together may do to a loss, tolerance what the first one may",
    ),
    "grid descends": (
        MODEL + TASKS + "passes: [pagcp: {grid: [0.5, 0.1], total: 6}]\n",
        "face.yaml:5:24  error[S104]: passes[0].pagcp.grid must ascend from the smallest ratio to the largest",
    ),
    "grid of one step": (
        MODEL + TASKS + "passes: [pagcp: {grid: {start: 0.1, stop: 0.9, steps: 1}, total: 6}]\n",
        "face.yaml:5:24  error[S104]: passes[0].pagcp.grid must have 2 to 200 steps, got 1",
    ),
    "yes is text": (
        GOOD.replace("0.5", "0.5, round_to: yes"),
        "face.yaml:3:42  error[S105]: passes[0].uniform.round_to must be a whole number, got 'yes'",
    ),
    "number for text": (
        GOOD + "losses: 3\n",
        'face.yaml:4:9  error[S105]: losses must be a string, got 3\n  hint: put it in quotes: "3"',
    ),
    "one shape": (
        GOOD.replace("[[1, 3, 64, 64]]", "[1, 3, 64, 64]"),
        "face.yaml:2:38  error[S105]: model.inputs must be a list of shapes, got one shape\n"
        "  hint: write [[1, 3, 64, 64]]: one shape per positional input",
    ),
    "not a list": (
        GOOD + "export: onnx\n",
        "face.yaml:4:9  error[S105]: export must be a list, got 'onnx'\n  hint: write [onnx]",
    ),
    "nothing": (
        GOOD + "budgets:\n",
        "face.yaml:4:9  error[S105]: budgets must be a mapping, got nothing",
    ),
    "grid of words": (
        MODEL + TASKS + "passes: [pagcp: {grid: {start: 0.1}, total: 6}]\n",
        "face.yaml:5:24  error[S105]: passes[0].pagcp.grid must be a list of ratios, "
        "or {start, stop, steps} with numbers",
    ),
    "two passes in one item": (
        MODEL + "passes:\n  - uniform:\n    ratio: 0.5\n",
        "face.yaml:4:5  error[S105]: passes[0] must hold one pass, got 2 keys\n"
        "  hint: put a dash before each pass, and indent its options below its name",
    ),
    "missing key": (
        "model: {factory: face:build, inputs: [[1, 3, 64, 64]]}\n" + PASSES,
        "face.yaml:1:1  error[S106]: version is missing",
    ),
    "missing inputs": (
        GOOD.replace(", inputs: [[1, 3, 64, 64]]", ""),
        "face.yaml:2:1  error[S106]: model.inputs is missing\n  hint: one shape per input, such as [[1, 3, 32, 32]]",
    ),
    "guarantee without metric": (
        GOOD + "tasks: [{name: age, guarantee: {max_drop: 1pp}}]\n",
        "face.yaml:4:9  error[S106]: tasks[0].metric is missing\n"
        "  hint: a guarantee is about a metric: metric: {name: MulticlassAccuracy, num_classes: 10}",
    ),
    "no loss": (
        MODEL + TASKS.replace(", loss: mse_loss", "") + "passes: [finetune]\n",
        "face.yaml:4:9  error[S106]: tasks[0].loss is missing\n"
        "  hint: finetune measures the loss of every task; for example loss: cross_entropy",
    ),
    "uniform without aim": (
        MODEL + "passes: [uniform]\n",
        "face.yaml:3:10  error[S106]: passes[0].uniform.ratio is missing\n"
        "  hint: give ratio, or budgets that the smallest sufficient ratio is to meet",
    ),
    "unknown pass": (
        MODEL + "passes: [pagpc: {tolerance: 0.1}]\n",
        "face.yaml:3:10  error[S107]: passes[0] must be one of uniform, pagcp, refit, finetune, repeat, got 'pagpc'\n"
        "  hint: did you mean pagcp?",
    ),
    "repeat without an end": (
        MODEL + "passes: [repeat: {passes: [uniform: {ratio: 0.5}]}]\n",
        "face.yaml:3:10  error[S110]: passes[0].repeat needs times or until\n"
        "  hint: until: budgets goes on until they are met",
    ),
    "mistakes in rounds": (
        MODEL + "passes: [repeat: {times: 2, passes: [uniform: {ratio: 2}, pagcp: {total: 6}]}]\n",
        "face.yaml:3:55  error[S104]: passes[0].repeat.passes[0].uniform.ratio must be below 1, got 2\n"
        "face.yaml:3:59  error[S113]: passes[0].repeat.passes[1]: pagcp needs tasks and data\n"
        "  hint: it measures the tasks' losses",
    ),
    "unknown criterion": (
        GOOD.replace("0.5", "0.5, criterion: tp_taylr"),
        "face.yaml:3:43  error[S107]: passes[0].uniform.criterion must be one of "
        "l1, l2, task_taylor, tp_l1, tp_l2, tp_bn_scale, tp_lamp, tp_fpgm, tp_taylor, tp_hessian, tp_random, "
        "got 'tp_taylr'\n  hint: did you mean tp_taylor or task_taylor?",
    ),
    "unknown version": (
        GOOD.replace("version: 1", "version: 2"),
        "face.yaml:1:10  error[S107]: version must be 1, got 2",
    ),
    "later pass": (
        MODEL + "passes: [catro: {pool: 3}]\n",
        "face.yaml:3:10  error[S108]: passes[0]: catro is not available in this version\n"
        "  hint: use uniform, pagcp, refit, finetune, repeat",
    ),
    "trainer beside the rest": (
        MODEL + TASKS + "passes: [finetune: {trainer: mine:train, epochs: 9, lr: 0.001}]\n",
        "face.yaml:5:42  error[S110]: passes[0].finetune.epochs cannot be given together with trainer\n"
        "  hint: it trains as it likes",
    ),
    "trainer that is no reference": (
        MODEL + TASKS + "passes: [finetune: {trainer: train}]\n",
        "face.yaml:5:30  error[S118]: passes[0].finetune.trainer must be of the form module:callable, got 'train'",
    ),
    "trainer of a program": (
        (MODEL + TASKS).replace("factory: face:build", "program: face.pt2")
        + "passes: [finetune: {trainer: mine:train}]\n",
        "face.yaml:2:18  error[S112]: model.program: there is no file face.pt2 "
        "(looked up from the folder of the spec)\n"
        "face.yaml:5:21  error[S110]: passes[0].finetune.trainer needs model.factory, whose model it trains\n"
        "  hint: leave out trainer, or give the model's factory and weights",
    ),
    "neither numbers nor auto": (
        MODEL + TASKS + "passes: [pagcp: {total: 0.5, moves: x}, pagcp: {total: none, moves: 1.5}]\n",
        "face.yaml:5:25  error[S104]: passes[0].pagcp.total must be above 1 and at most 1e+06, or auto, got 0.5\n"
        "face.yaml:5:37  error[S105]: passes[0].pagcp.moves must be a whole number or auto, got 'x'\n"
        "face.yaml:5:56  error[S105]: passes[1].pagcp.total must be a number or auto, got 'none'\n"
        "face.yaml:5:69  error[S105]: passes[1].pagcp.moves must be a whole number or auto, got 1.5",
    ),
    "total auto without budgets": (
        MODEL + TASKS + "passes: [pagcp: {total: auto}]\n",
        "face.yaml:5:25  error[S106]: passes[0].pagcp.total is missing\n"
        "  hint: give total, or budgets that are to be met",
    ),
    "total auto without an end": (
        MODEL + TASKS + "passes: [pagcp: {stop: tolerance}]\nbudgets: {macs: 50%}\n",
        "face.yaml:5:10  error[S106]: passes[0].pagcp.total is missing\n"
        "  hint: stop: tolerance goes as far as a total allows",
    ),
    "options of another search": (
        MODEL + TASKS + "passes: [pagcp: {total: 6, top: 0.5, quirks: true, search: marginal}]\n",
        "face.yaml:5:28  error[S110]: passes[0].pagcp.top is an option of search: published and certified, not of "
        "'marginal'\n  hint: leave it out\n"
        "face.yaml:5:38  error[S110]: passes[0].pagcp.quirks is an option of search: published, not of 'marginal'\n"
        "  hint: leave it out",
    ),
    "quirks with tolerances": (
        MODEL + TASKS + "passes: [pagcp: {total: 6, quirks: true, search: published, tolerances: {age: 0.1}}]\n",
        "face.yaml:5:61  error[S110]: passes[0].pagcp.tolerances cannot be given together with quirks\n"
        "  hint: keep one of them",
    ),
    "quirks with a floor": (
        MODEL + TASKS + "passes: [pagcp: {total: 6, quirks: true, search: published, floor: 0.1}]\n",
        "face.yaml:5:61  error[S110]: passes[0].pagcp.floor cannot be given together with quirks\n"
        "  hint: keep one of them",
    ),
    "floor of no task": (
        MODEL + TASKS + "passes: [pagcp: {total: 6, floor: {agee: 0.1}}]\n",
        "face.yaml:5:42  error[S107]: passes[0].pagcp.floor.agee names no task: 'agee'\n  hint: did you mean age?",
    ),
    "floor of zero": (
        MODEL + TASKS + "passes: [pagcp: {total: 6, floor: 0}]\n",
        "face.yaml:5:35  error[S104]: passes[0].pagcp.floor must be above 0, got 0",
    ),
    "floor of a word": (
        MODEL + TASKS + "passes: [pagcp: {total: 6, floor: {age: low}}]\n",
        "face.yaml:5:35  error[S105]: passes[0].pagcp.floor must be a number, or numbers by task, got 'low'",
    ),
    "tolerance of no task": (
        MODEL + TASKS + "passes: [pagcp: {total: 6, tolerances: {agee: 0.1}}]\n",
        "face.yaml:5:47  error[S107]: passes[0].pagcp.tolerances.agee names no task: 'agee'\n  hint: did you mean age?",
    ),
    "confidence with a share": (
        MODEL + TASKS + "passes: [pagcp: {total: 6, search: certified, confidence: 0.99, top: 0.5}]\n",
        "face.yaml:5:65  error[S110]: passes[0].pagcp.top cannot be given together with confidence\n"
        "  hint: keep one of them",
    ),
    "metrics of samples": (
        MODEL + TASKS + "passes: [pagcp: {total: 6, measure: metric, confidence: 0.99, floor: 0.1}]\n",
        "face.yaml:4:9  error[S106]: tasks[0].metric is missing\n"
        "  hint: pagcp: {measure: metric} measures the metric of every task\n"
        "face.yaml:5:45  error[S110]: passes[0].pagcp.confidence cannot be given together with measure: metric\n"
        "  hint: a metric is one number of all samples: there are none to compare one by one\n"
        "face.yaml:5:63  error[S110]: passes[0].pagcp.floor cannot be given together with measure: metric\n"
        "  hint: a metric's change is a share of its value before any cut",
    ),
    "metrics as the authors' code measures": (
        MODEL + TASKS.replace("name: age", "name: age, metric: EER") + "passes: [pagcp: {search: published, total: 6, "
        "measure: metric, quirks: true}]\n",
        "face.yaml:5:64  error[S110]: passes[0].pagcp.quirks cannot be given together with measure: metric\n"
        "  hint: the authors' code measures losses",
    ),
    "another measure": (
        MODEL + TASKS + "passes: [pagcp: {total: 6, measure: metrics}]\n",
        "face.yaml:5:37  error[S107]: passes[0].pagcp.measure must be one of loss, metric, got 'metrics'\n"
        "  hint: did you mean metric?",
    ),
    "confidence of the scan": (
        MODEL + TASKS + "passes: [pagcp: {total: 6, search: published, confidence: 0.99}]\n",
        "face.yaml:5:47  error[S110]: passes[0].pagcp.confidence is an option of search: marginal and certified, "
        "not of 'published'\n  hint: leave it out",
    ),
    "confidence as a percentage": (
        MODEL + TASKS + "passes: [pagcp: {total: 6, confidence: 99}]\n",
        "face.yaml:5:40  error[S104]: passes[0].pagcp.confidence must be below 1, got 99",
    ),
    "later criterion": (
        GOOD.replace("0.5", "0.5, criterion: trace_ratio"),
        "face.yaml:3:43  error[S108]: passes[0].uniform.criterion: trace_ratio is not available in this version\n"
        "  hint: use l1",
    ),
    "latency without a unit": (
        GOOD + "budgets: {latency: 8}\n",
        "face.yaml:4:11  error[S109]: budgets.latency.at_most must be a share or a time such as 60% or 8ms, got 8\n"
        "  hint: write the unit: 8ms",
    ),
    "latency above all": (
        GOOD + "budgets: {latency: {at_most: 160%}}\n",
        "face.yaml:4:30  error[S104]: budgets.latency.at_most must be above 0 and at most 100%, got 160%",
    ),
    "a backend that is none": (
        GOOD + "budgets: {latency: {at_most: 60%, backend: tensorrt}}\n",
        "face.yaml:4:44  error[S107]: budgets.latency.backend must be a backend, got 'tensorrt'\n"
        "  hint: onnxruntime, torch, {command: ./bench.sh {onnx}} or {table: file.csv}",
    ),
    "a command that is not told the file": (
        GOOD + "budgets: {latency: {at_most: 60%, backend: {command: ./bench.sh}}}\n",
        "face.yaml:4:54  error[S118]: budgets.latency.backend.command must be a command that holds {onnx}, the file to "
        "measure, got './bench.sh'",
    ),
    "a table that is none": (
        GOOD + "budgets: {latency: {at_most: 60%, backend: {table: times.txt}}}\n",
        "face.yaml:4:52  error[S112]: budgets.latency.backend.table must be a .csv file, got 'times.txt'",
    ),
    "confidence": (
        GOOD + "tasks: [{name: a, metric: EER, guarantee: {max_drop: 1pp, confidence: 0.5}}]\n",
        "face.yaml:4:71  error[S104]: tasks[0].guarantee.confidence must be above 0.5, got 0.5",
    ),
    "backing off without a guarantee": (
        GOOD + "on_miss: back_off\n",
        "face.yaml:4:1  error[S110]: on_miss: back_off needs a guarantee that can be missed\n"
        "  hint: give a task a guarantee: {max_drop: 1pp}",
    ),
    "unit of another kind": (
        GOOD + "budgets: {macs: 20MB}\n",
        "face.yaml:4:17  error[S109]: budgets.macs must be a share or an amount such as 40% or 1.2G, got 20MB",
    ),
    "bytes without unit": (
        GOOD + "budgets: {bytes: 20}\n",
        "face.yaml:4:18  error[S109]: budgets.bytes must be a share or an amount such as 40% or 20MB, got 20\n"
        "  hint: write the unit: 20MB",
    ),
    "unit in lower case": (
        GOOD + "budgets: {params: 5m}\n",
        "face.yaml:4:19  error[S109]: budgets.params has the unit m, but case matters: write M",
    ),
    "not a quantity": (
        GOOD + "budgets: {macs: a lot}\n",
        "face.yaml:4:17  error[S109]: budgets.macs must be a quantity such as 40%, 1pp, 1.2G, 20MB or 0.5, got 'a lot'",
    ),
    "quantity that is no number": (
        GOOD + "budgets: {macs: .nan}\n",
        "face.yaml:4:17  error[S109]: budgets.macs must be finite, got nan",
    ),
    "share of a metric": (
        GOOD + "tasks: [{name: a, metric: EER, guarantee: {at_least: 90%}}]\n",
        "face.yaml:4:54  error[S109]: tasks[0].guarantee.at_least must be a value in the metric's unit, got 90%\n"
        "  hint: write 0.9 for 90% of a metric from 0 to 1; a share of the original's value is max_drop: 10%",
    ),
    "factory and program": (
        GOOD.replace("inputs", "program: face.pt2, inputs"),
        "face.yaml:2:9  error[S110]: model.factory cannot be given together with model.program\n"
        "  hint: keep one of them\n"
        "face.yaml:2:39  error[S112]: model.program: there is no file face.pt2 (looked up from the folder of the spec)",
    ),
    "no factory": (
        GOOD.replace("factory: face:build, ", ""),
        "face.yaml:2:1  error[S110]: model needs factory or program\n"
        "  hint: factory: module:callable returns the network",
    ),
    "two guarantees": (
        GOOD + "tasks: [{name: a, metric: EER, guarantee: {max_drop: 1%, at_most: 3}}]\n",
        "face.yaml:4:58  error[S110]: tasks[0].guarantee.at_most cannot be given together with max_drop\n"
        "  hint: keep one of them",
    ),
    "no guarantee": (
        GOOD + "tasks: [{name: a, metric: EER, guarantee: {}}]\n",
        "face.yaml:4:32  error[S110]: tasks[0].guarantee needs one of max_drop, at_least, at_most\n"
        "  hint: max_drop: 1pp allows one point less",
    ),
    "wrong side": (
        GOOD + "tasks: [{name: a, metric: EER, higher_is_better: false, guarantee: {at_least: 3}}]\n",
        "face.yaml:4:69  error[S110]: tasks[0].guarantee.at_least cannot bound a metric with higher_is_better: false\n"
        "  hint: write at_most",
    ),
    "same name": (
        GOOD + "tasks: [{name: age}, {name: age}]\n",
        "face.yaml:4:29  error[S111]: tasks[1].name must be unique, got 'age' again\n  hint: tasks[0] has it already",
    ),
    "no weights": (
        GOOD.replace("inputs", "weights: fase.pt, inputs"),
        "face.yaml:2:39  error[S112]: model.weights: there is no file fase.pt (looked up from the folder of the spec)\n"
        "  hint: did you mean face.pt?",
    ),
    "weights of another kind": (
        GOOD.replace("inputs", "weights: face.pickle, inputs"),
        "face.yaml:2:39  error[S112]: model.weights must be a .safetensors or .pt file, got 'face.pickle'",
    ),
    "pass without tasks": (
        MODEL + "passes: [pagcp: {total: 6}]\n",
        "face.yaml:3:10  error[S113]: passes[0]: pagcp needs tasks and data\n  hint: it measures the tasks' losses",
    ),
    "pass without data": (
        MODEL + "tasks: [{name: a, loss: l1_loss}]\npasses: [finetune]\n",
        "face.yaml:4:10  error[S113]: passes[0]: finetune needs data\n  hint: it measures the tasks' losses",
    ),
    "criterion without tasks": (
        GOOD.replace("0.5", "0.5, criterion: tp_taylor"),
        "face.yaml:3:10  error[S113]: passes[0]: uniform needs tasks and data\n  hint: it measures the tasks' losses",
    ),
    "no variable": (
        GOOD + "seed: ${env:NOWHERE}\n",
        "face.yaml:4:7  error[S115]: the environment variable 'NOWHERE' is not set",
    ),
    "no variable name": (
        GOOD + "seed: ${env:}\n",
        "face.yaml:4:7  error[S115]: ${env:} names no environment variable",
    ),
    "variable in a flow mapping": (
        GOOD + "data: {factory: a:b, workers: ${env:WIDTH}}\n",
        "face.yaml:4:32  error[S101]: not valid YAML: expected ',' or '}', but got '{'\n"
        "  hint: inside { } and [ ] put ${env:NAME} in quotes; it is then text",
    ),
    "variable in quotes": (
        GOOD + 'seed: "${env:WIDTH}"\n',
        "face.yaml:4:7  error[S105]: seed must be a whole number, got '48'\n"
        "  hint: a variable in quotes is text: write it without quotes, on a line of its own",
    ),
    "key of an argument": (
        GOOD.replace("inputs", "args: {3: x}, inputs"),
        'face.yaml:2:37  error[S105]: model.args: the key 3 must be a string\n  hint: put it in quotes: "3"',
    ),
    "large": (
        GOOD + "#" * 262_144,
        "face.yaml  error[S117]: the file is larger than 256 KiB",
    ),
    "many": (
        GOOD + f"data: {{factory: a:b, args: {{a: [{'1, ' * 5_000}]}}}}\n",
        "face.yaml:4:14946  error[S117]: the file holds more than 5000 values\n"
        "  hint: aliases count as often as they are used",
    ),
    "deep": (
        GOOD + f"data: {'[' * 50}{']' * 50}\n",
        "face.yaml:4:47  error[S117]: values are nested more than 40 deep",
    ),
    "not a reference": (
        GOOD.replace("face:build", "face.build"),
        "face.yaml:2:18  error[S118]: model.factory must be of the form module:callable, got 'face.build'",
    ),
    "loss with spaces": (
        GOOD + "tasks: [{name: a, loss: cross entropy}]\n",
        "face.yaml:4:25  error[S118]: tasks[0].loss must be a name or module:callable, got 'cross entropy'",
    ),
    "device": (
        GOOD + "device: gpu\n",
        "face.yaml:4:9  error[S118]: device must be auto, cpu, cuda, cuda:<number> or mps, got 'gpu'",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_message_is_exactly(case: str, refused: Refused) -> None:
    text, expected = CASES[case]
    Path("face.pt").touch()
    assert refused(text) == expected


FIVE = """\
version: 1
model:
  factory: face.build
  inputs: [[1, 3, 64, 64]]
  weigths: face.safetensors
data: {factory: face:data}
tasks:
  - name: age
    loss: l1_loss
    guarantee: {max_drop: 1pp}
budgets:
  macs: 140%
passes:
  - pagpc: {tolerance: 0.06}
"""


def test_five_mistakes_are_reported_at_once(read: Read) -> None:
    with pytest.raises(SpecError) as caught:
        read(FIVE)
    assert caught.value.render() == (
        "face.yaml:3:12  error[S118]: model.factory must be of the form module:callable, got 'face.build'\n"
        "face.yaml:5:3  error[S103]: model.weigths is not a known key\n"
        "  hint: did you mean weights?\n"
        "face.yaml:8:5  error[S106]: tasks[0].metric is missing\n"
        "  hint: a guarantee is about a metric: metric: {name: MulticlassAccuracy, num_classes: 10}\n"
        "face.yaml:12:9  error[S104]: budgets.macs must be below 100%, got 140%\n"
        "  hint: budgets are upper bounds on what is kept; write 60% to keep 60%\n"
        "face.yaml:14:5  error[S107]: passes[0] must be one of uniform, pagcp, refit, finetune, repeat, got 'pagpc'\n"
        "  hint: did you mean pagcp?"
    )
    shown = caught.value.render(excerpt=True)
    assert ("got 140%\n  12 |   macs: 140%\n     |         ^\n  hint: budgets are upper bounds") in shown


def test_mistakes_of_every_layer_come_together(refused: Refused) -> None:
    found = refused(GOOD + "seed: ${env:NOWHERE}\nseed: 3\nexport: [onxx]\n", "budgets.macs=140%", "seeed=1", "x")
    assert [line.split("]")[0].split("[")[-1] for line in found.splitlines() if "error[" in line] == [
        "S115", "S102", "S107", "S104", "S103", "S116"
    ]  # fmt: skip


OVERRIDES = {
    "budgets": "--set budgets  error[S116]: an override has the form a.b=value\n  hint: for example budgets.macs=50%",
    "seed.x=1": "--set seed.x=1  error[S116]: seed is 3: there is nothing below it",
    "tasks.aeg.weight=1": (
        "--set tasks.aeg.weight=1  error[S116]: tasks has no item named aeg\n  hint: did you mean age?"
    ),
    "tasks.7.weight=1": (
        "--set tasks.7.weight=1  error[S116]: tasks has 1 items: there is no index 7\n  hint: the first index is 0"
    ),
    "passes.uniform.ratio=1": (
        "--set passes.uniform.ratio=1  error[S116]: passes has several items named uniform\n"
        "  hint: use an index, as in passes.0"
    ),
    "budgets.macs=140%": (
        "--set budgets.macs=140%  error[S104]: budgets.macs must be below 100%, got 140%\n"
        "  hint: budgets are upper bounds on what is kept; write 60% to keep 60%"
    ),
    "seed=[1": (
        "--set seed=[1  error[S101]: not valid YAML: expected ',' or ']', but got '<stream end>'\n"
        "  hint: parsing a flow sequence that begins on line 1"
    ),
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_overrides_are_refused_with(override: str, refused: Refused) -> None:
    text = MODEL + TASKS + "seed: 3\npasses: [uniform: {ratio: 0.5}, uniform: {ratio: 0.6}]\n"
    assert refused(text, override) == OVERRIDES[override]


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, found in (("no.yaml", "does not exist"), (".", "is not a file")):
        with pytest.raises(SpecError) as caught:
            load_spec(name)
        assert str(caught.value) == f"{name}  error[S100]: the spec {found}"


def test_extends_a_file_that_is_missing(refused: Refused) -> None:
    assert refused("extends: base.yaml\n") == (
        "face.yaml:1:10  error[S100]: the file that it extends does not exist: base.yaml"
    )


def test_extends_in_a_circle(refused: Refused) -> None:
    assert refused("extends: base.yaml\n", base="extends: face.yaml\n") == (
        "base.yaml:1:10  error[S114]: face.yaml extends this file in turn"
    )


def test_mistakes_in_an_extended_file_are_placed_there(refused: Refused) -> None:
    assert refused("extends: base.yaml\n" + MODEL, base="passes: [uniform: {ratio: 2}]\nseed: 1\nseed: 2\n") == (
        "base.yaml:1:27  error[S104]: passes[0].uniform.ratio must be below 1, got 2\n"
        "base.yaml:3:1  error[S102]: the key seed occurs twice\n"
        "  hint: the first one is on line 2"
    )


def test_every_code_of_specs_has_a_test() -> None:
    expected = [text for _, text in CASES.values()] + list(OVERRIDES.values())
    tested = {code for code in CODES if any(f"[{code}]" in text for text in expected)} | {"S100", "S114"}
    of_commands = {"S119", "S120", "S121", "S122", "S123"}
    assert {code for code in CODES if code.startswith("S")} - of_commands == tested


def test_a_long_line_is_cut_around_the_column() -> None:
    line = "x" * 200 + "\x1b[31m" + "y" * 200
    found = Diagnostic("S104", "m", "a.yaml:1:201", line=line).render(excerpt=True).splitlines()
    assert found[1] == "  1 | " + "x" * 37 + " [31m" + "y" * 32
    assert found[2] == "    | " + " " * 37 + "^"


def test_a_hint_lists_the_known_names_when_none_is_near() -> None:
    assert nearest("qqq", ["macs", "params"]) == "known: macs, params"
    assert nearest("mac", ["macs", "params"]) == "did you mean macs?"
    assert nearest("x", []) == ""
