"""The command line: ``python -m tf_dwgrad info | demo``."""

import argparse
import sys


def main() -> int:
    """Runs the command that the arguments name and returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tf_dwgrad", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="what is installed and chosen on this machine")
    demo = commands.add_parser("demo", help="train, check and time on real input")
    demo.add_argument(
        "--output", default="demo_output", help="where the plot and the model go"
    )
    arguments = parser.parse_args()

    if arguments.command == "info":
        from tf_dwgrad import info

        return info.main()
    from tf_dwgrad import demo as demo_command

    return demo_command.main(arguments.output)


if __name__ == "__main__":
    sys.exit(main())
