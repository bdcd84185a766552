"""Models for use elsewhere: `export` and `serve`."""

from pathlib import Path

from .command_options import add_command, not_negative


def add_commands(commands):
    _add_export(commands)
    _add_serve(commands)


def _add_export(commands):
    command = add_command(
        commands,
        "export",
        _run_export,
        "write a trained model as ONNX or torch.export programs",
        "Write a trained model as programs that run without its code, check that they compute what it computes, and put "
        "its processor and config beside them. OUT/export.json tells inputs, outputs and the greatest difference.",
    )
    command.add_argument("--model", required=True, metavar="DIR", help="trained model: a folder or a repository")
    command.add_argument("--format", choices=("onnx", "torch"), default="onnx", help="of the programs")
    command.add_argument("--quantize", choices=("int8",), help="with ONNX: write the programs in int8 as well")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")


def _add_serve(commands):
    command = add_command(
        commands,
        "serve",
        _run_serve,
        "answer over HTTP with a trained or an exported model",
        "Answer over HTTP with a trained model and its processor, or with what `export` wrote: embeddings and similarity "
        "(retrieval), answers (question answering), captions, labels. GET /health tells what, GET /openapi.json how.",
    )
    command.add_argument("--model", required=True, metavar="DIR", help="trained or exported model")
    command.add_argument("--host", default="127.0.0.1", help="where to listen; this machine alone reaches the default")
    command.add_argument("--port", type=not_negative, default=8000, metavar="N", help="0: any that is free")


def _run_export(args):
    from ..deployment import export_model
    from ..deployment.loading import load_model, load_processor

    model, processor = load_model(args.model), load_processor(args.model)
    for name, graph in export_model(model, args.out, processor, args.format, args.quantize).items():
        print(f"{args.out / graph.file}: {name}, differs from the model by {graph.parity:.1e} at most")
        if graph.quantized is not None:
            share = graph.quantized["bytes"] / graph.quantized["float_bytes"]
            print(
                f"{args.out / graph.quantized['file']}: {share:.0%} of the size, deviates by "
                f"{graph.quantized['deviation']:.1%} at most on random inputs"
            )


def _run_serve(args):
    try:
        from ..deployment.serving import serve
    except ImportError as error:
        raise ValueError(f"the server needs {error.name}: pip install 'omnilatent[serve]'") from error
    serve(args.model, args.host, args.port)
