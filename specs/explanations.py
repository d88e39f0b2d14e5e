"""What `pagcp explain` adds to the meaning of a code: how one gets there, and what to do. Each code has one."""

from __future__ import annotations

from dataclasses import dataclass

from specs.diagnostics import CODES, SpecError, nearest

__all__ = ["EXPLAINED", "Explanation", "explain"]

EXPLAINED: dict[str, tuple[str, str]] = {
    # the spec file
    "S100": ("no file has that name, or it may not be read; names in extends start at the folder of the file "
             "that has them", "check the name and the permissions"),
    "S101": ("most often a tab, a missing quote or bracket, or text that begins with * & % @ `; tags, several "
             "documents and files that are not UTF-8 are refused", "look at the line and the column; quote such text"),
    "S102": ("the second value would silently win", "keep one of the two"),
    "S103": ("a misspelled key, or one that belongs to another section or another pass",
             "take the key of the hint; `pagcp passes` lists the options of passes, `pagcp schema` all keys"),
    "S104": ("a number beyond its bounds, an empty list, or a budget above 100%",
             "the message tells the bounds; budgets are upper bounds on what is kept"),
    "S105": ("a number in quotes, text without quotes that YAML reads as something else, or one value where a list is "
             "wanted", "write the value in the form that the message asks for"),
    "S106": ("a section was begun and not finished, or another key asks for this one", "give it; the hint says why"),
    "S107": ("a misspelled name of a pass, criterion, exporter or task", "take one of those that the message lists"),
    "S108": ("the name is kept for a later version", "take what the hint names, or leave the key out"),
    "S109": ("a unit that does not go with the key: pp is for metrics, MB for bytes, G and M for counts",
             "write it like the example of the message"),
    "S110": ("two ways to say the same thing, or an option that only another option allows; also --input with a spec",
             "keep one of them, or give one"),
    "S111": ("reports and options name tasks by their names", "rename one of the two"),
    "S112": ("files are looked up from the folder of the spec, not from the working folder",
             "correct the name, or move the file"),
    "S113": ("the pass measures the tasks' losses on calibration data",
             "give tasks and data, or take `uniform` with the criterion l1, which needs neither"),
    "S114": ("one of the files that this spec extends extends it in turn", "move what is common to a file of its own"),
    "S115": ("${env:NAME} stands in the spec, and the variable is not there", "set it in the shell that runs pagcp"),
    "S116": ("an override is not KEY=VALUE, or its key is none of the spec", "write it as in --set budgets.macs=50%"),
    "S117": ("aliases or files that multiply each other, or data in the place of a spec", "make the spec smaller"),
    "S118": ("a file name or module.name where module:callable is wanted", "write module:callable, as in net:build"),
    "S119": ("the folder holds files that pagcp did not write, an earlier result, or the work of a run that goes on",
             "choose another -o; --force replaces an earlier result, --resume goes on with an interrupted run"),
    "S120": ("the spec, its weights, the data or the version changed since the run was interrupted",
             "undo the change, or start over with --force and without --resume"),
    "S121": ("a plan holds no graph, and the graphs of torch and of ONNX have other nodes",
             "compare two of spec, folder and .pt2, or two of folder and .onnx"),
    "S122": ("an ONNX file with free sizes beside the batch, a folder without exports, or two files of which one runs "
             "in torch alone and the other in onnxruntime alone", "the hint says which --input or --batch to give"),
    "S123": ("a line in the middle is not what pagcp wrote: it was edited, or the disk lost a part; a last line that a "
             "kill cut off is no such line", "undo the change, cut the file before that line, or start over"),
    # the artifacts
    "E601": ("a module of your own, or one that could not be traced, has no constructor that source could call",
             "leave python out of export, or make the module of layers of torch.nn"),
    "E602": ("forward calls something that is neither of torch nor of Python's operators",
             "leave python out of export, or write the operation with torch"),
    "E603": ("a buffer is complex, or of a type of its own", "store it as a real tensor"),
    "E604": ("a bug of pagcp: the file was run and compared before it was kept", "please report the network"),
    "E605": ("an operation that torch.export does not know, most often an extension's, or a batch size that is fixed",
             "the hint names the calls; leave pt2 and onnx out of export"),
    "E606": ("a bug of pagcp or of torch.export: the file was read back and compared", "please report the network"),
    "E607": ("an operation that ONNX, or torch's exporter, does not have", "leave onnx out of export, or replace it"),
    "E608": ("numbers that onnxruntime computes in another way, or an operation that the exporter got wrong",
             "leave onnx out of export, and report the network"),
    "E609": ("the file is damaged, no .pt2, or of another version of torch",
             "read it with the version that wrote it, and write it anew"),
    "E610": ("a file of the folder was changed, lost or swapped after pagcp wrote it",
             "restore the folder, or compile again"),
    "E611": ("files of several runs were mixed in one folder, or one was edited", "compile again"),
    "E612": ("the file is damaged, no ONNX, or of a later version of ONNX", "check it with onnx.checker.check_model"),
    "E613": ("an operation or a model format that the installed onnxruntime or torch lacks, inputs that the network "
             "refuses, or too little memory", "run the file there by itself; give other shapes with --input"),
    "E614": ("the disk is full, was mounted read-only, or went away while the run wrote its journal, checkpoints or "
             "result", "make room and go on with --resume: what was found so far is kept"),
    "E616": ("the extra `report` is not installed", "pip install 'pagcp[report]', then pagcp report OUT"),
    "E617": ("forward makes a number of a height or width, as a linear layer of flattened images does, or is another "
             "network at another size", "leave the axis out of dynamic, or dynamic out: what can be free is"),
    # tracing
    "T201": ("a branch, a loop or a size depends on the values of a tensor, so that one graph cannot stand for all",
             "compute both sides and select with torch.where, or move the branch out of forward (model.adapter)"),
    "T202": ("forward does what neither torch.fx nor torch.export can follow",
             "look at the line that is named; move that part out of forward, or wrap the model with model.adapter"),
    "T203": ("model.inputs holds more or fewer shapes than forward has positional arguments, or other ones",
             "give one shape per positional input, batch first"),
    "T204": ("the file holds a pickled model, code, or nothing", "save model.state_dict(), alone or as .safetensors"),
    "T205": ("the weights are those of another network, or their names have another prefix",
             "check model.factory and model.args; rename with an adapter"),
    "T206": ("the factory builds it with other widths or classes than it was trained with", "check model.args"),
    "T207": ("forward changes state of its own, or writes into views of tensors", "write it without; nothing was cut"),
    "T208": ("forward keeps the batch size as a number, or a program was exported with a fixed one",
             "use x.shape[0] wherever it is needed; export with a free batch size"),
    "T209": ("the file holds compiled code, pickled objects, several programs, or a network in train mode",
             "call model.eval(), export, and write it with torch.export.save"),
    "T210": ("a checkpoint or a factory in bfloat16, float16 or complex numbers",
             "let the factory end with model.float(); what comes out can be converted back"),
    "T211": ("training that diverged, or a file that is damaged", "take an earlier checkpoint"),
    # the channel graph
    "G301": ("every layer makes outputs of the network, is protected, or meets an operation that is not understood",
             "`pagcp inspect` lists the reasons; protect less, or change the operation at the line that is named"),
    "G302": ("a misspelled glob, or one of layers without channels", "take a name that `pagcp inspect` prints"),
    "G303": ("a bug of pagcp: it was found before anything was written", "please report the network"),
    # verification
    "V501": ("a bug of pagcp: it was found before anything was written", "please report the network"),
    "V502": ("outputs that are NaN or infinite, or that do not react to any channel: dead layers, untrained weights",
             "check the weights; protect the layers that are named"),
    "V503": ("the trainer's or the user's own code names sizes, or writes weights, in a way that was not seen",
             "do not train it so; please report the network"),
    # passes
    "P401": ("too much is pinned or protected, or max_ratio and min_channels leave too much",
             "ask for less, or protect less; the message tells the least that can be reached"),
    "P402": ("a misspelled glob under scopes; groups are named after their first layer",
             "take a name that `pagcp inspect` prints"),
    "P403": ("all groups together may do no more than the first one alone", "raise total, or lower tolerance"),
    "P404": ("the network, the loss or the data give NaN or infinity as they are; a metric that counts nothing",
             "check the weights and the loss, or the metric"),
    "P405": ("a criterion with gradients on a loss without them, or weights that are NaN",
             "take l1, which looks at weights only"),
    "P406": ("tolerances are too small, ratios take less than one channel, or everything is pinned",
             "the reason of every group is listed; raise tolerance, total or ratio"),
    "P407": ("a learning rate that is too high, or requires_grad is off everywhere",
             "lower finetune.lr, set finetune.clip, or unfreeze parameters"),
    "P408": ("a misspelled name, or two installed packages that offer a pass of one name",
             "`pagcp passes` lists the passes; uninstall one of the packages"),
    "P409": ("an option that depends on another part of the spec", "the message tells what is missing"),
    "P410": ("no GPU on this machine, or a precision that it lacks", "leave finetune.device out, or take bf16"),
    "P411": ("the network was recovered too little, or the validation split is too small for the confidence",
             "allow a larger drop, train longer, or measure on more samples"),
    "P412": ("the trainer built a model of its own, or changed layers", "train the model that it is given"),
    "P413": ("fewer channels save less time than MACs, or what may be cut is only a part of what takes time; the "
             "message tells the best that was reached",
             "allow more time, protect less, or see with `pagcp bench` which layers take the time"),
    "P414": ("the command failed, or its last line of output ends with no number; the table lacks a layer, a column or "
             "a point of its grid",
             "run the command by hand on a model.onnx; give each layer rows for all pairs of widths"),
    # data, losses and metrics
    "D701": ("a misspelled module, a module that raises when imported, or a file of the name of an installed package",
             "modules are looked up among those installed, then beside the spec; rename a file that is hidden"),
    "D702": ("a misspelled name, or a callable that does not return what is asked for", "take the name of the hint"),
    "D703": ("your code raised: the message tells what", "call it yourself with the arguments of the spec"),
    "D704": ("the dataset, its files or the collate function raised", "read that batch yourself"),
    "D705": ("the dataset has length 0, or its loader drops the last batch", "check the paths and the split"),
    "D706": ("calibration data stay in memory for the search", "set data.calibration.samples to use a part of them"),
    "D707": ("a dataset gives a dict, a bare tensor, or other shapes than model.inputs says",
             "return (input, target) without a batch dimension"),
    "D708": ("a division by a zero deviation, or missing values, in what prepares the images",
             "clean the input; labels may be missing, inputs may not"),
    "D709": ("a pass or a guarantee needs a split that data.factory does not return",
             "return train, calibration and validation, and test for what is guaranteed"),
    "D710": ("an iterable dataset cannot be sampled", "give a dataset with __len__ and __getitem__, or all samples"),
    "D711": ("tasks[].output or .target names a key, an index or a path that is not there",
             "`pagcp init` prints the outputs' names; take the name of the hint"),
    "D712": ("the loss does not fit the output and the target: shapes, types, or class numbers out of range",
             "call it yourself on one batch; the message tells the shapes"),
    "D713": ("a loss without reduction, or one that returns several numbers", "return their mean"),
    "D714": ("a misspelled name or argument; losses are looked up in torch.nn.functional",
             "take the name of the hint, or give module:callable"),
    "D715": ("all labels of the split are missing for the task", "check missing, or sample a split that has some"),
    "D716": ("a target of several parts of which some lack", "give missing labels as None, or one tensor by task"),
    "D717": ("batches, or what a network makes of them, that do not fit into memory", "lower data.batch_size"),
    "D721": ("a misspelled name; metrics are looked up in torchmetrics", "take the hint's, or module:callable"),
    "D722": ("arguments that the class does not take, or outputs and targets of other shapes than it expects",
             "call the metric yourself on one batch"),
    "D723": ("a metric that does not say so itself", "add higher_is_better: true or false to the task"),
    # several processes
    "R901": ("another process failed or was killed, most often for lack of memory, or a network between them is down",
             "read its own messages; without RANK and WORLD_SIZE this is a single process"),
    "R902": ("code of the spec depends on the process, the time or unseeded random numbers",
             "build the same network and read the same data in the same order in all of them"),
    # the plan
    "L801": ("no file has that name, it is no text, or a plan is asked for where a program is given",
             "name a plan.json, or a folder that holds one"),
    "L802": ("the file was edited, or is another JSON", "write it anew with compile or inspect --plan"),
    "L803": ("another version of pagcp wrote it", "use that version, or write the plan anew"),
    "L804": ("a weight, the code of the network or its arguments differ from those that the plan was made for",
             "use the checkpoint that it was made for; `apply_plan` in Python cuts a model of yours by any plan"),
    "L805": ("the plan was made for another network, or for one with other widths", "make a plan for this one"),
    "L806": ("the plan was made for another model", "build the model that it was made for"),
    "L807": ("plan.safetensors holds what is no slice of the original: compensated biases, trained weights",
             "copy it from where the plan was written, and keep it beside the plan"),
    "L808": ("the plan was edited, or made by another version", "make it anew"),
    "L809": ("the spec, the weights, the data or pagcp changed since the plan was kept",
             "look at what changed; keep the new plan if it is wanted"),
}  # fmt: skip


@dataclass(frozen=True)
class Explanation:
    """A code: what it means, how one gets there, what to do; `exit_code`: of the command that ends with it."""

    code: str
    meaning: str
    cause: str
    remedy: str
    exit_code: int


def explain(code: str) -> Explanation:
    """The explanation of `code`, in any case and with or without brackets. SpecError S107 for one that is not known."""
    from specs.error_codes import KINDS

    wanted = code.strip().strip("[]").upper()
    if wanted not in CODES:
        hint = nearest(wanted, sorted(CODES), listed=0) or "docs/error-codes.md lists them"
        if hint.startswith("known:"):
            hint = "codes are a letter and three digits, as in S104; docs/error-codes.md lists them"
        raise SpecError.one("S107", f"there is no error code {code!r}", hint=hint)
    cause, remedy = EXPLAINED[wanted]
    return Explanation(wanted, CODES[wanted], cause, remedy, KINDS[wanted[0]][1])
