"""The command line: ``python -m tf_dwgrad info | demo | bench``."""

import argparse
import sys

from tf_dwgrad import bench, info


def main() -> int:
    """Runs the command that the arguments name and returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tf_dwgrad", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="what is installed and chosen on this machine")
    demo = commands.add_parser("demo", help="train, check and time on real input")
    demo.add_argument(
        "--output", default="demo_output", help="where the plot and the model go"
    )
    bench.add_arguments(
        commands.add_parser("bench", help="the input gradient against TensorFlow's")
    )
    arguments = parser.parse_args()

    if arguments.command == "info":
        return info.main()
    if arguments.command == "bench":
        return bench.run(arguments)
    # Needs packages that the others do not.
    from tf_dwgrad import demo as demo_command

    return demo_command.main(arguments.output)


if __name__ == "__main__":
    sys.exit(main())
