"""What Bazel 4 would download before it builds any C++, replaced by local files."""

_COVERAGE_TOOLS = """
filegroup(
    name = "coverage_report_generator",
    visibility = ["//visibility:public"],
)
"""

def bazel4_repositories():
    """Defines the stand-ins; later versions need other ones, or none."""

    # Debian's Bazel 4.2.3 does not know its version.
    if native.bazel_version and not native.bazel_version.startswith("4."):
        return

    # Debian's own rules_cc is too new for its Bazel.
    native.local_repository(name = "rules_cc", path = "bazel/rules_cc")

    # Every test names these Java tools; only `bazel coverage` runs them.
    native.new_local_repository(
        name = "remote_coverage_tools",
        build_file_content = _COVERAGE_TOOLS,
        path = "bazel/rules_cc",
    )
